//! The dispatcher of report jobs: what was requested and is not finished is in the broker, or will be again.
//!
//! The reports log is the truth, the broker a convenience: at start the log is folded into the set of open reports, from a stored
//! floor below which none is open; a report is published (and confirmed) before the checkpoint passes its request; and every 2 s
//! what the broker holds is compared with what is open. A message too many is harmless, because the report's stream decides; a
//! message too few would be a report forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use domain::reports::{ReportEvent, ReportQueue};
use domain::{AggregateKind, Timestamp};
use jiff::SignedDuration;
use ports::{Checkpoint, Clock, Error, EventLog, JobQueue, Position, Priority, Recorded, Result};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::known;
use crate::lead::Lead;
use crate::pace::{Backoff, pause};
use crate::projection::{BATCH_EVENTS_MAX, ROUND_PERIOD, another_life};
use crate::status::Reporter;
use crate::tailer::Tailer;

pub(crate) const NAME: &str = "dispatcher:reports";
/// The second checkpoint: every report requested up to it is over.
const FLOOR: &str = "dispatcher:reports:floor";
/// Unfinished reports in the broker for each queue: 1,000 in all. Each queue has its own share, so that waiting low jobs never
/// keep a high one out.
const IN_BROKER_MAX: usize = 500;
/// Ids confirmed by one call: all of them are on their way before the first confirm is awaited.
const PUBLISH_MAX: usize = 256;
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Looks in a row that must find messages missing.
const LOOKS_MIN: u32 = 2;
/// Age from which a published report counts in that comparison.
const SETTLED: Duration = Duration::from_secs(1);
/// A queue that is empty while a report published so long ago was not begun has lost it, whatever consumers may hold.
const UNBEGUN_MAX: Duration = Duration::from_secs(10);
/// An attempt that has not ended after this time is given to the workers again.
const ATTEMPT_MAX: SignedDuration = SignedDuration::from_secs(60);

/// An open report.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Job {
    priority: Priority,
    /// Position before its request, and the event there.
    before: (Position, Option<Uuid>),
    /// When the attempt under way was started.
    started_at: Option<Timestamp>,
    /// When the broker last confirmed it.
    published_at: Option<Instant>,
}

/// What is open of one queue, counted: there may be far more open reports than the broker is given.
#[derive(Default)]
struct Lane {
    open: usize,
    /// Never confirmed by the broker.
    unpublished: BTreeSet<Position>,
}

/// The open reports, in the order of their requests (or of their last retry).
#[derive(Default)]
struct Jobs {
    open: BTreeMap<Position, (Uuid, Job)>,
    places: HashMap<Uuid, Position>,
    lanes: HashMap<Priority, Lane>,
    /// The last event folded.
    folded: (Position, Option<Uuid>),
}

impl Jobs {
    /// Nothing is open up to here.
    fn from(floor: &Checkpoint) -> Self {
        Self { folded: (floor.position, floor.event_id), ..Self::default() }
    }

    /// Before the oldest open report.
    fn floor(&self) -> (Position, Option<Uuid>) {
        self.open.first_key_value().map_or(self.folded, |(_, (_, job))| job.before)
    }

    /// Folds an event; reports requested up to `published_to` count as published at `now`.
    fn fold(&mut self, event: &Recorded, published_to: Position, now: Instant) -> Result<(), String> {
        known::check(event)?;
        if event.stream.kind == AggregateKind::Report {
            let fact: ReportEvent = event.decode().map_err(|error| error.chain())?;
            let id = Uuid::parse_str(&event.stream.id).map_err(|error| format!("{} is no report: {error}", event.stream))?;
            self.change(id, &fact, event, published_to, now);
        }
        self.folded = (event.position, Some(event.event_id));
        Ok(())
    }

