//! The worker over the in-process queue and logs and views in memory. Time is tokio's and paused: seconds cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adapters::inprocess::{InProcessHints, InProcessQueue};
use adapters::memory::{MemoryLog, MemoryViews};
use async_trait::async_trait;
use bytes::Bytes;
use commands::{Handler, Issue, step};
use domain::reports::{NewReport, Report, ReportCommand, ReportFormat, ReportKind, ReportParams, ReportState};
use domain::{Context, ReportId, Sha256, StreamId, UserId};
use ports::{
    Artifacts, Checkpoint, Clock, Delivery, Error, EventLog, Hints, JobConsumer, JobQueue, Logs, MasterKey, ModelSpec,
    Priority, QueueDepth, Result, Sealer, SystemClock, Topic, ViewBatch, ViewSnapshot, ViewStore,
};
use report_worker::{Order, Registry, Render, Rendered, WorkerConfig, WorkerPorts, WorkerStatus, run};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const BOUND: Duration = Duration::from_secs(600);

static MODEL: ModelSpec = ModelSpec { name: "ledger_lines", fold_version: 1, context: Context::Finances, fields: &[] };
static MODELS: [&ModelSpec; 1] = [&MODEL];

/// What renderers were asked for and how they are to behave.
#[derive(Default)]
struct Script {
    started: Mutex<Vec<(Uuid, Instant)>>,
    takes: Mutex<Duration>,
    /// Panics left per report.
    panics: Mutex<HashMap<Uuid, usize>>,
    pinned: AtomicBool,
}

struct Scripted {
    kind: ReportKind,
    script: Arc<Script>,
}

#[async_trait]
impl Render for Scripted {
    fn kind(&self) -> ReportKind {
        self.kind
    }
    fn models(&self) -> &'static [&'static ModelSpec] {
        if self.script.pinned.load(Ordering::SeqCst) { &MODELS } else { &[] }
    }
    async fn render(&self, order: &Order, _: &mut dyn ViewSnapshot) -> Result<Rendered> {
        let id = order.report_id.0;
        self.script.started.lock().expect("lock").push((id, Instant::now()));
        let takes = *self.script.takes.lock().expect("lock");
        sleep(takes).await;
        let panics = {
            let mut panics = self.script.panics.lock().expect("lock");
            let left = panics.entry(id).or_default();
            std::mem::replace(left, left.saturating_sub(1)) > 0
        };
        assert!(!panics, "the script says so");
        Ok(Rendered { bytes: Bytes::from(format!("{id}")), media_type: "text/plain" })
    }
}

/// Artifacts in memory that can be away, or hang once after storing.
#[derive(Default)]
struct Shelf {
    kept: Mutex<BTreeMap<String, Bytes>>,
    outages: AtomicUsize,
    hang: AtomicBool,
    takes: Mutex<Duration>,
}

#[async_trait]
impl Artifacts for Shelf {
    async fn put(&self, bytes: Bytes) -> Result<String> {
        if self.outages.load(Ordering::SeqCst) > 0 {
            self.outages.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Unavailable { what: "the shelf".into(), source: None });
        }
        let takes = *self.takes.lock().expect("lock");
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let name = Sha256::of(&bytes).to_string();
        self.kept.lock().expect("lock").insert(name.clone(), bytes);
        if self.hang.swap(false, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(name)
    }
    async fn get(&self, sha256: &str) -> Result<Option<Bytes>> {
        Ok(self.kept.lock().expect("lock").get(sha256).cloned())
    }
}

/// A queue whose consumers can die, and whose acks can hang once.
#[derive(Clone, Default)]
struct Fragile {
    queue: InProcessQueue,
    deaths: Arc<AtomicUsize>,
    hang_ack: Arc<AtomicBool>,
    /// Until the broker has seen an ack, and hands over the next message.
    ack_takes: Arc<Mutex<Duration>>,
}

struct FragileConsumer {
    consumer: Box<dyn JobConsumer>,
    fragile: Fragile,
}

