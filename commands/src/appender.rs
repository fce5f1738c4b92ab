//! Group commit: one appender a context and process coalesces waiting commands into one append call.
//!
//! No linger: an idle appender sends a command at once, and what arrives during that call forms the next batch.

use std::collections::{HashSet, VecDeque};
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
        let batch = take_batch(&mut pending);
        metrics::histogram!("casitas_append_batch_commands").record(batch.len() as f64);
        commit(&*log, batch).await;
        hints.notify(Topic::Log(log.context()));
    }
}

/// The longest run of waiting commands in which no stream and no key occurs twice; the others stay in order.
fn take_batch(pending: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut streams = HashSet::new();
    let mut keys = HashSet::new();
    let mut batch = Vec::new();
    while let Some(next) = pending.front() {
        let fresh_key = next.request.key.as_ref().is_none_or(|key| !keys.contains(&(key.scope.clone(), key.key.clone())));
        if !fresh_key || next.request.streams.iter().any(|append| streams.contains(&append.stream)) {
            break;
        }
        streams.extend(next.request.streams.iter().map(|append| append.stream.clone()));
        keys.extend(next.request.key.as_ref().map(|key| (key.scope.clone(), key.key.clone())));
        batch.extend(pending.pop_front());
    }
    batch
}

/// Appends a batch: an unknown outcome is resent with the same event ids until each command's deadline; a batch whose content
/// is refused is halved until the bad command stands alone.
async fn commit(log: &dyn EventLog, batch: Vec<Waiting>) {
    let mut parts = vec![(batch, false)];
    while let Some((batch, mut unknown)) = parts.pop() {
        let mut batch = batch;
        loop {
            let requests: Vec<AppendRequest> = batch.iter().map(|waiting| waiting.request.clone()).collect();
            let error = match log.append(&requests).await {
                Ok(outcomes) => {
                    for (waiting, outcome) in batch.into_iter().zip(outcomes) {
                        let _ = waiting.reply.send(Ok(outcome));
                    }
                    break;
                }
                Err(error) => error,
            };
            match error {
                Error::Rejected { .. } if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    parts.push((second, unknown));
                    parts.push((batch, unknown));
                    break;
                }
                Error::UnknownOutcome { .. } | Error::Unavailable { .. } => {
                    unknown |= matches!(error, Error::UnknownOutcome { .. });
                    tracing::warn!(error = error.chain(), commands = batch.len(), "append failed; trying again");
                    metrics::counter!("casitas_append_retries_total").increment(1);
                    batch = give_up_late(batch, unknown, &error);
                    if batch.is_empty() {
                        break;
                    }
                    sleep(RETRY_PAUSE).await;
                }
                error => {
                    tracing::error!(error = error.chain(), commands = batch.len(), "append refused");
                    for waiting in batch {
                        let _ = waiting.reply.send(Err(Error::rejected("the event log", error.chain())));
                    }
                    break;
                }
            }
        }
    }
}

fn give_up_late(batch: Vec<Waiting>, unknown: bool, error: &Error) -> Vec<Waiting> {
    let now = Instant::now();
    let (late, in_time): (Vec<_>, Vec<_>) = batch.into_iter().partition(|waiting| waiting.deadline <= now);
    for waiting in late {
        let _ = waiting.reply.send(Err(match unknown {
            true => Error::unknown_outcome("the event log", error.chain()),
            false => Error::unavailable("the event log", error.chain()),
        }));
    }
    in_time
}