    fn change(&mut self, id: Uuid, fact: &ReportEvent, event: &Recorded, published_to: Position, now: Instant) {
        match fact {
            ReportEvent::ReportRequested { queue, .. } | ReportEvent::ReportRetried { queue, .. } => {
                self.opened(id, *queue, event.position, published_to, now);
            }
            ReportEvent::ReportAttemptStarted { .. } => {
                if let Some(job) = self.job(id) {
                    job.started_at = Some(event.recorded_at);
                }
            }
            ReportEvent::ReportAttemptFailed { retryable: true, .. } => {
                if let Some(job) = self.job(id) {
                    job.started_at = None;
                    job.published_at = job.published_at.map(|_| now);
                }
            }
            ReportEvent::ReportAttemptFailed { retryable: false, .. }
            | ReportEvent::ReportCompleted { .. }
            | ReportEvent::ReportDead { .. }
            | ReportEvent::ReportCancelled { .. } => {
                if let Some(place) = self.places.remove(&id)
                    && let Some((_, job)) = self.open.remove(&place)
                {
                    let lane = self.lanes.entry(job.priority).or_default();
                    lane.open -= 1;
                    lane.unpublished.remove(&place);
                }
            }
        }
    }

    /// A report that is to be worked on, from this position on.
    fn opened(&mut self, id: Uuid, queue: ReportQueue, position: Position, published_to: Position, now: Instant) {
        let priority = match queue {
            ReportQueue::HighPriority => Priority::High,
            ReportQueue::LowPriority => Priority::Low,
        };
        let published_at = (position <= published_to).then_some(now);
        let job = Job { priority, before: self.folded, started_at: None, published_at };
        let lane = self.lanes.entry(priority).or_default();
        lane.open += 1;
        if published_at.is_none() {
            lane.unpublished.insert(position);
        }
        self.open.insert(position, (id, job));
        self.places.insert(id, position);
    }

    fn job(&mut self, id: Uuid) -> Option<&mut Job> {
        let place = self.places.get(&id)?;
        self.open.get_mut(place).map(|(_, job)| job)
    }

    fn of(&self, priority: Priority) -> impl Iterator<Item = &(Uuid, Job)> {
        self.open.values().filter(move |(_, job)| job.priority == priority)
    }

    fn count(&self, priority: Priority) -> usize {
        self.lanes.get(&priority).map_or(0, |lane| lane.open)
    }

    /// Those of a queue that were never published, as many as the broker may take.
    fn unpublished(&self, priority: Priority) -> Vec<Uuid> {
        let Some(lane) = self.lanes.get(&priority) else { return Vec::new() };
        let room = IN_BROKER_MAX.saturating_sub(lane.open - lane.unpublished.len());
        let places = lane.unpublished.iter().take(room.min(PUBLISH_MAX));
        places.filter_map(|place| self.open.get(place)).map(|(id, _)| *id).collect()
    }

    /// Published, and no worker has begun.
    fn unbegun(&self, priority: Priority) -> impl Iterator<Item = (Uuid, Instant)> {
        self.of(priority).filter(|(_, job)| job.started_at.is_none()).filter_map(|(id, job)| Some((*id, job.published_at?)))
    }

    /// Begun too long ago, and not published since.
    fn overdue(&self, priority: Priority, now: Timestamp) -> Vec<Uuid> {
        let patience = Duration::try_from(ATTEMPT_MAX).unwrap_or_default();
        let late = |job: &Job| job.started_at.is_some_and(|at| now.duration_since(at) > ATTEMPT_MAX);
        let quiet = |job: &Job| job.published_at.is_some_and(|at| at.elapsed() > patience);
        self.of(priority).filter(|(_, job)| late(job) && quiet(job)).map(|(id, _)| *id).collect()
    }

    fn published(&mut self, ids: &[Uuid], now: Instant) {
        for id in ids {
            let Some(place) = self.places.get(id) else { continue };
            let Some((_, job)) = self.open.get_mut(place) else { continue };
            job.published_at = Some(now);
            if let Some(lane) = self.lanes.get_mut(&job.priority) {
                lane.unpublished.remove(place);
            }
        }
    }

    /// Every request up to here was confirmed by the broker.
    fn confirmed(&self) -> (Position, Option<Uuid>) {
        let first = self.lanes.values().filter_map(|lane| lane.unpublished.first()).min();
        first.and_then(|place| self.open.get(place)).map_or(self.folded, |(_, job)| job.before)
    }
}

/// How often in a row messages were found missing.
#[derive(Default)]
struct Looks {
    missing: HashMap<Priority, u32>,
}

