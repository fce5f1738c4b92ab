//! Collections that the projector writes to the shared cache itself, so that they are there before the first GET.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ports::{Clock, Result, SharedCache, ViewStore};
use tokio::time::Instant;

use crate::compute::compute;
use crate::query::{Query, cache_key};
use crate::tiers::lifetime;

/// A first page is cheap; it is missed at most this long after the shared cache was flushed.
const REWRITE_EVERY: Duration = Duration::from_secs(10);

/// An answer that changes all the time is rewritten so often at most: the replicas compute it themselves meanwhile, and what
/// computes it does nothing else.
const REWRITE_PAUSE: Duration = Duration::from_millis(100);

/// Recomputes hot answers after a batch; the composition root hands it to the projector.
pub struct HotWriter {
    views: Arc<dyn ViewStore>,
    shared: Arc<dyn SharedCache>,
    clock: Arc<dyn Clock>,
    queries: Vec<Arc<dyn Query>>,
    /// When the next rewriting after a batch may begin.
    due: Mutex<Instant>,
}

impl HotWriter {
    /// With the list of available units as asked for without any parameter.
    pub fn new(views: Arc<dyn ViewStore>, shared: Arc<dyn SharedCache>, clock: Arc<dyn Clock>) -> Self {
        Self::of(views, shared, clock, vec![Arc::new(crate::routes::available::default_list())])
    }

    pub(crate) fn of(
        views: Arc<dyn ViewStore>,
        shared: Arc<dyn SharedCache>,
        clock: Arc<dyn Clock>,
        queries: Vec<Arc<dyn Query>>,
    ) -> Self {
        Self { views, shared, clock, queries, due: Mutex::new(Instant::now()) }
    }

    /// Rewrites the hot answers that depend on a model; the tags only say that something changed. Waits when the last rewriting
    /// was just now. An error means that some were not written: try again.
    pub async fn refresh_hot(&self, model: &str, tags: &BTreeSet<String>) -> Result<()> {
        let depends = |query: &&Arc<dyn Query>| query.models().iter().any(|spec| spec.name == model);
        let queries: Vec<_> = self.queries.iter().filter(depends).collect();
        if tags.is_empty() || queries.is_empty() {
            return Ok(());
        }
        let due = *self.due();
        tokio::time::sleep_until(due).await;
        *self.due() = Instant::now() + REWRITE_PAUSE;
        for query in queries {
            self.write(&**query).await?;
        }
        Ok(())
    }

    fn due(&self) -> MutexGuard<'_, Instant> {
        self.due.lock().expect("nothing panics under this lock")
    }

    /// Rewrites all of them; a new term of a projection makes the ones before dead.
    pub async fn refresh_all(&self) -> Result<()> {
        for query in &self.queries {
            self.write(&**query).await?;
        }
        Ok(())
    }

    /// Rewrites all of them now, and again when one lapses or is lost: a new term, a flushed cache, a hold that runs out.
    pub async fn keep_warm(self: Arc<Self>) {
        loop {
            if let Err(error) = self.refresh_all().await {
                tracing::debug!(error = error.chain(), "hot collections were not rewritten; trying again later");
            }
            tokio::time::sleep(REWRITE_EVERY).await;
        }
    }

    async fn write(&self, query: &dyn Query) -> Result<()> {
        let entry = compute(&*self.views, &*self.clock, query).await?;
        let ttl = lifetime(&entry, self.clock.now());
        if entry.absent || ttl.is_zero() {
            return Ok(());
        }
        // The list that browsers ask for most: compressed here, and not by each replica for its first one.
        entry.gzip();
        self.shared.put(&cache_key(query), entry.version(), entry.encode(), ttl).await
    }
}
