//! The Postgres log against the port's contract, and what only a server can get wrong.

mod cluster;
mod weather;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use adapters::postgres::{Databases, PostgresLog};
use adapters::sqlite::DataFolder;
use async_trait::async_trait;
use cluster::Cluster;
use domain::Context;
use ports::conformance::log::{
    Quitters, Storm, append, commit, events, followers_skip_nothing_in_a_storm, fresh_key, fresh_stream, head, keyed,
    request, to,
};
use ports::{
    AppendOutcome, ChainHead, Checkpoint, Error, EventLog, FollowerCheckpoints, HashChain, Import, Keep, SystemClock,
    Transfer, conformance,
};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use weather::{Proxy, Weather, until};

const UNITS: &[Context] = &[Context::Units];
const LOCK: &str = "SELECT pg_advisory_xact_lock(7161131779257103137)";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_keeps_the_contract() {
    let cluster = Cluster::with_logs(UNITS).await;
    conformance::log::all(cluster.log(Context::Units)).await;
}

#[tokio::test]
async fn a_log_moves_to_the_other_mode_and_back_as_it_was() {
    let (cluster, second) = (Cluster::with_logs(UNITS).await, Cluster::with_logs(UNITS).await);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = DataFolder::open(folder.path().join("data")).expect("opened");
    let file = folder.log(Context::Units, Arc::new(SystemClock)).await.expect("a log");
    let postgres = PostgresLog::connect(Context::Units, &cluster.server("casitas_owner"));
    let back = PostgresLog::connect(Context::Units, &second.server("casitas_owner"));
    conformance::log::a_log_moves_to_an_empty_one_as_it_was(&postgres, &file).await;
    conformance::log::a_log_moves_to_an_empty_one_as_it_was(&file, &back).await;
    conformance::log::a_renewed_log_takes_its_followers_along(&back).await;
}

#[tokio::test]
async fn a_log_can_be_held() {
    let cluster = Cluster::with_logs(UNITS).await;
    // As an operator holds it.
    let log = PostgresLog::connect(Context::Units, &cluster.server("casitas_command"));
    conformance::log::a_log_that_is_held_takes_nothing_until_it_is_let_go(Arc::new(log)).await;
}

#[tokio::test]
async fn no_service_may_import() {
    let cluster = Cluster::with_logs(UNITS).await;
    let import = Import { incarnation: Uuid::now_v7(), ..Import::default() };
    for user in ["casitas_command", "casitas_projector", "casitas_worker"] {
        let log = PostgresLog::connect(Context::Units, &cluster.server(user));
        let refused = log.import(&import).await;
        assert!(matches!(refused, Err(Error::Rejected { .. })), "{user}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_handles_write_and_a_follower_skips_nothing() {
    let cluster = Cluster::with_logs(UNITS).await;
    let write = |log: Arc<PostgresLog>| {
        tokio::spawn(async move {
            for _ in 0..100 {
                commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, events(1))])).await;
            }
        })
    };
    let writers = [write(cluster.log(Context::Units)), write(cluster.log(Context::Units))];
    let follower = cluster.log(Context::Units);
    let mut after = 0;
    let follow = async {
        while after < 200 {
            // `read` itself refuses a gap.
            after += follower.read(after, 100).await.expect("no gap").len() as u64;
        }
    };
    timeout(Duration::from_secs(60), follow).await.expect("all are delivered");
    for writer in writers {
        writer.await.expect("no panic");
    }
    assert_eq!(head(follower.as_ref()).await, 200);
}

/// Sessions of the owner that take the append lock and the next position, as the append functions do, and keep neither.
struct OwnersSessions {
    cluster: Cluster,
    idle: Mutex<Vec<PgConnection>>,
}

