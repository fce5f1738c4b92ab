//! One reader a context and process: it feeds every follower of that log from memory, so that ten followers cost one query.
//!
//! It is woken by a hint and polls regardless. It never skips: a gap or an error is kept in [`Tail::error`], shown on the board,
//! given to every follower that has read up to it, and tried again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domain::{Context, StreamId};
use futures::FutureExt;
use ports::{Error, EventLog, EventQuery, HintStream, Hints, Incarnation, Position, Recorded, Result, Sealer, Topic};
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::pace::{Backoff, pause};
use crate::status::Board;

/// How stale a follower may be when every hint was lost.
const POLL_PERIOD: Duration = Duration::from_millis(50);
/// The same while nothing happens and hints are known to arrive: what was last appended was announced by one. A hint lost then is
/// made good well within the promised second, and from then on polls are close again until a hint is first.
const IDLE_POLL_PERIOD: Duration = Duration::from_millis(250);
/// Without an event for so long, nothing happens.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How often the head is compared with what was read: a log that went back is noticed within this time.
const HEAD_CHECK_PERIOD: Duration = Duration::from_secs(1);
/// From the beginning of a read that found something to the next: a steady stream is read in batches, the first event after a
/// pause at once.
const READ_SPACING: Duration = Duration::from_millis(2);
const READ_MAX: usize = 1_000;
/// Events that are read at once for followers that are far behind, and kept for the others.
const STRETCH: u64 = 4_000;
const STRETCHES_MAX: usize = 4;
const RING_EVENTS_MAX: usize = 4_096;
const RING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How far the log was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// `None` until the log was reached for the first time.
    pub incarnation: Option<Incarnation>,
    pub position: Position,
    /// Why nothing is read at the moment.
    pub error: Option<Arc<str>>,
}

/// The events `(start, start + events.len()]`, opened by the sealer.
#[derive(Default)]
struct Ring {
    start: Position,
    events: VecDeque<Arc<Recorded>>,
    bytes: usize,
}

impl Ring {
    fn end(&self) -> Position {
        self.start + self.events.len() as u64
    }

    fn restart(&mut self, at: Position) {
        *self = Self { start: at, ..Self::default() };
    }

    fn push(&mut self, event: Arc<Recorded>) {
        self.bytes += event.payload.get().len();
        self.events.push_back(event);
        while self.events.len() > RING_EVENTS_MAX || (self.bytes > RING_BYTES_MAX && self.events.len() > 1) {
            if let Some(oldest) = self.events.pop_front() {
                self.start += 1;
                self.bytes -= oldest.payload.get().len();
            }
        }
    }

    /// `None` when the ring does not reach back that far.
    fn after(&self, position: Position, limit: usize) -> Option<Vec<Arc<Recorded>>> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        Some(self.events.iter().skip(skip).take(limit).cloned().collect())
    }
}

/// A whole stretch of the past, `(start, start + STRETCH]`: read once, by whoever comes first.
struct Stretch {
    start: Position,
    events: OnceCell<Vec<Arc<Recorded>>>,
}

pub struct Tailer {
    log: Arc<dyn EventLog>,
    sealer: Sealer,
    ring: Mutex<Ring>,
    /// The latest used at the back.
    stretches: Mutex<VecDeque<Arc<Stretch>>>,
    tail: watch::Sender<Tail>,
}

impl Tailer {
    pub fn new(log: Arc<dyn EventLog>, sealer: Sealer) -> Arc<Self> {
        let tail = watch::Sender::new(Tail::default());
        Arc::new(Self { log, sealer, ring: Mutex::default(), stretches: Mutex::default(), tail })
    }

    pub fn context(&self) -> Context {
        self.log.context()
    }

    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// The head as far as it was read; changes wake the followers.
    pub fn watch(&self) -> watch::Receiver<Tail> {
        self.tail.subscribe()
    }

