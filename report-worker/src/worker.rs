//! The slots and what fills them.

use std::collections::{HashSet, VecDeque};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ports::{Delivery, Error, JobConsumer, Priority, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinSet, coop};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::{WorkerConfig, WorkerPorts};
use crate::job::{Desk, Job, Verdict};
use crate::places::{Begun, Places};

/// Pause before a lost consumer is made again; doubles up to the longest.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a new consumer.
const CONSUMER_WAIT_MAX: Duration = Duration::from_secs(15);
/// Pause before a second message for a report that this process works on is looked at again.
const DUPLICATE_PAUSE: Duration = Duration::from_millis(500);
/// With many slots the high jobs in hand may all have begun while the broker has more of them, which it hands over only when it has
/// seen the last acks. So long after that was likely, no low job begins.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// Works until shutdown. Losing the queue is no reason to stop: a new consumer is made, with its prefetch.
pub async fn run(config: WorkerConfig, ports: WorkerPorts, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(config.slots.max(1)));
    let places = Places::new(config.renderings.min(config.slots), config.low_wait_max);
    let worker = Arc::new(Worker { config, ports, slots, places, desk: Desk::default(), in_work: Mutex::default() });
    let mut jobs = JoinSet::new();
    let mut pause = RECONNECT_PAUSE;
    while !shutdown.is_cancelled() {
        let error = match worker.consumer(&shutdown).await {
            Ok(None) => break,
            Ok(Some(consumer)) => {
                pause = RECONNECT_PAUSE;
                worker.ports.status.set_consuming(true);
                // Unconstrained: tokio's budget would now and then hide a waiting high message from the biased choice.
                let ended = coop::unconstrained(worker.consume(consumer, &mut jobs, &shutdown)).await;
                worker.ports.status.set_consuming(false);
                match ended {
                    Ok(()) => break,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        tracing::warn!(error = error.chain(), "the queue was lost; making a new consumer");
        metrics::counter!("casitas_worker_consumers_lost_total").increment(1);
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sleep(pause) => pause = (pause * 2).min(RECONNECT_PAUSE_MAX),
        }
    }
    drain(&worker, jobs).await;
}

/// Lets running jobs finish; what does not finish in time goes back to the queue when its consumer is dropped.
async fn drain(worker: &Worker, mut jobs: JoinSet<()>) {
    let all_done = async { while jobs.join_next().await.is_some() {} };
    if timeout(worker.config.drain_max, all_done).await.is_err() {
        tracing::warn!(jobs = jobs.len(), "jobs did not finish in time and go back to the queue");
        jobs.shutdown().await;
    }
}

struct Worker {
    config: WorkerConfig,
    ports: WorkerPorts,
    slots: Arc<Semaphore>,
    places: Places,
    desk: Desk,
    /// Reports being worked on here: after a reconnect a message can come again while its job still runs.
    in_work: Mutex<HashSet<Uuid>>,
}

/// A message in hand.
struct Waiting {
    delivery: Delivery,
    since: Instant,
    /// An attempt of ours that is still open.
    attempt: Option<u32>,
    held: Held,
}

impl Waiting {
    fn new(delivery: Delivery, held: &Held) -> Self {
        Self { delivery, since: Instant::now(), attempt: None, held: held.clone() }
    }
}

/// Messages of one queue in hand: as many as there are clones of the consumer's own.
#[derive(Clone, Default)]
struct Held(Arc<()>);

impl Held {
    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// What happens next.
enum Next {
    Stop,
    Reaped,
    /// Perhaps another job may begin now.
    Asked,
    Slot(OwnedSemaphorePermit),
    Start(Waiting),
    Keep(Waiting),
    Lost(Error),
}

impl Worker {
    /// `None` at shutdown.
    async fn consumer(&self, shutdown: &CancellationToken) -> Result<Option<Arc<dyn JobConsumer>>> {
        let (high_prefetch, low_prefetch) = self.config.prefetch();
        tokio::select! {
            () = shutdown.cancelled() => Ok(None),
            made = timeout(CONSUMER_WAIT_MAX, self.ports.queue.consumer(high_prefetch, low_prefetch)) => match made {
                Ok(made) => made.map(|consumer| Some(self.settling(Arc::from(consumer)))),
                Err(elapsed) => Err(Error::unavailable("the job queue", elapsed)),
            },
        }
    }

    #[cfg(not(feature = "seeded-bugs"))]
    fn settling(&self, consumer: Arc<dyn JobConsumer>) -> Arc<dyn JobConsumer> {
        consumer
    }

    #[cfg(feature = "seeded-bugs")]
    fn settling(&self, consumer: Arc<dyn JobConsumer>) -> Arc<dyn JobConsumer> {
        if self.config.ack_first { Arc::new(crate::seeded::AckFirst(consumer)) } else { consumer }
    }

    /// Fills slots from one consumer until it dies (an error) or shutdown.
    ///
    /// One task chooses for all slots. A free slot takes, in this order: a low job that has waited too long, a high job that
    /// came back, a high job, a low job unless more high ones are likely on their way; and none while more have begun than the
    /// renderings will soon take up. Low jobs are taken in hand only one at a time before their start, so that they can be seen
    /// waiting while the slots are busy.
    async fn consume(
        self: &Arc<Self>,
        consumer: Arc<dyn JobConsumer>,
        jobs: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<()> {
        let (high_prefetch, low_prefetch) = self.config.prefetch();
        let in_hand_max = usize::from(high_prefetch) + usize::from(low_prefetch) + self.config.slots.max(1);
        let (again, mut returning) = mpsc::channel::<Waiting>(in_hand_max);
        let mut high: VecDeque<Waiting> = VecDeque::new();
        let mut low: VecDeque<Waiting> = VecDeque::new();
        let mut slot: Option<OwnedSemaphorePermit> = None;
        let (high_held, low_held) = (Held::default(), Held::default());
        // A new consumer's first messages are on their way.
        let mut more_until = Instant::now() + ON_THE_WAY;
        loop {
            // Half of what the broker may hand over: then it may have more.
            if 2 * high_held.count() >= usize::from(high_prefetch) {
                more_until = Instant::now() + ON_THE_WAY;
            }
            let free = slot.is_some() && self.places.may_begin();
            let overdue = free && low.front().is_some_and(|first| first.since.elapsed() >= self.config.low_wait_max);
            let high_is_back = free && !high.is_empty();
            let low_is_here = free && !low.is_empty();
            let more_on_the_way = Instant::now() < more_until;
            let next = tokio::select! {
                biased;
                () = shutdown.cancelled() => Next::Stop,
                Some(ended) = jobs.join_next(), if !jobs.is_empty() => match ended {
                    // Its message was never settled: only a new consumer gets it again.
                    Err(ended) if ended.is_panic() => Next::Lost(Error::unavailable("a job", ended)),
                    Ok(()) | Err(_) => Next::Reaped,
                },
                permit = self.slots.clone().acquire_owned(), if slot.is_none() => match permit {
                    Ok(permit) => Next::Slot(permit),
                    Err(closed) => Next::Lost(Error::unavailable("the slots", closed)),
                },
                () = self.places.changed(), if slot.is_some() && !free => Next::Asked,
                Some(waiting) = returning.recv() => Next::Keep(waiting),
                () = ready(()), if overdue => start_first(&mut low),
                () = ready(()), if high_is_back => start_first(&mut high),
                received = consumer.receive(Priority::High), if free => match received {
                    Ok(delivery) => Next::Start(Waiting::new(delivery, &high_held)),
                    Err(error) => Next::Lost(error),
                },
                () = ready(()), if low_is_here && !more_on_the_way => start_first(&mut low),
                () = sleep_until(more_until), if low_is_here && more_on_the_way => Next::Asked,
                received = consumer.receive(Priority::Low), if low.is_empty() => match received {
                    Ok(delivery) => Next::Keep(Waiting::new(delivery, &low_held)),
                    Err(error) => Next::Lost(error),
                },
            };
            match next {
                Next::Stop => return Ok(()),
                Next::Lost(error) => return Err(error),
                Next::Reaped | Next::Asked => {}
                Next::Slot(permit) => slot = Some(permit),
                Next::Keep(waiting) => match waiting.delivery.priority {
                    Priority::High => high.push_back(waiting),
                    Priority::Low => low.push_back(waiting),
                },
                Next::Start(waiting) => {
                    if let Some(slot) = slot.take() {
                        let begun = self.places.begin(waiting.delivery.priority, waiting.since);
                        jobs.spawn(self.clone().run_job(waiting, consumer.clone(), again.clone(), slot, begun));
                    }
                }
            }
        }
    }

    /// One job in its slot, then its message settled, or kept for later without a slot.
    async fn run_job(
        self: Arc<Self>,
        waiting: Waiting,
        consumer: Arc<dyn JobConsumer>,
        again: mpsc::Sender<Waiting>,
        slot: OwnedSemaphorePermit,
        begun: Begun,
    ) {
        let Waiting { delivery, attempt, held, .. } = waiting;
        let queue = delivery.priority.queue();
        let verdict = match InWork::enter(&self, delivery.report_id) {
            None => Verdict::Again { pause: DUPLICATE_PAUSE, attempt },
            Some(_in_work) => {
                if attempt.is_none() && !delivery.redelivered {
                    metrics::histogram!("casitas_job_wait_seconds", "queue" => queue)
                        .record(self.waited_s(delivery.report_id));
                }
                let started = Instant::now();
                let job = Job::new(&self.config, &self.ports, &self.desk, delivery.report_id);
                let verdict = job.work(attempt, begun).await;
                metrics::histogram!("casitas_job_duration_seconds", "queue" => queue)
                    .record(started.elapsed().as_secs_f64());
                verdict
            }
        };
        drop(slot);
        let outcome: &'static str = match &verdict {
            Verdict::Done(outcome) | Verdict::Dead(outcome) => outcome,
            Verdict::Again { .. } => "again",
        };
        metrics::counter!("casitas_jobs_total", "queue" => queue, "outcome" => outcome).increment(1);
        tracing::info!(report.id = %delivery.report_id, queue, outcome, "a job ended");
        let report_id = delivery.report_id;
        let settled = match verdict {
            Verdict::Done(_) => consumer.ack(delivery).await,
            Verdict::Dead(_) => consumer.reject(delivery).await,
            Verdict::Again { pause, attempt } => {
                // Kept in hand: requeueing at once would spin, and some brokers count it as a failed delivery.
                tokio::spawn(async move {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = again.closed() => return,
                    }
                    // A closed channel means that the consumer is gone and the message with it.
                    let _ = again.send(Waiting { delivery, since: Instant::now(), attempt, held }).await;
                    drop(consumer);
                });
                return;
            }
        };
        if let Err(error) = settled {
            // It will be delivered again and found finished.
            tracing::warn!(report.id = %report_id, error = error.chain(), "a message could not be settled");
        }
    }

    /// Seconds since the request, by the time in the report's id.
    fn waited_s(&self, report_id: Uuid) -> f64 {
        let Some(requested) = report_id.get_timestamp() else { return 0.0 };
        let (seconds, nanoseconds) = requested.to_unix();
        let requested_s = seconds as f64 + f64::from(nanoseconds) / 1e9;
        let now = self.ports.handler.clock().now();
        (now.as_millisecond() as f64 / 1e3 - requested_s).max(0.0)
    }

    fn in_work(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.in_work.lock().expect("the set's lock is never poisoned: nothing under it panics")
    }
}

fn start_first(queue: &mut VecDeque<Waiting>) -> Next {
    queue.pop_front().map_or(Next::Reaped, Next::Start)
}

/// Marks a report as being worked on here, until dropped.
struct InWork<'a> {
    worker: &'a Worker,
    report_id: Uuid,
}

impl<'a> InWork<'a> {
    /// `None` when it already is.
    fn enter(worker: &'a Worker, report_id: Uuid) -> Option<Self> {
        let entered = worker.in_work().insert(report_id);
        entered.then(|| {
            worker.ports.status.job_started();
            Self { worker, report_id }
        })
    }
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.worker.in_work().remove(&self.report_id);
        self.worker.ports.status.job_ended();
    }
}
