//! The two cache tiers: ready entries in process, and their bytes in the shared cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Timestamp;
use moka::sync::Cache;
use ports::SharedCache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::entry::Entry;

/// How long an entry may live when nothing changes it; its truth does not hang on this.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a request waits for the shared cache before it goes on without.
const SHARED_DEADLINE: Duration = Duration::from_millis(150);
/// After a failure the shared cache is left alone this long, so that its loss costs one request in a while.
const SHARED_REST: Duration = Duration::from_millis(500);
/// Writes to the shared cache under way at once; more are dropped.
const PUTS_MAX: usize = 64;
/// How long an answer that was just computed waits for its write to the shared cache.
const PUT_WAIT: Duration = Duration::from_millis(20);
const PUT_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Slot {
    entry: Arc<Entry>,
    /// The feed's count of clears when the entry was begun: a later clear ends it.
    clears: u64,
}

/// Entries in process, bounded by bytes.
pub struct MemoryTier(Option<Cache<Arc<str>, Slot>>);

impl MemoryTier {
    /// `None` switches the tier off.
    pub fn new(bytes_max: Option<u64>) -> Self {
        Self(bytes_max.map(|bytes| {
            Cache::builder()
                .max_capacity(bytes)
                .weigher(|key: &Arc<str>, slot: &Slot| u32::try_from(key.len() + slot.entry.weight()).unwrap_or(u32::MAX))
                .build()
        }))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub fn get(&self, key: &str, clears: u64) -> Option<Arc<Entry>> {
        let slot = self.0.as_ref()?.get(key)?;
        (slot.clears == clears).then_some(slot.entry)
    }

    pub fn put(&self, key: &Arc<str>, entry: Arc<Entry>, clears: u64) {
        let Some(cache) = &self.0 else { return };
        let newer_is_kept =
            cache.get(key.as_ref()).is_some_and(|kept| kept.clears >= clears && kept.entry.version() > entry.version());
        if !newer_is_kept {
            cache.insert(key.clone(), Slot { entry, clears });
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

    /// Waits a moment for the write, so that the next GET, on whichever replica, is a hit; a cache that is slower than that is
    /// written beside the answer. Dropped when too many are under way.
    pub async fn put(&self, key: &Arc<str>, entry: &Arc<Entry>, now: Timestamp) {
        let Some(cache) = self.cache.clone().filter(|_| !self.rests()) else { return };
        let Ok(permit) = self.puts.clone().try_acquire_owned() else {
            metrics::counter!("casitas_cache_writes_dropped_total").increment(1);
            return;
        };
        let (key, entry) = (key.clone(), entry.clone());
        let written = tokio::spawn(async move {
            let ttl = lifetime(&entry, now);
            if !ttl.is_zero() {
                // The next read notices a cache that is away; a lost write is only a later miss.
                let _ = timeout(PUT_DEADLINE, cache.put(&key, entry.version(), entry.encode(), ttl)).await;
            }
            drop(permit);
        });
        let _ = timeout(PUT_WAIT, written).await;
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
