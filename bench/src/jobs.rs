//! Jobs: from a report's command to its completion, durable at every step, beside bare lapin and Celery's no-ops.
//!
//! The command handler runs here, the dispatcher in the stack's projector, the broker and its quorum queues are the product's.
//! The stack's report worker rests; the product's worker runs here with its default slots and a renderer that does nothing.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapters::files::ArtifactFolder;
use adapters::rabbitmq::{RabbitConfig, RabbitQueue, WORKER};
use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use commands::{Handler, step};
use domain::reports::{NewReport, Report, ReportCommand, ReportFormat, ReportKind, ReportParams};
use domain::{Context, ReportId, Timestamp, UserId};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use ports::{EventLog, Logs, ModelSpec, Recorded, ViewSnapshot};
use report_worker::{Order, Registry, Render, Rendered, WorkerConfig, WorkerPorts, WorkerStatus};
use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::process::{Program, Running};
use xtask::servers::Redis;

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Outcome, Stat, histogram, record};
use crate::peers::{seed_folder, venv};
use crate::portfolio::{all, issue};
use crate::product::{Inside, Product, Shelf, chained};
use crate::tally::Tally;

/// Finished before the clock runs: connections are made and statements prepared, as Celery's are by its first 50 tasks.
const WARM: usize = 50;
/// How often the log is read for completions. A reader the product does not have: while a rate is measured it looks seldom, which
/// adds at most this to seconds; each look costs the servers as much as a job's load.
const LOOK_RATE: Duration = Duration::from_millis(10);
const LOOK_LATENCY: Duration = Duration::from_millis(2);
/// Events of one look.
const READ: usize = 2_000;
const LOWS: usize = 1_000;
/// High jobs asked for one after the other while low ones wait.
const HIGHS: usize = 10;
/// A high job counts only if so many low ones waited when it was asked for.
const LOWS_WAITING_MIN: usize = 400;
const FINISHED_WITHIN: Duration = Duration::from_secs(300);
const VHOST: &str = "bench";
const USER: &str = "bench";
const PASSWORD: &str = "a-password-of-the-benchmark";
const MESSAGE_BYTES: usize = 1_024;
const IN_FLIGHT: usize = 256;
const PREFETCH: u16 = 64;

const ONCE: &str = "reports requested and completed exactly once in the log";
const WAITED: &str = "high jobs asked for while low ones waited";
const CELERY_DONE: &str = "Celery tasks with a result";

const JOBS: &str = "command -> finished no-op report";
const HIGH: &str = "a high job behind 1,000 low ones";
const LAPIN: &str = "lapin publish, confirm, consume, ack";
const CELERY: &str = "Celery no-op";

/// What the peers have of their own.
struct Peers {
    // Field order is drop order.
    celery: Running,
    redis: Redis,
    broker: String,
    _folder: TempDir,
}

pub struct Jobs {
    peers: Option<Peers>,
    shelf: Shelf,
    tally: Tally,
}

impl Jobs {
    pub fn new(shelf: Shelf) -> Self {
        Self { peers: None, shelf, tally: Tally::default() }
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>, product: &mut Product) -> Result<()> {
        product.stack.role("report-worker")?.stop()?;
        let outcome = self.measure_ours(bench, round, product);
        product.stack.role("report-worker")?.start()?;
        outcome?;
        let peers = self.peers.as_ref().context("setup comes first")?;
        let messages = bench.size(20_000, 4_000);
        round.measure(LAPIN, "jobs/s", || bench.block(lapin_round(&peers.broker, messages)))?;
        let tasks = bench.size(4_000, 800);
        let mut done = 0;
        round.measure(CELERY, "jobs/s", || peers.send(tasks, &mut done))?;
        self.tally.add(CELERY_DONE, done, (done != tasks as u64).then(|| format!("{done} of {tasks}")));
        Ok(())
    }

    fn measure_ours(&mut self, bench: &Bench, round: &mut Round<'_>, product: &Product) -> Result<()> {
        let lab = bench.block(async { Lab::of(product) })?;
        let worker = bench.block(async { lab.start_worker(product) })?;
        let jobs = bench.size(4_000, 800);
        bench.block(lab.all_finished(WARM, &mut History::default()))?;
        let mut history = History::default();
        let measured = round.measure(JOBS, "jobs/s", || bench.block(lab.all_finished(jobs, &mut history)));
        bench.block(worker.stop())?;
        measured?;
        self.tally.add(ONCE, jobs as u64, history.faults());
        let mut history = History::default();
        let mut waits = 0;
        let measured = round.measure(HIGH, "ms", || bench.block(lab.high_behind_lows(product, &mut history, &mut waits)));
        measured?;
        self.tally.add(ONCE, history.len(), history.faults());
        self.tally.add(WAITED, waits, None);
        Ok(())
    }
}

