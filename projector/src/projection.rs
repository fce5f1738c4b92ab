//! Projections: one task a read model folds its context's events into rows.
//!
//! Rows, checkpoint and change feed move in one transaction of the view store, compared with the checkpoint the batch was folded
//! on: a crash leaves the batch done or not begun. While a batch is written the next events are folded, and go into the batch
//! after it: however slow the store is, what is waiting is one batch. Of what a fold cannot take the stream alone is parked
//! (`parking`), after the events before it were committed; only an event of a newer build stops the model, named on the board,
//! and is tried again.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domain::Timestamp;
use ports::{Checkpoint, Clock, Error, Generations, Position, Result, ViewBatch, ViewStore};
use read_models::{ReadModel, Rows};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::checkpoints;
use crate::hot::HotFeed;
use crate::pace::{Backoff, pause};
use crate::parking::Parked;
use crate::rebuild::LiveTerms;
use crate::status::Reporter;
use crate::tailer::{Tail, Tailer};
use crate::working::{Fault, Poison, Taken, Working};

/// Events that a follower takes from the tailer at once.
pub(crate) const BATCH_EVENTS_MAX: usize = 2_000;
/// How often a process that does not lead asks for leadership, and the longest time between two heartbeats of an idle follower.
pub(crate) const ROUND_PERIOD: Duration = Duration::from_millis(500);
/// From the beginning of a batch to the next: the first event after a pause goes at once, a steady stream in batches.
const SPACING: Duration = Duration::from_millis(5);
/// The same for batches that change no row: only who comes with a position of this moment waits for one.
const QUIET_SPACING: Duration = Duration::from_millis(20);

pub(crate) struct Projection {
    pub model: &'static dyn ReadModel,
    pub tailer: Arc<Tailer>,
    pub views: Arc<dyn ViewStore>,
    /// Folds a generation that is not the live one.
    pub side: Option<Side>,
    pub live: LiveTerms,
    pub announcer: Announcer,
    pub hot: Option<HotFeed>,
    /// Test aid: waits so long before each commit.
    pub delay: Duration,
    pub clock: Arc<dyn Clock>,
    pub reporter: Reporter,
    pub shutdown: CancellationToken,
}

/// A generation beside the live one.
pub(crate) struct Side {
    pub views: Arc<dyn Generations>,
    pub generation: u64,
}

/// Leadership of the model, for one term.
pub(crate) struct Lead {
    pub(crate) generation: u64,
    pub(crate) term: u64,
    /// What the view store has.
    pub(crate) checkpoint: Checkpoint,
    pub(crate) working: Working,
    pub(crate) parked: Parked,
    /// The batch under way: at most one.
    writing: Option<Writing>,
    /// When the last batch began.
    began: Option<Instant>,
    /// An event that could not be taken: it is tried again only when everything before it is committed.
    culprit: Option<Position>,
}

struct Writing {
    /// One task, which ends with this value.
    task: JoinSet<Result<()>>,
    to: Checkpoint,
    since: Option<Timestamp>,
}

/// How a look for more events ended.
enum Look {
    /// Some were folded.
    More,
    /// There are no more.
    Head,
    /// More only after what is folded was written.
    Full,
    /// It was reported; more only after a pause.
    Failed,
}

impl Lead {
    fn due(&self) -> Option<Instant> {
        let spacing = if self.working.changes_rows() { SPACING } else { QUIET_SPACING };
        self.began.map(|began| began + spacing)
    }

    /// Nothing folded waits, and nothing is being written.
    fn is_done(&self) -> bool {
        self.writing.is_none() && self.working.is_empty()
    }

    /// When the oldest event that the view store does not have was recorded.
    fn pending_since(&self) -> Option<Timestamp> {
        self.writing.as_ref().and_then(|writing| writing.since).or(self.working.since())
    }
}

