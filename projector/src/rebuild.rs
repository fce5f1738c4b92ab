//! Rebuilding a read model beside the one that is read: replay, catch up, compare, switch.
//!
//! A generation is filled from the log, up to the head of that moment, in parts that each fold their own streams; then it is
//! folded on as any other. It is compared with what readers see at one moment, and made live in one step, never to a position
//! that readers have passed. Nothing is emitted meanwhile: no hint before the switch, no hot collection, no job, no policy.
//! Killed anywhere, the next rebuild of the model goes on where this one was. What operators skipped is left out here as well
//! ([`Skips`]).

mod chase;
mod compare;
mod progress;
mod replay;
mod standby;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domain::{StreamId, Timestamp};
use ports::{Checkpoint, Error, Generation, Generations, Hints, Logs, ModelHead, Sealer, Standing, Topic};
use read_models::{Feed, ReadModel};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::checkpoints;
use crate::skips::Skips;
use chase::Chase;
use replay::Replay;

pub use compare::{Comparison, Difference, DifferenceKind};
pub use progress::{Phase, Progress, Seen};
pub(crate) use standby::{LiveTerms, Standbys};

/// Parts of a replay at most.
pub const PARTS_MAX: u32 = 16;
/// Rows of a replay that are held in memory weigh at most about so much.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a switch may be tried: readers' followers and ours overtake each other in turns.
const SWITCH_WITHIN: Duration = Duration::from_secs(10);
const SWITCH_AGAIN_AFTER: Duration = Duration::from_millis(7);
/// How long a drop is tried while readers or a load still use the table.
const DROP_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("{}", .0.chain())]
    Port(#[from] Error),
    /// An event that the fold cannot take.
    #[error("{0}")]
    Poison(String),
    #[error("stopped")]
    Stopped,
    #[error("a rebuild of {0} is under way already, here or on another machine")]
    Busy(&'static str),
    #[error(
        "generation {generation} of {model} is unfinished, and a dry run keeps nothing: go on with it \
         (`casitas projections rebuild {model}`), or drop it (`casitas projections abort {model}`)"
    )]
    Unfinished { model: &'static str, generation: u64 },
    #[error("{0}")]
    Nothing(String),
    /// The two sides are too far apart to be compared.
    #[error("{0}")]
    Apart(String),
}

pub type Result<T, E = RebuildError> = std::result::Result<T, E>;

/// Which streams are parked at an event that cannot be folded, where the rebuild would stop at it otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Park {
    #[default]
    Nothing,
    /// Any, as of this moment.
    Any(Timestamp),
    /// Those that are parked in what readers see, as of when they were.
    AsLive(Arc<HashMap<StreamId, Timestamp>>),
}

impl Park {
    fn since(&self, stream: &StreamId) -> Option<Timestamp> {
        match self {
            Self::Nothing => None,
            Self::Any(now) => Some(*now),
            Self::AsLive(parked) => parked.get(stream).copied(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Parts that are folded beside each other; of a rebuild that goes on, they are what they were.
    pub parallel: u32,
    /// Leave it ready, to be switched to by hand.
    pub manual: bool,
    /// Compare, and drop it.
    pub dry_run: bool,
    /// Switch even to other rows.
    pub force: bool,
    pub park: Park,
}

/// What became of a rebuild.
#[derive(Clone, Debug)]
pub enum Outcome {
    Switched(ModelHead),
    /// Complete and folded on; to be switched to by hand.
    Ready,
    /// Complete, but its rows are not those of the live generation, whose fold is the same.
    Refused,
    /// It was a trial.
    Dropped,
}

#[derive(Clone, Debug)]
pub struct Done {
    pub outcome: Outcome,
    pub generation: u64,
    pub comparison: Comparison,
    /// Events folded into the rows by the replay, in this and earlier runs.
    pub events: u64,
    /// Streams that are parked in the generation.
    pub parked: usize,
}

/// What rebuilds in one process have in common.
#[derive(Clone)]
pub struct Rebuilder {
    pub(crate) logs: Logs,
    pub(crate) sealer: Sealer,
    pub(crate) views: Arc<dyn Generations>,
    pub(crate) hints: Arc<dyn Hints>,
    running: Arc<Mutex<BTreeSet<&'static str>>>,
    /// Rows of a replay that are held in memory weigh at most about so much.
    held_bytes: usize,
}

/// The only rebuild of a model in this process.
struct Turn {
    model: &'static str,
    running: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.running).remove(self.model);
    }
}

fn lock<'a>(running: &'a Mutex<BTreeSet<&'static str>>) -> MutexGuard<'a, BTreeSet<&'static str>> {
    running.lock().expect("nothing panics under this lock")
}