#[async_trait]
impl JobQueue for Fragile {
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()> {
        self.queue.publish(priority, report_ids).await
    }
    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>> {
        let consumer = self.queue.consumer(high_prefetch, low_prefetch).await?;
        Ok(Box::new(FragileConsumer { consumer, fragile: self.clone() }))
    }
    async fn depth(&self, priority: Priority) -> Result<QueueDepth> {
        self.queue.depth(priority).await
    }
}

#[async_trait]
impl JobConsumer for FragileConsumer {
    async fn receive(&self, priority: Priority) -> Result<Delivery> {
        let delivery = self.consumer.receive(priority).await?;
        if self.fragile.deaths.load(Ordering::SeqCst) > 0 {
            self.fragile.deaths.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::Unavailable { what: "the consumer".into(), source: None });
        }
        Ok(delivery)
    }
    async fn ack(&self, delivery: Delivery) -> Result<()> {
        if self.fragile.hang_ack.swap(false, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let takes = *self.fragile.ack_takes.lock().expect("lock");
        if !takes.is_zero() {
            sleep(takes).await;
        }
        self.consumer.ack(delivery).await
    }
    async fn requeue(&self, delivery: Delivery) -> Result<()> {
        self.consumer.requeue(delivery).await
    }
    async fn reject(&self, delivery: Delivery) -> Result<()> {
        self.consumer.reject(delivery).await
    }
}

struct Lab {
    config: WorkerConfig,
    log: Arc<MemoryLog>,
    handler: Handler,
    queue: Fragile,
    views: Arc<MemoryViews>,
    hints: Arc<InProcessHints>,
    artifacts: Arc<Shelf>,
    script: Arc<Script>,
    status: WorkerStatus,
    shutdown: CancellationToken,
}

impl Lab {
    fn new(slots: usize) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let log = Arc::new(MemoryLog::new(Context::Reports, clock.clone()));
        let logs = Logs::new([log.clone() as Arc<dyn EventLog>]);
        let hints = Arc::new(InProcessHints::new());
        let handler = Handler::new(logs, Sealer::new(MasterKey::new([7; 32])), clock, hints.clone());
        Self {
            config: WorkerConfig { slots, ..WorkerConfig::new("w1") },
            log,
            handler,
            queue: Fragile::default(),
            views: Arc::new(MemoryViews::new()),
            hints,
            artifacts: Arc::default(),
            script: Arc::default(),
            status: WorkerStatus::default(),
            shutdown: CancellationToken::new(),
        }
    }

    fn start(&self) -> JoinHandle<()> {
        let renderers =
            ReportKind::ALL.map(|kind| Arc::new(Scripted { kind, script: self.script.clone() }) as Arc<dyn Render>);
        let ports = WorkerPorts {
            handler: self.handler.clone(),
            queue: Arc::new(self.queue.clone()),
            views: self.views.clone(),
            artifacts: self.artifacts.clone(),
            hints: self.hints.clone(),
            registry: Registry::of(renderers.into()),
            status: self.status.clone(),
        };
        tokio::spawn(run(self.config.clone(), ports, self.shutdown.clone()))
    }

    fn rendering_takes(&self, duration: Duration) {
        *self.script.takes.lock().expect("lock") = duration;
    }

    async fn order(&self, kind: ReportKind) -> Uuid {
        let id = Uuid::now_v7();
        let new = NewReport {
            report_id: ReportId(id),
            kind,
            params: ReportParams::default(),
            format: ReportFormat::Csv,
            positions: BTreeMap::from([(kind.context(), 3)]),
            as_of: "2026-01-31".parse().expect("a date"),
            requested_by: UserId(Uuid::nil()),
        };
        self.execute(id, ReportCommand::RequestReport(new)).await;
        id
    }

    /// Orders reports and puts them in their queue.
    async fn request(&self, kind: ReportKind, count: usize) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.order(kind).await);
        }
        let priority = if kind == ReportKind::LedgerStatement { Priority::High } else { Priority::Low };
        self.queue.publish(priority, &ids).await.expect("published");
        ids
    }

    async fn execute(&self, id: Uuid, command: ReportCommand) {
        let issue = Issue::by("test");
        self.handler.execute(&issue, &[step::<Report>(id.to_string(), command)]).await.expect("accepted");
    }

    async fn report(&self, id: Uuid) -> Report {
        self.handler.load::<Report>(id.to_string()).await.expect("loaded").state.clone()
    }

    async fn until_state(&self, ids: &[Uuid], state: ReportState) {
        for &id in ids {
            until(&format!("{id} is {state:?}"), async || self.report(id).await.state() == Some(state)).await;
        }
    }

    async fn until_settled(&self) {
        until("every message is settled", async || {
            let mut left = self.status.running() as u64;
            for priority in Priority::ALL {
                left += self.queue.depth(priority).await.expect("a depth").ready;
            }
            left == 0
        })
        .await;
    }

    fn started(&self) -> Vec<Uuid> {
        self.script.started.lock().expect("lock").iter().map(|(id, _)| *id).collect()
    }

    /// The reports of all attempts, in the order of the log.
    async fn begun(&self) -> Vec<Uuid> {
        let events = self.log.read(0, 10_000).await.expect("read");
        let attempts = events.iter().filter(|event| event.event_type == "ReportAttemptStarted");
        attempts.map(|event| event.stream.id.parse().expect("a report's id")).collect()
    }

    async fn events(&self, id: Uuid) -> Vec<String> {
        let stream = StreamId::of::<Report>(id);
        self.log.load(&stream, 0).await.expect("loaded").into_iter().map(|event| event.event_type).collect()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !holds().await {
            // Lets the paused clock move on to the next thing that happens.
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("not within the bound: {what}"));
}