impl Projection {
    /// Folds until shutdown.
    pub async fn run(&self) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let wait = match self.lead().await {
                Ok(Some(mut lead)) => {
                    let ended = self.follow(&mut lead, &mut backoff).await;
                    self.over(ended, &mut backoff)
                }
                Ok(None) => ROUND_PERIOD,
                // A generation beside the live one went: whoever started this stops it soon.
                Err(Error::NotFound(_)) if self.side.is_some() => ROUND_PERIOD,
                Err(error) => {
                    self.reporter.stalled(error.chain());
                    backoff.next()
                }
            };
            if !pause(&self.shutdown, wait).await {
                return;
            }
        }
    }

    /// How long to wait before claiming again.
    fn over(&self, ended: Result<()>, backoff: &mut Backoff) -> Duration {
        match ended {
            Ok(()) => Duration::ZERO,
            Err(Error::Conflict(reason)) => {
                tracing::info!(follower = self.reporter.name(), reason, "leadership or checkpoint moved; claiming again");
                backoff.next()
            }
            Err(error) => {
                self.reporter.stalled(error.chain());
                backoff.next()
            }
        }
    }

    /// `None` while another process leads, or while the checkpoint does not belong to the log (shown as stalled).
    pub(crate) async fn lead(&self) -> Result<Option<Lead>> {
        let spec = self.model.spec();
        let claim = match &self.side {
            None => self.views.claim(spec).await?,
            Some(side) => side.views.claim_generation(spec, side.generation).await?,
        };
        let Some(claim) = claim else {
            self.reporter.waiting();
            return Ok(None);
        };
        let checkpoint = match checkpoints::verify(&**self.tailer.log(), &claim.checkpoint).await? {
            Ok(checkpoint) => checkpoint,
            Err(why) => {
                self.reporter.stalled(format!(
                    "{why}: the views do not belong to this log; rebuild with `casitas projections rebuild {}`",
                    spec.name
                ));
                return Ok(None);
            }
        };
        let (generation, term) = (claim.generation, claim.term);
        let parked = Parked::of(spec, self.views.parked(spec.name, generation).await?);
        self.reporter.at(checkpoint.position);
        self.reporter.parked(parked.count());
        self.reporter.running();
        if let Some(hot) = &self.hot {
            hot.changed(BTreeSet::from([Rows::COLLECTION.to_owned()]));
        }
        tracing::info!(
            follower = self.reporter.name(),
            term = claim.term,
            event.position = checkpoint.position,
            "projecting"
        );
        let working = Working::at(checkpoint.clone());
        Ok(Some(Lead { generation, term, checkpoint, working, parked, writing: None, began: None, culprit: None }))
    }

    /// Batch after batch, until shutdown (`Ok`), or until the view store refuses or fails.
    async fn follow(&self, lead: &mut Lead, backoff: &mut Backoff) -> Result<()> {
        let mut tail = self.tailer.watch();
        while !self.shutdown.is_cancelled() {
            let seen = tail.borrow_and_update().clone();
            if another_life(&seen, &lead.checkpoint) {
                return Err(Error::Conflict("the log is another one, or it went back".into()));
            }
            if self.live.of(self.model.spec().name).is_some_and(|term| term > lead.term) {
                return Err(Error::Conflict("another generation was switched to, or another process leads".into()));
            }
            if lead.parked.is_due() {
                self.attend(lead).await?;
            }
            let look = self.look(lead).await?;
            self.reporter.pending_since(lead.pending_since());
            match look {
                Look::Failed => {
                    if !pause(&self.shutdown, backoff.next()).await {
                        break;
                    }
                    continue;
                }
                Look::Head if lead.is_done() => self.at_the_head(lead, &seen).await?,
                Look::Head | Look::More | Look::Full => {}
            }
            let now = Instant::now();
            if lead.writing.is_none() && !lead.working.is_empty() && lead.due().is_none_or(|due| due <= now) {
                lead.writing = Some(self.write(lead)?);
            }
            let due = lead.due().unwrap_or(now);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                done = written(&mut lead.writing) => {
                    self.written(lead, done?);
                    backoff.reset();
                }
                // The others of this process' followers are asked as well before the next events are folded.
                () = tokio::task::yield_now(), if matches!(look, Look::More) => {}
                () = sleep_until(due), if lead.writing.is_none() && !lead.working.is_empty() => {}
                _ = tail.changed(), if matches!(look, Look::Head) => {}
                () = sleep(ROUND_PERIOD) => {}
            }
        }
        self.settle(lead).await
    }

    /// Folds the next events there are.
    async fn look(&self, lead: &mut Lead) -> Result<Look> {
        if lead.culprit.is_some_and(|culprit| lead.checkpoint.position + 1 == culprit) {
            lead.culprit = None;
        }
        let position = lead.working.position();
        let limit = match lead.culprit {
            Some(culprit) => usize::try_from(culprit - 1 - position).unwrap_or(0).min(BATCH_EVENTS_MAX),
            None => BATCH_EVENTS_MAX,
        };
        if limit == 0 || !lead.working.has_room() {
            return Ok(Look::Full);
        }
        let events = match self.tailer.after(position, limit).await {
            Ok(events) if events.is_empty() => return Ok(Look::Head),
            Ok(events) => events,
            Err(error) => {
                self.reporter.stalled(error.chain());
                return Ok(Look::Failed);
            }
        };
        match lead.working.fold(self.model, &*self.views, lead.generation, &events, &lead.parked).await? {
            Ok(()) => Ok(Look::More),
            Err(poison) => self.poisoned(lead, poison).await,
        }
    }

    /// Throws away what is not committed, half of the culprit's own work with it. What came before the culprit is folded again
    /// by itself; when it is committed, the culprit's stream is parked.
    async fn poisoned(&self, lead: &mut Lead, poison: Poison) -> Result<Look> {
        self.settle(lead).await?;
        lead.working = Working::at(lead.checkpoint.clone());
        if lead.checkpoint.position + 1 != poison.event.position {
            lead.culprit = Some(poison.event.position);
            return Ok(Look::More);
        }
        let stalled = match &poison.fault {
            Fault::Upgrade(_) => Some(poison.reason.clone()),
            Fault::Fold(_) => lead.parked.park(&poison, self.clock.now()).err(),
        };
        match stalled {
            None => {
                self.reporter.parked(lead.parked.count());
                Ok(Look::More)
            }
            Some(reason) => {
                self.reporter.stalled(reason);
                Ok(Look::Failed)
            }
        }
    }

    /// Waits for the batch under way.
    pub(crate) async fn settle(&self, lead: &mut Lead) -> Result<()> {
        if lead.writing.is_some() {
            let done = written(&mut lead.writing).await?;
            self.written(lead, done);
        }
        Ok(())
    }

    /// Writes everything that is folded, and waits for it.
    pub(crate) async fn flush(&self, lead: &mut Lead) -> Result<()> {
        self.settle(lead).await?;
        if !lead.working.is_empty() {
            lead.writing = Some(self.write(lead)?);
            self.settle(lead).await?;
        }
        Ok(())
    }

    async fn at_the_head(&self, lead: &Lead, seen: &Tail) -> Result<()> {
        self.reporter.running();
        // Also true for a moment when the tailer has not read yet what this follower read by itself.
        if seen.incarnation.is_some() && seen.position < lead.checkpoint.position {
            let verified = checkpoints::verify(&**self.tailer.log(), &lead.checkpoint).await?;
            return verified.map(|_| ()).map_err(Error::Conflict);
        }
        Ok(())
    }

    /// Begins to write what is folded.
    fn write(&self, lead: &mut Lead) -> Result<Writing> {
        let Taken { changes, tags, to, events, since } = lead.working.take()?;
        let batch = ViewBatch {
            spec: self.model.spec(),
            generation: lead.generation,
            term: lead.term,
            from: lead.checkpoint.position,
            to: to.clone(),
            changes,
            tags,
            parking: lead.parked.take_changes(),
        };
        lead.began = Some(Instant::now());
        let mut task = JoinSet::new();
        task.spawn(self.commit(batch, events));
        Ok(Writing { task, to, since })
    }

    /// Commits a batch and tells of it itself: nobody waits until this follower looks.
    pub(crate) fn commit(
        &self,
        batch: ViewBatch<'static>,
        events: usize,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (views, hot, delay) = (self.views.clone(), self.hot.clone(), self.delay);
        let under_way = self.announcer.begin();
        async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            views.apply(&batch).await?;
            // Also after a batch that changed nothing: replicas that wait for a token wait for the checkpoint.
            under_way.committed();
            let model = batch.spec.name;
            metrics::counter!("casitas_projected_events_total", "model" => model).increment(events as u64);
            metrics::histogram!("casitas_projection_batch_events", "model" => model).record(events as f64);
            match hot {
                Some(hot) if !batch.tags.is_empty() => hot.changed(batch.tags),
                _ => {}
            }
            Ok(())
        }
    }

    fn written(&self, lead: &mut Lead, to: Checkpoint) {
        self.reporter.at(to.position);
        self.reporter.running();
        lead.checkpoint = to;
    }
}

/// Waits until the batch under way is committed and takes it away; for ever when there is none. Cancel-safe.
async fn written(writing: &mut Option<Writing>) -> Result<Checkpoint> {
    let Some(batch) = writing.as_mut() else { return std::future::pending().await };
    let ended = batch.task.join_next().await;
    let to = batch.to.clone();
    *writing = None;
    match ended {
        Some(Ok(applied)) => applied.map(|()| to),
        Some(Err(panic)) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Some(Err(_)) | None => Err(Error::Conflict("the batch under way was cut off".into())),
    }
}

/// Whether what the tailer reads is not the log that the checkpoint was made on.
pub(crate) fn another_life(tail: &Tail, checkpoint: &Checkpoint) -> bool {
    tail.incarnation.is_some_and(|incarnation| incarnation != checkpoint.incarnation)
}
