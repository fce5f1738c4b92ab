use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use commands::{Issue, step};
use domain::auth::{Operations, OperationsCommand, OperatorAction};
use domain::reports::{Report, ReportCommand, ReportKind};
use domain::{AggregateKind, Context, StreamId};
use ports::{
    AppendRequest, Ask, Clock, Generations, Metadata, ModelSpec, NewEvent, OrderBy, ParkedStreams, Recorded, Result,
    RowChange, Select, Standing, StreamAppend, ViewBatch, ViewStore,
};
use projector::{Comparison, Done, Outcome, Park, Progress, RebuildError, Rebuilder, Wish};
use read_models::reports::Reports;
use read_models::{Feed, ReadModel, Rows};
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Process, Trace, Traced, World, execute, request_report, ten_events, until};

const PLAIN: Wish = Wish { parallel: 1, manual: false, dry_run: false, force: false, park: Park::Nothing };
const TRIAL: Wish = Wish { parallel: 1, manual: false, dry_run: true, force: false, park: Park::Nothing };

async fn rebuild(rebuilder: &Rebuilder, model: &'static dyn ReadModel, wish: Wish) -> Result<Done, RebuildError> {
    rebuilder.rebuild(model, wish, &Progress::default(), &CancellationToken::new()).await
}

/// A world whose reports are folded, and the process that folds them.
async fn folded(reports: usize) -> (World, Process) {
    let world = World::new();
    let process = world.start(vec![&Reports]);
    request(&world, reports).await;
    until("all folded", || async { process.follower("reports").position == reports as u64 }).await;
    (world, process)
}

async fn request(world: &World, reports: usize) {
    let client = world.client();
    for _ in 0..reports {
        request_report(&client, ReportKind::LeaseRegister).await;
    }
}

async fn standings(world: &World) -> Vec<(u64, Standing)> {
    let all = world.generations.generations(&[Reports.spec()]).await.expect("generations");
    all.into_iter().map(|found| (found.head.generation, found.standing)).collect()
}

async fn position(world: &World, generation: u64) -> u64 {
    let all = world.generations.generations(&[Reports.spec()]).await.expect("generations");
    all.iter().find(|found| found.head.generation == generation).map_or(0, |found| found.head.checkpoint.position)
}

