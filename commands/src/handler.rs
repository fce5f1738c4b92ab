//! Executes commands.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Context, Decide, Moment, Refusal, StreamId};
use foldhash::fast::FixedState;
use metrics::Counter;
use ports::{
    AppendOutcome, AppendRequest, Clock, Error, EventLog, Hints, Keep, KeyUse, Logs, Metadata, Position, Sealer,
    StreamAppend,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

use crate::CommandError;
use crate::appender::Appender;
use crate::in_flight::InFlight;
use crate::step::{AnyState, Basis, Decided, Loaded, Loader, LoaderHandle, Step};

/// Commands on one stream queue behind one of these within a process, instead of colliding in the log.
const STRIPES: usize = 4_096;
/// Decisions a command may take anew because another process was first.
const ATTEMPTS_MAX: usize = 20;

/// An idempotency key as the caller gave it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Principal and route, or the policy's name.
    pub scope: String,
    pub key: String,
    /// SHA-256 of the request in hex.
    pub request_hash: String,
    pub keep: Keep,
    /// Whether the log keeps the key of a command that appends nothing, too: one that is refused or has nothing to do. Then every
    /// attempt has the outcome of the first, however late it comes and whatever it would decide by then.
    pub settles: bool,
}

impl Key {
    fn with(&self, outcome: Value) -> KeyUse {
        KeyUse {
            scope: self.scope.clone(),
            key: self.key.clone(),
            request_hash: self.request_hash.clone(),
            keep: self.keep,
            outcome,
        }
    }
}

/// Who issues a command and how.
#[derive(Clone, Debug)]
pub struct Issue {
    pub metadata: Metadata,
    pub key: Option<Key>,
    /// The version the caller saw of the first step's stream.
    pub if_match: Option<u64>,
    /// How long the caller waits in all.
    pub timeout: Duration,
    /// What the caller wants remembered with the key beside version and position (ids it made); an object.
    pub remember: Value,
}

impl Issue {
    /// R14 of reliability-security.md: no call waits longer.
    pub const TIMEOUT: Duration = Duration::from_millis(1_900);

    pub fn by(actor: impl Into<String>) -> Self {
        Self {
            metadata: Metadata {
                actor: actor.into(),
                correlation_id: Uuid::now_v7(),
                causation_id: None,
                traceparent: None,
            },
            key: None,
            if_match: None,
            timeout: Self::TIMEOUT,
            remember: json!({}),
        }
    }

    /// A command that a follower derives from an event: the key is kept for ever, so that doing it again is a no-op.
    pub fn derived(actor: impl Into<String>, key: impl Into<String>) -> Self {
        let actor = actor.into();
        let mut issue = Self::by(actor.clone());
        let (key, request_hash) = (key.into(), String::new());
        issue.key = Some(Key { scope: actor, key, request_hash, keep: Keep::Forever, settles: false });
        issue
    }

    /// A step that follows from an event (its id and correlation): derived, and its outcome is settled by the first attempt.
    pub fn step(actor: impl Into<String>, key: impl Into<String>, cause: (Uuid, Uuid)) -> Self {
        let mut issue = Self::derived(actor, key);
        (issue.metadata.causation_id, issue.metadata.correlation_id) = (Some(cause.0), cause.1);
        issue.key.iter_mut().for_each(|key| key.settles = true);
        issue
    }
}

/// A command that is done and durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub context: Context,
    /// The last position of its events; for a no-op the head that was read. 0 when nothing was appended and nothing replayed.
    pub position: Position,
    /// The version of the first step's stream after it.
    pub version: u64,
    /// `remember` of the issue, or of the first use of the key.
    pub remembered: Value,
    pub replayed: bool,
    /// Whether it appended nothing because the fact already held.
    pub no_op: bool,
}

#[derive(Clone)]
pub struct Handler(Arc<Shared>);

struct Writer {
    appender: Appender,
    /// The last position that was given to a command of this process.
    committed: AtomicU64,
    // Handles, because finding them by name costs more than it counts.
    commands: Counter,
    conflicts: Counter,
}

struct Shared {
    loader: Loader,
    clock: Arc<dyn Clock>,
    writers: HashMap<Context, Writer>,
    in_flight: InFlight,
    stripes: Vec<Mutex<()>>,
    /// Without a random seed, so that a simulated history can be played again; a collision only makes two streams take turns.
    hasher: FixedState,
}

