//! The adapters in memory against the ports' contracts.

use std::sync::Arc;

use adapters::memory::{MemoryLog, MemoryViews};
use domain::Context;
use ports::{SystemClock, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_keeps_the_contract() {
    conformance::log::all(Arc::new(MemoryLog::new(Context::Units, Arc::new(SystemClock)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_views_keep_the_contract() {
    conformance::views::all(Arc::new(MemoryViews::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_keep_the_contract() {
    conformance::generations::all(Arc::new(MemoryViews::new())).await;
}
