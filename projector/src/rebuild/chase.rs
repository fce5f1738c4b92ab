//! Folding a generation on behind its replay, in the order of the log, as its projection would.

use std::sync::Arc;

use ports::{Checkpoint, Claim, EventLog, Generations, ModelHead, Position, Sealer, ViewBatch};
use read_models::ReadModel;
use tokio_util::sync::CancellationToken;

use super::{Progress, RebuildError, Rebuilder, Result};
use crate::checkpoints;
use crate::parking::Parked;
use crate::working::{Taken, Working};

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
    /// Of this generation, when it was folded on for a while.
    parked: Parked,
}

impl Chase {
    pub(super) async fn of(rebuilder: &Rebuilder, model: &'static dyn ReadModel, head: ModelHead) -> Result<Self> {
        let ModelHead { generation, term, revision, checkpoint, .. } = head;
        Self::claimed(rebuilder, model, Claim { generation, term, revision, checkpoint }).await
    }

    pub(super) async fn claimed(rebuilder: &Rebuilder, model: &'static dyn ReadModel, claim: Claim) -> Result<Self> {
        let spec = model.spec();
        Ok(Self {
            parked: Parked::of(spec, rebuilder.views.parked(spec.name, claim.generation).await?),
            model,
            log: rebuilder.logs.get(model.spec().context)?.clone(),
            sealer: rebuilder.sealer.clone(),
            views: rebuilder.views.clone(),
            generation: claim.generation,
            term: claim.term,
            working: Working::at(claim.checkpoint.clone()),
            checkpoint: claim.checkpoint,
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
        while self.working.position() < head && self.working.has_room() {
            if stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let mut events = self.log.read(self.working.position(), READ).await?;
            self.sealer.open_recorded(&*self.log, &mut events).await?;
            let events: Vec<_> = events.into_iter().map(Arc::new).collect();
            if events.is_empty() {
                break;
            }
            let folded = self.working.fold(self.model, &*self.views, self.generation, &events, &self.parked).await?;
            folded.map_err(|poison| RebuildError::Poison(poison.reason))?;
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
            parking: Vec::new(),
        };
        self.views.apply(&batch).await?;
        self.checkpoint = to;
        Ok(())
    }
}
