//! The cached read: in-process tier, shared cache, view store, in that order, and never an answer older than what this
//! replica knows or than what the request wants to see.

use std::sync::Arc;
use std::time::Duration;

use domain::{Context, Timestamp};
use metrics::Counter;
use ports::{Clock, Error, SharedCache, ViewStore};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::compute::compute;
use crate::feed::{Feed, Mark, STALE_AFTER, Verdict};
use crate::flight::Flights;
use crate::kept::{Kept, Replacing};
use crate::query::{Query, Sharing, cache_key, sources};
use crate::tiers::{MemoryTier, SharedTier};
use crate::token::{MinPosition, Reached};

/// Computations under way at once; more wait.
const COMPUTATIONS_MAX: usize = 32;
/// How long a request waits for its turn to compute: less than a GET has in all, so that it is told why there is no answer.
const TURN_MAX: Duration = Duration::from_secs(1);
/// One computation takes at most this long. A request does not wait for so long (web's deadline of a GET ends it before), but the
/// computation goes on, and its answer is there when it is asked for again.
const COMPUTATION_MAX: Duration = Duration::from_secs(5);
/// Flights that a request looks at before it gives up: the first may be too old for it, the second never is.
const FLIGHTS_MAX: usize = 4;
/// While caches are bypassed, the view store is asked this often whether it has reached a token.
const BYPASS_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq)]
pub struct ReaderConfig {
    /// Bytes of the in-process tier; `None` switches it off.
    pub memory_bytes: Option<u64>,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self { memory_bytes: Some(64 * 1024 * 1024) }
    }
}

/// What a request wants to see.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub token: MinPosition,
    /// How long it would wait for that.
    pub wait: Duration,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Memory,
    /// From memory, known to have changed within the last second, while the next one is computed or waits for its turn.
    Outdated,
    Shared,
    /// Computed from the view store, and kept.
    Computed,
    /// Computed from the view store, and not kept.
    Bypassed,
}

impl Source {
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Memory | Self::Outdated | Self::Shared)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Memory => "hit_memory",
            Self::Outdated => "hit_outdated",
            Self::Shared => "hit_shared",
            Self::Computed => "miss",
            Self::Bypassed => "bypass",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Served {
    pub entry: Arc<Kept>,
    pub source: Source,
    pub now: Timestamp,
    /// It is what the view store held then or later, as far as the change feed told; `None` when the feed is stale.
    pub known_at: Option<Timestamp>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the read models have not reached the position asked for")]
    PositionNotReached,
    #[error("the position asked for is of another life of the {0} log")]
    LogRestored(Context),
    #[error("too many answers are being computed")]
    Saturated,
    #[error("the view store took too long")]
    TooSlow,
    #[error("{0}")]
    Failed(Arc<Error>),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Failed(Arc::new(error))
    }
}

type Outcome = Result<(Arc<Kept>, Source), ReadError>;

/// What a request knew when it came: what a computation that was already under way is judged by.
struct Arrival {
    now: Timestamp,
    /// Flights with this number or a higher began after it.
    flight: u64,
    marks: Vec<Mark>,
    stale: bool,
    /// What the feed's knowledge is of.
    known_at: Option<Timestamp>,
}

/// Everything a computation needs, so that it outlives the request that started it.
struct Tiers {
    views: Arc<dyn ViewStore>,
    clock: Arc<dyn Clock>,
    feed: Arc<Feed>,
    memory: MemoryTier,
    shared: SharedTier,
    turns: Semaphore,
}

#[derive(Clone)]
pub struct Reader {
    tiers: Arc<Tiers>,
    flights: Arc<Flights<Outcome>>,
    counts: Arc<Counts>,
}

/// Handles, because finding them by name costs more than a hit.
struct Counts {
    by_source: [Counter; 5],
    errors: Counter,
}

impl Counts {
    fn new() -> Self {
        let counter = |result: &'static str| metrics::counter!("casitas_cache_requests_total", "result" => result);
        let sources = [Source::Memory, Source::Outdated, Source::Shared, Source::Computed, Source::Bypassed];
        Self { by_source: sources.map(|source| counter(source.label())), errors: counter("error") }
    }
}

