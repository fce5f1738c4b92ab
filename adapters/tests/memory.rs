//! The adapters in memory against the ports' contracts.

use std::sync::Arc;

use adapters::memory::{MemoryLog, MemoryViews};
use domain::Context;
use ports::conformance::log::{commit, events, fresh_stream, request, to};
use ports::{ManualClock, SystemClock, conformance, position_before};

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

#[tokio::test]
async fn a_log_can_be_held() {
    let log = Arc::new(MemoryLog::new(Context::Units, Arc::new(SystemClock)));
    conformance::log::a_log_that_is_held_takes_nothing_until_it_is_let_go(log).await;
}

#[tokio::test]
async fn the_position_before_an_instant_is_found_without_reading_the_log() {
    let at = |second: i64| domain::Timestamp::from_second(second).expect("an instant");
    let clock = Arc::new(ManualClock::at(at(0)));
    let log = MemoryLog::new(Context::Units, clock.clone());
    assert_eq!(position_before(&log, at(5)).await.expect("found"), 0);
    for second in [10, 20, 20, 30] {
        clock.set(at(second));
        commit(&log, &request(vec![to(&fresh_stream(&log), 0, events(1))])).await;
    }
    for (second, position) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (30, 3), (31, 4)] {
        assert_eq!(position_before(&log, at(second)).await.expect("found"), position, "before {second}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_keep_the_contract() {
    conformance::generations::all(Arc::new(MemoryViews::new())).await;
}
