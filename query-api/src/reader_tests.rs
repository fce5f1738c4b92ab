use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::Context;
use ports::SharedCache;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::feed::STALE_AFTER;
use crate::hot::HotWriter;
use crate::query::{Query, Sharing};
use crate::reader::{ReadError, Source, Wish};
use crate::testing::{
    Everything, LEASES, Mood, OneRow, Replica, START, TestCache, TestViews, UNITS, second, settle, tags, value, wish,
};

const MEMORY: Option<u64> = Some(1_000_000);

#[tokio::test(start_paused = true)]
async fn an_unchanged_answer_is_a_hit_in_memory() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    assert_eq!(replica.served("a").await.source, Source::Computed);
    assert_eq!(replica.served("a").await.source, Source::Memory);
    replica.views.write(&UNITS, "b", json!(1));
    replica.poll().await;
    assert_eq!(replica.served("a").await.source, Source::Memory, "another row's change does not matter");
}

#[tokio::test(start_paused = true)]
async fn who_found_nothing_just_before_an_answer_was_there_does_not_compute_it_again() {
    let replica = Replica::new(&TestViews::new(), &TestCache::new(), MEMORY);
    replica.cache.set(Mood::Fails);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let late = async || replica.reader.read_late(Arc::new(OneRow("a", Sharing::Shared))).await.expect("served").source;
    assert_eq!(replica.served("a").await.source, Source::Computed);
    assert_eq!(late().await, Source::Memory);
    replica.views.write(&UNITS, "a", json!(2));
    replica.poll().await;
    assert_eq!(late().await, Source::Computed, "it is another one by now");
}

#[tokio::test(start_paused = true)]
async fn an_entry_older_than_a_change_of_its_tag_is_a_miss() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    replica.views.write(&UNITS, "a", json!(2));
    replica.poll().await;
    let served = replica.served("a").await;
    assert_eq!((served.source, value(&served)["row"].clone()), (Source::Computed, json!(2)));
}

#[tokio::test(start_paused = true)]
async fn a_stale_entry_in_the_shared_cache_is_a_miss_too() {
    let (views, cache) = (TestViews::new(), TestCache::new());
    let (one, other) = (Replica::new(&views, &cache, MEMORY), Replica::new(&views, &cache, MEMORY));
    views.write(&UNITS, "a", json!(1));
    one.poll().await;
    one.served("a").await;
    cache.put_count(1).await;
    other.poll().await;
    assert_eq!(other.served("a").await.source, Source::Shared);
    views.write(&UNITS, "a", json!(2));
    other.poll().await;
    assert_eq!(value(&other.served("a").await)["row"], json!(2));
}

