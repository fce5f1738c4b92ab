//! What outlives a process, and the processes that live and die in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use adapters::inprocess::InProcessHints;
use adapters::memory::MemoryLog;
use async_trait::async_trait;
use bytes::Bytes;
use commands::Handler;
use domain::reports::ReportKind;
use domain::{Context, Timestamp};
use jiff::SignedDuration;
use ports::{
    Clock, EventLog, Hints, JobQueue, Logs, MasterKey, ModelSpec, Position, Recorded, Result, Sealer, SharedCache,
    ViewSnapshot, ViewStore,
};
use projector::{Config, HotCollections, Projector};
use query_api::{Feed, HotWriter, Reader, ReaderConfig};
use report_worker::{Order, Registry, Render, Rendered, WorkerConfig, WorkerPorts, WorkerStatus};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Plan;
use crate::clients::Attempt;
use crate::fate::{Fate, Gate, Proc, Target};
use crate::ports::{
    CacheStore, LogStore, QueueStore, Sabotage, Shelf, SimCache, SimHints, SimLog, SimQueue, SimShelf, SimViews, ViewsStore,
};

/// Virtual time as the wall clock shows it.
pub struct SimClock {
    start: Instant,
    begins: Timestamp,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::ZERO);
        self.begins + elapsed
    }
}

/// One running process.
#[derive(Clone)]
struct Running {
    proc: Arc<Proc>,
    tasks: Vec<AbortHandle>,
    handler: Option<Handler>,
    reader: Option<Reader>,
}

pub struct World {
    pub plan: Plan,
    pub fate: Arc<Fate>,
    pub clock: Arc<dyn Clock>,
    pub logs: BTreeMap<Context, Arc<LogStore>>,
    pub views: Arc<ViewsStore>,
    pub cache: Arc<CacheStore>,
    pub queue: Arc<QueueStore>,
    pub shelf: Arc<Shelf>,
    pub sabotage: Option<Sabotage>,
    hints: Arc<InProcessHints>,
    sealer: Sealer,
    running: Mutex<BTreeMap<String, Running>>,
    procs: AtomicU32,
    pub attempts: Mutex<Vec<Attempt>>,
    /// Positions of the units log that were acknowledged, for tokens.
    pub acknowledged: Mutex<Vec<Position>>,
    violations: Mutex<Vec<String>>,
}

impl World {
    pub fn new(plan: Plan, seed: u64, sabotage: Option<Sabotage>, prints: bool) -> Arc<Self> {
        let fate = Fate::new(seed, prints);
        let begins = Timestamp::from_second(1_772_452_800).unwrap_or_default();
        let clock: Arc<dyn Clock> = Arc::new(SimClock { start: Instant::now(), begins });
        let log = |context: Context| {
            let inner = MemoryLog::new(context, clock.clone());
            let broken = sabotage.filter(|_| plan.broken_logs.contains(&context));
            (context, Arc::new(LogStore { inner, claims: Default::default(), sabotage: broken, clock: clock.clone() }))
        };
        let logs = Context::ALL.into_iter().map(log).collect();
        Arc::new(Self {
            logs,
            views: Arc::new(ViewsStore::new(read_models::available_units::SPEC.name, sabotage)),
            cache: Arc::default(),
            queue: Arc::new(QueueStore::new(sabotage)),
            shelf: Arc::default(),
            sabotage,
            hints: Arc::new(InProcessHints::new()),
            sealer: Sealer::new(MasterKey::new([7; 32])),
            running: Mutex::default(),
            procs: AtomicU32::new(1),
            attempts: Mutex::default(),
            acknowledged: Mutex::default(),
            violations: Mutex::default(),
            plan,
            fate,
            clock,
        })
    }

    pub fn violation(&self, text: impl Into<String>) {
        let text = text.into();
        self.fate.note(&format!("VIOLATION: {text}"));
        self.violations.lock().expect("nothing panics under this lock").push(text);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("nothing panics under this lock").clone()
    }

