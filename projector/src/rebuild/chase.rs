//! Folding a generation on behind its replay, in the order of the log, as its projection would.

use std::sync::Arc;

use ports::{Checkpoint, Claim, EventLog, Generations, ModelHead, Position, Sealer, ViewBatch};
use read_models::ReadModel;
use tokio_util::sync::CancellationToken;

use super::{Park, Progress, RebuildError, Rebuilder, Result};
use crate::checkpoints;
use crate::parking::Parked;
use crate::skips::Skips;
use crate::working::{Fault, Poison, Taken, Working};

const READ: usize = 2_000;

pub(super) struct Chase {
    model: &'static dyn ReadModel,
    log: Arc<dyn EventLog>,
    sealer: Sealer,
    views: Arc<dyn Generations>,
    generation: u64,
    term: u64,
    /// What the view store has.
    checkpoint: Checkpoint,
    working: Working,
    /// Of this generation.
    parked: Parked,
    park: Park,
    /// An event that could not be taken: it is tried again only when everything before it is stored.
    culprit: Option<Position>,
}

impl Chase {
    pub(super) async fn of(
        rebuilder: &Rebuilder,
        model: &'static dyn ReadModel,
        head: ModelHead,
        park: Park,
        skips: Skips,
    ) -> Result<Self> {
        let ModelHead { generation, term, revision, checkpoint, .. } = head;
        Self::claimed(rebuilder, model, Claim { generation, term, revision, checkpoint }, park, skips).await
    }

    pub(super) async fn claimed(
        rebuilder: &Rebuilder,
        model: &'static dyn ReadModel,
        claim: Claim,
        park: Park,
        skips: Skips,
    ) -> Result<Self> {
        let spec = model.spec();
        Ok(Self {
            parked: Parked::of(spec, rebuilder.views.parked(spec.name, claim.generation).await?).with_skips(skips),
            model,
            log: rebuilder.logs.get(model.spec().context)?.clone(),
            sealer: rebuilder.sealer.clone(),
            views: rebuilder.views.clone(),
            generation: claim.generation,
            term: claim.term,
            working: Working::at(claim.checkpoint.clone()),
            checkpoint: claim.checkpoint,
            park,
            culprit: None,
        })
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// Until everything in the log is folded and stored.
    pub(super) async fn catch_up(&mut self, progress: &Progress, stop: &CancellationToken) -> Result<()> {
        if self.working.is_empty() {
            let fitting = checkpoints::verify(&*self.log, &self.checkpoint).await?;
            self.checkpoint = fitting.map_err(RebuildError::Nothing)?;
            self.working.follow(&self.checkpoint);
        }
        loop {
            let head = self.log.head().await?.position;
            if self.checkpoint.position >= head {
                return Ok(());
            }
            self.step(head, progress, stop).await?;
        }
    }

    /// Folds up to a position, as much as one batch takes, and stores it.
    async fn step(&mut self, head: Position, progress: &Progress, stop: &CancellationToken) -> Result<()> {
        if self.culprit.is_some_and(|culprit| self.checkpoint.position + 1 == culprit) {
            self.culprit = None;
        }
        let end = self.culprit.map_or(head, |culprit| culprit - 1);
        while self.working.position() < end && self.working.has_room() {
            if stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let limit = usize::try_from(end - self.working.position()).unwrap_or(READ).min(READ);
            let mut events = self.log.read(self.working.position(), limit).await?;
            self.sealer.open_readable(&*self.log, &mut events).await?;
            let events: Vec<_> = events.into_iter().map(Arc::new).collect();
            if events.is_empty() {
                break;
            }
            let folded = self.working.fold(self.model, &*self.views, self.generation, &events, &self.parked).await?;
            if let Err(poison) = folded {
                return self.poisoned(poison);
            }
            progress.caught_up(self.working.position(), head, events.len());
        }
        let Taken { changes, tags, to, .. } = self.working.take()?;
        let from = self.checkpoint.position;
        let batch = ViewBatch {
            spec: self.model.spec(),
            generation: self.generation,
            term: self.term,
            from,
            to: to.clone(),
            changes,
            tags,
            parking: self.parked.take_changes(),
        };
        self.views.apply(&batch).await?;
        self.checkpoint = to;
        Ok(())
    }

    /// Throws away what is not stored, half of the culprit's own work with it. What came before it is folded again by itself;
    /// when it is stored, the culprit's stream is parked.
    fn poisoned(&mut self, poison: Poison) -> Result<()> {
        let (Fault::Fold(_), Some(since)) = (&poison.fault, self.park.since(&poison.event.stream)) else {
            return Err(RebuildError::Poison(poison.reason));
        };
        self.working = Working::at(self.checkpoint.clone());
        if self.checkpoint.position + 1 != poison.event.position {
            self.culprit = Some(poison.event.position);
            return Ok(());
        }
        self.parked.park(&poison, since).map_err(RebuildError::Poison)
    }
}
