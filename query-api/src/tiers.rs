//! The two cache tiers: ready entries in process, and their bytes in the shared cache.

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Timestamp;
use ports::SharedCache;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::entry::Entry;
use crate::kept::Kept;

/// How long an entry may live when nothing changes it; its truth does not hang on this.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a request waits for the shared cache before it goes on without.
const SHARED_DEADLINE: Duration = Duration::from_millis(150);
/// After a failure the shared cache is left alone this long, so that its loss costs one request in a while.
const SHARED_REST: Duration = Duration::from_millis(500);
/// Writes to the shared cache under way at once; more are dropped.
const PUTS_MAX: usize = 64;
/// An answer is written to the shared cache so long after it was computed: those who wait for it have it by then, and whether
/// it is asked for compressed is known.
const PUT_AFTER: Duration = Duration::from_millis(5);
const PUT_DEADLINE: Duration = Duration::from_secs(1);

/// What an entry is taken for before there is one, to size the tables.
const ENTRY_BYTES: u64 = 4_096;

#[derive(Clone)]
struct Bytes;

impl Weighter<Arc<str>, Arc<Kept>> for Bytes {
    fn weight(&self, key: &Arc<str>, kept: &Arc<Kept>) -> u64 {
        (key.len() + kept.weight()) as u64
    }
}

/// Entries in process, bounded by bytes.
pub struct MemoryTier(Option<Cache<Arc<str>, Arc<Kept>, Bytes, RandomState>>);

impl MemoryTier {
    /// `None` switches the tier off.
    pub fn new(bytes_max: Option<u64>) -> Self {
        Self(bytes_max.map(|bytes| {
            let entries = usize::try_from(bytes / ENTRY_BYTES).unwrap_or(usize::MAX);
            Cache::with(entries, bytes, Bytes, RandomState::default(), DefaultLifecycle::default())
        }))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub fn get(&self, key: &str) -> Option<Arc<Kept>> {
        self.0.as_ref()?.get(key)
    }

    pub fn put(&self, key: &Arc<str>, entry: Arc<Kept>) {
        let Some(cache) = &self.0 else { return };
        let before = cache.get(key.as_ref());
        let newer_is_kept =
            before.as_ref().is_some_and(|kept| kept.clears() >= entry.clears() && kept.version() > entry.version());
        if !newer_is_kept {
            cache.insert(key.clone(), entry);
            before.inspect(|before| before.supersede());
        }
    }
}

/// The shared cache, which may be away, slow or absent at any moment.
pub struct SharedTier {
    cache: Option<Arc<dyn SharedCache>>,
    epoch: Instant,
    /// Milliseconds since `epoch` until which the cache is left alone.
    rest_until_ms: AtomicU64,
    puts: Arc<Semaphore>,
}

impl SharedTier {
    pub fn new(cache: Option<Arc<dyn SharedCache>>) -> Self {
        Self { cache, epoch: Instant::now(), rest_until_ms: AtomicU64::new(0), puts: Arc::new(Semaphore::new(PUTS_MAX)) }
    }

    /// `None` for a miss and for every kind of failure.
    pub async fn get(&self, key: &str) -> Option<Entry> {
        let cache = self.cache.as_ref().filter(|_| !self.rests())?;
        match timeout(SHARED_DEADLINE, cache.get(key)).await {
            Ok(Ok(bytes)) => bytes.and_then(Entry::decode),
            Ok(Err(error)) => {
                self.failed(&error.chain());
                None
            }
            Err(_) => {
                self.failed("no answer in time");
                None
            }
        }
    }

    /// Written beside the answer, a moment later. Dropped when too many are under way.
    pub fn put(&self, key: &Arc<str>, entry: &Arc<Kept>, now: Timestamp) {
        let Some(cache) = self.cache.clone().filter(|_| !self.rests()) else { return };
        let Ok(permit) = self.puts.clone().try_acquire_owned() else {
            metrics::counter!("casitas_cache_writes_dropped_total").increment(1);
            return;
        };
        let (key, entry) = (key.clone(), entry.clone());
        tokio::spawn(async move {
            tokio::time::sleep(PUT_AFTER).await;
            let ttl = lifetime(&entry, now);
            // What has changed again already is written by who computes it next.
            if !ttl.is_zero() && !entry.is_superseded() {
                // The next read notices a cache that is away; a lost write is only a later miss.
                let _ = timeout(PUT_DEADLINE, cache.put(&key, entry.version(), entry.encode(), ttl)).await;
            }
            drop(permit);
        });
    }

    fn rests(&self) -> bool {
        self.elapsed_ms() < self.rest_until_ms.load(Ordering::Relaxed)
    }

    fn failed(&self, error: &str) {
        let rest_ms = u64::try_from(SHARED_REST.as_millis()).unwrap_or(u64::MAX);
        self.rest_until_ms.store(self.elapsed_ms() + rest_ms, Ordering::Relaxed);
        metrics::counter!("casitas_cache_shared_failures_total").increment(1);
        tracing::debug!(error, "the shared cache is away; going on without it");
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What remains of an entry's life, at most a day.
pub fn lifetime(entry: &Entry, now: Timestamp) -> Duration {
    let end = LIFETIME.saturating_sub(Duration::try_from(now.duration_since(entry.computed_at)).unwrap_or_default());
    match entry.valid_until {
        None => end,
        Some(until) => end.min(Duration::try_from(until.duration_since(now)).unwrap_or_default()),
    }
}
