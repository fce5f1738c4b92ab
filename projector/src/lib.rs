//! All that follows a log: projections, policies, timers, job dispatch, the hash chain.
//!
//! [`Projector::run`] starts one task a follower and one tailer a context. Invariants: a follower never skips an event and never
//! hides that it stands still ([`Board`]); it can be killed anywhere and goes on where it was, doing nothing twice that counts;
//! it commits only as leader, and only onto the checkpoint that it read; its memory is bounded.
//!
//! Must not know: a database, a broker, HTTP.

mod announce;
mod chain;
mod checkpoints;
mod dispatcher;
mod hot;
mod known;
mod lead;
mod pace;
mod parking;
mod policy;
mod projection;
mod rebuild;
mod skips;
mod status;
mod tailer;
mod timers;
mod working;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use commands::Handler;
use domain::Context;
use futures::FutureExt;
use ports::{Clock, Generations, Hints, JobQueue, Logs, ModelSpec, Result, Sealer, ViewStore};
use read_models::ReadModel;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use announce::Announcer;
use chain::Chain;
use dispatcher::Dispatcher;
use hot::HotFeed;
use pace::{Backoff, pause};
use policy::Policy;
use projection::{Projection, Side};
use rebuild::{LiveTerms, Standbys};
use timers::{Due, Timer};
use working::panic_text;

pub use hot::HotCollections;
pub use parking::attend_parked;
pub use rebuild::{
    Comparison, Difference, DifferenceKind, Done, Outcome, PARTS_MAX, Park, Phase, Progress, RebuildError, Rebuilder, Seen,
    Wish,
};
pub use skips::Skips;
pub use status::{Board, FollowerStatus, Kind, Reporter, State};
pub use tailer::{Tail, Tailer};
pub use working::attempt;

/// What is under way at shutdown may take this long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
const EXPORT_PERIOD: Duration = Duration::from_millis(500);

/// What the projector needs from the outside.
#[derive(Clone)]
pub struct Ports {
    /// All five contexts.
    pub logs: Logs,
    pub sealer: Sealer,
    pub views: Arc<dyn ViewStore>,
    pub queue: Arc<dyn JobQueue>,
    pub hints: Arc<dyn Hints>,
    pub clock: Arc<dyn Clock>,
    /// Over the units, legal and finances logs at least.
    pub handler: Handler,
    /// Who writes hot collections to the shared cache, where there is one.
    pub hot: Option<Arc<dyn HotCollections>>,
    /// The same views, where models are rebuilt: other generations are folded on, and a fold of an earlier version is replaced.
    pub generations: Option<Arc<dyn Generations>>,
}

#[derive(Clone)]
pub struct Config {
    /// What is projected; all of [`read_models::all`] by default.
    pub models: Vec<&'static dyn ReadModel>,
    /// Test aid: waits so long before each projection batch is committed.
    pub delay: Duration,
    /// Messages that one report worker may hold of one queue before it begins the work: its prefetch.
    pub held_per_consumer: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { models: read_models::all(), delay: Duration::ZERO, held_per_consumer: 4 }
    }
}

pub struct Projector {
    ports: Ports,
    config: Config,
    board: Board,
    tailers: HashMap<Context, Arc<Tailer>>,
}

impl Projector {
    /// `NotFound` when a context's log is not among the ports.
    pub fn new(ports: Ports, config: Config) -> Result<Self> {
        let mut tailers = HashMap::new();
        for context in Context::ALL {
            tailers.insert(context, Tailer::new(ports.logs.get(context)?.clone(), ports.sealer.clone()));
        }
        let board = Board::new(ports.clock.clone());
        // On the board before they run, so that readiness never asks an empty board.
        config.models.iter().for_each(|model| drop(projection_line(&board, *model)));
        drop(board.follower(policy::NAME, Kind::Policy, Context::Legal));
        drop(board.follower(dispatcher::NAME, Kind::Dispatcher, Context::Reports));
        Context::ALL.into_iter().for_each(|context| drop(board.follower(chain::name(context), Kind::Chain, context)));
        Due::ALL.into_iter().for_each(|due| drop(board.follower(due.name(), Kind::Timer, due.context())));
        Ok(Self { ports, config, board, tailers })
    }

