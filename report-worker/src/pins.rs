//! Waiting until the views have folded all that an order pins.

use std::time::Duration;

use ports::{HintStream, Hints, ModelSpec, Result, ViewStore};
use tokio::time::{Instant, timeout};

use crate::Order;

/// Hints may be lost; then this is how late we look.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the views of these models have reached the order's positions, waiting at most `wait_max` for it.
pub(crate) async fn reached(
    order: &Order,
    models: &[&'static ModelSpec],
    views: &dyn ViewStore,
    hints: &dyn Hints,
    wait_max: Duration,
) -> Result<bool> {
    let deadline = Instant::now() + wait_max;
    let mut hints = hints.subscribe();
    loop {
        if are_at(order, models, views).await? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        pause(&mut *hints).await;
    }
}

async fn are_at(order: &Order, models: &[&'static ModelSpec], views: &dyn ViewStore) -> Result<bool> {
    let heads = views.heads().await?;
    for model in models {
        let pinned = order.position(model.context)?;
        if !heads.iter().any(|head| head.model == model.name && head.checkpoint.position >= pinned) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Until something happened or the next poll is due.
async fn pause(hints: &mut dyn HintStream) {
    if let Ok(None) = timeout(POLL_INTERVAL, hints.next()).await {
        // No hints can come any more: only polling is left.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
