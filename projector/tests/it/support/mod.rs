//! A world in memory, and processes that live and die in it.

mod faults;
mod leases;
mod models;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use adapters::inprocess::{InProcessHints, InProcessQueue};
use adapters::memory::{MemoryLog, MemoryViews};
use commands::{Handler, Issue, step};
use domain::reports::{NewReport, Report, ReportCommand, ReportFormat, ReportKind, ReportParams};
use domain::{Context, Decide, ReportId, UserId};
use ports::{EventLog, Hints, JobQueue, Logs, ManualClock, MasterKey, Recorded, Sealer, ViewStore};
use projector::{Board, Config, FollowerStatus, HotCollections, Ports, Projector, Rebuilder, State};
use read_models::ReadModel;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use faults::{FaultyLog, FaultyQueue, FaultyViews, Moment};
pub use leases::{draft, send, sign, started_unit, void};
pub use models::{Trace, Traced};

/// What outlives a process: logs, views, broker, time.
#[derive(Clone)]
pub struct World {
    pub logs: Vec<Arc<FaultyLog>>,
    pub views: Arc<FaultyViews>,
    /// The same views without faults.
    pub generations: Arc<MemoryViews>,
    pub queue: Arc<FaultyQueue>,
    pub clock: Arc<ManualClock>,
    pub hints: Arc<dyn Hints>,
    pub sealer: Sealer,
}

impl World {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-03-02T12:00:00Z".parse().expect("an instant")));
        let log = |context| {
            let inner: Arc<dyn EventLog> = Arc::new(MemoryLog::new(context, clock.clone()));
            Arc::new(FaultyLog::new(inner))
        };
        let generations = Arc::new(MemoryViews::new());
        Self {
            views: Arc::new(FaultyViews::new(generations.clone())),
            generations,
            logs: Context::ALL.into_iter().map(log).collect(),
            queue: Arc::new(FaultyQueue::new(Arc::new(InProcessQueue::new()))),
            hints: Arc::new(InProcessHints::new()),
            sealer: Sealer::new(MasterKey::new([7; 32])),
            clock,
        }
    }

    pub fn log(&self, context: Context) -> &Arc<FaultyLog> {
        self.logs.iter().find(|log| log.context() == context).expect("every context has a log")
    }

    fn ports(&self, hot: Option<Arc<dyn HotCollections>>) -> Ports {
        let logs = Logs::new(self.logs.iter().map(|log| log.clone() as Arc<dyn EventLog>));
        let handler = Handler::new(logs.clone(), self.sealer.clone(), self.clock.clone(), self.hints.clone());
        Ports {
            logs,
            sealer: self.sealer.clone(),
            views: self.views.clone() as Arc<dyn ViewStore>,
            queue: self.queue.clone() as Arc<dyn JobQueue>,
            hints: self.hints.clone(),
            clock: self.clock.clone(),
            handler,
            hot,
            generations: Some(self.generations.clone()),
        }
    }

    pub fn rebuilder(&self) -> Rebuilder {
        let logs = Logs::new(self.logs.iter().map(|log| log.inner.clone()));
        Rebuilder::new(logs, self.sealer.clone(), self.generations.clone(), self.hints.clone())
    }

    /// A handler that meets no faults: the client's side.
    pub fn client(&self) -> Handler {
        let logs = Logs::new(self.logs.iter().map(|log| log.inner.clone()));
        Handler::new(logs, self.sealer.clone(), self.clock.clone(), self.hints.clone())
    }

    pub fn start(&self, models: Vec<&'static dyn ReadModel>) -> Process {
        self.start_with(Config { models, ..Config::default() }, None)
    }

    pub fn start_with(&self, config: Config, hot: Option<Arc<dyn HotCollections>>) -> Process {
        let projector = Projector::new(self.ports(hot), config).expect("every log is there");
        let (board, shutdown) = (projector.board(), CancellationToken::new());
        Process { board, task: tokio::spawn(projector.run(shutdown.clone())), shutdown }
    }

    pub async fn events(&self, context: Context) -> Vec<Recorded> {
        self.log(context).inner.read(0, 10_000).await.expect("the log in memory can be read")
    }

    pub async fn names(&self, context: Context) -> Vec<String> {
        self.events(context).await.into_iter().map(|event| event.event_type).collect()
    }

    pub async fn doc(&self, model: &'static str, key: &str) -> Option<serde_json::Value> {
        let mut snapshot = self.views.inner.snapshot().await.expect("a snapshot");
        let doc = snapshot.get(model, key).await.expect("a model");
        doc.map(|doc| serde_json::from_str(&doc).expect("JSON"))
    }
}

pub struct Process {
    pub board: Board,
    pub task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Process {
    pub fn follower(&self, name: &str) -> FollowerStatus {
        let found = self.board.snapshot().into_iter().find(|follower| follower.name == name);
        found.unwrap_or_else(|| panic!("no follower {name}"))
    }

    pub fn stalled(&self, name: &str) -> Option<String> {
        match self.follower(name).state {
            State::Stalled { reason, .. } => Some(reason),
            State::Running | State::Waiting | State::Behind => None,
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the projector stops in order");
    }

    /// `kill -9`, as far as that goes within a process.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Waits for a condition, one (virtual) minute at most.
pub async fn until<Fut: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> Fut) {
    for _ in 0..12_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

pub async fn request_report(handler: &Handler, kind: ReportKind) -> Uuid {
    let report_id = Uuid::now_v7();
    let command = ReportCommand::RequestReport(NewReport {
        report_id: ReportId(report_id),
        kind,
        params: ReportParams::default(),
        format: ReportFormat::Json,
        positions: [(kind.context(), 0)].into(),
        as_of: jiff::civil::date(2026, 3, 2),
        requested_by: UserId(Uuid::nil()),
    });
    execute::<Report>(handler, report_id, command).await;
    report_id
}

/// A client's command that must be accepted.
pub async fn execute<A: Decide>(handler: &Handler, id: Uuid, command: A::Command) {
    handler.execute(&Issue::by("user:test"), &[step::<A>(id.to_string(), command)]).await.expect("an accepted command");
}

/// Events 1 to 8 are requests of eight reports, 9 begins the fourth, 10 the fifth.
pub async fn ten_events(world: &World) -> Vec<Uuid> {
    let client = world.client();
    let mut ids = vec![];
    for _ in 0..8 {
        ids.push(request_report(&client, ReportKind::LeaseRegister).await);
    }
    for id in [ids[3], ids[4]] {
        execute::<Report>(&client, id, ReportCommand::StartAttempt { worker: "test".into() }).await;
    }
    ids
}