    /// The log as it is, without a fault in between.
    pub async fn events(&self, context: Context) -> Vec<Recorded> {
        let (log, mut events) = (&self.logs[&context].inner, Vec::new());
        loop {
            let after = events.len() as u64;
            let chunk = log.read(after, 1_000).await.unwrap_or_default();
            if chunk.is_empty() {
                return events;
            }
            events.extend(chunk);
        }
    }

    pub async fn head(&self, context: Context) -> Position {
        self.logs[&context].inner.head().await.map_or(0, |head| head.position)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().expect("nothing panics under this lock")
    }

    pub fn writer(&self, name: &str) -> Option<(Arc<Proc>, Handler)> {
        let running = self.running();
        let found = running.get(name)?;
        Some((found.proc.clone(), found.handler.clone()?))
    }

    pub fn replica(&self, name: &str) -> Option<(Arc<Proc>, Reader)> {
        let running = self.running();
        let found = running.get(name)?;
        Some((found.proc.clone(), found.reader.clone()?))
    }

    /// Every process that the plan wants and that does not run.
    pub fn missing(&self) -> Vec<String> {
        let names = self.plan.processes();
        let running = self.running();
        names.into_iter().filter(|name| !running.contains_key(name)).collect()
    }

    /// `kill -9`.
    pub fn kill(&self, name: &str) {
        let Some(killed) = self.running().remove(name) else { return };
        self.fate.note(&format!("{name} is killed"));
        self.fate.count("process killed");
        killed.proc.died.cancel();
        killed.tasks.iter().for_each(AbortHandle::abort);
    }

    pub fn start(&self, name: &str) {
        let id = self.procs.fetch_add(1, Ordering::Relaxed);
        let proc = Arc::new(Proc { id, name: name.to_owned(), died: CancellationToken::new() });
        self.fate.note(&format!("{name} starts as {id}"));
        let mut running = Running { proc: proc.clone(), tasks: Vec::new(), handler: None, reader: None };
        match name.as_bytes().first() {
            Some(b'w') => running.handler = Some(self.handler(&proc, &Context::ALL)),
            Some(b'q') => self.start_replica(&proc, &mut running),
            Some(b'p') => self.start_projector(&proc, &mut running),
            _ => self.start_worker(&proc, &mut running),
        }
        self.running().insert(name.to_owned(), running);
    }

    fn gate(&self, proc: &Arc<Proc>, target: Target) -> Gate {
        Gate { fate: self.fate.clone(), proc: proc.clone(), target }
    }

    fn logs(&self, proc: &Arc<Proc>, contexts: &[Context]) -> Logs {
        Logs::new(contexts.iter().map(|context| {
            let gate = self.gate(proc, Target::Log(*context));
            Arc::new(SimLog { gate, store: self.logs[context].clone() }) as Arc<dyn EventLog>
        }))
    }

    fn handler(&self, proc: &Arc<Proc>, contexts: &[Context]) -> Handler {
        Handler::new(self.logs(proc, contexts), self.sealer.clone(), self.clock.clone(), self.hints(proc))
    }

    fn hints(&self, proc: &Arc<Proc>) -> Arc<dyn Hints> {
        Arc::new(SimHints { gate: self.gate(proc, Target::Hints), inner: self.hints.clone() })
    }

    fn views(&self, proc: &Arc<Proc>) -> Arc<dyn ViewStore> {
        Arc::new(SimViews { gate: self.gate(proc, Target::Views), store: self.views.clone() })
    }

    fn cache(&self, proc: &Arc<Proc>) -> Arc<dyn SharedCache> {
        let gate = self.gate(proc, Target::Cache);
        Arc::new(SimCache { gate, store: self.cache.clone(), sabotage: self.sabotage })
    }

