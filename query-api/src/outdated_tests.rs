//! A public answer that has changed may be served for a moment: when, to whom, and never beyond what.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};

use crate::ViewPrincipals;
use crate::feed::STALE_AFTER;
use crate::hot::HotWriter;
use crate::lane::{Lane, Reach};
use crate::query::Sharing;
use crate::reader::{Served, Source, Wish};
use crate::stage::authenticator;
use crate::testing::{Everything, OneRow, Replica, START, UNITS, second, settle, tags, value, wish};

async fn ask(replica: &Replica, sharing: Sharing, wish: &Wish) -> Served {
    replica.reader.read(Arc::new(OneRow("a", sharing)), wish).await.expect("an answer").expect("a row")
}

async fn public(replica: &Replica) -> Served {
    ask(replica, Sharing::Public, &Wish::default()).await
}

fn spawn(replica: &Arc<Replica>, sharing: Sharing, wish: Wish) -> JoinHandle<Served> {
    let replica = replica.clone();
    tokio::spawn(async move { ask(&replica, sharing, &wish).await })
}

fn spawn_public(replica: &Arc<Replica>) -> JoinHandle<Served> {
    spawn(replica, Sharing::Public, Wish::default())
}

fn seen(served: &Served) -> (Source, Value) {
    (served.source, value(served)["row"].clone())
}

async fn change(replica: &Replica, row: Value) -> u64 {
    let position = replica.views.write(&UNITS, "a", row);
    replica.poll().await;
    position
}

fn computations(replica: &Replica) -> usize {
    replica.views.snapshots.load(Ordering::SeqCst)
}

/// Row 1 is kept, row 2 is in the views and known to the feed, and the first who asked computes it for as long as the gate is
/// closed.
async fn replacing(first: Value) -> (Arc<Replica>, JoinHandle<Served>, OwnedRwLockWriteGuard<()>) {
    let replica = Arc::new(Replica::alone().await);
    change(&replica, first).await;
    public(&replica).await;
    assert_eq!(public(&replica).await.source, Source::Memory);
    change(&replica, json!(2)).await;
    let gate = replica.views.gate.clone().write_owned().await;
    let leader = spawn_public(&replica);
    settle().await;
    (replica, leader, gate)
}