impl Handler {
    /// A handler over the logs this process can write. Must be called within a tokio runtime.
    pub fn new(logs: Logs, sealer: Sealer, clock: Arc<dyn Clock>, hints: Arc<dyn Hints>) -> Self {
        let writer = |log: &Arc<dyn EventLog>| Writer {
            appender: Appender::start(log.clone(), hints.clone()),
            committed: AtomicU64::new(0),
            commands: metrics::counter!("casitas_commands_total", "context" => log.context().as_str()),
            conflicts: metrics::counter!("casitas_command_conflicts_total", "context" => log.context().as_str()),
        };
        let writers = logs.iter().map(|log| (log.context(), writer(log))).collect();
        Self(Arc::new(Shared {
            loader: Loader::new(logs, sealer),
            clock,
            writers,
            in_flight: InFlight::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: FixedState::default(),
        }))
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub fn logs(&self) -> &Logs {
        self.0.loader.logs()
    }

    /// For how long a context's log has taken nothing although commands of this process waited for it; see
    /// [`Appender::stalled_for`].
    pub fn stalled_for(&self, context: Context) -> Option<Duration> {
        self.0.writers.get(&context)?.appender.stalled_for()
    }

    /// The last position that a command of this process got in a context's log; 0 before the first.
    pub fn committed(&self, context: Context) -> Position {
        self.0.writers.get(&context).map_or(0, |writer| writer.committed.load(Ordering::SeqCst))
    }

    /// The current state of an aggregate, read from the log now.
    pub async fn load<A: Decide>(&self, id: impl AsRef<str>) -> Result<Arc<Loaded<A>>, CommandError> {
        let loaded = self.0.loader.load::<A>(&StreamId::new(A::KIND, id.as_ref())).await;
        self.watch(A::KIND.context(), &loaded);
        loaded
    }

    /// A log that cannot be read for a command is as good as one that takes none.
    fn watch<T>(&self, context: Context, outcome: &Result<T, CommandError>) {
        if let Err(CommandError::Port(Error::Unavailable { .. } | Error::UnknownOutcome { .. })) = outcome
            && let Some(writer) = self.0.writers.get(&context)
        {
            writer.appender.unreached();
        }
    }

    /// Takes in a state that the caller has read from the log by other means, so that the next decision on it needs no load.
    /// One that is older than what is known changes nothing; if the log has gone on since, the append's version check tells.
    pub fn keep<A: Decide>(&self, id: impl AsRef<str>, loaded: Loaded<A>) {
        self.0.loader.keep(&StreamId::new(A::KIND, id.as_ref()), loaded);
    }

    /// Decides all steps and appends their events in one transaction. All steps belong to one context.
    pub async fn execute(&self, issue: &Issue, steps: &[Box<dyn Step>]) -> Result<Done, CommandError> {
        let deadline = Instant::now() + issue.timeout;
        let _guard = match &issue.key {
            None => None,
            Some(key) => Some(self.0.in_flight.enter(&key.scope, &key.key).await.ok_or(CommandError::KeyInFlight)?),
        };
        let work = self.decide_and_append(issue, steps, deadline);
        let done = match tokio::time::timeout_at(deadline + Duration::from_millis(100), work).await {
            Ok(done) => done,
            Err(_) => Err(Error::unknown_outcome("the event log", "it did not answer before the command's deadline").into()),
        };
        if let Some(first) = steps.first() {
            self.watch(first.stream().context(), &done);
        }
        done
    }

    async fn decide_and_append(
        &self,
        issue: &Issue,
        steps: &[Box<dyn Step>],
        deadline: Instant,
    ) -> Result<Done, CommandError> {
        let Some(first) = steps.first() else {
            return Err(Error::corrupt("a command without steps").into());
        };
        let context = first.stream().context();
        let writer = self
            .0
            .writers
            .get(&context)
            .ok_or_else(|| Error::NotFound(format!("this process cannot write the {context} log")))?;
        let _queued = self.queue_for(steps).await;
        let mut basis = Basis::Cached;
        for _ in 0..ATTEMPTS_MAX {
            let decided = match self.decide(steps, basis).await {
                Ok(decided) => decided,
                // A repetition is often refused by its own first effect: its key decides before the refusal is answered.
                Err(CommandError::Refused(refusal)) => return self.replay_or(issue, context, Err(refusal.into())).await,
                Err(other) => return Err(other),
            };
            let version = decided[0].version + decided[0].events.len() as u64;
            if let Some(expected) = issue.if_match
                && expected != decided[0].version
            {
                if basis == Basis::Cached {
                    basis = Basis::Log;
                    continue;
                }
                let stale = CommandError::StaleVersion { expected, actual: decided[0].version };
                return self.replay_or(issue, context, Err(stale)).await;
            }
            let (request, afters) = request(issue, steps, decided, version);
            if request.streams.is_empty() {
                let done =
                    Done { context, position: 0, version, remembered: issue.remember.clone(), replayed: false, no_op: true };
                return self.replay_or(issue, context, Ok(done)).await;
            }
            match writer.appender.append(request, deadline).await? {
                AppendOutcome::Committed { last, .. } => {
                    writer.committed.fetch_max(last, Ordering::SeqCst);
                    for (stream, after) in afters {
                        self.0.loader.advance(stream, after);
                    }
                    writer.commands.increment(1);
                    return Ok(Done {
                        context,
                        position: last,
                        version,
                        remembered: issue.remember.clone(),
                        replayed: false,
                        no_op: false,
                    });
                }
                AppendOutcome::Replayed(record) => return replayed(issue, context, record),
                AppendOutcome::KeyReused => return Err(CommandError::KeyReused),
                AppendOutcome::VersionConflict { .. } => {
                    writer.conflicts.increment(1);
                    basis = Basis::Log;
                }
            }
        }
        Err(Error::Conflict(format!("{} is being changed by too many writers", first.stream())).into())
    }

    async fn decide(&self, steps: &[Box<dyn Step>], basis: Basis) -> Result<Vec<Decided>, CommandError> {
        let at = Moment { now: self.0.clock.now() };
        let loader = LoaderHandle(&self.0.loader);
        let mut decided = Vec::with_capacity(steps.len());
        for step in steps {
            decided.push(step.decide(&loader, &at, basis).await?);
        }
        Ok(decided)
    }

    /// The recorded outcome of the key, if the command was done before; otherwise what was decided now, which is then recorded if
    /// the key settles.
    async fn replay_or(
        &self,
        issue: &Issue,
        context: Context,
        otherwise: Result<Done, CommandError>,
    ) -> Result<Done, CommandError> {
        let Some(key) = &issue.key else { return otherwise };
        let log = self.logs().get(context)?;
        let found = match settlement(&otherwise).filter(|_| key.settles) {
            Some(outcome) => log.keep_key(&key.with(outcome)).await?,
            None => log.find_key(&key.scope, &key.key).await?,
        };
        match found {
            None => otherwise,
            Some(record) if record.request_hash == key.request_hash => replayed(issue, context, record),
            Some(_) => Err(CommandError::KeyReused),
        }
    }

    /// Waits for the turn on every stream of the command, in a fixed order.
    async fn queue_for(&self, steps: &[Box<dyn Step>]) -> Vec<MutexGuard<'_, ()>> {
        let mut stripes: Vec<usize> = steps.iter().map(|step| self.stripe(step.stream())).collect();
        stripes.sort_unstable();
        stripes.dedup();
        let mut guards = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(self.0.stripes[stripe].lock().await);
        }
        guards
    }

    fn stripe(&self, stream: &StreamId) -> usize {
        (self.0.hasher.hash_one(stream) % STRIPES as u64) as usize
    }
}

