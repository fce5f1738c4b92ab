//! Hot collections: what the projector writes to the shared cache itself, so that it is there before the first GET.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ports::Result;
use read_models::Rows;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pace::{Backoff, pause};

/// From the beginning of a refresh to the next. In between, who asks computes, once for all who ask.
const SPACING: Duration = Duration::from_millis(25);
/// One refresh takes at most this long.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond this many tags waiting only the collections are refreshed: the rest is a miss for the first reader.
const TAGS_MAX: usize = 2_000;

/// Recomputes cached answers after a batch; implemented beside the queries that make them.
#[async_trait]
pub trait HotCollections: Send + Sync + 'static {
    /// Rewrites what depends on these tags of a model. Tags may come together or again.
    async fn refresh(&self, model: &str, tags: &BTreeSet<String>) -> Result<()>;
}

/// Where a projection leaves the tags that changed; it never waits for the cache.
#[derive(Clone, Default)]
pub(crate) struct HotFeed(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    tags: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl HotFeed {
    pub(crate) fn changed(&self, tags: BTreeSet<String>) {
        {
            let mut waiting = self.0.tags.lock().expect("nothing panics under this lock");
            waiting.extend(tags);
            if waiting.len() > TAGS_MAX {
                *waiting = BTreeSet::from([Rows::COLLECTION.to_owned()]);
            }
        }
        self.0.changed.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.tags.lock().expect("nothing panics under this lock"))
    }

    /// Refreshes until shutdown. A failure is logged and counted, and its tags are tried again with the next ones.
    pub(crate) async fn run(&self, model: &'static str, hot: Arc<dyn HotCollections>, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let tags = self.take();
            if tags.is_empty() {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    () = self.0.changed.notified() => continue,
                }
            }
            let began = Instant::now();
            let refresh = tokio::time::timeout(REFRESH_TIMEOUT, hot.refresh(model, &tags));
            let failure = match refresh.await {
                Ok(Ok(())) => {
                    backoff.reset();
                    if !pause(&shutdown, SPACING.saturating_sub(began.elapsed())).await {
                        return;
                    }
                    continue;
                }
                Ok(Err(error)) => error.chain(),
                Err(_) => format!("not done within {} s", REFRESH_TIMEOUT.as_secs()),
            };
            tracing::warn!(model, error = failure, "hot collections were not refreshed; trying again");
            metrics::counter!("casitas_hot_refresh_failures_total", "model" => model).increment(1);
            self.changed(tags);
            if !pause(&shutdown, backoff.next()).await {
                return;
            }
        }
    }
}
