//! The operator's verbs. Each sends rows; how they are shown is `output`'s business.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use commands::{Handler, Issue, step};
use domain::auth::{
    PasswordHash, RegisterUser, Role as UserRole, User, UserCommand, UserDetails, UserNameClaim, UserNameClaimCommand,
    check_password, user_name,
};
use domain::{Context, Timestamp, UserId};
use ports::{EventLog, Recorded};
use projector::Board;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::exit;
use crate::platform::Platform;

const CHUNK: usize = 500;
const TAIL_POLL: Duration = Duration::from_millis(200);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Verb {
    /// Check every server and follower; exit 7 when a server is down, 6 when a follower stands still.
    Doctor {
        /// Only whether this process's servers answer.
        #[arg(long)]
        quick: bool,
    },
    /// Look into the event logs.
    #[command(subcommand)]
    Events(Events),
    /// Read models and other followers.
    #[command(subcommand)]
    Projections(Projections),
    /// Users.
    #[command(subcommand)]
    Users(Users),
}

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Events {
    /// The latest events, oldest first.
    List {
        #[command(flatten)]
        filter: EventFilter,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Events as they come, until interrupted.
    Tail {
        #[command(flatten)]
        filter: EventFilter,
    },
    /// One event whole: CONTEXT:POSITION or an event id.
    Show {
        event: String,
        /// Open personal data; who did is recorded in the log of this process.
        #[arg(long)]
        reveal: bool,
    },
}

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct EventFilter {
    /// auth, units, legal, finances or reports; all when absent.
    #[arg(long)]
    pub context: Option<String>,
    /// The stream, e.g. unit:0192….
    #[arg(long)]
    pub stream: Option<String>,
    /// Event type, e.g. HoldPlaced.
    #[arg(long = "type")]
    pub event_type: Option<String>,
    /// Recorded at or after this instant, e.g. 2026-11-01T00:00:00Z.
    #[arg(long)]
    pub since: Option<String>,
    /// Only after this position (with --context).
    #[arg(long)]
    pub after_position: Option<u64>,
}

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Projections {
    /// Every read model: version, position, lag.
    List,
}

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Users {
    /// Add a user; the password is asked for on a terminal or read from standard input.
    Add {
        username: String,
        /// May be repeated.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
        #[arg(long, default_value = "")]
        name: String,
        #[arg(long, default_value = "")]
        email: String,
        #[arg(skip)]
        #[serde(default)]
        password: Option<String>,
    },
}

#[derive(Clone)]
pub struct Operator {
    platform: Platform,
    handler: Option<Handler>,
    /// Of the followers in this process.
    board: Option<Board>,
}

type Rows = mpsc::Sender<Value>;

impl Operator {
    pub fn new(platform: Platform, handler: Option<Handler>, board: Option<Board>) -> Self {
        Self { platform, handler, board }
    }

    /// Runs a verb; answers the exit code.
    pub async fn run(&self, verb: Verb, rows: Rows) -> Result<u8> {
        match verb {
            Verb::Doctor { quick } => self.doctor(quick, &rows).await,
            Verb::Events(Events::List { filter, limit }) => self.list_events(&filter, limit, &rows).await,
            Verb::Events(Events::Tail { filter }) => self.tail_events(&filter, &rows).await,
            Verb::Events(Events::Show { event, reveal }) => self.show_event(&event, reveal, &rows).await,
            Verb::Projections(Projections::List) => self.list_projections(&rows).await,
            Verb::Users(Users::Add { username, roles, name, email, password }) => {
                self.add_user(&username, &roles, name, email, password, &rows).await
            }
        }
    }

    async fn doctor(&self, quick: bool, rows: &Rows) -> Result<u8> {
        let mut exit = exit::OK;
        for check in &self.platform.checks {
            let outcome = tokio::time::timeout(CHECK_TIMEOUT, check.run()).await;
            let (state, detail) = match outcome {
                Ok(Ok(())) => ("ok", String::new()),
                Ok(Err(error)) => ("failed", error.chain()),
                Err(_) => ("unknown", "could not check (timeout 2s)".to_owned()),
            };
            if state != "ok" {
                exit = exit::DEPENDENCY_DOWN;
            }
            rows.send(json!({"check": check.name(), "state": state, "detail": detail})).await?;
        }
        if quick || exit != exit::OK {
            return Ok(exit);
        }
        for row in self.projection_rows().await? {
            let lag = row["lag_events"].as_u64().unwrap_or_default();
            let stalled = row["state"] == "stalled";
            let (state, detail) = match (stalled, lag) {
                (true, _) => {
                    ("failed", format!("stands still: {}", row["reason"].as_str().unwrap_or("see the projector's log")))
                }
                (false, 0) => ("ok", String::new()),
                (false, lag) => ("ok", format!("{lag} events behind")),
            };
            if stalled {
                exit = exit::CHECK_FAILED;
            }
            rows.send(json!({"check": row["name"], "state": state, "detail": detail})).await?;
        }
        Ok(exit)
    }

    async fn list_projections(&self, rows: &Rows) -> Result<u8> {
        for row in self.projection_rows().await? {
            rows.send(row).await?;
        }
        Ok(exit::OK)
    }

    /// Positions from the view store, heads from the logs, states from this process's board where it runs followers.
    async fn projection_rows(&self) -> Result<Vec<Value>> {
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let statuses = self.board.as_ref().map(Board::snapshot).unwrap_or_default();
        let mut rows = vec![];
        for model in read_models::all() {
            let spec = model.spec();
            let log = self.platform.logs.get(spec.context).map_err(chained)?.head().await.map_err(chained)?;
            let head = heads.iter().find(|head| head.model == spec.name);
            let position = head.map_or(0, |head| head.checkpoint.position);
            let lag = log.position.saturating_sub(position);
            let status = statuses.iter().find(|status| status.name == spec.name).map(|status| json!(status));
            let state = status.as_ref().and_then(|status| status["state"].as_str().map(str::to_owned));
            rows.push(json!({
                "name": spec.name,
                "version": format!("v{}", head.map_or(spec.fold_version, |head| head.fold_version)),
                "generation": head.map_or(0, |head| head.generation),
                "state": state.unwrap_or_else(|| if head.is_none() { "absent".into() } else if lag == 0 { "current".into() } else { "behind".to_owned() }),
                "context": spec.context.as_str(),
                "position": position,
                "lag_events": lag,
                "lag_seconds": status.as_ref().map_or(Value::Null, |status| status["lag_seconds"].clone()),
                "reason": status.as_ref().map_or(Value::Null, |status| status["reason"].clone()),
            }));
        }
        Ok(rows)
    }

    fn logs(&self, context: Option<&str>) -> Result<Vec<std::sync::Arc<dyn EventLog>>> {
        let contexts = match context {
            None => Context::ALL.to_vec(),
            Some(name) => vec![Context::from_str(name).map_err(anyhow::Error::msg)?],
        };
        contexts.into_iter().map(|context| self.platform.logs.get(context).cloned().map_err(chained)).collect()
    }

    async fn list_events(&self, filter: &EventFilter, limit: usize, rows: &Rows) -> Result<u8> {
        let wanted = Wanted::parse(filter)?;
        let mut found: Vec<Recorded> = vec![];
        for log in self.logs(filter.context.as_deref())? {
            let head = log.head().await.map_err(chained)?.position;
            let mut kept: std::collections::VecDeque<Recorded> = Default::default();
            // With nothing to look for, the last `limit` positions are the answer; otherwise the log is searched.
            let mut after = match (wanted.is_open(), filter.after_position) {
                (_, Some(after)) => after,
                (true, None) => head.saturating_sub(limit as u64),
                (false, None) => 0,
            };
            while after < head {
                let chunk = log.read(after, CHUNK).await.map_err(chained)?;
                let Some(last) = chunk.last() else { break };
                after = last.position;
                for event in chunk.into_iter().filter(|event| wanted.matches(event)) {
                    kept.push_back(event);
                    if kept.len() > limit {
                        kept.pop_front();
                    }
                }
            }
            found.extend(kept);
        }
        found.sort_by_key(|event| (event.recorded_at, event.stream.context(), event.position));
        for event in &found[found.len().saturating_sub(limit)..] {
            rows.send(summary(event)).await?;
        }
        Ok(exit::OK)
    }

    async fn tail_events(&self, filter: &EventFilter, rows: &Rows) -> Result<u8> {
        let wanted = Wanted::parse(filter)?;
        let mut places = vec![];
        for log in self.logs(filter.context.as_deref())? {
            let from = match filter.after_position {
                Some(position) => position,
                None => log.head().await.map_err(chained)?.position,
            };
            places.push((log, from));
        }
        loop {
            for (log, after) in &mut places {
                let chunk = log.read(*after, CHUNK).await.map_err(chained)?;
                for event in chunk {
                    *after = event.position;
                    if wanted.matches(&event) && rows.send(summary(&event)).await.is_err() {
                        return Ok(exit::OK);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TAIL_POLL) => {}
                () = rows.closed() => return Ok(exit::OK),
            }
        }
    }

    async fn show_event(&self, text: &str, reveal: bool, rows: &Rows) -> Result<u8> {
        let mut found = None;
        if let Some((context, position)) = text.split_once(':') {
            let position: u64 = position.parse().with_context(|| format!("{position:?} is no position"))?;
            let log = &self.logs(Some(context))?[0];
            found = log.read(position.saturating_sub(1), 1).await.map_err(chained)?.pop();
        } else {
            let id: Uuid = text.parse().with_context(|| format!("{text:?} is neither CONTEXT:POSITION nor an event id"))?;
            for log in self.logs(None)? {
                let mut after = 0;
                while found.is_none() {
                    let chunk = log.read(after, CHUNK).await.map_err(chained)?;
                    let Some(last) = chunk.last() else { break };
                    after = last.position;
                    found = chunk.into_iter().find(|event| event.event_id == id);
                }
            }
        }
        let Some(event) = found else {
            eprintln!("there is no event {text}");
            return Ok(exit::NOT_FOUND);
        };
        let mut events = [event];
        if reveal {
            tracing::warn!(event.id = %events[0].event_id, "an operator opened the personal data of an event");
            let log = self.platform.logs.get(events[0].stream.context()).map_err(chained)?;
            self.platform.sealer()?.open_recorded(&**log, &mut events).await.map_err(chained)?;
        }
        rows.send(whole(&events[0])?).await?;
        Ok(exit::OK)
    }

    async fn add_user(
        &self,
        username: &str,
        roles: &[String],
        name: String,
        email: String,
        password: Option<String>,
        rows: &Rows,
    ) -> Result<u8> {
        let handler = self.handler.as_ref().context("this process cannot write")?;
        let username = user_name(username).map_err(|fault| anyhow::anyhow!("{}: {}", fault.pointer, fault.detail))?;
        let roles = roles.iter().map(|role| UserRole::from_str(role).map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
        let password = password.context("a password is needed: type it, or pipe it in")?;
        check_password(&password, false)?;
        let hash = tokio::task::spawn_blocking(move || command_api::hash_password(&password)).await?;
        let id = UserId(Uuid::now_v7());
        let register = UserCommand::RegisterUser(RegisterUser {
            user_id: id,
            username: username.clone(),
            roles,
            party_id: None,
            personal: UserDetails {
                email: if email.is_empty() { format!("{username}@localhost.localdomain") } else { email },
                name: if name.is_empty() { username.clone() } else { name },
            },
            password_hash: Some(PasswordHash::new(hash.map_err(anyhow::Error::msg)?)),
            demo: false,
        });
        let claim = UserNameClaimCommand::ClaimUserName { user_id: id };
        let steps = [step::<User>(id.to_string(), register), step::<UserNameClaim>(username.clone(), claim)];
        match handler.execute(&Issue::by("cli"), &steps).await {
            Ok(_) => {
                rows.send(json!({"id": id, "username": username})).await?;
                Ok(exit::OK)
            }
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == "USERNAME_TAKEN") => {
                bail!("the user name {username} is taken; choose another")
            }
            Err(error) => Err(error.into()),
        }
    }
}

struct Wanted {
    stream: Option<String>,
    event_type: Option<String>,
    since: Option<Timestamp>,
}

impl Wanted {
    fn parse(filter: &EventFilter) -> Result<Self> {
        if filter.after_position.is_some() && filter.context.is_none() {
            bail!("--after-position needs --context: each context counts its own positions");
        }
        let since = filter
            .since
            .as_deref()
            .map(Timestamp::from_str)
            .transpose()
            .context("--since is an instant, e.g. 2026-11-01T00:00:00Z")?;
        Ok(Self { stream: filter.stream.clone(), event_type: filter.event_type.clone(), since })
    }

    fn is_open(&self) -> bool {
        self.stream.is_none() && self.event_type.is_none() && self.since.is_none()
    }

    fn matches(&self, event: &Recorded) -> bool {
        self.stream.as_ref().is_none_or(|stream| event.stream.to_string() == *stream)
            && self.event_type.as_ref().is_none_or(|wanted| event.event_type == *wanted)
            && self.since.is_none_or(|since| event.recorded_at >= since)
    }
}

fn summary(event: &Recorded) -> Value {
    json!({
        "context": event.stream.context().as_str(),
        "position": event.position,
        "recorded_at": event.recorded_at.to_string(),
        "type": event.event_type,
        "stream": event.stream.to_string(),
        "sequence": event.sequence,
        "effective_on": event.effective_on.to_string(),
        "actor": event.metadata.actor,
        "event_id": event.event_id,
    })
}

fn whole(event: &Recorded) -> Result<Value> {
    let mut value = summary(event);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("version".into(), json!(event.event_version));
        fields.insert("correlation_id".into(), json!(event.metadata.correlation_id));
        fields.insert("causation_id".into(), json!(event.metadata.causation_id));
        fields.insert("traceparent".into(), json!(event.metadata.traceparent));
        let mut data = serde_json::from_str(event.payload.get())?;
        hide_password_hash(&mut data);
        fields.insert("data".into(), data);
    }
    Ok(value)
}

/// Nobody needs to see a password's hash, revealed or not.
fn hide_password_hash(data: &mut Value) {
    match data {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match name.as_str() {
                    "password_hash" if !value.is_null() => *value = json!("(hidden)"),
                    _ => hide_password_hash(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_password_hash),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn chained(error: ports::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}
