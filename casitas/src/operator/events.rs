//! `casitas events`: a look into the logs.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use domain::Timestamp;
use ports::Recorded;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Operator, Rows, chained};
use crate::exit;

const CHUNK: usize = 500;
const TAIL_POLL: Duration = Duration::from_millis(200);

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
    /// Check that history is what happened: positions, streams, payloads, checkpoints, the hash chain; exit 6 when it is not.
    Verify {
        /// auth, units, legal, finances or reports; all when absent.
        #[arg(long)]
        context: Option<String>,
        /// Heads that `casitas events anchor` has signed: also shows a chain that was computed anew, and a log set back.
        #[arg(long, value_name = "FILE", value_parser = super::verify::absolute)]
        anchor: Option<PathBuf>,
    },
    /// Sign the heads of all logs and add them to a file, to be kept where nobody who can write the databases can.
    Anchor {
        #[arg(value_parser = super::verify::absolute)]
        file: PathBuf,
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

impl Operator {
    pub(super) async fn events(&self, verb: Events, rows: &Rows) -> Result<u8> {
        match verb {
            Events::List { filter, limit } => self.list_events(&filter, limit, rows).await,
            Events::Tail { filter } => self.tail_events(&filter, rows).await,
            Events::Show { event, reveal } => self.show_event(&event, reveal, rows).await,
            Events::Verify { context, anchor } => self.verify(context.as_deref(), anchor.as_deref(), rows).await,
            Events::Anchor { file } => self.anchor(&file, rows).await,
        }
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
