//! What every follower is doing: for metrics, readiness and `casitas projections list`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use domain::{Context, Timestamp};
use ports::{Clock, Position};
use serde::Serialize;
use tokio::time::Instant;

/// Lag at which a running follower is called behind.
const BEHIND_EVENTS: u64 = 500;
const BEHIND_SECONDS: f64 = 5.0;
/// A follower that did not come round for this long is not alive; the longest wait in any of them is 1 s.
const HEARTBEAT_SECONDS_MAX: f64 = 10.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Projection,
    Policy,
    Timer,
    Dispatcher,
    /// Adds links to the hash chain.
    Chain,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    Running,
    /// Another process leads.
    Waiting,
    /// It goes on trying; `reason` names the event or the server.
    Stalled {
        reason: String,
        since: Timestamp,
    },
    /// Running, with more than 500 events or 5 s to catch up.
    Behind,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FollowerStatus {
    pub name: String,
    pub kind: Kind,
    pub context: Context,
    /// Its checkpoint.
    pub position: Position,
    /// The log's head as last read by this process.
    pub head: Position,
    pub lag_events: u64,
    /// Age of the oldest event that is not done; 0 when there is none.
    pub lag_seconds: f64,
    pub heartbeat_age_seconds: f64,
    /// Streams that it does not fold until an operator says so.
    pub parked_streams: usize,
    #[serde(flatten)]
    pub state: State,
}

impl FollowerStatus {
    /// Whether an operator has nothing to do: not stalled, and its task comes round.
    pub fn is_healthy(&self) -> bool {
        !matches!(self.state, State::Stalled { .. }) && self.heartbeat_age_seconds < HEARTBEAT_SECONDS_MAX
    }
}

struct Entry {
    kind: Kind,
    context: Context,
    position: Position,
    /// When the oldest event that is not done was recorded.
    pending_since: Option<Timestamp>,
    heartbeat: Instant,
    parked_streams: usize,
    state: State,
}

/// The status of this process's followers.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    entries: Mutex<BTreeMap<String, Entry>>,
    heads: Mutex<HashMap<Context, Position>>,
}

impl Board {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { clock, entries: Mutex::default(), heads: Mutex::default() }))
    }

    /// Puts a follower on the board, waiting.
    pub fn follower(&self, name: impl Into<String>, kind: Kind, context: Context) -> Reporter {
        let name = name.into();
        let entry = Entry {
            kind,
            context,
            position: 0,
            pending_since: None,
            heartbeat: Instant::now(),
            parked_streams: 0,
            state: State::Waiting,
        };
        self.entries().entry(name.clone()).or_insert(entry);
        Reporter { board: self.clone(), name }
    }

    pub(crate) fn head(&self, context: Context, position: Position) {
        self.0.heads.lock().expect("nothing panics under this lock").insert(context, position);
    }

    pub fn snapshot(&self) -> Vec<FollowerStatus> {
        let now = self.0.clock.now();
        let heads = self.0.heads.lock().expect("nothing panics under this lock").clone();
        self.entries().iter().map(|(name, entry)| status(name, entry, &heads, now)).collect()
    }

    /// Whether every follower here is running, behind or waiting for its leader, and alive.
    pub fn is_healthy(&self) -> bool {
        self.snapshot().iter().all(FollowerStatus::is_healthy)
    }

    /// Sets the gauges from the present state; called each half second, and by whoever serves `/metrics`.
    pub fn export(&self) {
        for follower in self.snapshot() {
            let stalled = matches!(follower.state, State::Stalled { .. });
            let gauge =
                |name: &'static str, value: f64| metrics::gauge!(name, "follower" => follower.name.clone()).set(value);
            gauge("casitas_follower_lag_events", follower.lag_events as f64);
            gauge("casitas_follower_lag_seconds", follower.lag_seconds);
            gauge("casitas_follower_heartbeat_age_seconds", follower.heartbeat_age_seconds);
            gauge("casitas_follower_stalled", f64::from(u8::from(stalled)));
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().expect("nothing panics under this lock")
    }
}

fn status(name: &str, entry: &Entry, heads: &HashMap<Context, Position>, now: Timestamp) -> FollowerStatus {
    let head = heads.get(&entry.context).copied().unwrap_or_default().max(entry.position);
    let follows_log = !matches!(entry.kind, Kind::Timer) && entry.state != State::Waiting;
    let lag_events = if follows_log { head - entry.position } else { 0 };
    let age = |since: Timestamp| now.duration_since(since).as_secs_f64().max(0.0);
    let pending = lag_events > 0 || entry.kind == Kind::Timer;
    let lag_seconds = entry.pending_since.filter(|_| pending).map_or(0.0, age);
    let behind = lag_events > BEHIND_EVENTS || lag_seconds > BEHIND_SECONDS;
    let state = match &entry.state {
        State::Running if behind => State::Behind,
        state => state.clone(),
    };
    FollowerStatus {
        name: name.to_owned(),
        kind: entry.kind,
        context: entry.context,
        position: entry.position,
        head,
        lag_events,
        lag_seconds,
        heartbeat_age_seconds: entry.heartbeat.elapsed().as_secs_f64(),
        parked_streams: entry.parked_streams,
        state,
    }
}

/// One follower's line on the board. Every report is also a heartbeat.
#[derive(Clone)]
pub struct Reporter {
    board: Board,
    name: String,
}

impl Reporter {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn beat(&self) {
        self.update(|_| {});
    }

    pub fn waiting(&self) {
        self.update(|entry| {
            entry.state = State::Waiting;
            entry.pending_since = None;
        });
    }

    /// Running again: whatever stalled it is over.
    pub fn running(&self) {
        self.update(|entry| {
            if let State::Stalled { since, .. } = &entry.state {
                tracing::info!(follower = self.name, %since, "the follower goes on");
            }
            entry.state = State::Running;
        });
    }

    pub fn at(&self, position: Position) {
        self.update(|entry| entry.position = position);
    }

    pub fn parked(&self, streams: usize) {
        self.update(|entry| entry.parked_streams = streams);
    }

    /// When the oldest event that is not done was recorded.
    pub fn pending_since(&self, since: Option<Timestamp>) {
        self.update(|entry| entry.pending_since = since);
    }

    /// Stopped by `reason`; the same reason again keeps the first time and is not logged again.
    pub fn stalled(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let now = self.board.0.clock.now();
        metrics::counter!("casitas_follower_errors_total", "follower" => self.name.clone()).increment(1);
        self.update(|entry| match &mut entry.state {
            State::Stalled { reason: known, .. } if *known == reason => {}
            State::Stalled { reason: known, .. } => {
                tracing::error!(follower = self.name, reason, "the follower is stalled");
                *known = reason;
            }
            state => {
                tracing::error!(follower = self.name, reason, "the follower is stalled");
                *state = State::Stalled { reason, since: now };
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.board.entries().get_mut(&self.name) {
            change(entry);
            entry.heartbeat = Instant::now();
        }
    }
}
