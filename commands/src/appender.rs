//! Group commit: one appender a context and process coalesces waiting commands into one append call.
//!
//! No linger: an idle appender waits for no time at all. It only lets those run first who are ready to run, so that callers whose
//! commands were answered together come again together. What arrives while calls are under way forms the next batch.

use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures::future::BoxFuture;
use ports::{AppendOutcome, AppendRequest, Error, EventLog, Hints, Result, Topic};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Commands that may wait for the next batch; one more is refused with `Full`.
const QUEUE_MAX: usize = 1_024;
const BATCH_MAX: usize = 256;
/// Append calls under way at once: while the log flushes one, the next is on its way. No two of them concern the same stream or
/// key, because the handler lets commands on one stream, and with one key, in one at a time.
const CALLS_MAX: usize = 2;
/// So many commands are worth a call beside another: with fewer, all of them in one call cost less than its round trip and
/// its flush twice.
const BESIDE_MIN: usize = 24;
/// Pause before an unreachable log is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long after the last failure it is still said that nothing is appended, when no command comes that would show it.
const STALL_KNOWN: Duration = Duration::from_secs(5);

struct Waiting {
    request: AppendRequest,
    deadline: Instant,
    reply: oneshot::Sender<Result<AppendOutcome>>,
}

#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
    outcomes: Outcomes,
}

/// Since when the log has taken nothing of what was to be appended: somebody holds its lock, it cannot write, or it went away.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Stall>>);

#[derive(Default)]
struct Stall {
    calls: usize,
    since: Option<Instant>,
    failed_at: Option<Instant>,
}

impl Stall {
    fn has_just_failed(&self) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() < STALL_KNOWN)
    }
}

impl Outcomes {
    fn begin(&self) {
        let mut stall = self.stall();
        // After a failure of a moment ago the time goes on.
        if stall.calls == 0 && !stall.has_just_failed() {
            stall.since = Some(Instant::now());
        }
        stall.calls += 1;
    }

    fn taken(&self) {
        let mut stall = self.stall();
        stall.since = Some(Instant::now());
        stall.failed_at = None;
    }

    fn end(&self, taken: bool) {
        let mut stall = self.stall();
        stall.calls -= 1;
        match (stall.calls, taken) {
            (0, true) => stall.since = None,
            (0, false) => stall.failed_at = Some(Instant::now()),
            (_, _) => {}
        }
    }

    /// A command came no further than this log, and had nothing to append yet.
    fn unreached(&self) {
        let mut stall = self.stall();
        // The outcome of a call under way tells more.
        if stall.calls > 0 {
            return;
        }
        if !stall.has_just_failed() {
            stall.since = Some(Instant::now());
        }
        stall.failed_at = Some(Instant::now());
    }

    fn stalled_for(&self) -> Option<Duration> {
        let stall = self.stall();
        stall.since.filter(|_| stall.calls > 0 || stall.has_just_failed()).map(|since| since.elapsed())
    }

    fn stall(&self) -> MutexGuard<'_, Stall> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

impl Appender {
    /// Starts the context's appender; it ends when the last handle is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>, hints: Arc<dyn Hints>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let outcomes = Outcomes::default();
        tokio::spawn(run(log, hints, waiting, outcomes.clone()));
        Self { queue, outcomes }
    }

    /// For how long the log has taken nothing although commands waited; `None` when the last ones were taken, or nobody asks.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.outcomes.stalled_for()
    }

    /// To be told when the log could not be read for a command: no append follows that would show that it is away.
    pub(crate) fn unreached(&self) {
        self.outcomes.unreached();
    }

    /// Waits until the request is durable or refused. Once the deadline has passed while the log is out of reach, the error
    /// tells whether the outcome is unknown. A call on the log that is under way at the deadline is waited for: the caller
    /// bounds that ([`crate::Handler::execute`] does, with one timer for the whole command).
    pub async fn append(&self, request: AppendRequest, deadline: Instant) -> Result<AppendOutcome> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Waiting { request, deadline, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Full("the append queue".into()),
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the appender", "it has stopped"),
        })?;
        answer.await.unwrap_or_else(|_| Err(Error::unknown_outcome("the event log", "the appender stopped")))
    }
}