/// The feed goes on reading, nothing changes.
async fn pass(replica: &Replica, time: Duration) {
    for _ in 0..time.as_millis() / 50 {
        advance(Duration::from_millis(50)).await;
        replica.poll().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_computes_the_new_answer_and_the_others_have_the_old_one_meanwhile() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    for _ in 0..31 {
        assert_eq!(seen(&public(&replica).await), (Source::Outdated, json!(1)));
    }
    drop(gate);
    assert_eq!(seen(&leader.await.expect("read")), (Source::Computed, json!(2)));
    assert_eq!(seen(&public(&replica).await), (Source::Memory, json!(2)));
    assert_eq!(computations(&replica), 2);
}

#[tokio::test(start_paused = true)]
async fn who_shows_a_position_is_never_served_outdated_even_when_the_old_answer_has_reached_it() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    let reads = [1, 2].map(|position| spawn(&replica, Sharing::Public, wish(position, Duration::from_secs(2))));
    settle().await;
    assert!(reads.iter().all(|read| !read.is_finished()));
    drop(gate);
    for read in reads {
        assert_eq!(value(&read.await.expect("read"))["row"], json!(2));
    }
    leader.await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_public_is_never_served_outdated() {
    for sharing in [Sharing::Shared, Sharing::Process] {
        let (replica, leader, gate) = replacing(json!(1)).await;
        let read = spawn(&replica, sharing, Wish::default());
        settle().await;
        assert!(!read.is_finished(), "{sharing:?}");
        drop(gate);
        assert_eq!(value(&read.await.expect("read"))["row"], json!(2), "{sharing:?}");
        leader.await.expect("read");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outdated_answer_ends_a_second_after_the_feed_last_proved_it_whatever_was_polled_since() {
    let replica = Arc::new(Replica::alone().await);
    change(&replica, json!(1)).await;
    public(&replica).await;
    pass(&replica, Duration::from_millis(500)).await;
    // This proves it, half a second after it was computed.
    let proved = Instant::now();
    assert_eq!(public(&replica).await.source, Source::Memory);
    pass(&replica, Duration::from_millis(100)).await;
    change(&replica, json!(2)).await;
    let gate = replica.views.gate.clone().write_owned().await;
    let leader = spawn_public(&replica);
    settle().await;
    while proved.elapsed() < STALE_AFTER {
        let served = public(&replica).await;
        assert_eq!(seen(&served), (Source::Outdated, json!(1)), "{:?}", proved.elapsed());
        let known_at = served.known_at.expect("it is known");
        let age_us = served.now.duration_since(known_at).as_micros();
        assert_eq!(age_us, i128::try_from(proved.elapsed().as_micros()).expect("small"), "Nginx counts from the proof");
        pass(&replica, Duration::from_millis(50)).await;
    }
    assert!(!replica.reader.feed().is_stale());
    let late = spawn_public(&replica);
    settle().await;
    assert!(!late.is_finished(), "the second is over: it waits");
    drop(gate);
    assert_eq!(value(&late.await.expect("read"))["row"], json!(2));
    leader.await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_asked_for_within_the_last_second_is_not_served_outdated() {
    let replica = Arc::new(Replica::alone().await);
    change(&replica, json!(1)).await;
    public(&replica).await;
    pass(&replica, Duration::from_secs(1)).await;
    change(&replica, json!(2)).await;
    let gate = replica.views.gate.clone().write_owned().await;
    let reads = [spawn_public(&replica), spawn_public(&replica)];
    settle().await;
    assert!(reads.iter().all(|read| !read.is_finished()));
    drop(gate);
    for read in reads {
        assert_eq!(value(&read.await.expect("read"))["row"], json!(2));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outdated_answer_ends_with_its_hold() {
    let (replica, leader, gate) = replacing(json!({"expires": START + 10})).await;
    assert_eq!(public(&replica).await.source, Source::Outdated);
    replica.clock.set(second(10));
    let late = spawn_public(&replica);
    settle().await;
    assert!(!late.is_finished());
    drop(gate);
    assert_eq!(value(&late.await.expect("read"))["row"], json!(2));
    leader.await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn an_outdated_answer_ends_with_a_new_term_a_new_generation_and_a_gap() {
    for what in ["term", "generation", "gap"] {
        let (replica, leader, gate) = replacing(json!(1)).await;
        assert_eq!(public(&replica).await.source, Source::Outdated);
        match what {
            "term" => replica.views.edit(&UNITS, |head| head.term += 1),
            "generation" => replica.views.edit(&UNITS, |head| head.generation += 1),
            _ => {
                replica.views.write(&UNITS, "b", json!(1));
                replica.views.write(&UNITS, "b", json!(2));
                replica.views.forget_changes_before(&UNITS, 4);
            }
        }
        replica.poll().await;
        let late = spawn_public(&replica);
        settle().await;
        assert!(!late.is_finished(), "{what}");
        drop(gate);
        late.await.expect("read");
        leader.await.expect("read");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_poll_for_a_second_nothing_outdated_is_served() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    advance(STALE_AFTER).await;
    let late = spawn_public(&replica);
    settle().await;
    assert!(!late.is_finished());
    drop(gate);
    assert_eq!(value(&late.await.expect("read"))["row"], json!(2));
    leader.await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn a_computation_that_fails_is_tried_again_by_the_next() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    leader.abort();
    replica.views.down.store(true, Ordering::SeqCst);
    drop(gate);
    settle().await;
    // The flight went on without its request; what it found is current.
    assert_eq!(seen(&public(&replica).await), (Source::Memory, json!(2)));
    replica.views.down.store(false, Ordering::SeqCst);
    change(&replica, json!(3)).await;
    replica.views.down.store(true, Ordering::SeqCst);
    assert!(replica.reader.read(Arc::new(OneRow("a", Sharing::Public)), &Wish::default()).await.is_err());
    replica.views.down.store(false, Ordering::SeqCst);
    assert_eq!(seen(&public(&replica).await), (Source::Computed, json!(3)));
}

#[tokio::test(start_paused = true)]
async fn what_has_another_in_its_place_is_not_served_by_any_way() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    let old = public(&replica).await.entry;
    let feed = replica.reader.feed();
    assert!(old.serve(feed, replica.reader.now(), true).is_some());
    drop(gate);
    leader.await.expect("read");
    change(&replica, json!(3)).await;
    let gate = replica.views.gate.clone().write_owned().await;
    let next = spawn_public(&replica);
    settle().await;
    assert_eq!(seen(&public(&replica).await), (Source::Outdated, json!(2)));
    assert!(
        old.serve(feed, replica.reader.now(), true).is_none() && old.serve_outdated(feed, replica.reader.now()).is_none()
    );
    drop(gate);
    next.await.expect("read");
}

#[tokio::test(start_paused = true)]
async fn the_shortcut_serves_outdated_what_the_route_would_and_leaves_the_computing_to_it() {
    let (replica, leader, gate) = replacing(json!(1)).await;
    let nobody = authenticator(Arc::new(ViewPrincipals::new(replica.reader.clone())));
    let (lane, kept) = (Lane::default(), public(&replica).await.entry);
    lane.keep(&"/a".parse().expect("a uri"), "/a", Reach::Public, &kept, true);
    lane.keep(&"/b".parse().expect("a uri"), "/b", Reach::Allowed(|_| true), &kept, true);
    let answer = |request: axum::http::request::Builder| {
        lane.answer(&replica.reader, &nobody, &request.body(Body::empty()).expect("a request")).map(|(response, _)| response)
    };
    let outdated = answer(Request::get("/a")).expect("the old one");
    let header = |name: &str| outdated.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!((header("x-cache"), header("cache-status")), (Some("HIT"), Some("casitas; hit; ttl=0; detail=updating")));
    assert_eq!(header("x-accel-expires"), Some(format!("@{START}").as_str()), "known to be true in this second");
    assert!(answer(Request::get("/a").header("casitas-min-position", "units:1")).is_none());
    assert!(answer(Request::get("/b")).is_none(), "nobody is nobody");
    // Three quarters of a second later the proof is of the second before: Nginx must not keep it.
    replica.clock.set("2027-01-15T08:00:00.500Z".parse().expect("an instant"));
    pass(&replica, Duration::from_millis(750)).await;
    let later = answer(Request::get("/a")).expect("the old one");
    assert_eq!(later.headers().get("x-accel-expires"), None);
    drop(gate);
    leader.await.expect("read");
    assert!(answer(Request::get("/a")).is_none(), "another is in its place");
}

#[tokio::test(start_paused = true)]
async fn a_second_that_nothing_is_known_of_yet_is_looked_at_for_nginx() {
    let replica = Replica::alone().await;
    change(&replica, json!(1)).await;
    public(&replica).await;
    let asked = || replica.reader.feed().is_asked();
    let at = |text: &str| replica.clock.set(text.parse().expect("an instant"));
    at("2027-01-15T08:00:00.950Z");
    assert_eq!(public(&replica).await.source, Source::Memory);
    assert!(!asked(), "it is known of this second");
    at("2027-01-15T08:00:01.040Z");
    advance(Duration::from_millis(90)).await;
    assert_eq!(ask(&replica, Sharing::Shared, &Wish::default()).await.source, Source::Memory);
    assert!(!asked(), "Nginx keeps no such thing");
    public(&replica).await;
    assert!(asked());
    replica.poll().await;
    public(&replica).await;
    assert!(!asked());
}

/// So many clients ask one after the other, each as fast as it is answered, for a second in which the row changes every 5 ms;
/// answers how often it was computed and the oldest that was seen, in changes.
async fn under_changes(clients: usize, slowness_ms: u64) -> (usize, u64) {
    let replica = Arc::new(Replica::alone().await);
    change(&replica, json!(0)).await;
    public(&replica).await;
    replica.views.slowness_ms.store(slowness_ms, Ordering::SeqCst);
    let before = computations(&replica);
    let ends = Instant::now() + Duration::from_secs(1);
    let clients: Vec<JoinHandle<u64>> = (0..clients)
        .map(|_| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let mut oldest = 0;
                while Instant::now() < ends {
                    let newest = replica.views.row(&UNITS, "a").as_u64().expect("a number");
                    let shown = value(&public(&replica).await)["row"].as_u64().expect("a number");
                    oldest = oldest.max(newest.saturating_sub(shown));
                    sleep(Duration::from_millis(1)).await;
                }
                oldest
            })
        })
        .collect();
    for row in 1..=200 {
        sleep(Duration::from_millis(5)).await;
        change(&replica, json!(row)).await;
    }
    let mut oldest = 0;
    for client in clients {
        oldest = oldest.max(client.await.expect("a client"));
    }
    (computations(&replica) - before, oldest)
}

#[tokio::test(start_paused = true)]
async fn what_many_ask_for_is_computed_at_a_pace() {
    // Eight times 4 ms from one beginning to the next.
    let (computed, oldest) = under_changes(32, 4).await;
    assert!((20..=40).contains(&computed), "{computed}");
    assert!(oldest <= 10, "{oldest} changes behind are more than 50 ms");
    // A slow one begins every 100 ms at the latest.
    let (computed, oldest) = under_changes(32, 40).await;
    assert!((8..=11).contains(&computed), "{computed}");
    assert!(oldest <= 30, "{oldest} changes behind are more than 150 ms");
}

#[tokio::test(start_paused = true)]
async fn who_asks_alone_waits_for_no_pace_and_always_sees_what_the_feed_knows() {
    let (computed, oldest) = under_changes(1, 4).await;
    assert!(computed > 100, "{computed}");
    assert_eq!(oldest, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hot_collection_is_rewritten_at_a_pace() {
    let replica = Replica::alone().await;
    let hot = HotWriter::of(replica.views.clone(), replica.cache.clone(), replica.clock.clone(), vec![Arc::new(Everything)]);
    let begun = Instant::now();
    for row in 0..20 {
        replica.views.write(&UNITS, "a", json!(row));
        hot.refresh_hot(UNITS.name, &tags(&["*"])).await.expect("refreshed");
        if row == 0 {
            assert_eq!(begun.elapsed(), Duration::ZERO, "the first waits for nothing");
        }
        assert_eq!(computations(&replica), row + 1);
        hot.refresh_hot("another", &tags(&["*"])).await.expect("nothing to do");
    }
    assert_eq!(begun.elapsed().as_millis() / 100, 19);
}
