use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::reports::ReportKind;
use domain::{AggregateKind, Context, StreamId};
use ports::{AppendRequest, Error, Metadata, NewEvent, OrderBy, Result, RowChange, Select, StreamAppend, ViewBatch};
use projector::{Config, HotCollections, Kind, State};
use read_models::ReadModel;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Process, Trace, Traced, World, draft, request_report, send, started_unit, until};

async fn folded(world: &World, name: &'static str) -> Vec<u64> {
    Traced::positions(world.doc(name, "all").await)
}

async fn reports(world: &World, count: usize) {
    let client = world.client();
    for _ in 0..count {
        request_report(&client, ReportKind::LeaseRegister).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_is_folded_once_and_in_order_while_many_commands_commit() {
    let world = World::new();
    let process = world.start(vec![Trace::over(Context::Reports, "trace_a"), Trace::over(Context::Reports, "trace_b")]);
    let writers: Vec<_> = (0..32)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { reports(&world, 20).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    for name in ["trace_a", "trace_b"] {
        until("all folded", || async { process.follower(name).position == 640 }).await;
        assert_eq!(folded(&world, name).await, (1..=640).collect::<Vec<u64>>());
    }
    assert_eq!(process.follower("trace_a").lag_events, 0);
    assert!(process.board.is_healthy());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_killing_and_failing_anywhere_and_resuming_gives_the_same_rows() {
    let world = World::new();
    world.views.fail_every.store(3, Ordering::SeqCst);
    let model = Trace::over(Context::Reports, "trace");
    for round in 0..12 {
        let process = world.start(vec![model]);
        reports(&world, 7).await;
        match round % 3 {
            0 => process.stop().await,
            1 => process.kill().await,
            _ => {
                until("some progress", || async { process.follower("trace").position > round * 7 }).await;
                process.kill().await;
            }
        }
    }
    let process = world.start(vec![model]);
    until("all folded", || async { process.follower("trace").position == 84 }).await;
    assert_eq!(folded(&world, "trace").await, (1..=84).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_model_far_behind_catches_up_with_every_event() {
    let world = World::new();
    // More than two stretches of the past, the ring and the tail of a live batch.
    reports(&world, 8_300).await;
    let process = world.start(vec![&read_models::reports::Reports, Trace::over(Context::Legal, "trace")]);
    until("all folded", || async { process.follower("reports").position == 8_300 }).await;
    reports(&world, 3).await;
    until("the rest too", || async { process.follower("reports").position == 8_303 }).await;
    let mut snapshot = world.views.inner.snapshot().await.expect("a snapshot");
    let select = Select { model: "reports", filters: vec![], order: OrderBy::KEY, after: None, limit: 10_000 };
    assert_eq!(snapshot.select(&select).await.expect("rows").len(), 8_303);
    process.stop().await;
}

/// Every row of every read model there is.
async fn all_rows(world: &World) -> BTreeMap<String, Value> {
    let mut snapshot = world.views.inner.snapshot().await.expect("a snapshot");
    let mut rows = BTreeMap::new();
    for model in read_models::all() {
        let model = model.spec().name;
        let select = Select { model, filters: vec![], order: OrderBy::KEY, after: None, limit: 10_000 };
        for row in snapshot.select(&select).await.expect("rows") {
            rows.insert(format!("{model}/{}", row.key), row.read(model).expect("JSON"));
        }
    }
    rows
}

async fn all_folded(world: &World, process: &Process) {
    until("all folded", || async {
        let mut heads = BTreeMap::new();
        for context in Context::ALL {
            heads.insert(context, world.events(context).await.len() as u64);
        }
        process
            .board
            .snapshot()
            .iter()
            .all(|follower| follower.kind == Kind::Timer || follower.position == heads[&follower.context])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_views_of_a_troubled_life_equal_a_fresh_fold() {
    let world = World::new();
    world.views.fail_every.store(4, Ordering::SeqCst);
    let client = world.client();
    for round in 0..6 {
        let process = world.start(read_models::all());
        let unit_id = started_unit(&client).await;
        let leases = [draft(&client, unit_id).await, draft(&client, unit_id).await];
        for lease_id in leases {
            send(&client, lease_id).await;
        }
        match round % 3 {
            0 => process.kill().await,
            1 => process.stop().await,
            _ => {
                all_folded(&world, &process).await;
                process.kill().await;
            }
        }
    }
    let process = world.start(read_models::all());
    all_folded(&world, &process).await;
    process.stop().await;
    let lived = all_rows(&world).await;
    assert!(lived.len() > 30, "{} rows", lived.len());

    let fresh = World { views: World::new().views, ..world };
    let process = fresh.start(read_models::all());
    all_folded(&fresh, &process).await;
    assert_eq!(all_rows(&fresh).await, lived);
    process.stop().await;
}

async fn running(process: &Process, name: &str) {
    until("running", || async { process.follower(name).state == State::Running }).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_event_after_a_pause_is_folded_at_once_and_a_steady_stream_in_batches() {
    let world = World::new();
    let process = world.start(vec![Trace::over(Context::Reports, "trace")]);
    running(&process, "trace").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = world.views.commits.load(Ordering::SeqCst);
    reports(&world, 1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(folded(&world, "trace").await, [1]);
    let began = tokio::time::Instant::now();
    for _ in 0..200 {
        reports(&world, 1).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until("all folded", || async { process.follower("trace").position == 201 }).await;
    let (took, commits) = (began.elapsed(), world.views.commits.load(Ordering::SeqCst) - before);
    assert_eq!(folded(&world, "trace").await, (1..=201).collect::<Vec<u64>>());
    assert!(commits <= 2 + took.as_millis() as u64 / 5, "{commits} commits in {} ms", took.as_millis());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_is_written_goes_together_into_the_next() {
    let world = World::new();
    let config = Config {
        models: vec![Trace::over(Context::Reports, "trace")],
        delay: Duration::from_millis(500),
        ..Config::default()
    };
    let process = world.start_with(config, None);
    running(&process, "trace").await;
    reports(&world, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..30 {
        reports(&world, 1).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("all folded", || async { process.follower("trace").position == 31 }).await;
    assert_eq!(world.views.commits.load(Ordering::SeqCst), 2);
    assert_eq!(folded(&world, "trace").await, (1..=31).collect::<Vec<u64>>());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_a_leader_knows_do_not_outlive_its_term() {
    let world = World::new();
    let model = Trace::over(Context::Reports, "trace");
    let process = world.start(vec![model]);
    reports(&world, 1).await;
    until("folded", || async { process.follower("trace").position == 1 }).await;
    // Another process leads for a moment and leaves the row as nobody here has seen it.
    let claim = world.views.inner.claim(model.spec()).await.expect("answered").expect("free");
    let change = RowChange::Put { key: "all".into(), doc: json!({"positions": [100]}), fields: vec![] };
    let batch = ViewBatch {
        parking: vec![],
        spec: model.spec(),
        generation: claim.generation,
        term: claim.term,
        from: 1,
        to: claim.checkpoint,
        changes: vec![change],
        tags: ["all".to_owned()].into(),
    };
    world.views.inner.apply(&batch).await.expect("applied");
    reports(&world, 1).await;
    until("folded again", || async { process.follower("trace").position == 2 }).await;
    assert_eq!(folded(&world, "trace").await, [100, 2]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_that_both_believe_to_lead_never_fold_an_event_twice() {
    let world = World::new();
    let model = Trace::over(Context::Reports, "trace");
    let (first, second) = (world.start(vec![model]), world.start(vec![model]));
    reports(&world, 100).await;
    until("all folded", || async { folded(&world, "trace").await.len() >= 100 }).await;
    assert_eq!(folded(&world, "trace").await, (1..=100).collect::<Vec<u64>>());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_test_delay_holds_back_each_batch() {
    let world = World::new();
    let config = Config {
        models: vec![Trace::over(Context::Reports, "trace")],
        delay: Duration::from_millis(200),
        ..Config::default()
    };
    let process = world.start_with(config, None);
    until("running", || async { process.follower("trace").heartbeat_age_seconds < 1.0 }).await;
    let appended = tokio::time::Instant::now();
    reports(&world, 1).await;
    until("folded", || async { process.follower("trace").position == 1 }).await;
    assert!(appended.elapsed() >= Duration::from_millis(200), "{:?}", appended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_event_type_of_a_newer_build_stalls_as_upgrade_required() {
    let world = World::new();
    reports(&world, 2).await;
    let event = NewEvent {
        event_id: Uuid::now_v7(),
        event_type: "ReportFrobnicated".into(),
        event_version: "1".into(),
        payload: to_raw_value(&serde_json::json!({"ReportFrobnicated": {}})).expect("JSON"),
        effective_on: jiff::civil::date(2026, 3, 2),
    };
    let stream = StreamId::new(AggregateKind::Report, Uuid::now_v7().to_string());
    let metadata = Metadata { actor: "cli".into(), correlation_id: Uuid::now_v7(), causation_id: None, traceparent: None };
    let append = StreamAppend { stream, expected_version: 0, events: vec![event] };
    let request = AppendRequest { key: None, metadata, subject_keys: vec![], streams: vec![append] };
    world.log(Context::Reports).inner.append(&[request]).await.expect("appended");
    let process = world.start(vec![Trace::over(Context::Reports, "trace")]);
    until("stalled", || async { process.stalled("trace").is_some() && process.stalled("dispatcher:reports").is_some() })
        .await;
    for name in ["trace", "dispatcher:reports"] {
        let reason = process.stalled(name).expect("stalled");
        assert!(reason.contains("upgrade required") && reason.contains("ReportFrobnicated"), "{reason}");
    }
    assert_eq!(folded(&world, "trace").await, vec![1, 2]);
}

#[tokio::test(start_paused = true)]
async fn views_of_another_life_of_the_log_are_not_folded_on() {
    let mut world = World::new();
    let model = Trace::over(Context::Reports, "trace");
    let process = world.start(vec![model]);
    reports(&world, 5).await;
    until("all folded", || async { process.follower("trace").position == 5 }).await;
    process.stop().await;
    // The log is replaced; the views are kept.
    world.logs = World::new().logs;
    reports(&world, 9).await;
    let process = world.start(vec![model]);
    until("stalled", || async { process.stalled("trace").is_some() }).await;
    let reason = process.stalled("trace").expect("stalled");
    assert!(reason.contains("incarnation") && reason.contains("casitas projections rebuild trace"), "{reason}");
    assert_eq!(folded(&world, "trace").await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_out_of_reach_stalls_its_followers_until_it_is_back() {
    let world = World::new();
    let process = world.start(vec![Trace::over(Context::Reports, "trace")]);
    reports(&world, 3).await;
    until("folded", || async { process.follower("trace").position == 3 }).await;
    world.log(Context::Reports).set_down(true);
    until("stalled", || async { process.stalled("trace").is_some() }).await;
    // The client reaches it still.
    reports(&world, 3).await;
    world.log(Context::Reports).set_down(false);
    until("folded", || async { process.follower("trace").position == 6 && process.stalled("trace").is_none() }).await;
    assert_eq!(folded(&world, "trace").await, (1..=6).collect::<Vec<u64>>());
}

#[derive(Default)]
struct Hot {
    failing: AtomicBool,
    calls: AtomicU64,
    seen: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl HotCollections for Hot {
    async fn refresh(&self, model: &str, tags: &BTreeSet<String>) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.failing.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the cache", "switched off by the test"));
        }
        self.seen.lock().expect("unpoisoned").extend(tags.iter().map(|tag| format!("{model}/{tag}")));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn hot_collections_are_refreshed_before_the_first_event_and_their_failure_holds_up_nothing() {
    let world = World::new();
    let hot = Arc::new(Hot::default());
    let config = Config { models: vec![Trace::over(Context::Reports, "trace")], ..Config::default() };
    let process = world.start_with(config, Some(hot.clone()));
    let saw = |tag: &str| hot.seen.lock().expect("unpoisoned").contains(&format!("trace/{tag}"));
    until("the first refresh", || async { saw("*") }).await;

    hot.failing.store(true, Ordering::SeqCst);
    reports(&world, 5).await;
    until("folded", || async { process.follower("trace").position == 5 }).await;
    let failed = hot.calls.load(Ordering::SeqCst);
    until("tried again", || async { hot.calls.load(Ordering::SeqCst) > failed + 1 }).await;
    hot.failing.store(false, Ordering::SeqCst);
    until("made good", || async { saw("all") }).await;
    process.stop().await;
}