/// Some hand changes a row of the live generation.
async fn corrupt(world: &World) -> String {
    let key = world.events(Context::Reports).await[0].stream.id.clone();
    let claim = world.generations.claim(Reports.spec()).await.expect("claimed").expect("free");
    let fields = vec!["queued".into(), "lease_register".into(), "nobody".into()];
    let batch = ViewBatch {
        spec: Reports.spec(),
        generation: claim.generation,
        term: claim.term,
        from: claim.checkpoint.position,
        to: claim.checkpoint,
        changes: vec![RowChange::Put { key: key.clone(), doc: json!({"by": "hand"}), fields }],
        tags: ["reports".to_owned()].into(),
        parking: vec![],
    };
    world.generations.apply(&batch).await.expect("applied");
    key
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_generation_is_equal_and_the_projection_goes_on_in_it() {
    let (world, process) = folded(40).await;
    let done = rebuild(&world.rebuilder(), &Reports, PLAIN).await.expect("rebuilt");
    let Outcome::Switched(head) = &done.outcome else { panic!("{done:?}") };
    assert_eq!((head.generation, head.checkpoint.position, done.events), (2, 40, 40));
    let Comparison { equal, rows, digest, live_digest, .. } = &done.comparison;
    assert_eq!((*equal, *rows, digest), (40, 40, live_digest));
    request(&world, 5).await;
    // What was live is folded on as well: a rollback would land on it.
    until("both go on", || async { position(&world, 2).await == 45 && position(&world, 1).await == 45 }).await;
    assert_eq!(standings(&world).await, [(1, Standing::Standby), (2, Standing::Live)]);
    let back = world.rebuilder().rollback(&Reports).await.expect("rolled back");
    assert_eq!((back.generation, back.checkpoint.position), (1, 45));
    request(&world, 5).await;
    until("both go on", || async { position(&world, 1).await == 50 && position(&world, 2).await == 50 }).await;
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn parts_and_passes_in_little_memory_give_the_same_rows() {
    let (world, process) = folded(300).await;
    let mut digests = Vec::new();
    for (parallel, held_bytes) in [(1, usize::MAX), (4, usize::MAX), (1, 40_000), (3, 10_000), (16, 1)] {
        let wish = Wish { parallel, dry_run: true, ..PLAIN };
        let progress = Progress::default();
        let rebuilder = world.rebuilder().with_held_bytes(held_bytes);
        let done = rebuilder.rebuild(&Reports, wish, &progress, &CancellationToken::new()).await.expect("tried");
        assert!(done.comparison.is_equal() && done.comparison.rows == 300, "{done:?}");
        assert_eq!((done.events, progress.seen().rows), (300, 300), "each event is folded once into what is stored");
        assert_eq!(progress.seen().passes > 1, held_bytes < usize::MAX, "{:?}", progress.seen());
        digests.push(done.comparison.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
    assert_eq!(standings(&world).await, [(1, Standing::Live)], "trials leave nothing");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_changed_by_hand_is_found_by_a_trial_and_healed_by_force() {
    let (world, process) = folded(10).await;
    let key = corrupt(&world).await;
    let rebuilder = world.rebuilder();
    let trial = rebuild(&rebuilder, &Reports, Wish { dry_run: true, ..PLAIN }).await.expect("tried");
    assert_eq!((trial.comparison.differ, trial.comparison.equal), (1, 9));
    assert_ne!(trial.comparison.digest, trial.comparison.live_digest);
    assert_eq!(standings(&world).await, [(1, Standing::Live)]);

    let refused = rebuild(&rebuilder, &Reports, PLAIN).await.expect("rebuilt");
    assert!(matches!(refused.outcome, Outcome::Refused), "{refused:?}");
    assert_eq!(standings(&world).await, [(1, Standing::Live), (2, Standing::Ready)]);
    let mut shown = Vec::new();
    rebuilder.compare(&Reports, 2, &mut |difference| shown.push(difference)).await.expect("compared");
    let [difference] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((difference.key.as_str(), difference.kind.as_str()), (key.as_str(), "differs"));
    assert_eq!(difference.live.as_ref().map(|row| row.doc.as_str()), Some("{\"by\":\"hand\"}"));

    // What is ready is folded on meanwhile, and taken as it is by the next rebuild.
    request(&world, 3).await;
    until("it is folded on", || async { position(&world, 2).await == 13 }).await;
    let forced = rebuild(&rebuilder, &Reports, Wish { force: true, ..PLAIN }).await.expect("rebuilt");
    assert!(matches!(forced.outcome, Outcome::Switched(_)), "{forced:?}");
    assert_eq!((position(&world, 2).await, standings(&world).await[1]), (13, (2, Standing::Live)));
    let trial = rebuild(&rebuilder, &Reports, Wish { dry_run: true, ..PLAIN }).await.expect("tried");
    assert!(trial.comparison.is_equal());
    process.stop().await;
}

/// Polls a future so often, and drops it.
async fn cut_off(mut work: Pin<Box<impl Future>>, polls: usize) -> bool {
    for _ in 0..polls {
        let polled = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
        if polled {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_cut_off_anywhere_goes_on_and_ends_in_the_same_rows() {
    let (world, process) = folded(60).await;
    let expected = rebuild(&world.rebuilder(), &Reports, Wish { dry_run: true, ..PLAIN }).await.expect("tried");
    for polls in 1..40 {
        let wish = Wish { parallel: 1 + polls as u32 % 3, ..PLAIN };
        // A process of its own each time, in little memory, so that there are many places to be cut off at.
        let ended =
            cut_off(Box::pin(rebuild(&world.rebuilder().with_held_bytes(5_000), &Reports, wish.clone())), polls).await;
        if !ended {
            let done = rebuild(&world.rebuilder(), &Reports, wish).await.expect("goes on");
            assert_eq!(
                (&done.comparison.digest, done.comparison.differences()),
                (&expected.comparison.digest, 0),
                "{polls}"
            );
        }
        let all = standings(&world).await;
        assert!(all.iter().all(|(_, standing)| matches!(standing, Standing::Live | Standing::Standby)), "{polls}: {all:?}");
    }
    process.stop().await;
}

async fn building(world: &World) -> Option<u64> {
    let all = standings(world).await;
    all.into_iter().find(|(_, standing)| *standing == Standing::Building).map(|(generation, _)| generation)
}

/// The generation that a rebuild leaves which is cut off while it is being built.
async fn left_building(world: &World, wish: Wish) -> u64 {
    let mut polls = 1;
    loop {
        let ended =
            cut_off(Box::pin(rebuild(&world.rebuilder().with_held_bytes(5_000), &Reports, wish.clone())), polls).await;
        assert!(!ended, "it was never stopped while it was being built");
        match building(world).await {
            Some(generation) => return generation,
            None => polls += 1,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dry_run_left_that_was_killed_is_dropped_by_whoever_comes_next() {
    let (world, process) = folded(60).await;
    for (next, generations) in [(TRIAL, 1), (PLAIN, 2)] {
        left_building(&world, TRIAL).await;
        let done = rebuild(&world.rebuilder(), &Reports, next).await.expect("nothing is in its way");
        assert!(done.comparison.is_equal() && done.comparison.rows == 60, "{done:?}");
        assert_eq!((building(&world).await, standings(&world).await.len()), (None, generations));
    }
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_leaves_a_rebuild_that_was_stopped_alone() {
    let (world, process) = folded(60).await;
    let stopped = left_building(&world, PLAIN).await;
    let trial = rebuild(&world.rebuilder(), &Reports, TRIAL).await;
    let Err(RebuildError::Unfinished { generation, .. }) = trial else { panic!("{trial:?}") };
    assert_eq!((generation, building(&world).await), (stopped, Some(stopped)));
    let done = rebuild(&world.rebuilder(), &Reports, PLAIN).await.expect("goes on");
    assert_eq!((done.generation, done.comparison.differences()), (stopped, 0));
    rebuild(&world.rebuilder(), &Reports, Wish { dry_run: true, ..PLAIN }).await.expect("now it is tried");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_commands_commit_a_rebuild_switches_and_nothing_is_lost() {
    let (world, process) = folded(20).await;
    let writer = {
        let world = world.clone();
        tokio::spawn(async move { request(&world, 400).await })
    };
    for _ in 0..5 {
        let done = rebuild(&world.rebuilder(), &Reports, Wish { parallel: 2, ..PLAIN }).await.expect("rebuilt");
        assert!(done.comparison.is_equal(), "{done:?}");
    }
    writer.await.expect("the writer");
    until("all folded", || async { process.follower("reports").position == 420 }).await;
    let last = rebuild(&world.rebuilder(), &Reports, Wish { dry_run: true, ..PLAIN }).await.expect("tried");
    assert_eq!((last.comparison.equal, last.comparison.differences()), (420, 0));
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_folded_is_named_and_readers_keep_what_they_have() {
    let (world, process) = folded(3).await;
    let frobnicated = NewEvent {
        event_id: Uuid::now_v7(),
        event_type: "ReportFrobnicated".into(),
        event_version: "1".into(),
        payload: to_raw_value(&json!({"ReportFrobnicated": {}})).expect("JSON"),
        effective_on: jiff::civil::date(2026, 3, 2),
    };
    let stream = StreamId::new(AggregateKind::Report, Uuid::now_v7().to_string());
    let metadata = Metadata { actor: "cli".into(), correlation_id: Uuid::nil(), causation_id: None, traceparent: None };
    let streams = vec![StreamAppend { stream: stream.clone(), expected_version: 0, events: vec![frobnicated] }];
    let request = AppendRequest { key: None, metadata, subject_keys: vec![], streams };
    world.log(Context::Reports).inner.append(&[request]).await.expect("appended");
    let error = rebuild(&world.rebuilder(), &Reports, PLAIN).await.expect_err("poison");
    let text = error.to_string();
    assert!(matches!(error, RebuildError::Poison(_)), "{text}");
    for named in ["reports:4", "ReportFrobnicated", &stream.to_string(), "upgrade required"] {
        assert!(text.contains(named), "{named} in {text}");
    }
    assert_eq!(standings(&world).await[0], (1, Standing::Live));
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_of_rows_of_many_streams_is_folded_in_the_order_of_the_log() {
    let world = World::new();
    let trace = Trace::over(Context::Reports, "trace");
    let process = world.start(vec![trace]);
    request(&world, 30).await;
    until("all folded", || async { process.follower("trace").position == 30 }).await;
    let done = rebuild(&world.rebuilder(), trace, Wish { parallel: 4, ..PLAIN }).await.expect("rebuilt");
    assert!(done.comparison.is_equal() && matches!(done.outcome, Outcome::Switched(_)), "{done:?}");
    assert_eq!(Traced::positions(world.doc("trace", "all").await), (1..=30).collect::<Vec<u64>>());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn told_to_park_a_rebuild_leaves_a_poison_stream_out_and_a_retry_heals_it() {
    let feeds = [Feed::Mixed, Feed::Streams(AggregateKind::Report), Feed::Events(AggregateKind::Report)];
    for (feed, held_bytes) in feeds.into_iter().flat_map(|feed| [(feed, usize::MAX), (feed, 1)]) {
        let world = World::new();
        let sick = Trace::fed(Context::Reports, "sick", feed);
        // The eleventh goes on behind the ninth, which cannot be folded.
        let ids = ten_events(&world).await;
        execute::<Report>(&world.client(), ids[3], ReportCommand::CancelReport).await;
        let process = world.start(vec![sick]);
        until("all folded", || async { process.follower("sick").position == 11 }).await;

        // What is live was folded when there was no fault: the ninth event is one only now.
        sick.is_poisoned_by(Some((9, false)));
        let rebuilder = world.rebuilder().with_held_bytes(held_bytes);
        let stopped = rebuild(&rebuilder, sick, PLAIN).await.expect_err("poison");
        assert!(matches!(&stopped, RebuildError::Poison(told) if told.contains("reports:9")), "{stopped}");
        let wish = Wish { park: Park::Any(world.clock.now()), parallel: 2, ..PLAIN };
        let done = rebuild(&rebuilder, sick, wish.clone()).await.expect("rebuilt");
        assert!(matches!(done.outcome, Outcome::Refused), "{feed:?}: other rows than those that are seen: {done:?}");
        assert_eq!(done.parked, 1);
        let done = rebuild(&rebuilder, sick, Wish { force: true, ..wish.clone() }).await.expect("switched");
        assert!(matches!(done.outcome, Outcome::Switched(_)), "{done:?}");
        let parked = world.views.parked("sick", 2).await.expect("parked");
        assert_eq!(parked.iter().map(|parked| (parked.position, parked.sequence)).collect::<Vec<_>>(), [(9, 2)]);
        let folded = |key: String| {
            let world = world.clone();
            async move { Traced::positions(world.doc("sick", &key).await) }
        };
        let (fourth, fifth) = (ids[3].to_string(), ids[4].to_string());
        match feed {
            Feed::Mixed => assert_eq!(folded("all".into()).await, [1, 2, 3, 4, 5, 6, 7, 8, 10]),
            Feed::Streams(_) => assert_eq!((folded(fourth).await, folded(fifth).await), (vec![4], vec![5, 10])),
            Feed::Events(_) => {
                let found = [folded("0004".into()).await, folded("0009".into()).await, folded("0011".into()).await];
                assert_eq!(found, [vec![4], vec![], vec![]]);
            }
        }
        // The same again, with the live one parked as well: now they are equal.
        let again = rebuild(&rebuilder, sick, wish).await.expect("rebuilt");
        assert!(again.comparison.is_equal() && matches!(again.outcome, Outcome::Switched(_)), "{feed:?}: {again:?}");

        sick.is_poisoned_by(None);
        let found = world.views.parked("sick", 3).await.expect("parked").remove(0);
        world.views.ask("sick", 3, &found.stream, found.position, Ask::Retry).await.expect("asked");
        until("healed", || async { world.views.parked("sick", 3).await.expect("parked").is_empty() }).await;
        match feed {
            Feed::Mixed => assert_eq!(folded("all".into()).await, [1, 2, 3, 4, 5, 6, 7, 8, 10, 9, 11]),
            Feed::Streams(_) => assert_eq!(folded(ids[3].to_string()).await, [4, 9, 11]),
            Feed::Events(_) => assert_eq!([folded("0009".into()).await, folded("0011".into()).await], [[9], [11]]),
        }
        process.stop().await;
    }
}

async fn record(world: &World, action: OperatorAction) {
    let command = OperationsCommand { by: "ana (1000)".into(), reason: None, action };
    let steps = [step::<Operations>(Operations::ID, command)];
    world.client().execute(&Issue::by("cli"), &steps).await.expect("recorded");
}

/// Gives up the one event that stops a stream of the first generation, as `casitas parked skip` does.
async fn skip(world: &World, name: &'static str) {
    let found = world.views.parked(name, 1).await.expect("parked").remove(0);
    let (stream, position, event_id) = (found.stream.to_string(), found.position, found.event_id);
    record(world, OperatorAction::SkipParked { model: name.into(), stream, position, event_id }).await;
    world.views.ask(name, 1, &found.stream, position, Ask::Skip).await.expect("asked");
    until("skipped", || async { world.views.parked(name, 1).await.expect("parked").is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_skipped_is_left_out_by_every_rebuild_until_it_is_taken_back() {
    let feeds = [Feed::Mixed, Feed::Streams(AggregateKind::Report), Feed::Events(AggregateKind::Report)];
    for (feed, held_bytes) in feeds.into_iter().flat_map(|feed| [(feed, usize::MAX), (feed, 1)]) {
        let world = World::new();
        let sick = Trace::fed(Context::Reports, "sick", feed);
        sick.is_poisoned_by(Some((9, false)));
        // The eleventh goes on behind the ninth, which cannot be folded.
        let ids = ten_events(&world).await;
        execute::<Report>(&world.client(), ids[3], ReportCommand::CancelReport).await;
        let process = world.start(vec![sick]);
        until("all passed", || async { process.follower("sick").position == 11 }).await;
        let rebuilder = world.rebuilder().with_held_bytes(held_bytes);
        let stopped = rebuild(&rebuilder, sick, TRIAL).await.expect_err("poison");
        assert!(matches!(stopped, RebuildError::Poison(_)), "{stopped}");
        skip(&world, "sick").await;

        for parallel in 1..=3 {
            let trial = rebuild(&rebuilder, sick, Wish { parallel, ..TRIAL }).await.expect("tried");
            assert!(trial.comparison.is_equal() && trial.parked == 0, "{feed:?} in {parallel} parts: {trial:?}");
            assert_eq!(trial.comparison.digest, trial.comparison.live_digest);
        }
        let done = rebuild(&rebuilder, sick, Wish { parallel: 2, ..PLAIN }).await.expect("rebuilt");
        assert!(matches!(done.outcome, Outcome::Switched(_)) && done.comparison.is_equal(), "{feed:?}: {done:?}");
        // So does a fold that could take it by now.
        sick.is_poisoned_by(None);
        let trial = rebuild(&rebuilder, sick, TRIAL).await.expect("tried");
        assert!(trial.comparison.is_equal(), "{feed:?}: {trial:?}");

        let (model, stream) = ("sick".to_owned(), StreamId::of::<Report>(ids[3]).to_string());
        record(&world, OperatorAction::RetryParked { model, stream, position: 9 }).await;
        let trial = rebuild(&rebuilder, sick, TRIAL).await.expect("tried");
        assert!(!trial.comparison.is_equal(), "{feed:?}: {trial:?}");
        let forced = rebuild(&rebuilder, sick, Wish { force: true, ..PLAIN }).await.expect("rebuilt");
        assert!(matches!(forced.outcome, Outcome::Switched(_)), "{feed:?}: {forced:?}");
        let key = match feed {
            Feed::Mixed => "all".to_owned(),
            Feed::Streams(_) => ids[3].to_string(),
            Feed::Events(_) => "0009".to_owned(),
        };
        assert!(Traced::positions(world.doc("sick", &key).await).contains(&9), "{feed:?}");
        process.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_are_behind_are_compared_without_what_was_skipped() {
    let world = World::new();
    let sick = Trace::over(Context::Reports, "sick");
    let process = world.start(vec![sick]);
    request(&world, 8).await;
    until("all folded", || async { process.follower("sick").position == 8 }).await;
    process.stop().await;
    request(&world, 3).await;
    sick.is_poisoned_by(Some((9, false)));
    let ninth = world.events(Context::Reports).await.remove(8);
    let (stream, position, event_id) = (ninth.stream.to_string(), ninth.position, ninth.event_id);
    record(&world, OperatorAction::SkipParked { model: "sick".into(), stream, position, event_id }).await;
    let trial = rebuild(&world.rebuilder(), sick, TRIAL).await.expect("tried");
    assert!(trial.comparison.is_equal() && trial.comparison.position == 11, "{trial:?}");
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_parked_what_was_skipped_since_is_begun_anew() {
    let world = World::new();
    let sick = Trace::over(Context::Reports, "sick");
    sick.is_poisoned_by(Some((9, false)));
    ten_events(&world).await;
    let process = world.start(vec![sick]);
    until("all passed", || async { process.follower("sick").position == 10 }).await;
    let rebuilder = world.rebuilder();
    let wish = Wish { park: Park::Any(world.clock.now()), manual: true, ..PLAIN };
    let ready = rebuild(&rebuilder, sick, wish).await.expect("rebuilt");
    assert!(matches!(ready.outcome, Outcome::Ready) && ready.parked == 1, "{ready:?}");
    skip(&world, "sick").await;
    let done = rebuild(&rebuilder, sick, PLAIN).await.expect("rebuilt");
    assert!(matches!(done.outcome, Outcome::Switched(_)) && done.parked == 0, "{done:?}");
    assert!(done.comparison.is_equal(), "{done:?}");
    process.stop().await;
}

/// Reports as a new release folds them.
struct Later;

impl ReadModel for Later {
    fn spec(&self) -> &'static ModelSpec {
        static SPEC: ModelSpec = ModelSpec { fold_version: 2, ..read_models::reports::SPEC };
        &SPEC
    }
    fn feed(&self) -> Feed {
        Reports.feed()
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Reports.keys(event)
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        let (key, fields) = (&event.stream.id, vec!["a".into(), "b".into(), "c".into()]);
        rows.put_tagged(key, json!({"later": event.sequence}), fields, &[key, Rows::COLLECTION])
    }
}

#[tokio::test(start_paused = true)]
async fn a_fold_of_a_later_version_replaces_the_earlier_one_by_itself_and_never_the_other_way_round() {
    let (world, process) = folded(12).await;
    process.stop().await;
    let process = world.start(vec![&Later]);
    request(&world, 2).await;
    // Whoever reads meanwhile has the earlier fold's rows, all of them, and then the later one's.
    until("the later fold is live", || async {
        let mut snapshot = world.generations.snapshot().await.expect("a snapshot");
        let all = Select { model: "reports", filters: vec![], order: OrderBy::KEY, after: None, limit: 100 };
        let rows = snapshot.select(&all).await.expect("rows");
        let is_later = snapshot.head("reports").await.expect("a head").fold_version == 2;
        assert!(rows.len() >= 12 && rows.iter().all(|row| row.doc.contains("\"later\"") == is_later), "{rows:?}");
        process.follower("reports").position == 14
    })
    .await;
    let live = world.generations.heads().await.expect("heads").remove(0);
    assert_eq!((live.fold_version, live.generation, live.checkpoint.position), (2, 2, 14));
    process.stop().await;

    let process = world.start(vec![&Reports]);
    until("it is refused", || async { process.stalled("reports").is_some() }).await;
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    assert_eq!(world.generations.heads().await.expect("heads").remove(0).fold_version, 2);
    process.stop().await;
}

/// Reports as a new release folds them, which cannot take the events of one cause either.
struct Strict;

impl ReadModel for Strict {
    fn spec(&self) -> &'static ModelSpec {
        Later.spec()
    }
    fn feed(&self) -> Feed {
        Reports.feed()
    }
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Reports.keys(event)
    }
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if [4, 6].contains(&event.position) { Err(ports::Error::corrupt("too strict")) } else { Later.fold(event, rows) }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_already_does_not_hold_up_a_later_fold_and_what_is_not_does() {
    let world = World::new();
    ten_events(&world).await;
    let process = world.start(vec![&Reports]);
    until("all folded", || async { process.follower("reports").position == 10 }).await;
    process.stop().await;
    let fourth = world.events(Context::Reports).await.remove(3);
    let sixth = world.events(Context::Reports).await.remove(5);
    let park = async |event: &Recorded, since| {
        let claim = world.views.claim(Reports.spec()).await.expect("claimed").expect("nobody leads");
        let parked = ports::ParkedStream {
            stream: event.stream.clone(),
            position: event.position,
            sequence: 1,
            event_id: event.event_id,
            event_type: event.event_type.clone(),
            reason: "earlier".into(),
            since,
            asked: None,
        };
        let batch = ports::ViewBatch {
            spec: Reports.spec(),
            generation: claim.generation,
            term: claim.term,
            from: claim.checkpoint.position,
            to: claim.checkpoint,
            changes: vec![],
            tags: Default::default(),
            parking: vec![ports::Parking::Park(parked)],
        };
        world.views.apply(&batch).await.expect("parked");
    };
    let (first, second) = (world.clock.now(), world.clock.now() + std::time::Duration::from_secs(60));
    park(&fourth, first).await;
    let stop = CancellationToken::new();
    let refused = world.rebuilder().upgrade(&[&Strict], &stop).await.expect_err("the sixth is new");
    assert!(matches!(&refused, RebuildError::Poison(told) if told.contains("reports:6")), "{refused}");
    park(&sixth, second).await;
    assert_eq!(world.rebuilder().upgrade(&[&Strict], &stop).await.expect("upgraded"), ["reports"]);
    let live = world.generations.heads().await.expect("heads").remove(0);
    assert_eq!((live.fold_version, live.checkpoint.position), (2, 10));
    let mut parked = world.views.parked("reports", live.generation).await.expect("answered");
    parked.sort_by_key(|parked| parked.position);
    let told: Vec<_> = parked.iter().map(|parked| (parked.position, parked.since, parked.reason.as_str())).collect();
    assert_eq!(told, [(4, first, "corrupt: too strict"), (6, second, "corrupt: too strict")]);
}