    /// The opened events after a position, at most `limit`; from memory when it reaches back that far. Empty only when the
    /// position is the head; the tailer's own error when it could not read on from there.
    pub async fn after(self: &Arc<Self>, position: Position, limit: usize) -> Result<Vec<Arc<Recorded>>> {
        let tail = self.tail.borrow().clone();
        if tail.incarnation.is_some() && position >= tail.position {
            return match tail.error {
                Some(error) => Err(Error::unavailable(format!("the {} log", self.context()), error.to_string())),
                None => Ok(Vec::new()),
            };
        }
        let ringed = tail.incarnation.and_then(|_| self.ring().after(position, limit));
        let events = match ringed {
            Some(events) => events,
            None => self.past(position, limit, tail.position).await?,
        };
        // Whatever was wrong before, a follower is never handed a gap.
        match events.first() {
            Some(first) if first.position != position + 1 => {
                Err(Error::corrupt(format!("the {} log goes from {position} to {}", self.context(), first.position)))
            }
            _ => Ok(events),
        }
    }

    /// Events that the ring does not reach back to. Followers that catch up beside each other share what is read, and while one
    /// folds a stretch the next one is read.
    async fn past(self: &Arc<Self>, position: Position, limit: usize, tail: Position) -> Result<Vec<Arc<Recorded>>> {
        let start = position / STRETCH * STRETCH;
        if start + STRETCH > tail {
            return Ok(self.read(position, limit).await?.into_iter().map(Arc::new).collect());
        }
        let stretch = self.stretch(start);
        let events = stretch.events.get_or_try_init(|| self.read_stretch(start)).await?;
        let next = start + STRETCH;
        if next + STRETCH <= tail && !self.has_stretch(next) {
            let (tailer, ahead) = (self.clone(), self.stretch(next));
            tokio::spawn(async move {
                // Whoever needs it tries again, and says what is wrong.
                let _ = ahead.events.get_or_try_init(|| tailer.read_stretch(next)).await;
            });
        }
        let skip = usize::try_from(position - start).unwrap_or(usize::MAX);
        Ok(events.iter().skip(skip).take(limit).cloned().collect())
    }

    async fn read_stretch(&self, start: Position) -> Result<Vec<Arc<Recorded>>> {
        let events = self.read(start, STRETCH as usize).await?;
        if events.len() as u64 != STRETCH {
            let end = start + events.len() as u64;
            return Err(Error::corrupt(format!("the {} log ends at {end} and did not before", self.context())));
        }
        Ok(events.into_iter().map(Arc::new).collect())
    }

    fn has_stretch(&self, start: Position) -> bool {
        self.stretches().iter().any(|stretch| stretch.start == start)
    }

    fn stretch(&self, start: Position) -> Arc<Stretch> {
        let mut stretches = self.stretches();
        let known = stretches.iter().position(|stretch| stretch.start == start).and_then(|at| stretches.remove(at));
        let stretch = known.unwrap_or_else(|| Arc::new(Stretch { start, events: OnceCell::new() }));
        stretches.push_back(stretch.clone());
        while stretches.len() > STRETCHES_MAX {
            stretches.pop_front();
        }
        stretch
    }

