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

#[tokio::test]
async fn a_log_moves_and_is_renewed() {
    let log = || MemoryLog::new(Context::Units, Arc::new(SystemClock));
    let (from, empty) = (log(), log());
    conformance::log::a_log_moves_to_an_empty_one_as_it_was(&from, &empty).await;
    conformance::log::a_renewed_log_takes_its_followers_along(&from).await;
}
