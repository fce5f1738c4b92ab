//! The two cache tiers: ready entries in process, and their bytes in the shared cache.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
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

/// What an entry is taken for before there is one. The cache has the fewer parts the larger it is, and a part must have room for
/// the largest answers, however many cores the machine has.
const ENTRY_BYTES: u64 = 65_536;

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
            let ttl = shared_lifetime(&key, &entry, now);
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
    remaining(LIFETIME, entry, now)
}

/// The same for the shared cache, a fifth shorter at most: what was computed together (after a flush, in a
/// new term) is not gone together a day later. Each key has its own life, the same in every replica.
fn shared_lifetime(key: &str, entry: &Entry, now: Timestamp) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    let permille = 800 + u32::try_from(hash % 201).unwrap_or_default();
    remaining(LIFETIME * permille / 1_000, entry, now)
}

/// Never beyond the instant at which the answer changes by itself.
fn remaining(life: Duration, entry: &Entry, now: Timestamp) -> Duration {
    let end = life.saturating_sub(Duration::try_from(now.duration_since(entry.computed_at)).unwrap_or_default());
    match entry.valid_until {
        None => end,
        Some(until) => end.min(Duration::try_from(until.duration_since(now)).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::second;

    fn entry(valid_until: Option<Timestamp>) -> Entry {
        Entry::new(vec![], second(0), valid_until, "application/json", "{}".into())
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..1_000).map(|unit| format!("v:units:id={unit}"))
    }

    #[test]
    fn lives_in_the_shared_cache_are_spread_by_a_fifth_and_each_keys_is_always_the_same() {
        let lives = || keys().map(|key| shared_lifetime(&key, &entry(None), second(0)));
        let (shortest, longest) = (LIFETIME * 8 / 10, LIFETIME);
        assert!(lives().all(|life| (shortest..=longest).contains(&life)));
        assert!(lives().eq(lives()));
        assert!(lives().collect::<BTreeSet<_>>().len() > 150, "{:?}", lives().collect::<BTreeSet<_>>());
        for tenth in [0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98] {
            let sooner = lives().filter(|life| *life < LIFETIME.mul_f64(tenth)).count();
            let expected = ((tenth - 0.8) * 5_000.0) as usize;
            assert!(sooner.abs_diff(expected) < 80, "{sooner} of 1,000 before {tenth} of a day");
        }
        // What others are told of an entry does not depend on its key.
        assert_eq!(lifetime(&entry(None), second(0)), LIFETIME);
    }

    #[test]
    fn a_life_is_counted_from_the_computation_and_never_passes_the_instant_of_the_next_change() {
        for key in keys() {
            let whole = shared_lifetime(&key, &entry(None), second(0));
            assert_eq!(shared_lifetime(&key, &entry(None), second(600)), whole - Duration::from_secs(600));
            assert_eq!(shared_lifetime(&key, &entry(None), second(100_000)), Duration::ZERO, "more than a day");
            let changes = entry(Some(second(30)));
            assert_eq!(shared_lifetime(&key, &changes, second(10)), Duration::from_secs(20));
            assert_eq!(shared_lifetime(&key, &changes, second(31)), Duration::ZERO);
        }
    }
}
