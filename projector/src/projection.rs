//! Projections: one task a read model folds its context's events into rows.
//!
//! Rows, checkpoint and change feed move in one transaction of the view store, compared with the checkpoint the batch was folded
//! on: a crash leaves the batch done or not begun. What a fold cannot take stops the model there, named on the board, and is
//! tried again; the events before it are committed first, so that the checkpoint stands right before the culprit.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ports::{Checkpoint, Error, Hints, Position, Recorded, Result, Topic, ViewBatch, ViewStore};
use read_models::{ReadModel, Rows};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::checkpoints;
use crate::hot::HotFeed;
use crate::known;
use crate::pace::{Backoff, pause};
use crate::status::Reporter;
use crate::tailer::{Tail, Tailer};

/// Events of one transaction at most. Live batches are what came since the last one; only a follower that is behind meets this.
pub(crate) const BATCH_EVENTS_MAX: usize = 2_000;
/// How often a process that does not lead asks for leadership, and the longest time between two heartbeats of an idle follower.
pub(crate) const ROUND_PERIOD: Duration = Duration::from_millis(500);

pub(crate) struct Projection {
    pub model: &'static dyn ReadModel,
    pub tailer: Arc<Tailer>,
    pub views: Arc<dyn ViewStore>,
    pub hints: Arc<dyn Hints>,
    pub hot: Option<HotFeed>,
    /// Test aid: waits so long before each commit.
    pub delay: Duration,
    pub reporter: Reporter,
    pub shutdown: CancellationToken,
}

/// Leadership of the model.
struct Lead {
    generation: u64,
    term: u64,
    checkpoint: Checkpoint,
}