    fn queue(&self, proc: &Arc<Proc>) -> Arc<dyn JobQueue> {
        Arc::new(SimQueue { gate: self.gate(proc, Target::Queue), store: self.queue.clone() })
    }

    fn start_replica(&self, proc: &Arc<Proc>, running: &mut Running) {
        let feed = Arc::new(Feed::new(self.views(proc)));
        // One of two replicas has no tier of its own: both ways through the tiers are taken.
        let memory_bytes = ReaderConfig::default().memory_bytes.filter(|_| proc.name != "q1");
        let config = ReaderConfig { memory_bytes };
        let reader = Reader::new(self.views(proc), Some(self.cache(proc)), self.clock.clone(), feed.clone(), &config);
        running.tasks.push(tokio::spawn(feed.run(self.hints(proc))).abort_handle());
        running.reader = Some(reader);
    }

    fn start_projector(&self, proc: &Arc<Proc>, running: &mut Running) {
        let hot = (self.plan.replicas > 0).then(|| {
            Arc::new(Hot(HotWriter::new(self.views(proc), self.cache(proc), self.clock.clone()))) as Arc<dyn HotCollections>
        });
        let ports = projector::Ports {
            logs: self.logs(proc, &Context::ALL),
            sealer: self.sealer.clone(),
            views: self.views(proc),
            queue: self.queue(proc),
            hints: self.hints(proc),
            clock: self.clock.clone(),
            handler: self.handler(proc, &Context::ALL),
            hot,
            generations: None,
        };
        let config = Config { models: self.plan.models.clone(), held_per_consumer: 10, ..Config::default() };
        match Projector::new(ports, config) {
            Ok(projector) => {
                running.tasks.push(tokio::spawn(projector.run(CancellationToken::new())).abort_handle());
            }
            Err(error) => self.violation(format!("a projector does not start: {error}")),
        }
    }

    fn start_worker(&self, proc: &Arc<Proc>, running: &mut Running) {
        let mut config = WorkerConfig::new(proc.name.clone());
        config.render_delay = Duration::from_millis(20);
        let renderers = ReportKind::ALL.map(|kind| Arc::new(Plain(kind)) as Arc<dyn Render>);
        let ports = WorkerPorts {
            handler: self.handler(proc, &[Context::Reports]),
            queue: self.queue(proc),
            views: self.views(proc),
            artifacts: Arc::new(SimShelf { gate: self.gate(proc, Target::Shelf), shelf: self.shelf.clone() }),
            hints: self.hints(proc),
            registry: Registry::of(renderers.into()),
            status: WorkerStatus::default(),
        };
        running.tasks.push(tokio::spawn(report_worker::run(config, ports, CancellationToken::new())).abort_handle());
    }
}

struct Hot(HotWriter);

#[async_trait]
impl HotCollections for Hot {
    async fn refresh(&self, model: &str, tags: &std::collections::BTreeSet<String>) -> Result<()> {
        self.0.refresh_hot(model, tags).await
    }
}

/// A renderer whose document is its order, from views that have reached the pinned position.
struct Plain(ReportKind);

static PINNED: [&ModelSpec; 1] = [&read_models::leases::SPEC];

#[async_trait]
impl Render for Plain {
    fn kind(&self) -> ReportKind {
        self.0
    }
    fn models(&self) -> &'static [&'static ModelSpec] {
        match self.0 {
            ReportKind::LeaseRegister => &PINNED,
            ReportKind::LedgerStatement => &[],
        }
    }
    async fn render(&self, order: &Order, views: &mut dyn ViewSnapshot) -> Result<Rendered> {
        if self.0 == ReportKind::LeaseRegister {
            let head = views.head(PINNED[0].name).await?;
            if head.checkpoint.position < order.position(Context::Legal)? {
                return Err(ports::Error::corrupt("rendered from views before the pinned position"));
            }
        }
        Ok(Rendered { bytes: Bytes::from(format!("{}", order.report_id)), media_type: "text/plain" })
    }
}