    /// What every follower is doing, for readiness, metrics and operators.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Runs every follower until shutdown; then lets each finish its batch, for 5 s at most.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for (context, tailer) in &self.tailers {
            let (tailer, hints, board, token) = (tailer.clone(), self.ports.hints.clone(), self.board(), shutdown.clone());
            spawn(&mut tasks, format!("tailer:{context}"), None, &shutdown, move || {
                let (tailer, hints, board, token) = (tailer.clone(), hints.clone(), board.clone(), token.clone());
                async move { tailer.run(hints, board, token).await }
            });
        }
        self.start_followers(&mut tasks, &shutdown);
        let (board, token) = (self.board(), shutdown.clone());
        tasks.spawn(async move {
            while pause(&token, EXPORT_PERIOD).await {
                board.export();
            }
        });
        self.start_projections(&mut tasks, &shutdown).await;
        shutdown.cancelled().await;
        let finished = tokio::time::timeout(SHUTDOWN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
        if finished.is_err() {
            tracing::warn!(tasks = tasks.len(), "followers did not stop in time; they go on from their checkpoints");
        }
        self.board.export();
    }

    fn start_followers(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let reporter = self.board.follower(policy::NAME, Kind::Policy, Context::Legal);
        let tailer = self.tailers[&Context::Legal].clone();
        let policy = Policy::new(tailer, self.ports.handler.clone(), reporter.clone(), shutdown.clone());
        let policy = Arc::new(policy);
        spawn(tasks, policy::NAME.into(), Some(reporter), shutdown, move || {
            let policy = policy.clone();
            async move { policy.run().await }
        });

        let reporter = self.board.follower(dispatcher::NAME, Kind::Dispatcher, Context::Reports);
        let dispatcher = Arc::new(Dispatcher {
            tailer: self.tailers[&Context::Reports].clone(),
            queue: self.ports.queue.clone(),
            clock: self.ports.clock.clone(),
            held_per_consumer: self.config.held_per_consumer,
            reporter: reporter.clone(),
            shutdown: shutdown.clone(),
        });
        spawn(tasks, dispatcher::NAME.into(), Some(reporter), shutdown, move || {
            let dispatcher = dispatcher.clone();
            async move { dispatcher.run().await }
        });

        for (context, tailer) in &self.tailers {
            let reporter = self.board.follower(chain::name(*context), Kind::Chain, *context);
            let chain = Arc::new(Chain::new(tailer.clone(), reporter.clone(), shutdown.clone()));
            spawn(tasks, chain::name(*context), Some(reporter), shutdown, move || {
                let chain = chain.clone();
                async move { chain.run().await }
            });
        }

        for due in Due::ALL {
            let reporter = self.board.follower(due.name(), Kind::Timer, due.context());
            let timer = Arc::new(Timer {
                due,
                log: self.tailers[&due.context()].log().clone(),
                views: self.ports.views.clone(),
                handler: self.ports.handler.clone(),
                clock: self.ports.clock.clone(),
                hints: self.ports.hints.clone(),
                reporter: reporter.clone(),
                shutdown: shutdown.clone(),
            });
            spawn(tasks, due.name().into(), Some(reporter), shutdown, move || {
                let timer = timer.clone();
                async move { timer.run().await }
            });
        }
    }

    async fn start_projections(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let specs: Vec<&'static ModelSpec> = self.config.models.iter().map(|model| model.spec()).collect();
        let reporters: Vec<Reporter> = self.config.models.iter().map(|model| projection_line(&self.board, *model)).collect();
        let mut backoff = Backoff::default();
        while let Err(error) = self.ports.views.prepare(&specs).await {
            reporters.iter().for_each(|reporter| reporter.stalled(error.chain()));
            if !pause(shutdown, backoff.next()).await {
                return;
            }
        }
        let live = LiveTerms::default();
        if let Some(generations) = &self.ports.generations {
            self.start_generations(tasks, generations, &live, shutdown);
        }
        let announcer = Announcer::default();
        let (running, hints, token) = (announcer.clone(), self.ports.hints.clone(), shutdown.clone());
        spawn(tasks, "announcer".to_owned(), None, shutdown, move || {
            let (announcer, hints, token) = (running.clone(), hints.clone(), token.clone());
            async move { announcer.run(hints, token).await }
        });
        for (model, reporter) in self.config.models.iter().zip(reporters) {
            let name = model.spec().name;
            let hot = self.ports.hot.clone().map(|hot| {
                let (feed, token) = (HotFeed::default(), shutdown.clone());
                let running = feed.clone();
                spawn(tasks, format!("hot:{name}"), None, shutdown, move || {
                    let (feed, hot, token) = (running.clone(), hot.clone(), token.clone());
                    async move { feed.run(name, hot, token).await }
                });
                feed
            });
            let projection = Arc::new(Projection {
                model: *model,
                tailer: self.tailers[&model.spec().context].clone(),
                views: self.ports.views.clone(),
                side: None,
                live: live.clone(),
                announcer: announcer.clone(),
                hot,
                delay: self.config.delay,
                clock: self.ports.clock.clone(),
                reporter: reporter.clone(),
                shutdown: shutdown.clone(),
            });
            spawn(tasks, name.to_owned(), Some(reporter), shutdown, move || {
                let projection = projection.clone();
                async move { projection.run().await }
            });
        }
    }
}