/// Why folding cannot go on, and at which event of the batch.
struct Poison {
    at: usize,
    reason: String,
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
    async fn lead(&self) -> Result<Option<Lead>> {
        let spec = self.model.spec();
        let Some(claim) = self.views.claim(spec).await? else {
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
        self.reporter.at(checkpoint.position);
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
        Ok(Some(Lead { generation: claim.generation, term: claim.term, checkpoint }))
    }

    /// Batch after batch, until shutdown (`Ok`), or until the view store refuses or fails.
    async fn follow(&self, lead: &mut Lead, backoff: &mut Backoff) -> Result<()> {
        let mut tail = self.tailer.watch();
        while !self.shutdown.is_cancelled() {
            let seen = tail.borrow_and_update().clone();
            if another_life(&seen, &lead.checkpoint) {
                return Err(Error::Conflict("the log is another one, or it went back".into()));
            }
            let events = match self.tailer.after(lead.checkpoint.position, BATCH_EVENTS_MAX).await {
                Ok(events) => events,
                Err(error) => {
                    self.reporter.stalled(error.chain());
                    if !pause(&self.shutdown, backoff.next()).await {
                        return Ok(());
                    }
                    continue;
                }
            };
            let Some(first) = events.first() else {
                self.reporter.pending_since(None);
                self.reporter.running();
                // Also true for a moment when the tailer has not read yet what this follower read by itself.
                if seen.incarnation.is_some() && seen.position < lead.checkpoint.position {
                    self.still_in_the_log(&lead.checkpoint).await?;
                }
                self.idle(&mut tail).await;
                continue;
            };
            self.reporter.pending_since(Some(first.recorded_at));
            match self.batch(lead, &events).await? {
                None => {
                    backoff.reset();
                    self.reporter.running();
                }
                Some(poison) => {
                    self.reporter.stalled(poison.reason);
                    if !pause(&self.shutdown, backoff.next()).await {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn still_in_the_log(&self, checkpoint: &Checkpoint) -> Result<()> {
        let verified = checkpoints::verify(&**self.tailer.log(), checkpoint).await?;
        verified.map(|_| ()).map_err(Error::Conflict)
    }

    async fn idle(&self, tail: &mut watch::Receiver<Tail>) {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            _ = tail.changed() => {}
            () = sleep(ROUND_PERIOD) => {}
        }
    }

    /// Folds and commits what can be folded of the batch; the poison that stands after it, if there is one.
    async fn batch(&self, lead: &mut Lead, events: &[Arc<Recorded>]) -> Result<Option<Poison>> {
        let (keys, mut poison) = self.keys(events);
        let mut foldable = poison.as_ref().map_or(events.len(), |poison| poison.at);
        while foldable > 0 {
            let stored = self.views.rows(self.model.spec(), lead.generation, &keys).await?;
            let mut rows = Rows::default();
            rows.load(&keys, stored);
            match self.fold(&events[..foldable], &mut rows) {
                Ok(()) => {
                    self.commit(lead, &events[foldable - 1], foldable, rows).await?;
                    break;
                }
                // What it left in the working set is thrown away with it.
                Err(found) => {
                    foldable = found.at;
                    poison = Some(found);
                }
            }
        }
        Ok(poison)
    }

    /// The rows that the batch needs, up to the first event that cannot be read.
    fn keys(&self, events: &[Arc<Recorded>]) -> (Vec<String>, Option<Poison>) {
        let mut keys = BTreeSet::new();
        for (at, event) in events.iter().enumerate() {
            let found = match known::check(event) {
                Ok(()) => caught(|| self.model.keys(event)),
                Err(unknown) => Err(unknown),
            };
            match found {
                Ok(found) => keys.extend(found),
                Err(reason) => return (keys.into_iter().collect(), Some(self.poison(at, event, &reason))),
            }
        }
        (keys.into_iter().collect(), None)
    }

    fn fold(&self, events: &[Arc<Recorded>], rows: &mut Rows) -> Result<(), Poison> {
        for (at, event) in events.iter().enumerate() {
            caught(|| self.model.fold(event, rows)).map_err(|reason| self.poison(at, event, &reason))?;
        }
        Ok(())
    }

    fn poison(&self, at: usize, event: &Recorded, reason: &str) -> Poison {
        let Recorded { event_id, event_type, event_version, position, .. } = event;
        let (model, context) = (self.model.spec().name, event.stream.context());
        let reason = format!(
            "{model} cannot take event {event_id} ({event_type} v{event_version} of {}, {context}:{position}): {reason}",
            event.stream
        );
        Poison { at, reason }
    }

    async fn commit(&self, lead: &mut Lead, last: &Recorded, events: usize, rows: Rows) -> Result<()> {
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        let (changes, tags) = rows.into_changes();
        let changed = tags.clone();
        let to =
            Checkpoint { incarnation: lead.checkpoint.incarnation, position: last.position, event_id: Some(last.event_id) };
        let batch = ViewBatch {
            spec: self.model.spec(),
            generation: lead.generation,
            term: lead.term,
            from: lead.checkpoint.position,
            to: to.clone(),
            changes,
            tags,
        };
        self.views.apply(&batch).await?;
        self.committed(to.position, events);
        lead.checkpoint = to;
        // Also after a batch that changed nothing: replicas that wait for a token wait for the checkpoint.
        self.hints.notify(Topic::Views);
        if let Some(hot) = &self.hot
            && !changed.is_empty()
        {
            hot.changed(changed);
        }
        Ok(())
    }

    fn committed(&self, position: Position, events: usize) {
        self.reporter.at(position);
        metrics::counter!("casitas_projected_events_total", "model" => self.model.spec().name).increment(events as u64);
        metrics::histogram!("casitas_projection_batch_events", "model" => self.model.spec().name).record(events as f64);
    }
}

/// Whether what the tailer reads is not the log that the checkpoint was made on.
pub(crate) fn another_life(tail: &Tail, checkpoint: &Checkpoint) -> bool {
    tail.incarnation.is_some_and(|incarnation| incarnation != checkpoint.incarnation)
}

/// Runs a pure function; an error or a panic as text.
fn caught<T>(run: impl FnOnce() -> Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.chain()),
        Err(panic) => Err(format!("panicked: {}", panic_text(&*panic))),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}
