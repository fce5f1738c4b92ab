//! Waiting until the views have folded all that an order pins, and reading them then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use ports::{Error, HintStream, Hints, ModelHead, ModelSpec, Position, Result, Row, Select, Topic, ViewSnapshot, ViewStore};
use tokio::time::{Instant, timeout};

use crate::Order;

/// Hints may be lost; then this is how late we look.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How far the views were seen to be, by model. Views only go forward; where one went back after all (restored, rebuilt),
/// [`Pinned`] notices before anything is read of it.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<HashMap<String, Position>>>);

impl Seen {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Position>> {
        self.0.lock().expect("nothing panics under this lock")
    }

    /// Whether all of these models are known to have reached the order's positions.
    fn covers(&self, order: &Order, models: &[&'static ModelSpec]) -> Result<bool> {
        let seen = self.map();
        for model in models {
            let pinned = order.position(model.context)?;
            if seen.get(model.name).is_none_or(|position| *position < pinned) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn set(&self, heads: Vec<ModelHead>) {
        *self.map() = heads.into_iter().map(|head| (head.model, head.checkpoint.position)).collect();
    }

    fn forget(&self, model: &str) {
        self.map().remove(model);
    }
}

/// Whether the views of these models have reached the order's positions, waiting at most `wait_max` for it.
pub(crate) async fn reached(
    order: &Order,
    models: &[&'static ModelSpec],
    seen: &Seen,
    views: &dyn ViewStore,
    hints: &dyn Hints,
    wait_max: Duration,
) -> Result<bool> {
    if seen.covers(order, models)? {
        return Ok(true);
    }
    let deadline = Instant::now() + wait_max;
    let mut hints = hints.subscribe();
    loop {
        seen.set(views.heads().await?);
        if seen.covers(order, models)? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        pause(&mut *hints).await;
        // Another slot may have looked meanwhile.
        if seen.covers(order, models)? {
            return Ok(true);
        }
    }
}

/// Until a view changed or the next poll is due.
async fn pause(hints: &mut dyn HintStream) {
    let changed = async {
        loop {
            match hints.next().await {
                Some(Topic::Views) => return,
                Some(_) => {}
                // No hints can come any more: only polling is left.
                None => std::future::pending().await,
            }
        }
    };
    // Either way it is time to look.
    let _ = timeout(POLL_INTERVAL, changed).await;
}

/// The views at or after an order's positions, opened when they are first read: a report that reads nothing costs nothing.
pub(crate) struct Pinned {
    order: Order,
    models: &'static [&'static ModelSpec],
    seen: Seen,
    views: Arc<dyn ViewStore>,
    opened: Option<Box<dyn ViewSnapshot>>,
}

impl Pinned {
    pub(crate) fn new(order: Order, models: &'static [&'static ModelSpec], seen: Seen, views: Arc<dyn ViewStore>) -> Self {
        Self { order, models, seen, views, opened: None }
    }

    async fn opened(&mut self) -> Result<&mut dyn ViewSnapshot> {
        if self.opened.is_none() {
            let mut snapshot = self.views.snapshot().await?;
            for model in self.models {
                if snapshot.head(model.name).await?.checkpoint.position < self.order.position(model.context)? {
                    self.seen.forget(model.name);
                    return Err(Error::unavailable(
                        "the views at the pinned positions",
                        format!("{} went back", model.name),
                    ));
                }
            }
            self.opened = Some(snapshot);
        }
        match &mut self.opened {
            Some(snapshot) => Ok(&mut **snapshot),
            None => Err(Error::unavailable("the views", "the snapshot has ended")),
        }
    }
}

#[async_trait]
impl ViewSnapshot for Pinned {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        self.opened().await?.head(model).await
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        self.opened().await?.get(model, key).await
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        self.opened().await?.select(select).await
    }
}