async fn run(log: Arc<dyn EventLog>, hints: Arc<dyn Hints>, mut queue: mpsc::Receiver<Waiting>, outcomes: Outcomes) {
    let hasher = RandomState::default();
    let batch_commands = metrics::histogram!("casitas_append_batch_commands");
    let mut pending: VecDeque<Waiting> = VecDeque::new();
    let mut calls = Calls::default();
    // Commands in the call that began last.
    let mut under_way = 0;
    let mut open = true;
    while open || !pending.is_empty() || !calls.is_empty() {
        take_waiting(&mut queue, &mut pending);
        if calls.is_empty() && !pending.is_empty() && under_way > 1 {
            tokio::task::yield_now().await;
            take_waiting(&mut queue, &mut pending);
        }
        // Beside a call goes another of at least its size, so that two share the work; fewer commands wait for it, as they
        // would at the log's lock.
        let beside = pending.len() >= under_way.max(BESIDE_MIN);
        if !pending.is_empty() && calls.len() < CALLS_MAX && (calls.is_empty() || beside) {
            let batch = take_batch(&mut pending, &hasher);
            under_way = batch.len();
            batch_commands.record(batch.len() as f64);
            calls.push(Box::pin(commit(&*log, Batch::of(batch), &outcomes)));
        }
        tokio::select! {
            () = calls.next(), if !calls.is_empty() => hints.notify(Topic::Log(log.context())),
            next = queue.recv(), if open && pending.len() < BATCH_MAX && calls.len() < CALLS_MAX => match next {
                Some(next) => pending.push_back(next),
                None => open = false,
            },
        }
    }
}

/// The calls under way. Not a `FuturesUnordered`: that wakes its own task each time it has polled all its futures, which
/// costs a lone caller's command two system calls and the other thread's wake-up.
#[derive(Default)]
struct Calls<'a>(Vec<BoxFuture<'a, ()>>);

impl<'a> Calls<'a> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, call: BoxFuture<'a, ()>) {
        self.0.push(call);
    }

    /// Waits until one of them has ended.
    async fn next(&mut self) {
        poll_fn(|context| match self.0.iter_mut().position(|call| call.as_mut().poll(context).is_ready()) {
            Some(ended) => {
                drop(self.0.swap_remove(ended));
                Poll::Ready(())
            }
            None => Poll::Pending,
        })
        .await;
    }
}

fn take_waiting(queue: &mut mpsc::Receiver<Waiting>, pending: &mut VecDeque<Waiting>) {
    while pending.len() < BATCH_MAX
        && let Ok(next) = queue.try_recv()
    {
        pending.push_back(next);
    }
}

/// The longest run of waiting commands in which no stream and no key occurs twice; the others stay in order. Compared by hash:
/// that two that differ look the same makes a batch shorter, and nothing else.
fn take_batch(pending: &mut VecDeque<Waiting>, hasher: &RandomState) -> Vec<Waiting> {
    let mut seen: HashSet<u64, RandomState> = HashSet::with_capacity_and_hasher(2 * pending.len(), hasher.clone());
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
async fn commit(log: &dyn EventLog, batch: Batch, watched: &Outcomes) {
    watched.begin();
    let taken = append_all(log, batch, watched).await;
    watched.end(taken);
}

/// Whether the log answered the last part.
async fn append_all(log: &dyn EventLog, batch: Batch, watched: &Outcomes) -> bool {
    let (mut parts, mut taken) = (vec![batch], true);
    while let Some(mut batch) = parts.pop() {
        while !batch.requests.is_empty() {
            let error = match log.append(&batch.requests).await {
                Ok(outcomes) => {
                    taken = true;
                    watched.taken();
                    batch.callers.into_iter().zip(outcomes).for_each(|(caller, outcome)| caller.answer(Ok(outcome)));
                    break;
                }
                Err(error) => error,
            };
            match error {
                Error::Rejected { .. } if batch.requests.len() > 1 => {
                    taken = true;
                    watched.taken();
                    parts.push(batch.split());
                }
                Error::UnknownOutcome { .. } | Error::Unavailable { .. } => {
                    taken = false;
                    batch.unknown |= matches!(error, Error::UnknownOutcome { .. });
                    tracing::warn!(error = error.chain(), commands = batch.requests.len(), "append failed; trying again");
                    metrics::counter!("casitas_append_retries_total").increment(1);
                    batch = batch.give_up_late(&error);
                    if !batch.requests.is_empty() {
                        sleep(RETRY_PAUSE).await;
                    }
                }
                error => {
                    taken = true;
                    watched.taken();
                    tracing::error!(error = error.chain(), commands = batch.requests.len(), "append refused");
                    batch.answer_all(|| Error::rejected("the event log", error.chain()));
                    break;
                }
            }
        }
    }
    taken
}