#[async_trait]
impl Quitters for OwnersSessions {
    async fn give_up(&self, held: Duration, is_cut_off: bool) {
        let idle = self.idle.lock().expect("not poisoned").pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.cluster.connect("casitas_owner", "units_db").await,
        };
        let begin = format!(
            "BEGIN; {LOCK};
             INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position, event_id,
                                 effective_on, recorded_at, actor, correlation_id)
             SELECT 'unit', gen_random_uuid()::text, 1, 'GivenUp', '1', '{{}}'::json, coalesce(max(position), 0) + 1,
                    gen_random_uuid(), current_date, clock_timestamp(), 'test', gen_random_uuid() FROM events"
        );
        session.execute(sqlx::raw_sql(&begin)).await.expect("begun, and a position taken");
        tokio::time::sleep(held).await;
        // Otherwise dropped as it is: the socket closes in the middle of the transaction.
        if !is_cut_off {
            session.execute(sqlx::raw_sql("ROLLBACK")).await.expect("rolled back");
            self.idle.lock().expect("not poisoned").push(session);
        }
    }
}

/// R4 of reliability-security.md. `CASITAS_FULL=1` for the 50,000 events of it; `CASITAS_SEED` for the choices of an
/// earlier run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_four_writers_pause_and_give_up_and_followers_skip_nothing() {
    const WRITERS: usize = 24;
    let variable = |name: &str| std::env::var(name).ok();
    let events = if variable("CASITAS_FULL").is_some_and(|full| full == "1") { 50_000 } else { 3_000 };
    let seed: u64 = variable("CASITAS_SEED").and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let storm = Storm { writers: WRITERS, followers: 4, events, seed };
    let cluster = Cluster::with_logs(UNITS).await;
    // Two writers each: as many connections as a handle keeps.
    let handles: Vec<Arc<dyn EventLog>> =
        (0..WRITERS / 2).map(|_| cluster.log(Context::Units) as Arc<dyn EventLog>).collect();
    let quitters = Arc::new(OwnersSessions { cluster, idle: Mutex::default() });
    let weathered = followers_skip_nothing_in_a_storm(&handles, quitters, &storm).await;
    println!("seed {seed}: {weathered:?}");
    assert!(weathered.events >= events, "seed {seed}: {weathered:?}");
    let fewest = events / 200;
    assert!(weathered.rolled_back > fewest && weathered.cut_off > fewest / 3, "seed {seed}: {weathered:?}");
}

/// The deterministic late commit: a transaction has taken its positions and not committed; a second append must not
/// become visible before it.
#[tokio::test]
async fn a_late_commit_is_never_skipped() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, events(1))])).await;

    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let mut late = owner.begin().await.expect("begun");
    late.execute(LOCK).await.expect("locked");
    late.execute(
        "INSERT INTO events SELECT aggregate_type, 'late', 1, event_type, event_version, payload, metadata, position + 1,
             gen_random_uuid(), effective_on, recorded_at, actor, correlation_id, causation_id, traceparent FROM events",
    )
    .await
    .expect("inserted");

    let racing = {
        let log = log.clone();
        tokio::spawn(
            async move { commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, events(1))])).await },
        )
    };
    until("the second append waits for the lock", async || {
        let mut watcher = cluster.connect("casitas_owner", "units_db").await;
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
              WHERE NOT l.granted AND l.locktype = 'advisory' AND d.datname = current_database()",
        )
        .fetch_one(&mut watcher)
        .await
        .expect("counted");
        waiting == 1
    })
    .await;
    assert_eq!(log.read(1, 10).await.expect("read").len(), 0, "nothing is visible behind the open transaction");
    late.commit().await.expect("committed");
    assert_eq!(racing.await.expect("no panic"), (3, 3), "the waiting append saw the late one");
    let read: Vec<_> = log.read(1, 10).await.expect("read").iter().map(|event| event.stream.id.len()).collect();
    assert_eq!(read, [4, 36], "the late event comes first");
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_is_unavailable_within_seconds_and_writes_nothing() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let mut holder = owner.begin().await.expect("begun");
    holder.execute(LOCK).await.expect("locked");
    let started = Instant::now();
    let command = request(vec![to(&fresh_stream(log.as_ref()), 0, events(1))]);
    let answer = log.append(std::slice::from_ref(&command)).await;
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    holder.rollback().await.expect("rolled back");
    assert_eq!(commit(log.as_ref(), &command).await, (1, 1));
}