pub(crate) struct Dispatcher {
    pub tailer: Arc<Tailer>,
    pub queue: Arc<dyn JobQueue>,
    pub clock: Arc<dyn Clock>,
    /// Messages that one consumer may hold of one queue before it begins the work.
    pub held_per_consumer: u64,
    pub reporter: Reporter,
    pub shutdown: CancellationToken,
}

impl Dispatcher {
    fn log(&self) -> &dyn EventLog {
        &**self.tailer.log()
    }

    /// Dispatches until shutdown.
    pub async fn run(&self) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let led = match Lead::claim(self.log(), NAME, &self.reporter).await {
                Ok(Some(lead)) => self.follow(lead).await,
                Ok(None) => {
                    pause(&self.shutdown, ROUND_PERIOD).await;
                    continue;
                }
                Err(error) => Err(error),
            };
            match led {
                Ok(()) => backoff.reset(),
                Err(Error::Conflict(reason)) => tracing::info!(follower = NAME, reason, "leadership moved; claiming again"),
                Err(error) => self.reporter.stalled(error.chain()),
            }
            pause(&self.shutdown, backoff.next()).await;
        }
    }

    async fn follow(&self, mut lead: Lead) -> Result<()> {
        let mut tail = self.tailer.watch();
        // After the claim of the name itself: who leads that one gets this one too.
        let mut floor = Lead::claim(self.log(), FLOOR, &self.reporter).await?;
        self.reporter.at(lead.checkpoint.position);
        self.reporter.running();
        let mut jobs = floor.as_ref().map_or_else(Jobs::default, |floor| Jobs::from(&floor.checkpoint));
        let mut looks = Looks::default();
        let mut backoff = Backoff::default();
        let mut look_at = Instant::now() + LOOK_PERIOD;
        while !self.shutdown.is_cancelled() {
            if another_life(&tail.borrow_and_update(), &lead.checkpoint) {
                return Err(Error::Conflict("the log is another one".into()));
            }
            if let Some(floor) = floor.as_mut()
                && Instant::now() >= look_at
                && jobs.floor().0 > floor.checkpoint.position
            {
                let (position, event_id) = jobs.floor();
                floor.advance(self.log(), position, event_id).await?;
            }
            let round = self.round(&mut jobs, &mut looks, &mut look_at, lead.checkpoint.position).await;
            // Also after a failure: what was confirmed before it stays confirmed.
            let (position, event_id) = jobs.confirmed();
            if position > lead.checkpoint.position {
                lead.advance(self.log(), position, event_id).await?;
                self.reporter.at(position);
            }
            match round {
                Ok(0) => {
                    self.reporter.running();
                    backoff.reset();
                    tokio::select! {
                        biased;
                        () = self.shutdown.cancelled() => {}
                        _ = tail.changed() => {}
                        () = sleep_until(look_at.min(Instant::now() + ROUND_PERIOD)) => {}
                    }
                }
                Ok(_) => self.reporter.running(),
                Err(reason) => {
                    self.reporter.stalled(reason);
                    pause(&self.shutdown, backoff.next()).await;
                }
            }
        }
        Ok(())
    }

    /// Reads, publishes, compares; how much there was to do.
    async fn round(
        &self,
        jobs: &mut Jobs,
        looks: &mut Looks,
        look_at: &mut Instant,
        published_to: Position,
    ) -> Result<usize, String> {
        let read = self.read(jobs, published_to).await?;
        // Publishing waits until the log is folded to its head: many of what was requested long ago is finished.
        let far = jobs.folded.0 + BATCH_EVENTS_MAX as u64 <= self.tailer.watch().borrow().position;
        if read == BATCH_EVENTS_MAX || far {
            return Ok(read);
        }
        self.export(jobs);
        let published = self.publish_new(jobs).await?;
        if Instant::now() >= *look_at {
            self.look(jobs, looks).await?;
            *look_at = Instant::now() + LOOK_PERIOD;
        }
        Ok(read + published)
    }

    async fn read(&self, jobs: &mut Jobs, published_to: Position) -> Result<usize, String> {
        let events = self.tailer.after(jobs.folded.0, BATCH_EVENTS_MAX).await.map_err(|error| error.chain())?;
        let now = Instant::now();
        for event in &events {
            jobs.fold(event, published_to, now).map_err(|reason| {
                format!("{NAME} cannot take event {} (reports:{}): {reason}", event.event_id, event.position)
            })?;
        }
        self.reporter
            .pending_since(events.first().filter(|event| event.position > published_to).map(|event| event.recorded_at));
        Ok(events.len())
    }

    /// Both queues at once: the broker confirms each at its own pace.
    async fn publish_new(&self, jobs: &mut Jobs) -> Result<usize, String> {
        let [high, low] = Priority::ALL.map(|priority| (priority, jobs.unpublished(priority)));
        let (high_sent, low_sent) = tokio::join!(self.send(high.0, &high.1), self.send(low.0, &low.1));
        let mut published = 0;
        let mut failed = None;
        for ((priority, ids), sent) in [(high, high_sent), (low, low_sent)] {
            match sent {
                Ok(()) => published += self.sent(jobs, priority, &ids),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(published), Err)
    }

    async fn publish(&self, jobs: &mut Jobs, priority: Priority, ids: Vec<Uuid>) -> Result<(), String> {
        for ids in ids.chunks(PUBLISH_MAX) {
            self.send(priority, ids).await?;
            self.sent(jobs, priority, ids);
        }
        Ok(())
    }

    async fn send(&self, priority: Priority, ids: &[Uuid]) -> Result<(), String> {
        if ids.is_empty() {
            return Ok(());
        }
        self.queue.publish(priority, ids).await.map_err(|error| error.chain())
    }

    fn sent(&self, jobs: &mut Jobs, priority: Priority, ids: &[Uuid]) -> usize {
        jobs.published(ids, Instant::now());
        metrics::counter!("casitas_reports_published_total", "queue" => priority.queue()).increment(ids.len() as u64);
        ids.len()
    }

    /// Compares what the broker holds with what is open, and publishes what is missing again.
    async fn look(&self, jobs: &mut Jobs, looks: &mut Looks) -> Result<(), String> {
        for priority in Priority::ALL {
            let mut missing = self.missing(jobs, looks, priority).await?;
            missing.extend(jobs.overdue(priority, self.clock.now()));
            if missing.is_empty() {
                continue;
            }
            tracing::warn!(
                queue = priority.queue(),
                reports = missing.len(),
                "the broker holds fewer reports than are open; publishing again"
            );
            metrics::counter!("casitas_reports_republished_total", "queue" => priority.queue())
                .increment(missing.len() as u64);
            self.publish(jobs, priority, missing).await?;
        }
        Ok(())
    }

    async fn missing(&self, jobs: &Jobs, looks: &mut Looks, priority: Priority) -> Result<Vec<Uuid>, String> {
        let unbegun: Vec<(Uuid, Instant)> = jobs.unbegun(priority).collect();
        let all = |than: Duration| unbegun.iter().filter(|(_, at)| at.elapsed() >= than).map(|(id, _)| *id).collect();
        let depth = match self.queue.depth(priority).await {
            Ok(depth) => depth,
            // The queue is gone, and what was in it.
            Err(Error::NotFound(_)) => return Ok(all(Duration::ZERO)),
            Err(error) => return Err(error.chain()),
        };
        let looked = looks.missing.entry(priority).or_default();
        let held = depth.ready + depth.consumers * self.held_per_consumer;
        // What was published a moment ago may be on its way, or begun and not read here yet.
        let expected = unbegun.iter().filter(|(_, at)| at.elapsed() >= SETTLED).count();
        *looked = if held < expected as u64 { *looked + 1 } else { 0 };
        if *looked >= LOOKS_MIN {
            *looked = 0;
            return Ok(all(LOOK_PERIOD));
        }
        Ok(if depth.ready == 0 { all(UNBEGUN_MAX) } else { Vec::new() })
    }

    fn export(&self, jobs: &Jobs) {
        for priority in Priority::ALL {
            metrics::gauge!("casitas_reports_open", "queue" => priority.queue()).set(jobs.count(priority) as f64);
        }
    }
}