#[tokio::test(start_paused = true)]
async fn with_the_memory_tier_off_the_second_read_is_a_hit_from_the_shared_cache() {
    let replica = Replica::new(&TestViews::new(), &TestCache::new(), None);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    replica.cache.put_count(1).await;
    for reads in 2..5 {
        assert_eq!(replica.served("a").await.source, Source::Shared);
        assert_eq!(replica.cache.gets.load(Ordering::SeqCst), reads, "one request to the shared cache a read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_term_and_a_new_generation_end_all_entries() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    for edit in [|head: &mut ports::ModelHead| head.term += 1, |head: &mut ports::ModelHead| head.generation += 1] {
        assert_eq!(replica.served("a").await.source, Source::Memory);
        replica.views.edit(&UNITS, edit);
        replica.poll().await;
        assert_eq!(replica.served("a").await.source, Source::Computed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_goes_back_ends_what_was_kept_in_memory() {
    let replica = Replica::new(&TestViews::new(), &TestCache::new(), MEMORY);
    replica.cache.set(Mood::Fails);
    for version in 1..4 {
        replica.views.write(&UNITS, "a", json!(version));
    }
    replica.poll().await;
    replica.served("a").await;
    replica.views.edit(&UNITS, |head| head.revision = 1);
    replica.poll().await;
    assert_eq!(replica.served("a").await.source, Source::Computed);
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_change_feed_makes_every_older_entry_a_miss() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    replica.views.write(&UNITS, "b", json!(1));
    replica.views.write(&UNITS, "b", json!(2));
    replica.views.forget_changes_before(&UNITS, 3);
    replica.poll().await;
    assert_eq!(replica.served("a").await.source, Source::Computed, "the lost change may have been a's");
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_was_never_seen_counts_as_changed_at_the_oldest_retained_revision() {
    let (views, cache) = (TestViews::new(), TestCache::new());
    let early = Replica::new(&views, &cache, MEMORY);
    views.write(&UNITS, "a", json!(1));
    views.write(&UNITS, "b", json!(1));
    early.poll().await;
    early.served("a").await;
    cache.put_count(1).await;
    for version in 2..6 {
        views.write(&UNITS, "b", json!(version));
    }
    let with_history = Replica::new(&views, &cache, MEMORY);
    with_history.poll().await;
    assert_eq!(with_history.served("a").await.source, Source::Shared, "the whole history shows that a did not change");
    views.forget_changes_before(&UNITS, 4);
    let without = Replica::new(&views, &cache, MEMORY);
    without.poll().await;
    assert_eq!(without.served("a").await.source, Source::Computed, "a may have changed at revision 3");
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_expires_ends_the_entry() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!({"expires": START + 10}));
    replica.poll().await;
    assert_eq!(value(&replica.served("a").await)["held"], json!(true));
    replica.cache.put_count(1).await;
    replica.clock.set("2027-01-15T08:00:09.999999Z".parse().expect("an instant"));
    let last = replica.served("a").await;
    assert_eq!((last.source, value(&last)["held"].clone()), (Source::Memory, json!(true)));
    replica.clock.set(second(10));
    let after = replica.served("a").await;
    assert_eq!((after.source, value(&after)["held"].clone()), (Source::Computed, json!(false)));
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_began_before_the_hold_expired_is_not_taken_after_it() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!({"expires": START + 10}));
    replica.poll().await;
    let gate = replica.views.gate.clone().write_owned().await;
    let early = tokio::spawn({
        let replica = replica.clone();
        async move { value(&replica.served("a").await) }
    });
    settle().await;
    replica.clock.set(second(10));
    let late = tokio::spawn({
        let replica = replica.clone();
        async move { value(&replica.served("a").await) }
    });
    settle().await;
    drop(gate);
    assert_eq!(early.await.expect("read")["held"], json!(true));
    assert_eq!(late.await.expect("read")["held"], json!(false));
}

/// R8 of reliability-security.md: 500 clients at expiry, both replicas.
#[tokio::test(start_paused = true)]
async fn many_who_ask_as_a_hold_expires_are_answered_by_one_computation_a_replica() {
    for sharing in [Sharing::Public, Sharing::Shared, Sharing::Process] {
        let (views, cache) = (TestViews::new(), TestCache::new());
        let replicas = [(); 2].map(|()| Arc::new(Replica::new(&views, &cache, MEMORY)));
        let ask = |replica: &Arc<Replica>| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let query = Arc::new(OneRow("a", sharing));
                let served = replica.reader.read(query, &Wish::default()).await.expect("an answer").expect("a row");
                (served.source, value(&served)["held"].clone())
            })
        };
        views.write(&UNITS, "a", json!({"expires": START + 10}));
        for replica in &replicas {
            replica.poll().await;
            assert_eq!(ask(replica).await.expect("read").1, json!(true));
            assert_eq!(ask(replica).await.expect("read"), (Source::Memory, json!(true)));
            replica.clock.set(second(10));
        }
        let before = views.snapshots.load(Ordering::SeqCst);
        let gate = views.gate.clone().write_owned().await;
        let asked: Vec<_> = replicas.iter().flat_map(|replica| (0..250).map(move |_| ask(replica))).collect();
        settle().await;
        assert!(asked.iter().all(|read| !read.is_finished()), "{sharing:?}: nobody is served what is over");
        drop(gate);
        for read in asked {
            assert_eq!(read.await.expect("read"), (Source::Computed, json!(false)), "{sharing:?}");
        }
        assert_eq!(views.snapshots.load(Ordering::SeqCst) - before, 2, "{sharing:?}");
        for replica in &replicas {
            assert_eq!(ask(replica).await.expect("read"), (Source::Memory, json!(false)), "{sharing:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_shared_together_are_not_gone_together() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let replica = Replica::alone().await;
    for key in KEYS {
        replica.views.write(&UNITS, key, json!(1));
    }
    replica.poll().await;
    for key in KEYS {
        replica.served(key).await;
    }
    replica.cache.put_count(KEYS.len()).await;
    let lives: BTreeSet<Duration> = replica.cache.lives.lock().expect("not poisoned").values().copied().collect();
    assert!(lives.len() > KEYS.len() / 2, "{lives:?}");
    assert!(lives.iter().all(|life| (DAY * 8 / 10..=DAY).contains(life)), "{lives:?}");
}

#[tokio::test(start_paused = true)]
async fn many_misses_at_once_are_computed_once() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let gate = replica.views.gate.clone().write_owned().await;
    let reads: Vec<_> = (0..64)
        .map(|_| {
            let replica = replica.clone();
            tokio::spawn(async move { replica.served("a").await.source })
        })
        .collect();
    settle().await;
    drop(gate);
    for read in reads {
        assert_eq!(read.await.expect("read"), Source::Computed);
    }
    assert_eq!(replica.views.snapshots.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_goes_on_when_the_request_that_began_it_goes_away() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let gate = replica.views.gate.clone().write_owned().await;
    let spawn = || {
        let replica = replica.clone();
        tokio::spawn(async move { replica.served("a").await.source })
    };
    let first = spawn();
    settle().await;
    let second = spawn();
    settle().await;
    first.abort();
    drop(gate);
    assert_eq!(second.await.expect("read"), Source::Computed);
    assert_eq!(replica.views.snapshots.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_started_before_the_token_is_not_taken() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let gate = replica.views.gate.clone().write_owned().await;
    let early = tokio::spawn({
        let replica = replica.clone();
        async move { value(&replica.served("a").await) }
    });
    settle().await;
    let position = replica.views.write(&UNITS, "a", json!(2));
    replica.poll().await;
    let late = tokio::spawn({
        let replica = replica.clone();
        async move {
            let query = Arc::new(OneRow("a", Sharing::Shared));
            value(&replica.reader.read(query, &wish(position, Duration::from_secs(2))).await.expect("read").expect("a row"))
        }
    });
    settle().await;
    drop(gate);
    assert_eq!(early.await.expect("read")["row"], json!(1));
    assert_eq!(late.await.expect("read")["row"], json!(2));
    assert_eq!(value(&replica.served("a").await)["row"], json!(2), "and the older flight does not stay in the tier");
}

#[tokio::test(start_paused = true)]
async fn a_flight_older_than_a_change_known_on_arrival_is_not_taken_without_a_token_either() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let gate = replica.views.gate.clone().write_owned().await;
    let early = tokio::spawn({
        let replica = replica.clone();
        async move { value(&replica.served("a").await) }
    });
    settle().await;
    replica.views.write(&UNITS, "a", json!(2));
    replica.poll().await;
    let late = tokio::spawn({
        let replica = replica.clone();
        async move { value(&replica.served("a").await) }
    });
    settle().await;
    drop(gate);
    early.await.expect("read");
    assert_eq!(late.await.expect("read")["row"], json!(2));
}

#[tokio::test(start_paused = true)]
async fn a_token_waits_for_the_projection() {
    let replica = Arc::new(Replica::alone().await);
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    let read = tokio::spawn({
        let replica = replica.clone();
        async move { replica.reader.read(Arc::new(OneRow("a", Sharing::Shared)), &wish(2, Duration::from_secs(2))).await }
    });
    tokio::time::advance(Duration::from_millis(200)).await;
    settle().await;
    assert!(!read.is_finished());
    assert_eq!(replica.views.write(&UNITS, "a", json!(2)), 2);
    replica.poll().await;
    assert_eq!(value(&read.await.expect("read").expect("answer").expect("row"))["row"], json!(2));
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_not_reached_in_time_is_refused() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let wish = wish(9, Duration::from_millis(300));
    let refused = replica.reader.read(Arc::new(OneRow("a", Sharing::Shared)), &wish).await;
    assert!(matches!(refused, Err(ReadError::PositionNotReached)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_life_of_the_log_is_refused_and_one_of_another_context_ignored() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    let query = || Arc::new(OneRow("a", Sharing::Shared));
    let restored: web::PositionToken = format!("units:1@{}", Uuid::from_u128(9)).parse().expect("a token");
    let refused = replica.reader.read(query(), &Wish { token: vec![restored].into(), wait: Duration::ZERO }).await;
    assert!(matches!(refused, Err(ReadError::LogRestored(Context::Units))), "{refused:?}");
    let legal: web::PositionToken = "legal:77".parse().expect("a token");
    assert!(replica.reader.read(query(), &Wish { token: vec![legal].into(), wait: Duration::ZERO }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_a_poll_for_a_second_the_view_store_answers_alone() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    replica.views.write(&UNITS, "a", json!(2));
    assert_eq!(replica.served("a").await.source, Source::Memory, "within the bound an older answer is allowed");
    tokio::time::advance(STALE_AFTER).await;
    let served = replica.served("a").await;
    assert_eq!((served.source, value(&served)["row"].clone()), (Source::Bypassed, json!(2)));
    let wish = wish(2, Duration::from_millis(100));
    let served = replica.reader.read(Arc::new(OneRow("a", Sharing::Shared)), &wish).await.expect("read").expect("a row");
    assert_eq!(value(&served)["row"], json!(2), "the rows themselves show that the token is reached");
    replica.views.down.store(true, Ordering::SeqCst);
    assert!(matches!(replica.read("a").await, Err(ReadError::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_stale_feed_does_not_pass_for_a_token() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    tokio::time::advance(STALE_AFTER).await;
    let wish = wish(2, Duration::from_millis(200));
    let refused = replica.reader.read(Arc::new(OneRow("a", Sharing::Shared)), &wish).await;
    assert!(matches!(refused, Err(ReadError::PositionNotReached)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn redis_down_means_slower_not_wrong() {
    for mood in [Mood::Fails, Mood::Hangs] {
        let replica = Replica::new(&TestViews::new(), &TestCache::new(), None);
        replica.cache.set(mood);
        replica.views.write(&UNITS, "a", json!(1));
        replica.poll().await;
        let started = tokio::time::Instant::now();
        assert_eq!(value(&replica.served("a").await)["row"], json!(1), "{mood:?}");
        assert!(started.elapsed() <= Duration::from_millis(200), "{mood:?}: {:?}", started.elapsed());
        let gets = replica.cache.gets.load(Ordering::SeqCst);
        replica.served("a").await;
        assert_eq!(replica.cache.gets.load(Ordering::SeqCst), gets, "it is left alone for a while");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_shared_is_not() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    for (sharing, second_source) in [(Sharing::Process, Source::Memory), (Sharing::Never, Source::Bypassed)] {
        let query = || Arc::new(OneRow("a", sharing)) as Arc<dyn Query>;
        replica.reader.read(query(), &Wish::default()).await.expect("read");
        let again = replica.reader.read(query(), &Wish::default()).await.expect("read").expect("a row");
        assert_eq!(again.source, second_source, "{sharing:?}");
    }
    settle().await;
    assert!(replica.cache.stored.lock().expect("not poisoned").is_empty());
    assert_eq!(replica.cache.gets.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_absent_is_not_kept() {
    let replica = Replica::alone().await;
    assert!(replica.read("a").await.expect("read").is_none());
    replica.views.write(&UNITS, "a", json!(1));
    assert_eq!(value(&replica.served("a").await)["row"], json!(1), "even before the feed knows");
}

#[tokio::test(start_paused = true)]
async fn a_hot_collection_is_a_hit_before_the_first_get() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    let hot = HotWriter::of(replica.views.clone(), replica.cache.clone(), replica.clock.clone(), vec![Arc::new(Everything)]);
    hot.refresh_hot(UNITS.name, &tags(&["a", "*"])).await.expect("refreshed");
    assert!(replica.cache.get("v:test_units:all").await.expect("cache").is_some());
    replica.poll().await;
    let served = replica.reader.read(Arc::new(Everything), &Wish::default()).await.expect("read").expect("an answer");
    assert_eq!(served.source, Source::Shared);
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_tags_is_bounded_and_forgets_on_the_safe_side() {
    let replica = Replica::alone().await;
    replica.views.write(&UNITS, "a", json!(1));
    replica.poll().await;
    replica.served("a").await;
    for unit in 0..100_001 {
        replica.views.write(&UNITS, &format!("u{unit}"), json!(1));
    }
    replica.poll().await;
    assert_eq!(replica.served("a").await.source, Source::Computed, "a's change was forgotten with others that are newer");
}

/// Every row's value is the position of its last event, so an answer can be judged by numbers alone.
fn not_older(before: &Value, seen: &Value, after: &Value, what: &str) {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    assert!(number(before) <= number(seen) && number(seen) <= number(after), "{what}: {before} <= {seen} <= {after}");
}

#[tokio::test(start_paused = true)]
async fn cached_answers_equal_direct_reads_under_concurrent_writes() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    for seed in 0..20 {
        let (views, cache) = (TestViews::new(), TestCache::new());
        let replicas: Vec<Arc<Replica>> =
            [MEMORY, None].into_iter().map(|memory| Arc::new(Replica::new(&views, &cache, memory))).collect();
        let polls: Vec<_> = replicas
            .iter()
            .map(|replica| {
                let replica = replica.clone();
                let mut random = StdRng::seed_from_u64(seed + 1_000);
                tokio::spawn(async move {
                    loop {
                        replica.poll().await;
                        tokio::time::sleep(Duration::from_millis(random.random_range(1..150))).await;
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..8)
            .map(|number| {
                let replica = replicas[number % 2].clone();
                let mut random = StdRng::seed_from_u64(seed * 100 + number as u64);
                tokio::spawn(async move {
                    for _ in 0..60 {
                        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
                        if random.random_bool(0.5) {
                            read_row(&replica, KEYS[random.random_range(0..KEYS.len())]).await;
                        } else {
                            read_all(&replica).await;
                        }
                    }
                })
            })
            .collect();
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..150 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..15))).await;
            let spec = if random.random_bool(0.7) { &UNITS } else { &LEASES };
            match random.random_range(0..20) {
                0 => views.edit(spec, |head| head.term += 1),
                1 => cache.set([Mood::Works, Mood::Fails, Mood::Hangs][random.random_range(0..3)]),
                3 => views.slowness_ms.store(random.random_range(0..40), Ordering::SeqCst),
                2 => views.forget_changes_before(spec, views.position(spec).max(1)),
                _ => {
                    let position = views.position(spec) + 1;
                    views.write(spec, KEYS[random.random_range(0..KEYS.len())], json!(position));
                }
            }
        }
        for reader in readers {
            reader.await.expect("no reader saw a wrong answer");
        }
        polls.iter().for_each(|poll| poll.abort());
    }
}

async fn read_row(replica: &Replica, key: &'static str) {
    let (position, before) = (replica.views.position(&UNITS), replica.views.row(&UNITS, key));
    let wish = wish(position, Duration::from_secs(5));
    let served = replica.reader.read(Arc::new(OneRow(key, Sharing::Shared)), &wish).await.expect("an answer");
    let seen = served.map_or(Value::Null, |served| value(&served)["row"].clone());
    not_older(&before, &seen, &replica.views.row(&UNITS, key), key);
}

async fn read_all(replica: &Replica) {
    let tokens = [&UNITS, &LEASES].map(|spec| {
        format!("{}:{}", spec.context, replica.views.position(spec)).parse::<web::PositionToken>().expect("a token")
    });
    let before = [&UNITS, &LEASES].map(|spec| replica.views.rows_now(spec));
    let wish = Wish { token: tokens.to_vec().into(), wait: Duration::from_secs(5) };
    let served = replica.reader.read(Arc::new(Everything), &wish).await.expect("an answer").expect("a list");
    let seen = value(&served);
    for (spec, before) in [&UNITS, &LEASES].into_iter().zip(before) {
        let after = replica.views.rows_now(spec);
        for (key, after) in &after {
            let nothing = Value::Null;
            not_older(before.get(key).unwrap_or(&nothing), &seen[spec.name][key], after, key);
        }
    }
}