/// Does nothing.
struct Noop(ReportKind);

#[async_trait]
impl Render for Noop {
    fn kind(&self) -> ReportKind {
        self.0
    }
    fn models(&self) -> &'static [&'static ModelSpec] {
        &[]
    }
    async fn render(&self, _: &Order, _: &mut dyn ViewSnapshot) -> ports::Result<Rendered> {
        Ok(Rendered { bytes: Bytes::from_static(b"nothing\n"), media_type: "text/plain" })
    }
}

struct Lab {
    /// Who asks for reports.
    command: Inside,
}

struct Worker {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Worker {
    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await?)
    }
}

impl Lab {
    fn of(product: &Product) -> Result<Self> {
        Ok(Self { command: product.inside(4)? })
    }

    fn log(&self) -> Result<&Arc<dyn EventLog>> {
        self.command.logs.get(Context::Reports).map_err(chained)
    }

    /// The product's worker as the role has it, but for its renderers.
    fn start_worker(&self, product: &Product) -> Result<Worker> {
        let stack = &product.stack;
        let inside = Inside::of(stack, "casitas_worker", "db_worker", ("worker", "redis_worker"), 4)?;
        let reports = inside.logs.get(Context::Reports).map_err(chained)?.clone();
        let clock = Arc::new(ports::SystemClock);
        let handler = Handler::new(Logs::new([reports]), inside.sealer.clone(), clock, inside.hints.clone());
        let broker = RabbitConfig::new(&stack.rabbitmq.address(), WORKER, stack.secret("rabbitmq_worker")?, "bench")
            .map_err(chained)?;
        let ports = WorkerPorts {
            handler,
            queue: Arc::new(RabbitQueue::new(broker)),
            views: inside.views.clone(),
            artifacts: Arc::new(ArtifactFolder::open(stack.dir().join("artifacts")).map_err(chained)?),
            hints: inside.hints.clone(),
            registry: Registry::of(
                ReportKind::ALL.into_iter().map(|kind| Arc::new(Noop(kind)) as Arc<dyn Render>).collect(),
            ),
            status: WorkerStatus::default(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(report_worker::run(WorkerConfig::new("bench"), ports, shutdown.clone()));
        Ok(Worker { shutdown, task })
    }

    async fn head(&self) -> Result<u64> {
        Ok(self.log()?.head().await.map_err(chained)?.position)
    }

    /// Asks for so many reports of a kind with 256 callers.
    async fn ask(&self, kind: ReportKind, count: usize) -> Result<()> {
        let handler = self.command.handler.clone();
        all(count, move |_| {
            let handler = handler.clone();
            async move { request(&handler, kind).await }
        })
        .await
    }

    /// From the first command to the last completion in the log; the latencies are each report's own, by the log's clock.
    async fn all_finished(&self, jobs: usize, history: &mut History) -> Result<Outcome> {
        let start = self.head().await?;
        let started = Instant::now();
        let asking = self.ask(ReportKind::LedgerStatement, jobs);
        let done = |history: &History| history.completed >= jobs && history.len() >= jobs as u64;
        let watching = self.watch(start, history, LOOK_RATE, done);
        let (asked, watched) = tokio::join!(asking, watching);
        asked?;
        watched?;
        let mut latencies = histogram();
        history.latencies().for_each(|latency| record(&mut latencies, latency));
        Ok(Outcome::rate(jobs as u64, started.elapsed(), &latencies))
    }

    /// A thousand low jobs wait, a worker comes, and then a few high ones are asked for, one after the other.
    async fn high_behind_lows(&self, product: &Product, history: &mut History, waits: &mut u64) -> Result<Outcome> {
        let start = self.head().await?;
        self.ask(ReportKind::LeaseRegister, LOWS).await?;
        self.watch(start, history, LOOK_LATENCY, |history| history.len() >= LOWS as u64).await?;
        // Time for the dispatcher to hand them to the broker.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let worker = self.start_worker(product)?;
        let mut latencies = histogram();
        self.watch(history.read, history, LOOK_LATENCY, |history| history.completed > 0).await?;
        for _ in 0..HIGHS {
            let waiting = LOWS.saturating_sub(history.completed);
            if waiting < LOWS_WAITING_MIN {
                break;
            }
            let (finished, asked) = (history.completed_high, Instant::now());
            request(&self.command.handler, ReportKind::LedgerStatement)
                .await
                .map_err(|error| anyhow::anyhow!("refused: {error}"))?;
            self.watch(history.read, history, LOOK_LATENCY, |history| history.completed_high > finished).await?;
            record(&mut latencies, asked.elapsed());
            *waits += 1;
        }
        self.watch(history.read, history, LOOK_LATENCY, |history| history.completed as u64 == history.len()).await?;
        worker.stop().await?;
        Ok(Outcome::latencies(&latencies))
    }

    /// Reads the log on until the history is as wanted.
    async fn watch(&self, after: u64, history: &mut History, look: Duration, done: impl Fn(&History) -> bool) -> Result<()> {
        history.read = history.read.max(after);
        let (log, started) = (self.log()?, Instant::now());
        loop {
            let events = log.read(history.read, READ).await.map_err(chained)?;
            events.iter().for_each(|event| history.add(event));
            if done(history) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < FINISHED_WITHIN,
                "{} of {} reports completed after {} s",
                history.completed,
                history.len(),
                FINISHED_WITHIN.as_secs()
            );
            if events.len() < READ {
                tokio::time::sleep(look).await;
            }
        }
    }
}

async fn request(handler: &Handler, kind: ReportKind) -> Result<(), commands::CommandError> {
    let id = Uuid::now_v7();
    let report = ReportCommand::RequestReport(NewReport {
        report_id: ReportId(id),
        kind,
        params: ReportParams::default(),
        format: ReportFormat::Csv,
        positions: BTreeMap::from([(kind.context(), 0)]),
        as_of: domain::today_in("UTC", handler.clock().now()),
        requested_by: UserId(id),
    });
    handler.execute(&issue(), &[step::<Report>(id.to_string(), report)]).await.map(drop)
}

/// What the log says of the reports asked for in one run.
#[derive(Default)]
struct History {
    reports: HashMap<String, Life>,
    read: u64,
    completed: usize,
    completed_high: usize,
}

#[derive(Default)]
struct Life {
    requested: Vec<Timestamp>,
    completed: Vec<Timestamp>,
    high: bool,
}

impl History {
    fn len(&self) -> u64 {
        self.reports.values().filter(|life| !life.requested.is_empty()).count() as u64
    }

