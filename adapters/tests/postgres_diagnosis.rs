//! Who stands in whose way, and who leads what, as an operator's role sees it.

mod cluster;

use adapters::postgres::{Databases, Diagnosis};
use cluster::Cluster;
use domain::Context;
use ports::conformance::log::{events, fresh_stream, request, to};
use ports::conformance::views as view;
use ports::{EventLog, FollowerCheckpoints, conformance_spec};
use sqlx::Executor;

async fn cluster() -> Cluster {
    let cluster = Cluster::bare();
    cluster.migrate(&Databases { logs: vec![Context::Units], views: true }).await;
    cluster
}

#[tokio::test]
async fn a_session_that_keeps_writers_waiting_is_named_by_its_process_id() {
    let cluster = cluster().await;
    let diagnosis = Diagnosis::connect(&cluster.server("casitas_command"));
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut owner).await.expect("an id");
    let of_owner = async || {
        let mut found = diagnosis.blockers().await.expect("asked");
        found.retain(|blocker| blocker.pid == pid);
        found
    };
    assert_eq!(of_owner().await, []);

    owner.execute("BEGIN; SELECT pg_advisory_xact_lock(7161131779257103137)").await.expect("locked");
    let found = of_owner().await;
    assert_eq!((found.len(), found[0].what.as_str(), found[0].waiting.len()), (1, "append lock", 0), "{found:?}");
    assert!(found[0].database.starts_with("units_db") && found[0].role == "casitas_owner", "{found:?}");

    let log = cluster.log(Context::Units);
    let waiting = tokio::spawn(async move {
        // It waits for a second and is then refused; so does the next.
        for _ in 0..5 {
            let _ = log.append(&[request(vec![to(&fresh_stream(log.as_ref()), 0, events(1))])]).await;
        }
    });
    weather_until(async || of_owner().await.iter().any(|blocker| !blocker.waiting.is_empty())).await;
    owner.execute("ROLLBACK").await.expect("freed");
    assert_eq!(of_owner().await, []);
    waiting.await.expect("ended");
}

async fn weather_until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..10 {
        if holds().await {
            return;
        }
    }
    panic!("never happened");
}

#[tokio::test]
async fn a_follower_is_led_from_its_claim_to_the_end_of_its_process() {
    let cluster = cluster().await;
    let diagnosis = Diagnosis::connect(&cluster.server("casitas_command"));
    let spec = conformance_spec!("observed");
    let led = async |context, name: &str| !diagnosis.led(context, &[name, "nobody"]).await.expect("asked").is_empty();
    let (views, log) = (cluster.views(), cluster.log(Context::Units));
    assert!(!led(None, "observed").await && !led(Some(Context::Units), "timer:x").await);
    view::lead(views.as_ref(), spec).await;
    log.claim_follower("timer:x").await.expect("claimed").expect("free");
    assert!(led(None, "observed").await && led(Some(Context::Units), "timer:x").await);
    // Of another database the same name is another follower.
    assert!(!led(None, "timer:x").await);
    // Its session is ended under it: it has its lead back though it does nothing.
    let mut owner = cluster.connect("casitas_owner", "units_db").await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND (classid::bigint << 32) | objid::bigint IN (hashtextextended('casitas:lead:observed', 0),
            hashtextextended('casitas:lead:timer:x', 0))";
    let ended: i64 = sqlx::query_scalar(end).fetch_one(&mut owner).await.expect("ended");
    assert!(ended >= 1);
    weather_until(async || {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        led(None, "observed").await && led(Some(Context::Units), "timer:x").await
    })
    .await;
    drop((views, log));
    for _ in 0..100 {
        if !led(None, "observed").await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it is still led");
}