impl Reader {
    pub fn new(
        views: Arc<dyn ViewStore>,
        shared: Option<Arc<dyn SharedCache>>,
        clock: Arc<dyn Clock>,
        feed: Arc<Feed>,
        config: &ReaderConfig,
    ) -> Self {
        let tiers = Tiers {
            views,
            clock,
            feed,
            memory: MemoryTier::new(config.memory_bytes),
            shared: SharedTier::new(shared),
            turns: Semaphore::new(COMPUTATIONS_MAX),
        };
        Self { tiers: Arc::new(tiers), flights: Arc::default(), counts: Arc::new(Counts::new()) }
    }

    pub(crate) fn keeps_in_memory(&self) -> bool {
        self.tiers.memory.is_on()
    }

    /// Something that was answered without [`Self::read`].
    pub(crate) fn count(&self, source: Source) {
        self.counts.by_source[source as usize].increment(1);
    }

    /// Writes an answer of a query to the shared cache again: it is compressed now.
    pub(crate) fn share_packed(&self, query: &dyn Query, entry: &Arc<Kept>) {
        if query.sharing().is_shared() {
            self.tiers.shared.put(&cache_key(query).into(), entry, self.now());
        }
    }

    pub fn feed(&self) -> &Arc<Feed> {
        &self.tiers.feed
    }

    pub fn now(&self) -> Timestamp {
        self.tiers.clock.now()
    }

    /// `None` when there is no such thing.
    pub async fn read(&self, query: Arc<dyn Query>, wish: &Wish) -> Result<Option<Served>, ReadError> {
        let outcome = self.find(query, wish).await;
        match &outcome {
            Ok(served) => self.count(served.source),
            Err(_) => self.counts.errors.increment(1),
        }
        outcome.map(|served| (!served.entry.absent).then_some(served))
    }

    async fn find(&self, query: Arc<dyn Query>, wish: &Wish) -> Result<Served, ReadError> {
        let deadline = Instant::now() + wish.wait;
        let key: Arc<str> = cache_key(&*query).into();
        let may_lag = wish.token.is_empty() && query.sharing() == Sharing::Public;
        loop {
            let feed_reached = wish.token.is_empty() || self.feed_reaches(&*query, wish, deadline).await?;
            if feed_reached
                && query.sharing() != Sharing::Never
                && let Some(kept) = self.tiers.memory.get(&key)
                && let Some(served) = kept.serve(&self.tiers.feed, self.now(), may_lag)
            {
                return Ok(served);
            }
            let mut arrival = self.arrival(&*query);
            // Without the feed's word for the token, only rows read from now on can show that it is reached.
            arrival.stale |= !feed_reached;
            let served = self.fly(&key, &query, &arrival, &wish.token, may_lag).await?;
            let reached = if arrival.stale { served.entry.reaches(&wish.token) } else { Reached::Yes };
            match reached {
                Reached::Yes => return Ok(served),
                Reached::Never(context) => return Err(ReadError::LogRestored(context)),
                Reached::NotYet if Instant::now() + BYPASS_PAUSE >= deadline => return Err(ReadError::PositionNotReached),
                Reached::NotYet => tokio::time::sleep(BYPASS_PAUSE).await,
            }
        }
    }

    /// Waits until the feed has seen the token; `false` when the feed is stale and cannot tell.
    async fn feed_reaches(&self, query: &dyn Query, wish: &Wish, deadline: Instant) -> Result<bool, ReadError> {
        let feed = &self.tiers.feed;
        let models = sources(query);
        let mut polls = feed.polls();
        loop {
            polls.borrow_and_update();
            match feed.reached(&models, &wish.token) {
                Reached::Never(context) => return Err(ReadError::LogRestored(context)),
                Reached::Yes | Reached::NotYet if feed.is_stale() => return Ok(false),
                Reached::Yes => return Ok(true),
                Reached::NotYet => {}
            }
            let patience = deadline.min(Instant::now() + STALE_AFTER);
            if timeout_at(patience, polls.changed()).await.is_err() && Instant::now() >= deadline {
                return Err(ReadError::PositionNotReached);
            }
        }
    }

    /// As who found nothing in memory a moment ago.
    #[cfg(test)]
    pub(crate) async fn read_late(&self, query: Arc<dyn Query>) -> Result<Served, ReadError> {
        let key = cache_key(&*query).into();
        self.fly(&key, &query, &self.arrival(&*query), &MinPosition::default(), false).await
    }

