//! SQLite against the ports' contracts, and what only files can get wrong.

use std::sync::Arc;

use adapters::sqlite::{DataFolder, SqliteLog};
use domain::Context;
use jiff::{SignedDuration, Timestamp};
use ports::conformance::log::{append, commit, events, fresh_key, fresh_stream, keyed, request, to};
use ports::conformance::views as view;
use ports::{
    AppendOutcome, ChainHead, Error, EventLog, FollowerCheckpoints, HashChain, Keep, ManualClock, SystemClock, ViewStore,
    conformance, conformance_spec,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Executor};
use tempfile::TempDir;

struct Lab {
    root: TempDir,
    folder: DataFolder,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = DataFolder::open(root.path().join("data")).expect("opened");
        Self { root, folder }
    }

    async fn log(&self) -> SqliteLog {
        self.folder.log(Context::Units, Arc::new(SystemClock)).await.expect("a log")
    }

    /// A connection beside ours, for meddling.
    async fn meddle(&self, file: &str) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.root.path().join("data").join(file));
        options.connect().await.expect("connected")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_keeps_the_contract() {
    let lab = Lab::new();
    conformance::log::all(Arc::new(lab.log().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_views_keep_the_contract() {
    let lab = Lab::new();
    conformance::views::all(Arc::new(lab.folder.views().await.expect("views"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn generations_keep_the_contract() {
    let lab = Lab::new();
    conformance::generations::all(Arc::new(lab.folder.views().await.expect("views"))).await;
}

#[tokio::test]
async fn a_log_moves_and_is_renewed() {
    let (lab, other) = (Lab::new(), Lab::new());
    let (from, empty) = (lab.log().await, other.log().await);
    conformance::log::a_log_moves_to_an_empty_one_as_it_was(&from, &empty).await;
    conformance::log::a_renewed_log_takes_its_followers_along(&from).await;
}

#[tokio::test]
async fn a_log_can_be_held() {
    let lab = Lab::new();
    conformance::log::a_log_that_is_held_takes_nothing_until_it_is_let_go(Arc::new(lab.log().await)).await;
}

#[tokio::test]
async fn the_search_for_units_begins_at_the_cheapest_and_needs_no_sorting() {
    let lab = Lab::new();
    let views = lab.folder.views().await.expect("the views");
    views.prepare(&[&read_models::available_units::SPEC]).await.expect("prepared");
    let mut connection = lab.meddle("views.sqlite").await;
    for (filter, found) in [
        ("", "_1 (f_price_low>?)"),
        ("AND f_price_low <= 9 AND f_price_high >= 5", "_1 (f_price_low>? AND f_price_low<?)"),
        ("AND f_price_high >= 5", "_1 (f_price_low>?)"),
        ("AND f_city = 'lima'", "_7 (f_city=? AND f_price_low>?)"),
        ("AND f_property_id = 'x' AND f_area_m2 >= 50", "_8 (f_property_id=? AND f_price_low>?)"),
    ] {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT key, doc FROM v_available_units_1 WHERE f_price_low >= 0 {filter}
              ORDER BY f_price_low ASC NULLS FIRST, key ASC LIMIT 64"
        );
        let rows = sqlx::query(&sql).fetch_all(&mut connection).await.expect("explained");
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, "detail")).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("SEARCH") && plan.contains(found), "{sql}\n{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn a_folder_is_held_by_one_process_and_freed_with_its_last_store() {
    let Lab { root, folder } = Lab::new();
    let path = root.path().join("data");
    let log = folder.log(Context::Auth, Arc::new(SystemClock)).await.expect("a log");
    let second = DataFolder::open(&path).expect_err("held");
    assert!(matches!(second, Error::Conflict(_)));
    assert!(second.to_string().contains("another casitas holds"), "{second}");
    drop(folder);
    assert!(DataFolder::open(&path).is_err(), "the log still holds it");
    log.close().await;
    drop(log);
    DataFolder::open(&path).expect("free again");
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let Lab { root, folder } = Lab::new();
    let spec = conformance_spec!("restarted");
    let (log, views) =
        (folder.log(Context::Units, Arc::new(SystemClock)).await.expect("a log"), folder.views().await.expect("views"));
    let stream = fresh_stream(&log);
    commit(&log, &request(vec![to(&stream, 0, events(3))])).await;
    let term = log.claim_follower("policy").await.expect("claimed");
    let claim = view::lead(&views, spec).await;
    views.apply(&view::step(spec, &claim, 0, vec![view::put("a", 1, None, None)])).await.expect("applied");
    let head = log.head().await.expect("a head");
    drop((log, views, folder));

    let path = root.path().join("data");
    let folder = loop {
        // The pools close in the background.
        match DataFolder::open(&path) {
            Ok(folder) => break folder,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let log = folder.log(Context::Units, Arc::new(SystemClock)).await.expect("a log");
    assert_eq!(log.head().await.expect("a head"), head);
    assert_eq!(log.load(&stream, 0).await.expect("loaded").len(), 3);
    assert!(log.claim_follower("policy").await.expect("claimed") > term);
    let views = folder.views().await.expect("views");
    let again = views.claim(spec).await.expect("claimed").expect("free");
    assert_eq!((again.revision, again.checkpoint.position), (1, 1));
    assert!(again.term > claim.term);
}

#[tokio::test]
async fn the_file_itself_refuses_changes_to_history() {
    let lab = Lab::new();
    let log = lab.log().await;
    commit(&log, &request(vec![to(&fresh_stream(&log), 0, events(3))])).await;
    let mut head = ChainHead::start(Context::Units);
    let marks = head.extend(Context::Units, &log.scan(0, 10).await.expect("scanned")).expect("dense");
    log.add_link(0, &head, &marks).await.expect("added");
    let mut other = lab.meddle("units_db.sqlite").await;
    for (change, why) in [
        ("UPDATE events SET actor = 'x'", "append-only"),
        ("DELETE FROM events WHERE position = 3", "append-only"),
        ("UPDATE chain SET marks = X''", "append-only"),
        ("DELETE FROM chain", "append-only"),
        ("INSERT OR REPLACE INTO events SELECT * FROM events WHERE position = 2", "position"),
        (
            "INSERT INTO events SELECT aggregate_type, aggregate_id, 9, event_type, event_version, payload, metadata, 9,
                 'other', effective_on, recorded_at, actor, correlation_id, causation_id, traceparent
               FROM events WHERE position = 1",
            "position",
        ),
    ] {
        let refused = other.execute(change).await.expect_err("refused").to_string();
        assert!(refused.contains(why), "{change}: {refused}");
    }
    assert_eq!(log.read(0, 10).await.expect("read").len(), 3);
}

#[tokio::test]
async fn a_gap_is_corrupt_and_never_skipped() {
    let lab = Lab::new();
    let log = lab.log().await;
    commit(&log, &request(vec![to(&fresh_stream(&log), 0, events(3))])).await;
    let mut other = lab.meddle("units_db.sqlite").await;
    other.execute("DROP TRIGGER events_are_never_deleted").await.expect("dropped");
    other.execute("DELETE FROM events WHERE position = 2").await.expect("deleted");
    let answer = log.read(0, 10).await;
    assert!(matches!(answer, Err(Error::Corrupt(_))), "{answer:?}");
    assert!(matches!(log.read(1, 10).await, Err(Error::Corrupt(_))));
    assert_eq!(log.read(2, 10).await.expect("behind the gap").len(), 1);
}

#[tokio::test]
async fn http_keys_expire_and_the_keys_of_policies_stay() {
    let lab = Lab::new();
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    let log = lab.folder.log(Context::Units, clock.clone()).await.expect("a log");
    let (http, policy) = (fresh_key(Keep::Days30), fresh_key(Keep::Forever));
    commit(&log, &keyed(&log, &http)).await;
    commit(&log, &keyed(&log, &policy)).await;
    clock.set(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 30 - 1));
    assert!(log.find_key(&http.scope, &http.key).await.expect("read").is_some());
    clock.set(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 30 + 1));
    assert!(log.find_key(&http.scope, &http.key).await.expect("read").is_none());
    assert_eq!(log.keep_key(&http).await.expect("kept"), None, "an expired key is free");
    assert!(log.keep_key(&http).await.expect("kept").is_some());
    assert!(log.keep_key(&policy).await.expect("kept").is_some());
    clock.set(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 60 + 2));
    assert!(matches!(append(&log, &keyed(&log, &http)).await, AppendOutcome::Committed { .. }));
    assert!(matches!(append(&log, &keyed(&log, &http)).await, AppendOutcome::Replayed(_)));
    assert!(matches!(append(&log, &keyed(&log, &policy)).await, AppendOutcome::Replayed(_)));
}

#[tokio::test]
async fn a_clock_set_back_never_turns_recorded_time_back() {
    let lab = Lab::new();
    let clock = Arc::new(ManualClock::at("2024-06-01T00:00:00Z".parse().expect("a time")));
    let log = lab.folder.log(Context::Units, clock.clone()).await.expect("a log");
    commit(&log, &request(vec![to(&fresh_stream(&log), 0, events(1))])).await;
    clock.set(Timestamp::UNIX_EPOCH);
    commit(&log, &request(vec![to(&fresh_stream(&log), 0, events(1))])).await;
    let read = log.read(0, 10).await.expect("read");
    assert_eq!(read[0].recorded_at, read[1].recorded_at);
}

#[tokio::test]
async fn old_changes_are_trimmed_and_the_oldest_kept_is_named() {
    let lab = Lab::new();
    let views = lab.folder.views().await.expect("views");
    let spec = conformance_spec!("trimmed");
    let claim = view::lead(&views, spec).await;
    // As if 10,999 steps had been made.
    let mut other = lab.meddle("views.sqlite").await;
    other.execute("UPDATE view_heads SET revision = 10999, position = 10999").await.expect("updated");
    let history = "INSERT INTO view_changes
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10999) SELECT 'trimmed', 1, n, '[]' FROM n";
    other.execute(history).await.expect("filled");
    views.apply(&view::step(spec, &claim, 10_999, vec![view::put("a", 1, None, None)])).await.expect("applied");
    let head = views.heads().await.expect("heads").remove(0);
    assert_eq!((head.revision, head.oldest_change), (11_000, 1_001));
    let kept = views.changes("trimmed", 1, 0, 20_000).await.expect("changes");
    assert_eq!((kept.len(), kept[0].revision), (10_000, 1_001));
}