#[tokio::test]
async fn positions_are_not_given_out_in_a_transaction_with_an_old_snapshot() {
    let cluster = Cluster::with_logs(UNITS).await;
    let mut writer = cluster.connect("casitas_command", "units_db").await;
    for (function, parameters) in [("casitas_accept", 19), ("casitas_append", 27), ("casitas_keep", 5)] {
        writer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begun");
        let call = format!("SELECT * FROM {function}({})", vec!["'{}'"; parameters].join(", "));
        let refused = writer.execute(call.as_str()).await.expect_err("refused").to_string();
        assert!(refused.contains("read committed"), "{refused}");
        writer.execute("ROLLBACK").await.expect("rolled back");
    }
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_an_unknown_outcome_and_the_resend_commits_once() {
    let cluster = Cluster::with_logs(UNITS).await;
    let (host, port) = cluster.host_and_port();
    let proxy = Proxy::start(&host, port).await;
    let address = format!("127.0.0.1:{}", proxy.port);
    let log = Arc::new(PostgresLog::connect(Context::Units, &cluster.server_at(&address, "casitas_command")));
    let direct = cluster.log(Context::Units);

    // The append is held up inside the server, its connection is cut, then it may commit.
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let command = keyed(log.as_ref(), &fresh_key(Keep::Days30));
    let mut holder = owner.begin().await.expect("begun");
    holder.execute(LOCK).await.expect("locked");
    let lost = {
        let (log, command) = (log.clone(), command.clone());
        tokio::spawn(async move { log.append(&[command]).await })
    };
    until("the append is under way", async || {
        let mut watcher = cluster.connect("casitas_owner", "units_db").await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watcher).await.expect("counted") == 1
    })
    .await;
    proxy.make(Weather::Cut);
    let answer = lost.await.expect("no panic");
    assert!(matches!(answer, Err(Error::UnknownOutcome { .. })), "{answer:?}");
    let away = log.head().await;
    assert!(matches!(away, Err(Error::Unavailable { .. })), "{away:?}");
    holder.commit().await.expect("released");
    until("the server finished the append", async || head(direct.as_ref()).await == 2).await;

    proxy.make(Weather::Fair);
    let resent = log.append(std::slice::from_ref(&command)).await.expect("resent").remove(0);
    assert!(matches!(resent, AppendOutcome::Committed { first: 1, last: 2, .. }), "{resent:?}");
    assert_eq!(head(direct.as_ref()).await, 2);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_noticed_within_the_deadline() {
    let cluster = Cluster::with_logs(UNITS).await;
    let (host, port) = cluster.host_and_port();
    let proxy = Proxy::start(&host, port).await;
    let address = format!("127.0.0.1:{}", proxy.port);
    let log = PostgresLog::connect(Context::Units, &cluster.server_at(&address, "casitas_command"));
    assert_eq!(head(&log).await, 0);
    proxy.make(Weather::Silent);
    let stream = fresh_stream(&log);
    let command = request(vec![to(&stream, 0, events(1))]);
    let calls = async {
        assert!(matches!(log.head().await, Err(Error::Unavailable { .. })));
        assert!(matches!(log.load(&stream, 0).await, Err(Error::Unavailable { .. })));
        let answer = log.append(&[command]).await;
        assert!(answer.is_err_and(|error| error.is_transient()));
        assert!(log.claim_follower("policy").await.is_err_and(|error| error.is_transient()));
    };
    timeout(Duration::from_secs(25), calls).await.expect("every call ends");
    // Old connections stay swallowed; only new ones work.
    proxy.make(Weather::Fair);
    until("the log answers again", async || log.head().await.is_ok()).await;
    until("streams are loaded again", async || log.load(&stream, 0).await.is_ok()).await;
}

#[tokio::test]
async fn a_process_starts_before_its_database_is_there() {
    let cluster = Cluster::bare();
    let log = cluster.log(Context::Units);
    let answer = log.head().await;
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    cluster.migrate(&Databases { logs: UNITS.to_vec(), views: false }).await;
    assert_eq!(head(log.as_ref()).await, 0);
}

#[tokio::test]
async fn migrations_may_run_twice_and_at_once() {
    let cluster = Cluster::bare();
    let databases = Databases { logs: vec![Context::Reports], views: true };
    tokio::join!(cluster.migrate(&databases), cluster.migrate(&databases));
    let incarnation = cluster.log(Context::Reports).head().await.expect("a head").incarnation;
    cluster.migrate(&databases).await;
    assert_eq!(cluster.log(Context::Reports).head().await.expect("a head").incarnation, incarnation);
}

#[tokio::test]
async fn writers_append_through_the_function_and_change_nothing() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    commit(log.as_ref(), &keyed(log.as_ref(), &fresh_key(Keep::Forever))).await;
    for role in ["casitas_command", "casitas_projector", "casitas_worker"] {
        for sql in [
            "UPDATE events SET actor = 'x'",
            "DELETE FROM events",
            "TRUNCATE events",
            "INSERT INTO events SELECT * FROM events",
            "ALTER TABLE events DISABLE TRIGGER ALL",
            "UPDATE idempotency_keys SET request_hash = 'x'",
            "DELETE FROM idempotency_keys",
            "DELETE FROM subject_keys",
            "UPDATE chain SET marks = ''",
            "DELETE FROM chain",
            "UPDATE log_incarnation SET incarnation = gen_random_uuid()",
            "CREATE TABLE mine (x int)",
        ] {
            let refusal = cluster.refusal(role, "units_db", sql).await;
            assert!(refusal.contains("permission denied") || refusal.contains("must be owner"), "{role} {sql}: {refusal}");
        }
    }
    assert_eq!(log.read(0, 10).await.expect("read").len(), 2);
}