    fn arrival(&self, query: &dyn Query) -> Arrival {
        let feed = &self.tiers.feed;
        // In this order: a flight counted as later must have begun after the marks were taken, and what the feed learns after
        // its moment only makes the judgement stricter.
        let now = self.now();
        let known_at = feed.known_at(now);
        let stale = feed.is_stale();
        let marks = feed.marks(query.models().iter().map(|spec| spec.name));
        Arrival { now: self.now(), flight: self.flights.next_number(), marks, stale, known_at }
    }

    /// Takes part in flights until one's outcome is good enough for this request.
    async fn fly(
        &self,
        key: &Arc<str>,
        query: &Arc<dyn Query>,
        arrival: &Arrival,
        token: &MinPosition,
        may_lag: bool,
    ) -> Result<Served, ReadError> {
        let served = |(entry, source)| Served { entry, source, now: self.now(), known_at: arrival.known_at };
        for _ in 0..FLIGHTS_MAX {
            let flight = self.flights.join_or_start(key, || {
                let (tiers, key, query) = (self.tiers.clone(), key.clone(), query.clone());
                // Before the flight is under way: who comes now is served what there is.
                let replacing = tiers.replacing(&key);
                async move { tiers.fetch(&key, &*query, replacing).await }
            });
            let number = flight.number;
            let Some(outcome) = flight.outcome().await else {
                return Err(Error::corrupt("a computation panicked; the log says where").into());
            };
            let began_later = number >= arrival.flight;
            match outcome {
                Ok((entry, source)) if self.is_good_enough(&entry, began_later, arrival, token) => {
                    return Ok(served((entry, source)));
                }
                Ok((entry, _)) if may_lag => {
                    if let Some(served) = entry.serve_outdated(&self.tiers.feed, self.now()) {
                        return Ok(served);
                    }
                }
                // An older flight's failure says nothing about now.
                Err(error) if began_later => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        self.tiers.fetch(key, &**query, self.tiers.replacing(key)).await.map(served)
    }

    /// Whether a flight's outcome is no older than what was known when the request came.
    fn is_good_enough(&self, entry: &Kept, began_later: bool, arrival: &Arrival, token: &MinPosition) -> bool {
        if began_later {
            return true;
        }
        if arrival.stale || entry.absent && !entry.at_least(&arrival.marks) {
            return false;
        }
        let in_time = entry.absent || entry.holds_at(arrival.now);
        let new_enough = entry.at_least(&arrival.marks) && entry.reaches(token) == Reached::Yes;
        in_time && (new_enough || !entry.absent && self.tiers.feed.admits(&entry.deps))
    }
}

impl Tiers {
    fn replacing(&self, key: &str) -> Replacing {
        Replacing::begin(&self.feed, self.memory.get(key))
    }

    /// One flight: both caches, then the view store.
    async fn fetch(&self, key: &Arc<str>, query: &dyn Query, replacing: Replacing) -> Outcome {
        let sharing = query.sharing();
        let bypassed = self.feed.is_stale() || sharing == Sharing::Never;
        // Looked at once more: who found nothing here may have started this flight when the one before had just landed.
        if !bypassed
            && let Some(kept) = self.memory.get(key)
            && let Some(served) = kept.serve(&self.feed, self.clock.now(), false)
        {
            return Ok((served.entry, Source::Memory));
        }
        if !bypassed
            && sharing.is_shared()
            && let Some(entry) = self.shared.get(key).await
            && entry.holds_at(self.clock.now())
            && let Some(known) = self.feed.knowledge()
            && self.feed.judge(&entry.deps) == Verdict::Current
        {
            let entry = Arc::new(Kept::new(entry, known.polled_us, &replacing, &self.feed));
            self.memory.put(key, entry.clone());
            return Ok((entry, Source::Shared));
        }
        let turn = timeout(TURN_MAX, self.turns.acquire()).await.map_err(|_| ReadError::Saturated)?;
        // Of requests, `casitas_cache_requests_total` counts each that waited for it.
        metrics::counter!("casitas_computations_total").increment(1);
        let entry = timeout(COMPUTATION_MAX, compute(&*self.views, &*self.clock, query)).await;
        drop(turn);
        let entry = entry.map_err(|_| ReadError::TooSlow)??;
        let entry = Arc::new(Kept::new(entry, replacing.began_us, &replacing, &self.feed));
        if bypassed || entry.absent {
            return Ok((entry, if bypassed { Source::Bypassed } else { Source::Computed }));
        }
        self.memory.put(key, entry.clone());
        if sharing.is_shared() {
            self.shared.put(key, &entry, self.clock.now());
        }
        Ok((entry, Source::Computed))
    }
}
