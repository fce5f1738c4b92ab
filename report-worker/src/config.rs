//! What a worker is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use commands::Handler;
use ports::{Artifacts, Hints, JobQueue, ViewStore};

use crate::Registry;

#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// This worker's name in the report's history, e.g. the host name; at most 100 characters.
    pub name: String,
    /// Jobs at once, each from its start (stream, attempt) until its completion is durable. Most of a small job is waiting for
    /// appends, which the slots share. With one slot jobs go strictly one after the other.
    pub slots: usize,
    /// Renderings at once. Each uses a core, memory and, while it reads, a connection to the views: there must be as many.
    pub renderings: usize,
    /// High messages in hand (R10 of reliability-security.md: 10, so that the next one is always here already); with many
    /// slots there are more, see [`WorkerConfig::prefetch`].
    pub high_prefetch: u16,
    /// How long a low job waits at most while high ones keep coming.
    pub low_wait_max: Duration,
    /// How long a job waits in its slot for the views to reach its pinned positions.
    pub positions_wait_max: Duration,
    /// How long one rendering may take; below the minute after which the dispatcher sends a report again.
    pub render_max: Duration,
    /// Pause before the second try; the third waits four times as long.
    pub retry_pause: Duration,
    /// How long running jobs may take to finish after shutdown.
    pub drain_max: Duration,
    /// Test aid: added to each rendering.
    pub render_delay: Duration,
    /// Test aid: ends the process as `kill -9` would.
    pub crash_at: Option<CrashAt>,
    /// Test only: acknowledges before the work.
    #[cfg(feature = "seeded-bugs")]
    pub ack_first: bool,
}

impl WorkerConfig {
    /// By Little's law 2,500 small jobs a second at 50 ms each, nearly all of which is waiting for commits; and the more wait
    /// together, the fewer commits there are (docs/decisions/0009).
    pub const SLOTS: usize = 128;
    pub const RENDERINGS: usize = 8;
    /// Under continuous high load one low job starts every 30 s: what is in hand then is begun after 24 minutes, before
    /// RabbitMQ calls a consumer dead (30 minutes). And low jobs alone never fill the slots of the default.
    const LOW_PREFETCH_MAX: u16 = 48;
    /// High messages in hand beyond those in work: what a worker holds and has not begun is kept from the others.
    const HIGH_SPARE_MAX: u16 = 16;

    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            slots: Self::SLOTS,
            renderings: Self::RENDERINGS,
            high_prefetch: 10,
            low_wait_max: Duration::from_secs(30),
            positions_wait_max: Duration::from_secs(10),
            render_max: Duration::from_secs(45),
            retry_pause: Duration::from_secs(1),
            drain_max: Duration::from_secs(8),
            render_delay: Duration::ZERO,
            crash_at: None,
            #[cfg(feature = "seeded-bugs")]
            ack_first: false,
        }
    }

    /// High and low messages in hand at most. A slot that ends a high job finds the next one here, also while the broker has
    /// yet to see the last ack: one in work for each slot, and as many waiting up to a bound. Of the low ones there is one a
    /// slot, and not too many: what waits in hand must not wait until the broker calls the worker dead.
    pub fn prefetch(&self) -> (u16, u16) {
        let slots = u16::try_from(self.slots.max(1)).unwrap_or(u16::MAX);
        let high = slots.saturating_add(slots.min(Self::HIGH_SPARE_MAX));
        (self.high_prefetch.max(high), slots.min(Self::LOW_PREFETCH_MAX))
    }
}

/// Where a test wants the process to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    BetweenRenderAndStore,
    BetweenStoreAndAppend,
    BetweenAppendAndAck,
}

/// Test aid: SIGKILL to this process when a point is passed for the `nth` time (1 is the first).
#[derive(Clone, Debug)]
pub struct CrashAt {
    point: CrashPoint,
    nth: u64,
    passed: Arc<AtomicU64>,
}

impl CrashAt {
    pub fn new(point: CrashPoint, nth: u64) -> Self {
        Self { point, nth, passed: Arc::default() }
    }

    pub(crate) fn pass(&self, point: CrashPoint) {
        if point == self.point && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.nth {
            tracing::error!(?point, "ending the process, as the test asked");
            // What no handler, no destructor and no flush survives.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// The outside as a worker needs it.
#[derive(Clone)]
pub struct WorkerPorts {
    /// Over the reports log, the only one a worker writes.
    pub handler: Handler,
    pub queue: Arc<dyn JobQueue>,
    pub views: Arc<dyn ViewStore>,
    pub artifacts: Arc<dyn Artifacts>,
    pub hints: Arc<dyn Hints>,
    /// [`Registry::standard`] outside of tests.
    pub registry: Registry,
    pub status: WorkerStatus,
}

/// What readiness asks. Clones show the same worker.
#[derive(Clone, Default)]
pub struct WorkerStatus(Arc<StatusCells>);

#[derive(Default)]
struct StatusCells {
    consuming: AtomicBool,
    running: AtomicUsize,
}

impl WorkerStatus {
    /// Whether the worker has a consumer on the queue just now.
    pub fn is_consuming(&self) -> bool {
        self.0.consuming.load(Ordering::Relaxed)
    }
    /// Jobs being worked on.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }
    pub(crate) fn set_consuming(&self, consuming: bool) {
        self.0.consuming.store(consuming, Ordering::Relaxed);
        metrics::gauge!("casitas_worker_consuming").set(f64::from(u8::from(consuming)));
    }
    pub(crate) fn job_started(&self) {
        self.0.running.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn job_ended(&self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