const HIGH: ReportKind = ReportKind::LedgerStatement;
const LOW: ReportKind = ReportKind::LeaseRegister;

#[tokio::test(start_paused = true)]
async fn waiting_high_jobs_all_start_before_the_next_low_one() {
    let lab = Lab::new(1);
    lab.rendering_takes(Duration::from_millis(500));
    let busy = lab.request(LOW, 1).await;
    let _worker = lab.start();
    until("the slot is busy", async || lab.started() == busy).await;
    let low = lab.request(LOW, 50).await;
    let high = lab.request(HIGH, 10).await;
    lab.until_state(&low, ReportState::Succeeded).await;
    let expected: Vec<Uuid> = busy.into_iter().chain(high).chain(low).collect();
    assert_eq!(lab.started(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_low_job_starts_after_at_most_thirty_seconds_of_continuous_high_load() {
    let lab = Lab::new(1);
    lab.rendering_takes(Duration::from_secs(4));
    let high = lab.request(HIGH, 20).await;
    let low = lab.request(LOW, 2).await;
    let began = Instant::now();
    let _worker = lab.start();
    lab.until_state(&[high, low.clone()].concat(), ReportState::Succeeded).await;
    let started = lab.script.started.lock().expect("lock").clone();
    let waits: Vec<u64> = low
        .iter()
        .map(|id| started.iter().find(|(started, _)| started == id).expect("started").1.duration_since(began).as_secs())
        .collect();
    // The slot is free every 4 s; the second one is in hand, and its 30 s begin, when the first is done at 36 s.
    assert_eq!(waits, [32, 68]);
    let strict: Vec<bool> = started.iter().take(8).map(|(id, _)| low.contains(id)).collect();
    assert_eq!(strict, [false; 8], "no low job started while it had waited less");
}

#[tokio::test(start_paused = true)]
async fn two_slots_work_at_once_and_never_more() {
    let lab = Lab::new(2);
    lab.rendering_takes(Duration::from_secs(10));
    let began = Instant::now();
    let high = lab.request(HIGH, 10).await;
    let _worker = lab.start();
    lab.until_state(&high, ReportState::Succeeded).await;
    assert_eq!(began.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_rendered_at_once_than_there_are_places() {
    let mut lab = Lab::new(16);
    lab.config.renderings = 2;
    lab.rendering_takes(Duration::from_secs(10));
    let began = Instant::now();
    let high = lab.request(HIGH, 10).await;
    let _worker = lab.start();
    lab.until_state(&high, ReportState::Succeeded).await;
    assert_eq!(began.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn storing_and_recording_keep_nobody_from_rendering() {
    let mut lab = Lab::new(16);
    lab.config.renderings = 1;
    *lab.artifacts.takes.lock().expect("lock") = Duration::from_secs(5);
    let began = Instant::now();
    let high = lab.request(HIGH, 16).await;
    let _worker = lab.start();
    lab.until_state(&high, ReportState::Succeeded).await;
    assert_eq!(began.elapsed().as_secs(), 5, "all were stored beside each other");
}

#[tokio::test(start_paused = true)]
async fn with_many_slots_waiting_high_jobs_still_begin_before_the_next_low_one() {
    let lab = Lab::new(64);
    let low = lab.request(LOW, 100).await;
    let high = lab.request(HIGH, 60).await;
    let _worker = lab.start();
    lab.until_state(&[low.clone(), high.clone()].concat(), ReportState::Succeeded).await;
    let begun = lab.begun().await;
    assert_eq!(begun.len(), 160);
    assert!(begun[..60].iter().all(|id| high.contains(id)), "a low job began while high ones waited");
}

#[tokio::test(start_paused = true)]
async fn low_jobs_do_not_use_the_time_that_the_broker_takes_to_hand_over_more_high_ones() {
    let lab = Lab::new(64);
    *lab.queue.ack_takes.lock().expect("lock") = Duration::from_millis(10);
    let low = lab.request(LOW, 100).await;
    // Several times what the broker hands over at once.
    let high = lab.request(HIGH, 400).await;
    let _worker = lab.start();
    lab.until_state(&[low.clone(), high.clone()].concat(), ReportState::Succeeded).await;
    let begun = lab.begun().await;
    assert!(begun[..400].iter().all(|id| high.contains(id)), "a low job began while high ones waited in the broker");
}

#[tokio::test(start_paused = true)]
async fn where_renderings_take_long_no_low_job_begins_ahead_of_a_high_one_to_come() {
    let mut lab = Lab::new(64);
    lab.config.renderings = 2;
    lab.rendering_takes(Duration::from_secs(4));
    let low = lab.request(LOW, 40).await;
    let _worker = lab.start();
    // Two have ended: it is known by now how long renderings take.
    lab.until_state(&low[..2], ReportState::Succeeded).await;
    until("the next two render", async || lab.started().len() == 4).await;
    let ahead = lab.begun().await.len();
    assert_eq!(ahead, 4, "no attempt waits for a place");
    let high = lab.request(HIGH, 10).await;
    lab.until_state(&[low, high.clone()].concat(), ReportState::Succeeded).await;
    assert!(lab.started()[ahead..ahead + 10].iter().all(|id| high.contains(id)), "{:?}", lab.started());
}

#[tokio::test(start_paused = true)]
async fn repeated_messages_finish_a_report_once() {
    let lab = Lab::new(2);
    lab.rendering_takes(Duration::from_millis(50));
    let ids = lab.request(HIGH, 3).await;
    for _ in 0..4 {
        lab.queue.publish(Priority::High, &ids).await.expect("published again");
    }
    let _worker = lab.start();
    lab.until_state(&ids, ReportState::Succeeded).await;
    lab.until_settled().await;
    for id in ids {
        assert_eq!(lab.events(id).await, ["ReportRequested", "ReportAttemptStarted", "ReportCompleted"]);
    }
    assert!(lab.queue.queue.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_panicking_report_is_tried_three_times_and_harms_nobody() {
    let lab = Lab::new(1);
    let poison = lab.request(HIGH, 1).await[0];
    lab.script.panics.lock().expect("lock").insert(poison, usize::MAX);
    let others = lab.request(HIGH, 20).await;
    let _worker = lab.start();
    lab.until_state(&others, ReportState::Succeeded).await;
    lab.until_state(&[poison], ReportState::Dead).await;
    lab.until_settled().await;
    let events = lab.events(poison).await;
    assert_eq!(events.iter().filter(|name| *name == "ReportAttemptFailed").count(), 3);
    assert_eq!(events.last().map(String::as_str), Some("ReportDead"));
    assert_eq!(lab.queue.queue.dead_letters(), [(Priority::High, poison)]);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_fails_once_succeeds_at_the_second_try() {
    let lab = Lab::new(1);
    let id = lab.request(LOW, 1).await[0];
    lab.script.panics.lock().expect("lock").insert(id, 1);
    let _worker = lab.start();
    lab.until_state(&[id], ReportState::Succeeded).await;
    let report = lab.report(id).await;
    assert_eq!((report.attempt(), report.failures()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rendering_that_does_not_end_is_a_failed_attempt() {
    let mut lab = Lab::new(1);
    lab.config.render_max = Duration::from_secs(5);
    lab.rendering_takes(Duration::from_secs(3_600));
    let id = lab.request(HIGH, 1).await[0];
    let _worker = lab.start();
    lab.until_state(&[id], ReportState::Dead).await;
    assert_eq!(lab.report(id).await.failures(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_outage_uses_up_no_try() {
    let lab = Lab::new(1);
    lab.artifacts.outages.store(30, Ordering::SeqCst);
    let id = lab.request(HIGH, 1).await[0];
    let _worker = lab.start();
    lab.until_state(&[id], ReportState::Succeeded).await;
    assert_eq!(lab.events(id).await, ["ReportRequested", "ReportAttemptStarted", "ReportCompleted"]);
}

/// Ends a worker without a word, as a kill does: tasks stop where they are, the queue takes its messages back.
async fn kill(worker: JoinHandle<()>) {
    worker.abort();
    let _ = worker.await;
}

async fn finishes_once_after_a_kill(lab: &Lab, id: Uuid, killed: JoinHandle<()>, attempts: u32) {
    kill(killed).await;
    until("the message is back", async || lab.queue.depth(Priority::High).await.expect("a depth").ready == 1).await;
    let _worker = lab.start();
    lab.until_state(&[id], ReportState::Succeeded).await;
    lab.until_settled().await;
    let completed = lab.events(id).await.into_iter().filter(|name| name == "ReportCompleted").count();
    assert_eq!((completed, lab.report(id).await.attempt()), (1, attempts));
    assert_eq!(lab.artifacts.kept.lock().expect("lock").len(), 1, "one document");
}

#[tokio::test(start_paused = true)]
async fn a_worker_killed_while_rendering_loses_nothing() {
    let lab = Lab::new(1);
    lab.rendering_takes(Duration::from_secs(5));
    let id = lab.request(HIGH, 1).await[0];
    let worker = lab.start();
    until("it renders", async || lab.started() == [id]).await;
    finishes_once_after_a_kill(&lab, id, worker, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_killed_between_store_and_append_loses_nothing() {
    let lab = Lab::new(1);
    lab.artifacts.hang.store(true, Ordering::SeqCst);
    let id = lab.request(HIGH, 1).await[0];
    let worker = lab.start();
    until("it is stored", async || !lab.artifacts.hang.load(Ordering::SeqCst)).await;
    finishes_once_after_a_kill(&lab, id, worker, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_killed_between_append_and_ack_loses_nothing() {
    let lab = Lab::new(1);
    lab.queue.hang_ack.store(true, Ordering::SeqCst);
    let id = lab.request(HIGH, 1).await[0];
    let worker = lab.start();
    until("it acks", async || !lab.queue.hang_ack.load(Ordering::SeqCst)).await;
    finishes_once_after_a_kill(&lab, id, worker, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_consumer_is_replaced() {
    let lab = Lab::new(2);
    lab.queue.deaths.store(5, Ordering::SeqCst);
    let high = lab.request(HIGH, 10).await;
    let low = lab.request(LOW, 10).await;
    let _worker = lab.start();
    lab.until_state(&[high.clone(), low.clone()].concat(), ReportState::Succeeded).await;
    lab.until_settled().await;
    for id in high.into_iter().chain(low) {
        assert_eq!(lab.events(id).await.len(), 3, "worked on once");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_rendered_before_the_views_reach_the_pinned_positions() {
    let lab = Lab::new(1);
    lab.script.pinned.store(true, Ordering::SeqCst);
    lab.views.prepare(&[&MODEL]).await.expect("prepared");
    let claim = lab.views.claim(&MODEL).await.expect("answered").expect("free");
    let id = lab.request(HIGH, 1).await[0];
    let _worker = lab.start();
    let mut from = claim.checkpoint.position;
    for position in [2, 3] {
        // Longer than a job waits in its slot: it goes back and comes again, without an attempt.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(lab.report(id).await.state(), Some(ReportState::Queued));
        assert!(lab.started().is_empty());
        let to = Checkpoint { incarnation: claim.checkpoint.incarnation, position, event_id: Some(Uuid::now_v7()) };
        let batch = ViewBatch {
            parking: vec![],
            spec: &MODEL,
            generation: claim.generation,
            term: claim.term,
            from,
            to,
            changes: vec![],
            tags: Default::default(),
        };
        lab.views.apply(&batch).await.expect("applied");
        lab.hints.notify(Topic::Views);
        from = position;
    }
    lab.until_state(&[id], ReportState::Succeeded).await;
    assert_eq!(lab.report(id).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_about_nothing_go_to_the_dead_letters_and_cancelled_reports_are_let_go() {
    let lab = Lab::new(1);
    let unknown = Uuid::now_v7();
    let cancelled = lab.order(HIGH).await;
    lab.execute(cancelled, ReportCommand::CancelReport).await;
    lab.queue.publish(Priority::High, &[unknown, cancelled]).await.expect("published");
    let after = lab.request(HIGH, 1).await;
    let _worker = lab.start();
    lab.until_state(&after, ReportState::Succeeded).await;
    assert_eq!(lab.queue.queue.dead_letters(), [(Priority::High, unknown)]);
    assert_eq!(lab.started(), after);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_pins_no_position_of_what_it_reads_fails_for_good() {
    let lab = Lab::new(1);
    lab.script.pinned.store(true, Ordering::SeqCst);
    // The model is of finances, and a report of legal pins none of its positions.
    let id = lab.request(LOW, 1).await[0];
    let _worker = lab.start();
    lab.until_state(&[id], ReportState::Failed).await;
    lab.until_settled().await;
    assert_eq!(lab.queue.queue.dead_letters(), [(Priority::Low, id)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_appends_belongs_to_the_conversation_of_the_request() {
    let lab = Lab::new(64);
    let ids = lab.request(HIGH, 40).await;
    let _worker = lab.start();
    lab.until_state(&ids, ReportState::Succeeded).await;
    let events = lab.log.read(0, 1_000).await.expect("read");
    for id in ids {
        let stream = StreamId::of::<Report>(id);
        let mut own = events.iter().filter(|event| event.stream == stream);
        let request = own.next().expect("its request");
        let rest: Vec<_> = own.map(|event| (event.metadata.correlation_id, event.metadata.causation_id)).collect();
        assert_eq!(rest, [(request.metadata.correlation_id, Some(request.event_id)); 2], "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_what_runs_and_leaves_the_rest_in_the_queue() {
    let lab = Lab::new(1);
    lab.rendering_takes(Duration::from_secs(5));
    let ids = lab.request(HIGH, 3).await;
    let worker = lab.start();
    until("the first runs", async || lab.started().len() == 1).await;
    assert!(lab.status.is_consuming());
    lab.shutdown.cancel();
    timeout(BOUND, worker).await.expect("it ends").expect("without a panic");
    lab.until_state(&ids[..1], ReportState::Succeeded).await;
    assert_eq!(lab.queue.depth(Priority::High).await.expect("a depth"), QueueDepth { ready: 2, consumers: 0 });
    assert!(!lab.status.is_consuming());
    assert_eq!(lab.report(ids[1]).await.state(), Some(ReportState::Queued));
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever() {
    let lab = Lab::new(1);
    lab.rendering_takes(Duration::from_secs(3_600));
    let ids = lab.request(HIGH, 1).await;
    let worker = lab.start();
    until("it runs", async || lab.started().len() == 1).await;
    let began = Instant::now();
    lab.shutdown.cancel();
    timeout(BOUND, worker).await.expect("it ends").expect("without a panic");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(lab.queue.depth(Priority::High).await.expect("a depth").ready, 1);
    assert_eq!(lab.report(ids[0]).await.state(), Some(ReportState::Running));
}