impl Projector {
    /// What is not live is folded on, and what an earlier fold made is made anew, while readers have the old one.
    fn start_generations(
        &self,
        tasks: &mut JoinSet<()>,
        generations: &Arc<dyn Generations>,
        live: &LiveTerms,
        shutdown: &CancellationToken,
    ) {
        let standbys = Arc::new(Standbys {
            models: self.config.models.clone(),
            tailers: self.tailers.clone(),
            views: generations.clone(),
            clock: self.ports.clock.clone(),
            board: Board::new(self.ports.clock.clone()),
            live: live.clone(),
        });
        let token = shutdown.clone();
        spawn(tasks, "standbys".to_owned(), None, shutdown, move || {
            let (standbys, token) = (standbys.clone(), token.clone());
            async move { standbys.run(token).await }
        });
        let Ports { logs, sealer, hints, .. } = &self.ports;
        let rebuilder = Rebuilder::new(logs.clone(), sealer.clone(), generations.clone(), hints.clone());
        let (models, token) = (self.config.models.clone(), shutdown.clone());
        tasks.spawn(async move {
            let mut backoff = Backoff::default();
            // Another projector may be at it: then there is nothing left to do soon.
            while rebuilder.upgrade(&models, &token).await.is_err() {
                if !pause(&token, backoff.next()).await {
                    return;
                }
            }
        });
    }
}

fn projection_line(board: &Board, model: &dyn ReadModel) -> Reporter {
    let spec = model.spec();
    board.follower(spec.name, Kind::Projection, spec.context)
}

/// Runs a task until shutdown; a panic is counted, shown, and the task started again.
fn spawn<F, Fut>(tasks: &mut JoinSet<()>, name: String, reporter: Option<Reporter>, shutdown: &CancellationToken, run: F)
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let mut backoff = Backoff::default();
        while !shutdown.is_cancelled() {
            let Err(panic) = AssertUnwindSafe(run()).catch_unwind().await else { continue };
            let reason = format!("{name} panicked: {}", panic_text(&*panic));
            metrics::counter!("casitas_follower_panics_total", "follower" => name.clone()).increment(1);
            match &reporter {
                Some(reporter) => reporter.stalled(reason),
                None => tracing::error!(reason, "a task is started again"),
            }
            pause(&shutdown, backoff.next()).await;
        }
    });
}