impl Rebuilder {
    pub fn new(logs: Logs, sealer: Sealer, views: Arc<dyn Generations>, hints: Arc<dyn Hints>) -> Self {
        Self { logs, sealer, views, hints, running: Arc::default(), held_bytes: HELD_BYTES_MAX }
    }

    /// With another bound of the rows that are held in memory.
    pub fn with_held_bytes(self, held_bytes: usize) -> Self {
        Self { held_bytes, ..self }
    }

    pub fn views(&self) -> &Arc<dyn Generations> {
        &self.views
    }

    /// Rebuilds a model, or goes on with a rebuild that was stopped. `Busy` while another one is under way anywhere.
    pub async fn rebuild(
        &self,
        model: &'static dyn ReadModel,
        wish: Wish,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Done> {
        let _turn = self.turn(model)?;
        let name = model.spec().name;
        if !self.views.claim_rebuild(name).await? {
            return Err(RebuildError::Busy(name));
        }
        let done = match self.clear_trial(model).await {
            Err(error) => Err(error),
            Ok(()) if wish.dry_run => self.trial(model, &wish, progress, stop).await,
            Ok(()) => self.rebuild_claimed(model, &wish, progress, stop).await,
        };
        // It ends with the connection at the latest. A switch that was made is not hidden behind an error of this.
        if let Err(error) = self.views.release_rebuild(name).await {
            tracing::warn!(model = name, error = error.chain(), "the claim of a rebuild could not be given back");
        }
        done
    }

    /// Drops what a trial left that was killed: whoever made it had the claim that is ours now, and nobody wants to go on with it.
    async fn clear_trial(&self, model: &dyn ReadModel) -> Result<()> {
        match self.standing(model, Standing::Building).await? {
            Some(left) if left.trial => self.drop(model, left.head.generation).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Nothing of a trial stays; what went wrong with it is the answer.
    async fn trial(
        &self,
        model: &'static dyn ReadModel,
        wish: &Wish,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Done> {
        if let Some(unfinished) = self.standing(model, Standing::Building).await? {
            let generation = unfinished.head.generation;
            return Err(RebuildError::Unfinished { model: model.spec().name, generation });
        }
        let done = self.rebuild_claimed(model, wish, progress, stop).await;
        if done.is_err()
            && let Ok(Some(trial)) = self.standing(model, Standing::Building).await
        {
            let _ = self.drop(model, trial.head.generation).await;
        }
        done
    }

    fn turn(&self, model: &dyn ReadModel) -> Result<Turn> {
        let name = model.spec().name;
        if !lock(&self.running).insert(name) {
            return Err(RebuildError::Busy(name));
        }
        Ok(Turn { model: name, running: self.running.clone() })
    }

    async fn rebuild_claimed(
        &self,
        model: &'static dyn ReadModel,
        wish: &Wish,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Done> {
        let live = self.standing(model, Standing::Live).await?;
        let live = live.ok_or_else(|| RebuildError::Nothing(format!("{} was never folded here", model.spec().name)))?;
        if !wish.dry_run
            && let Some(ready) = self.usable(model, Standing::Ready).await?
        {
            return self.finish_ready(model, wish, &ready, progress).await;
        }
        let built = self.begin(model, wish).await?;
        let skips = Skips::of(model.spec().name, &self.logs).await?;
        let events = self.fill(model, &built, &wish.park, &skips, progress, stop).await?;
        let mut chase = Chase::of(self, model, built.head.clone(), wish.park.clone(), skips).await?;
        progress.phase(Phase::CatchUp);
        chase.catch_up(progress, stop).await?;
        progress.phase(Phase::Verify);
        let generation = built.head.generation;
        let comparison = self.compared(model, &live, generation, wish.force).await?;
        let parked = self.views.parked(model.spec().name, generation).await?.len();
        let outcome = if wish.dry_run {
            self.drop(model, generation).await?;
            Outcome::Dropped
        } else if refuses(&live, model, &comparison) && !wish.force {
            self.views.ready(model.spec(), generation, chase.term()).await?;
            Outcome::Refused
        } else if wish.manual {
            self.views.ready(model.spec(), generation, chase.term()).await?;
            Outcome::Ready
        } else {
            progress.phase(Phase::Switch);
            Outcome::Switched(self.switch_chasing(model, generation, Some(chase)).await?)
        };
        Ok(Done { outcome, generation, comparison, events, parked })
    }

    /// What readers see may be of another life of the log, or, by force, too far behind: then there is nothing to compare with.
    async fn compared(
        &self,
        model: &'static dyn ReadModel,
        live: &Generation,
        generation: u64,
        force: bool,
    ) -> Result<Comparison> {
        let log = self.logs.get(model.spec().context)?;
        let none = Comparison { live_generation: live.head.generation, generation, ..Comparison::default() };
        if checkpoints::verify(&**log, &live.head.checkpoint).await?.is_err() {
            return Ok(none);
        }
        match self.compare(model, generation, &mut |_| {}).await {
            Err(RebuildError::Apart(_)) if force => Ok(none),
            compared => compared,
        }
    }

    /// A rebuild that was complete: compared again, and switched to.
    async fn finish_ready(
        &self,
        model: &'static dyn ReadModel,
        wish: &Wish,
        ready: &Generation,
        progress: &Progress,
    ) -> Result<Done> {
        progress.begin(model.spec().name, ready.head.generation, ready.head.checkpoint.position, 1);
        progress.phase(Phase::Verify);
        let generation = ready.head.generation;
        let comparison = self.settle(model, generation).await?;
        let live = self.standing(model, Standing::Live).await?;
        let refused = live.is_some_and(|live| refuses(&live, model, &comparison)) && !wish.force;
        let parked = self.views.parked(model.spec().name, generation).await?.len();
        let outcome = match (refused, wish.manual) {
            (true, _) => Outcome::Refused,
            (false, true) => Outcome::Ready,
            (false, false) => Outcome::Switched(self.switch_ready(model, generation).await?),
        };
        Ok(Done { outcome, generation, comparison, events: 0, parked })
    }

    /// Brings a generation that somebody may fold, or nobody, near the head, and compares it.
    async fn settle(&self, model: &'static dyn ReadModel, generation: u64) -> Result<Comparison> {
        if let Some(mut chase) = self.chase_free(model, generation).await? {
            // Whoever else folds it is as good.
            match chase.catch_up(&Progress::default(), &CancellationToken::new()).await {
                Ok(()) | Err(RebuildError::Port(Error::Conflict(_))) => {}
                Err(error) => return Err(error),
            }
        }
        self.compare(model, generation, &mut |_| {}).await
    }

    /// The generation to fill: one that was begun and still fits, or a new one.
    async fn begin(&self, model: &'static dyn ReadModel, wish: &Wish) -> Result<Generation> {
        self.usable(model, Standing::Building).await?;
        let head = self.logs.get(model.spec().context)?.head().await?;
        let (position, parts) = match (model.feed(), wish.parallel.clamp(1, PARTS_MAX)) {
            (Feed::Mixed, _) => (0, 0),
            (Feed::Streams(_) | Feed::Events(_), parts) => (head.position, parts),
        };
        let event_id = head.event_id.filter(|_| position > 0);
        let at = Checkpoint { incarnation: head.incarnation, position, event_id };
        Ok(self.views.build(model.spec(), &at, parts, wish.dry_run).await?)
    }

    /// Replays what is missing of the parts, beside each other, and makes the indexes.
    async fn fill(
        &self,
        model: &'static dyn ReadModel,
        built: &Generation,
        park: &Park,
        skips: &Skips,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<u64> {
        let head = &built.head;
        progress.begin(model.spec().name, head.generation, head.checkpoint.position, built.parts.len());
        let replay = Arc::new(Replay {
            model,
            log: self.logs.get(model.spec().context)?.clone(),
            sealer: self.sealer.clone(),
            views: self.views.clone(),
            generation: head.generation,
            term: head.term,
            to: head.checkpoint.position,
            parts: built.parts.len() as u32,
            held_bytes: self.held_bytes / built.parts.len().max(1),
            park: park.clone(),
            skips: skips.clone(),
            progress: progress.clone(),
            stop: stop.child_token(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        for part in built.parts.iter().filter(|part| !part.finished).cloned() {
            let replay = replay.clone();
            tasks.spawn(async move { replay.part(part).await });
        }
        let mut failed = None;
        while let Some(ended) = tasks.join_next().await {
            let ended = match ended {
                Ok(ended) => ended,
                Err(panic) => Err(RebuildError::Poison(format!("{} panicked: {panic}", model.spec().name))),
            };
            if let Err(error) = ended {
                // The first reason is the one to be told; the others were stopped for it.
                replay.stop.cancel();
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        progress.phase(Phase::Index);
        self.views.complete(model.spec(), head.generation, head.term).await?;
        let parts = self.standing(model, Standing::Building).await?.map(|built| built.parts).unwrap_or_default();
        Ok(parts.iter().map(|part| part.events).sum())
    }

    /// A generation of this standing that can be gone on with; one that cannot is dropped.
    async fn usable(&self, model: &'static dyn ReadModel, standing: Standing) -> Result<Option<Generation>> {
        let Some(found) = self.standing(model, standing).await? else { return Ok(None) };
        let log = self.logs.get(model.spec().context)?;
        let fits = found.fits && found.head.fold_version == model.spec().fold_version;
        let fits = fits && checkpoints::verify(&**log, &found.head.checkpoint).await?.is_ok();
        if fits && !self.parks_what_was_skipped(model, found.head.generation).await? {
            return Ok(Some(found));
        }
        tracing::info!(
            model = model.spec().name,
            generation = found.head.generation,
            "a generation of another fold or log, or parked at what was skipped since, is dropped"
        );
        self.drop(model, found.head.generation).await?;
        Ok(None)
    }

    /// Whether a stream of a generation waits at an event that was given up after the generation had met it.
    async fn parks_what_was_skipped(&self, model: &dyn ReadModel, generation: u64) -> Result<bool> {
        let name = model.spec().name;
        let parked = self.views.parked(name, generation).await?;
        if parked.is_empty() {
            return Ok(false);
        }
        let skips = Skips::of(name, &self.logs).await?;
        Ok(parked.iter().any(|parked| skips.has_parked(parked)))
    }

    pub async fn standing(&self, model: &dyn ReadModel, standing: Standing) -> Result<Option<Generation>> {
        let all = self.views.generations(&[model.spec()]).await?;
        Ok(all.into_iter().find(|found| found.standing == standing))
    }

    /// Makes the generation that is ready live. Its rows are compared first; `None` with the comparison when they differ.
    pub async fn switch(&self, model: &'static dyn ReadModel, force: bool) -> Result<(Option<ModelHead>, Comparison)> {
        let _turn = self.turn(model)?;
        let name = model.spec().name;
        let ready = self.usable(model, Standing::Ready).await?;
        let ready = ready.ok_or_else(|| {
            RebuildError::Nothing(format!(
                "no generation of {name} is ready; `casitas projections rebuild {name}` makes one"
            ))
        })?;
        let comparison = self.settle(model, ready.head.generation).await?;
        let live = self.standing(model, Standing::Live).await?;
        if live.is_some_and(|live| refuses(&live, model, &comparison)) && !force {
            return Ok((None, comparison));
        }
        Ok((Some(self.switch_ready(model, ready.head.generation).await?), comparison))
    }

    /// Makes the generation that was live before the last switch live again.
    pub async fn rollback(&self, model: &'static dyn ReadModel) -> Result<ModelHead> {
        let _turn = self.turn(model)?;
        let name = model.spec().name;
        let standby = self.standing(model, Standing::Standby).await?;
        let standby =
            standby.ok_or_else(|| RebuildError::Nothing(format!("{name} has no generation on standby to go back to")))?;
        if standby.head.fold_version != model.spec().fold_version {
            return Err(RebuildError::Nothing(format!(
                "the standby of {name} was folded by version {}, this program folds version {}: it stands still",
                standby.head.fold_version,
                model.spec().fold_version
            )));
        }
        self.switch_ready(model, standby.head.generation).await
    }

    async fn switch_ready(&self, model: &'static dyn ReadModel, generation: u64) -> Result<ModelHead> {
        let chase = self.chase_free(model, generation).await?;
        self.switch_chasing(model, generation, chase).await
    }

    /// The fold of a generation that no other process folds.
    async fn chase_free(&self, model: &'static dyn ReadModel, generation: u64) -> Result<Option<Chase>> {
        match self.views.claim_generation(model.spec(), generation).await? {
            Some(claim) => {
                let skips = Skips::of(model.spec().name, &self.logs).await?;
                let park = self.as_live(model).await?;
                Ok(Some(Chase::claimed(self, model, claim, park, skips).await?))
            }
            None => Ok(None),
        }
    }

    /// Folds on, where that is ours to do, until the switch finds the generation no further back than the live one.
    async fn switch_chasing(
        &self,
        model: &'static dyn ReadModel,
        generation: u64,
        mut chase: Option<Chase>,
    ) -> Result<ModelHead> {
        // By itself: a switch holds up the live generation's leader, and must not wait for who still reads or cleans this table.
        if let Some(standby) = self.standing(model, Standing::Standby).await?
            && standby.head.generation != generation
        {
            self.drop(model, standby.head.generation).await?;
        }
        let began = Instant::now();
        loop {
            if let Some(folding) = chase.as_mut() {
                match folding.catch_up(&Progress::default(), &CancellationToken::new()).await {
                    Ok(()) => {}
                    Err(RebuildError::Port(Error::Conflict(_))) => chase = None,
                    Err(error) => return Err(error),
                }
            }
            match self.views.switch(model.spec(), generation).await {
                Ok(head) => {
                    self.hints.notify(Topic::Views);
                    tracing::info!(model = model.spec().name, generation, term = head.term, "switched");
                    return Ok(head);
                }
                Err(Error::Conflict(_) | Error::Unavailable { .. }) if began.elapsed() < SWITCH_WITHIN => {}
                Err(error) => return Err(error.into()),
            }
            sleep(SWITCH_AGAIN_AFTER).await;
        }
    }

    /// Drops a generation that is not live; waits for who still uses it.
    pub async fn drop(&self, model: &dyn ReadModel, generation: u64) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.views.drop_generation(model.spec().name, generation).await {
                Err(Error::Unavailable { .. }) if began.elapsed() < DROP_WITHIN => sleep(SWITCH_AGAIN_AFTER).await,
                dropped => return Ok(dropped?),
            }
        }
    }

    /// What is parked now may be parked in what comes after it: readers miss no more than they do.
    async fn as_live(&self, model: &dyn ReadModel) -> Result<Park> {
        let Some(live) = self.standing(model, Standing::Live).await? else { return Ok(Park::Nothing) };
        let parked = self.views.parked(model.spec().name, live.head.generation).await?;
        Ok(Park::AsLive(Arc::new(parked.into_iter().map(|parked| (parked.stream, parked.since)).collect())))
    }

    /// The models whose live generation has other columns than this program asks for: it cannot be read until it is rebuilt.
    pub async fn unreadable(&self, models: &[&'static dyn ReadModel]) -> Result<Vec<&'static dyn ReadModel>> {
        let specs: Vec<_> = models.iter().map(|model| model.spec()).collect();
        let all = self.views.generations(&specs).await?;
        let other = |model: &dyn ReadModel| {
            let is_its = |found: &&Generation| found.standing == Standing::Live && found.head.model == model.spec().name;
            all.iter().find(is_its).is_some_and(|live| !live.fits)
        };
        Ok(models.iter().copied().filter(|model| other(*model)).collect())
    }

    /// Rebuilds and switches, one after the other, the models whose live generation is of an earlier fold than this program's. One
    /// that cannot be rebuilt does not hold up the others; its error is the answer.
    pub async fn upgrade(&self, models: &[&'static dyn ReadModel], stop: &CancellationToken) -> Result<Vec<&'static str>> {
        let (mut upgraded, mut failed) = (Vec::new(), None);
        for model in models {
            match self.upgrade_one(*model, stop).await {
                Ok(false) => {}
                Ok(true) => upgraded.push(model.spec().name),
                Err(RebuildError::Stopped) => return Err(RebuildError::Stopped),
                Err(error) => {
                    tracing::warn!(model = model.spec().name, %error, "a read model of an earlier fold cannot be rebuilt yet");
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(upgraded), Err)
    }

    async fn upgrade_one(&self, model: &'static dyn ReadModel, stop: &CancellationToken) -> Result<bool> {
        let spec = model.spec();
        let live = self.standing(model, Standing::Live).await?;
        if live.is_none_or(|live| live.head.fold_version >= spec.fold_version) {
            return Ok(false);
        }
        tracing::info!(
            model = spec.name,
            fold_version = spec.fold_version,
            "folded by an earlier version; rebuilding it aside"
        );
        let park = self.as_live(model).await?;
        let wish = Wish { parallel: 1, manual: false, dry_run: false, force: true, park };
        self.rebuild(model, wish, &Progress::default(), stop).await?;
        Ok(true)
    }
}

/// Whether other rows are an error: the same fold of the same events gives the same rows.
fn refuses(live: &Generation, model: &dyn ReadModel, comparison: &Comparison) -> bool {
    live.head.fold_version == model.spec().fold_version && live.fits && !comparison.is_equal()
}