    /// Reads until shutdown.
    pub async fn run(&self, hints: Arc<dyn Hints>, board: Board, shutdown: CancellationToken) {
        let mut hints = Some(hints.subscribe());
        let mut backoff = Backoff::default();
        let mut head_checked_at: Option<Instant> = None;
        let mut quiet = Quiet::default();
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            let check_head = head_checked_at.is_none_or(|at| at.elapsed() >= HEAD_CHECK_PERIOD);
            match self.poll(check_head).await {
                Ok(read) => {
                    if check_head {
                        head_checked_at = Some(Instant::now());
                    }
                    backoff.reset();
                    board.head(self.context(), self.tail.borrow().position);
                    quiet.polled(read);
                    if read == READ_MAX {
                        continue;
                    }
                    let spacing = if read > 0 { READ_SPACING } else { Duration::ZERO };
                    let rest = spacing.saturating_sub(began.elapsed());
                    if !rest.is_zero() && !pause(&shutdown, rest).await {
                        return;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    if !pause(&shutdown, backoff.next()).await {
                        return;
                    }
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = hinted(&mut hints, Topic::Log(self.context())) => {
                    forget(&mut hints);
                    quiet.hinted = true;
                }
                () = sleep(quiet.period()) => quiet.hinted = false,
            }
        }
    }

    fn failed(&self, error: &Error) {
        let reason: Arc<str> = error.chain().into();
        metrics::counter!("casitas_tailer_errors_total", "context" => self.context().as_str()).increment(1);
        self.tail.send_if_modified(|tail| {
            let new = tail.error.as_ref() != Some(&reason);
            if new {
                tracing::error!(
                    context = self.context().as_str(),
                    event.position = tail.position,
                    error = &*reason,
                    "the log cannot be read on"
                );
                tail.error = Some(reason);
            }
            new
        });
    }

    /// One look at the log; how many events were new.
    async fn poll(&self, check_head: bool) -> Result<usize> {
        if check_head {
            self.check_head().await?;
        }
        let from = self.tail.borrow().position;
        let events = self.read(from, READ_MAX).await?;
        let count = events.len();
        {
            let mut ring = self.ring();
            events.into_iter().for_each(|event| ring.push(Arc::new(event)));
        }
        self.tail.send_if_modified(|tail| {
            let changed = count > 0 || tail.error.is_some();
            tail.position = from + count as u64;
            tail.error = None;
            changed
        });
        Ok(count)
    }

    /// Starts at the head, and again when the log is another one or went back; followers then compare their checkpoints.
    async fn check_head(&self) -> Result<()> {
        let head = self.log.head().await?;
        let tail = self.tail.borrow().clone();
        if tail.incarnation == Some(head.incarnation) && head.position >= tail.position {
            return Ok(());
        }
        self.ring().restart(head.position);
        self.stretches().clear();
        self.tail.send_modify(|tail| {
            *tail = Tail { incarnation: Some(head.incarnation), position: head.position, error: None };
        });
        Ok(())
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        let mut events = self.log.read(after, limit).await?;
        for (expected, event) in (after + 1..).zip(&events) {
            if event.position != expected {
                return Err(Error::corrupt(format!(
                    "the {} log has {} where {expected} must stand",
                    self.context(),
                    event.position
                )));
            }
        }
        self.sealer.open_readable(&*self.log, &mut events).await?;
        Ok(events)
    }

    /// A stream's opened events in `(after, upto]`, in order, at most `limit`.
    pub(crate) async fn stream(
        &self,
        stream: &StreamId,
        after: Position,
        upto: Position,
        limit: usize,
    ) -> Result<Vec<Arc<Recorded>>> {
        let query = EventQuery { stream: Some(stream.clone()), ..EventQuery::default() };
        let mut events = self.log.search(&query, after, upto, limit).await?;
        self.sealer.open_readable(&*self.log, &mut events).await?;
        Ok(events.into_iter().map(Arc::new).collect())
    }

    fn stretches(&self) -> MutexGuard<'_, VecDeque<Arc<Stretch>>> {
        self.stretches.lock().expect("nothing panics under this lock")
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        let ring = self.ring.lock().expect("nothing panics under this lock");
        debug_assert!(ring.end() >= ring.start);
        ring
    }
}

/// How closely the log is watched.
#[derive(Default)]
struct Quiet {
    /// Whether the poll under way was asked for by a hint.
    hinted: bool,
    /// Whether hints announced the last events.
    announced: bool,
    /// When there was something new.
    since: Option<Instant>,
}

impl Quiet {
    fn polled(&mut self, read: usize) {
        if read > 0 {
            self.announced = self.hinted;
            self.since = Some(Instant::now());
        }
    }

    fn period(&self) -> Duration {
        let idle = self.since.is_some_and(|since| since.elapsed() >= IDLE_AFTER);
        if self.announced && idle { IDLE_POLL_PERIOD } else { POLL_PERIOD }
    }
}

/// Forgets the hints that are there: what they tell of is read after this.
fn forget(hints: &mut Option<Box<dyn HintStream>>) {
    while let Some(stream) = hints {
        match stream.next().now_or_never() {
            Some(Some(_)) => {}
            Some(None) => *hints = None,
            None => return,
        }
    }
}

/// Waits for a hint on one topic; for ever once no more hints can come (the caller polls as well).
pub(crate) async fn hinted(hints: &mut Option<Box<dyn HintStream>>, wanted: Topic) {
    while let Some(stream) = hints {
        match stream.next().await {
            Some(topic) if topic == wanted => return,
            Some(_) => {}
            None => *hints = None,
        }
    }
    std::future::pending().await
}