/// What is remembered of a command that appends nothing; `None` when it has no outcome that could be.
fn settlement(outcome: &Result<Done, CommandError>) -> Option<Value> {
    match outcome {
        Ok(done) => Some(json!({"version": done.version, "remembered": done.remembered, "no_op": true})),
        Err(CommandError::Refused(refusal)) => Some(json!({"refused": refusal})),
        Err(_) => None,
    }
}

/// What to append, and the states to keep once it is committed.
fn request<'a>(
    issue: &Issue,
    steps: &'a [Box<dyn Step>],
    decided: Vec<Decided>,
    version: u64,
) -> (AppendRequest, Vec<(&'a StreamId, AnyState)>) {
    let mut streams = Vec::with_capacity(steps.len());
    let mut afters = Vec::with_capacity(steps.len());
    let mut subject_keys = Vec::new();
    for (step, decided) in steps.iter().zip(decided).filter(|(_, decided)| !decided.events.is_empty()) {
        let stream = step.stream().clone();
        streams.push(StreamAppend { stream, expected_version: decided.version, events: decided.events });
        subject_keys.extend(decided.subject_keys);
        afters.push((step.stream(), decided.after));
    }
    let key = issue.key.as_ref().map(|key| key.with(json!({"version": version, "remembered": issue.remember})));
    (AppendRequest { key, metadata: issue.metadata.clone(), subject_keys, streams }, afters)
}

fn replayed(issue: &Issue, context: Context, record: ports::KeyRecord) -> Result<Done, CommandError> {
    if issue.key.as_ref().is_some_and(|key| key.request_hash != record.request_hash) {
        return Err(CommandError::KeyReused);
    }
    if let Some(refused) = record.outcome.get("refused") {
        let refusal = serde_json::from_value::<Refusal>(refused.clone());
        return Err(
            refusal.map_or_else(|error| Error::corrupt(format!("a kept refusal: {error}")).into(), CommandError::Refused)
        );
    }
    Ok(Done {
        context,
        position: record.position,
        version: record.outcome.get("version").and_then(Value::as_u64).unwrap_or_default(),
        remembered: record.outcome.get("remembered").cloned().unwrap_or_else(|| json!({})),
        replayed: true,
        no_op: record.outcome.get("no_op").is_some(),
    })
}