    fn add(&mut self, event: &Recorded) {
        self.read = event.position;
        let life = self.reports.entry(event.stream.id.clone()).or_default();
        match event.event_type.as_str() {
            "ReportRequested" => {
                life.requested.push(event.recorded_at);
                life.high = event.payload.get().contains("\"high_priority\"");
            }
            "ReportCompleted" => {
                life.completed.push(event.recorded_at);
                self.completed += 1;
                self.completed_high += usize::from(life.high);
            }
            _ => {}
        }
    }

    fn latencies(&self) -> impl Iterator<Item = Duration> {
        let times = self.reports.values().filter_map(|life| Some((life.requested.first()?, life.completed.first()?)));
        times.map(|(requested, completed)| Duration::try_from(completed.duration_since(*requested)).unwrap_or_default())
    }

    fn faults(&self) -> Vec<String> {
        let wrong = self.reports.iter().filter(|(_, life)| (life.requested.len(), life.completed.len()) != (1, 1));
        wrong
            .map(|(id, life)| {
                format!("report {id}: {} requests, {} completions", life.requested.len(), life.completed.len())
            })
            .collect()
    }
}

/// Publishes with confirms, a number in flight, and consumes and acknowledges beside it: until the last ack was sent.
async fn lapin_round(broker: &str, messages: usize) -> Result<Outcome> {
    const QUEUE: &str = "bench_lapin";
    let connect = || Connection::connect(broker, ConnectionProperties::default());
    let (publisher, consumer) = (connect().await?, connect().await?);
    let (publishing, consuming) = (publisher.create_channel().await?, consumer.create_channel().await?);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::ShortShortUInt(10));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    consuming.queue_declare(QUEUE.into(), durable, arguments).await?;
    consuming.queue_purge(QUEUE.into(), Default::default()).await?;
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    consuming.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let mut deliveries =
        consuming.basic_consume(QUEUE.into(), "bench".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    let started = Instant::now();
    let publish = async {
        let body = vec![b'x'; MESSAGE_BYTES];
        let sends = futures::stream::iter(0..messages).map(|_| async {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let confirm =
                publishing.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), &body, properties).await?;
            let confirmed = confirm.await?;
            ensure!(matches!(confirmed, Confirmation::Ack(None)), "the broker refused a message");
            anyhow::Ok(())
        });
        let mut sends = sends.buffer_unordered(IN_FLIGHT);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        anyhow::Ok(())
    };
    let consume = async {
        for _ in 0..messages {
            let delivery = deliveries.next().await.context("the consumer ended")??;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        anyhow::Ok(())
    };
    let (published, consumed) = tokio::join!(publish, consume);
    published?;
    consumed?;
    let took = started.elapsed();
    consuming.queue_delete(QUEUE.into(), Default::default()).await?;
    Ok(Outcome::plain(messages as f64 / took.as_secs_f64()))
}

