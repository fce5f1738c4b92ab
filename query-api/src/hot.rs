//! Collections that the projector writes to the shared cache itself, so that they are there before the first GET.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ports::{Clock, Result, SharedCache, ViewStore};

use crate::compute::compute;
use crate::query::{Query, cache_key};
use crate::tiers::lifetime;

/// A first page is cheap; it is missed at most this long after the shared cache was flushed.
const REWRITE_EVERY: Duration = Duration::from_secs(10);

/// Recomputes hot answers after a batch; the composition root hands it to the projector.
pub struct HotWriter {
    views: Arc<dyn ViewStore>,
    shared: Arc<dyn SharedCache>,
    clock: Arc<dyn Clock>,
    queries: Vec<Arc<dyn Query>>,
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
        Self { views, shared, clock, queries }
    }

    /// Rewrites the hot answers that depend on a model; the tags only say that something changed. An error means that some
    /// were not written: try again.
    pub async fn refresh_hot(&self, model: &str, tags: &BTreeSet<String>) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        for query in self.queries.iter().filter(|query| query.models().iter().any(|spec| spec.name == model)) {
            self.write(&**query).await?;
        }
        Ok(())
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
        self.shared.put(&cache_key(query), entry.version(), entry.encode(), ttl).await
    }
}