/// One link over all there is.
async fn seal(log: &PostgresLog) {
    let mut head = ChainHead::start(log.context());
    let marks = head.extend(log.context(), &log.scan(0, 100).await.expect("scanned")).expect("dense");
    log.add_link(0, &head, &marks).await.expect("added");
}

#[tokio::test]
async fn not_even_the_owner_changes_history() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, events(2))])).await;
    seal(log.as_ref()).await;
    let events = ["UPDATE events SET actor = 'x'", "DELETE FROM events", "TRUNCATE events"];
    let links = ["UPDATE chain SET hash = sha256(hash)", "DELETE FROM chain", "TRUNCATE chain"];
    for sql in events.into_iter().chain(links) {
        for replica in ["", "SET session_replication_role = replica; "] {
            let mut owner = cluster.connect("casitas_owner", "units_db").await;
            let refused = sqlx::raw_sql(&format!("{replica}{sql}")).execute(&mut owner).await.expect_err("refused");
            assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
        }
    }
    assert_eq!(log.read(0, 10).await.expect("read").len(), 2);
}

#[tokio::test]
async fn workers_write_the_reports_log_only_and_queries_reach_no_log() {
    let cluster = Cluster::with_logs(&[Context::Units, Context::Reports]).await;
    let worker = |context| PostgresLog::connect(context, &cluster.server("casitas_worker"));
    let (units, reports) = (worker(Context::Units), worker(Context::Reports));
    commit(&reports, &request(vec![to(&fresh_stream(&reports), 0, events(1))])).await;
    assert_eq!(head(&units).await, 0, "it may read");
    let refused = units.append(&[request(vec![to(&fresh_stream(&units), 0, events(1))])]).await.expect_err("refused");
    assert!(matches!(refused, Error::Rejected { .. }), "{refused:?}");
    let told = refused.chain();
    assert!(told.contains("not allowed to casitas_worker"), "{told}");
    assert_eq!(told.matches("permission denied").count(), 1, "{told}");
    for database in ["units_db", "reports_db"] {
        let refused = cluster.try_connect("casitas_query", database).await.expect_err("refused").to_string();
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

#[tokio::test]
async fn the_roles_have_their_timeouts() {
    let cluster = Cluster::with_logs(UNITS).await;
    for role in ["casitas_command", "casitas_projector", "casitas_worker"] {
        let mut connection = cluster.connect(role, "units_db").await;
        for (setting, expected) in
            [("statement_timeout", "5s"), ("lock_timeout", "1s"), ("idle_in_transaction_session_timeout", "5s")]
        {
            let value: String =
                sqlx::query_scalar(&format!("SHOW {setting}")).fetch_one(&mut connection).await.expect("shown");
            assert_eq!(value, expected, "{role} {setting}");
        }
    }
}

#[tokio::test]
async fn leadership_is_one_process_and_passes_on_when_its_connection_dies() {
    let cluster = Cluster::with_logs(UNITS).await;
    let (one, two) = (cluster.log(Context::Units), cluster.log(Context::Units));
    let first = one.claim_follower("policy").await.expect("claimed").expect("free");
    assert_eq!(two.claim_follower("policy").await.expect("asked"), None);
    assert!(two.claim_follower("another").await.expect("asked").is_some());

    let kill = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let killed: i64 = sqlx::query_scalar(kill).fetch_one(&mut owner).await.expect("killed");
    assert_eq!(killed, 2);
    let mut taken = None;
    until("the other takes over", async || {
        taken = two.claim_follower("policy").await.unwrap_or_default();
        taken.is_some()
    })
    .await;
    let second = taken.expect("taken over");
    assert!(second > first);
    assert_eq!(one.claim_follower("policy").await.expect("asked"), None, "the old leader notices");
    let to = Checkpoint { incarnation: Uuid::nil(), position: 1, event_id: None };
    let deposed = one.advance_follower("policy", first, None, &to).await;
    assert!(matches!(deposed, Err(Error::Conflict(_))), "{deposed:?}");
    two.advance_follower("policy", second, None, &to).await.expect("advanced");
}

#[tokio::test]
async fn a_gap_is_corrupt_and_never_skipped() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, events(3))])).await;
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    owner.execute("ALTER TABLE events DISABLE TRIGGER ALL").await.expect("disabled");
    owner.execute("DELETE FROM events WHERE position = 2").await.expect("deleted");
    assert!(matches!(log.read(0, 10).await, Err(Error::Corrupt(_))));
    assert!(matches!(log.read(1, 10).await, Err(Error::Corrupt(_))));
}