/// What `send.py` prints.
#[derive(Deserialize)]
struct Sent {
    jobs: u64,
    done: u64,
    seconds: f64,
}

impl Peers {
    /// A virtual host of their own on the product's broker, a Redis of their own for results, and Celery's worker.
    fn start(product: &Product) -> Result<Self> {
        let folder = crate::product::folder()?;
        let rabbitmq = &product.stack.rabbitmq;
        rabbitmq.ctl(&["add_vhost", VHOST])?;
        rabbitmq.ctl(&["add_user", USER, PASSWORD])?;
        rabbitmq.ctl(&["set_permissions", "-p", VHOST, USER, ".*", ".*", ".*"])?;
        let broker = format!("amqp://{USER}:{PASSWORD}@{}/{VHOST}", rabbitmq.address());
        let redis = Redis::start(&folder.path().join("redis"), None)?;
        let celery = Program::new("celery", venv()?.join("bin/celery"), folder.path().join("celery.log"))
            .args(["--app", "jobs", "--workdir", seed_folder().to_str().context("a path that is not UTF-8")?, "worker"])
            .args(["--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING"])
            .args(["--without-gossip", "--without-mingle"])
            .env("SEED_BROKER", &broker)
            .env("SEED_REDIS", format!("{}/0", redis.url()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .start()?;
        let peers = Self { celery, redis, broker, _folder: folder };
        // It has started when it has done something: its start would take processor time from what is measured before it.
        peers.send(WARM, &mut 0)?;
        Ok(peers)
    }

    fn send(&self, tasks: usize, done: &mut u64) -> Result<Outcome> {
        let output = Command::new(venv()?.join("bin/python"))
            .arg("send.py")
            .arg(tasks.to_string())
            .current_dir(seed_folder())
            .env("SEED_BROKER", &self.broker)
            .env("SEED_REDIS", format!("{}/0", self.redis.url()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "send.py: {text}{}", String::from_utf8_lossy(&output.stderr));
        let sent: Sent = serde_json::from_str(text.trim()).with_context(|| text.into_owned())?;
        *done = sent.done;
        Ok(Outcome::plain(sent.jobs as f64 / sent.seconds))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // A warm shutdown, so that its processes end with it.
        if let Err(error) = self.celery.stop(Signal::TERM, Duration::from_secs(10)) {
            eprintln!("bench: {error:#}");
        }
    }
}

impl Part for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn compares(&self) -> Vec<Compare> {
        vec![
            Compare::ratio(JOBS, CELERY).at_least(6.0),
            Compare::ratio(JOBS, LAPIN),
            Compare::ratio(LAPIN, CELERY),
            Compare::bound(HIGH, Stat::P99),
        ]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        venv()?;
        let shelf = self.shelf.clone();
        self.peers = Some(shelf.with(bench, 0, |product| Peers::start(product))?);
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let shelf = self.shelf.clone();
        shelf.with(bench, 0, |product| self.measure(bench, round, product))
    }

    fn checks(&self) -> Vec<Check> {
        self.tally.checks()
    }

    fn notes(&self) -> Vec<String> {
        vec![
            format!(
                "ours: 256 callers, quorum queue, one worker with its default {} slots, {WARM} jobs first to warm it, four durable \
                 steps a job; the document is always the same 8 bytes",
                WorkerConfig::SLOTS
            ),
            format!(
                "lapin: {MESSAGE_BYTES} bytes persistent, durable priority queue, {IN_FLIGHT} unconfirmed, prefetch {PREFETCH}; \
                 Celery: the same bytes and queue, prefork 2, its default acks and no confirms, results in Redis, all collected"
            ),
        ]
    }
}
