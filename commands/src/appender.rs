//! Group commit: one appender a context and process coalesces waiting commands into one append call.
//!
//! No linger: an idle appender sends a command at once, and what arrives during that call forms the next batch.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ports::{AppendOutcome, AppendRequest, Error, EventLog, Hints, Result, Topic};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Commands that may wait for the next batch; one more is refused with `Full`.
const QUEUE_MAX: usize = 1_024;
const BATCH_MAX: usize = 128;
/// Pause before an unreachable log is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

struct Waiting {
    request: AppendRequest,
    deadline: Instant,
    reply: oneshot::Sender<Result<AppendOutcome>>,
}

#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
}

impl Appender {
    /// Starts the context's appender; it ends when the last handle is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>, hints: Arc<dyn Hints>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(log, hints, waiting));
        Self { queue }
    }

    /// Waits until the request is durable or refused. Once the deadline has passed while the log is out of reach, the error
    /// tells whether the outcome is unknown.
    pub async fn append(&self, request: AppendRequest, deadline: Instant) -> Result<AppendOutcome> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Waiting { request, deadline, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Full("the append queue".into()),
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the appender", "it has stopped"),
        })?;
        match tokio::time::timeout_at(deadline + RETRY_PAUSE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::unknown_outcome("the event log", "the appender stopped")),
            Err(_) => Err(Error::unknown_outcome("the event log", "it did not answer before the command's deadline")),
        }
    }
}

async fn run(log: Arc<dyn EventLog>, hints: Arc<dyn Hints>, mut queue: mpsc::Receiver<Waiting>) {
    let hasher = RandomState::new();
    let mut pending: VecDeque<Waiting> = VecDeque::new();
    loop {
        if pending.is_empty() {
            match queue.recv().await {
                Some(first) => pending.push_back(first),
                None => return,
            }
        }
        while pending.len() < BATCH_MAX
            && let Ok(next) = queue.try_recv()
        {
            pending.push_back(next);
        }
        let batch = take_batch(&mut pending, &hasher);
        metrics::histogram!("casitas_append_batch_commands").record(batch.len() as f64);
        commit(&*log, Batch::of(batch)).await;
        hints.notify(Topic::Log(log.context()));
    }
}

/// The longest run of waiting commands in which no stream and no key occurs twice; the others stay in order. Compared by hash:
/// that two that differ look the same makes a batch shorter, and nothing else.
fn take_batch(pending: &mut VecDeque<Waiting>, hasher: &RandomState) -> Vec<Waiting> {
    let mut seen: HashSet<u64> = HashSet::with_capacity(2 * pending.len());
    let mut batch = Vec::with_capacity(pending.len());
    let mut own = Vec::new();
    while let Some(next) = pending.front() {
        let key = next.request.key.as_ref().map(|key| hasher.hash_one((&key.scope, &key.key)));
        own.clear();
        own.extend(next.request.streams.iter().map(|append| hasher.hash_one(&append.stream)));
        own.extend(key);
        if own.iter().any(|hash| seen.contains(hash)) {
            break;
        }
        seen.extend(&own);
        batch.extend(pending.pop_front());
    }
    batch
}

/// Who waits for one request of a batch.
struct Caller {
    deadline: Instant,
    reply: oneshot::Sender<Result<AppendOutcome>>,
}

impl Caller {
    fn answer(self, outcome: Result<AppendOutcome>) {
        // A caller who has gone has been told that the outcome is unknown.
        let _ = self.reply.send(outcome);
    }
}

/// Requests and who waits for each.
struct Batch {
    requests: Vec<AppendRequest>,
    callers: Vec<Caller>,
    /// Whether an earlier try may have committed.
    unknown: bool,
}

impl Batch {
    fn of(waiting: Vec<Waiting>) -> Self {
        let (requests, callers) =
            waiting.into_iter().map(|Waiting { request, deadline, reply }| (request, Caller { deadline, reply })).unzip();
        Self { requests, callers, unknown: false }
    }

    fn split(&mut self) -> Self {
        let half = self.requests.len() / 2;
        Self { requests: self.requests.split_off(half), callers: self.callers.split_off(half), unknown: self.unknown }
    }

    fn answer_all(self, error: impl Fn() -> Error) {
        self.callers.into_iter().for_each(|caller| caller.answer(Err(error())));
    }

    /// Answers those whose deadline has passed and keeps the others.
    fn give_up_late(self, error: &Error) -> Self {
        let now = Instant::now();
        let unknown = self.unknown;
        let mut kept = Self { requests: Vec::new(), callers: Vec::new(), unknown };
        for (request, caller) in self.requests.into_iter().zip(self.callers) {
            if caller.deadline > now {
                kept.requests.push(request);
                kept.callers.push(caller);
            } else if unknown {
                caller.answer(Err(Error::unknown_outcome("the event log", error.chain())));
            } else {
                caller.answer(Err(Error::unavailable("the event log", error.chain())));
            }
        }
        kept
    }
}

/// Appends a batch: an unknown outcome is resent with the same event ids until each command's deadline; a batch whose content
/// is refused is halved until the bad command stands alone.
async fn commit(log: &dyn EventLog, batch: Batch) {
    let mut parts = vec![batch];
    while let Some(mut batch) = parts.pop() {
        while !batch.requests.is_empty() {
            let error = match log.append(&batch.requests).await {
                Ok(outcomes) => {
                    batch.callers.into_iter().zip(outcomes).for_each(|(caller, outcome)| caller.answer(Ok(outcome)));
                    break;
                }
                Err(error) => error,
            };
            match error {
                Error::Rejected { .. } if batch.requests.len() > 1 => {
                    parts.push(batch.split());
                }
                Error::UnknownOutcome { .. } | Error::Unavailable { .. } => {
                    batch.unknown |= matches!(error, Error::UnknownOutcome { .. });
                    tracing::warn!(error = error.chain(), commands = batch.requests.len(), "append failed; trying again");
                    metrics::counter!("casitas_append_retries_total").increment(1);
                    batch = batch.give_up_late(&error);
                    if !batch.requests.is_empty() {
                        sleep(RETRY_PAUSE).await;
                    }
                }
                error => {
                    tracing::error!(error = error.chain(), commands = batch.requests.len(), "append refused");
                    batch.answer_all(|| Error::rejected("the event log", error.chain()));
                    break;
                }
            }
        }
    }
}