#[tokio::test]
async fn http_keys_expire_and_the_keys_of_policies_stay() {
    let cluster = Cluster::with_logs(UNITS).await;
    let log = cluster.log(Context::Units);
    let (http, policy) = (fresh_key(Keep::Days30), fresh_key(Keep::Forever));
    commit(log.as_ref(), &keyed(log.as_ref(), &http)).await;
    commit(log.as_ref(), &keyed(log.as_ref(), &policy)).await;
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    owner.execute("UPDATE idempotency_keys SET created_at = now() - interval '31 days'").await.expect("aged");
    assert!(log.find_key(&http.scope, &http.key).await.expect("read").is_none());
    assert!(log.find_key(&policy.scope, &policy.key).await.expect("read").is_some());
    let taken_over = append(log.as_ref(), &keyed(log.as_ref(), &http)).await;
    assert!(matches!(taken_over, AppendOutcome::Committed { .. }), "an expired key that still stands is free");
    owner.execute("UPDATE idempotency_keys SET created_at = now() - interval '31 days'").await.expect("aged");
    assert_eq!(log.keep_key(&http).await.expect("kept"), None, "also for who appends nothing");
    assert!(log.keep_key(&http).await.expect("kept").is_some());
    assert!(log.keep_key(&policy).await.expect("kept").is_some());
    owner.execute("UPDATE idempotency_keys SET created_at = now() - interval '31 days'").await.expect("aged");
    cluster.migrate(&Databases { logs: UNITS.to_vec(), views: false }).await;
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM idempotency_keys").fetch_one(&mut owner).await.expect("counted");
    assert_eq!(left, 1, "a migration sweeps what has expired");
    assert!(matches!(append(log.as_ref(), &keyed(log.as_ref(), &http)).await, AppendOutcome::Committed { .. }));
    assert!(matches!(append(log.as_ref(), &keyed(log.as_ref(), &http)).await, AppendOutcome::Replayed(_)));
    assert!(matches!(append(log.as_ref(), &keyed(log.as_ref(), &policy)).await, AppendOutcome::Replayed(_)));
}
