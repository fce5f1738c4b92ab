//! The Redis adapters against the ports' contract, and what they do when Redis is away.

mod weather;

use std::time::Duration;

use adapters::redis::{RedisCache, RedisConfig, RedisHints};
use bytes::Bytes;
use ports::{CacheVersion, Hints, SharedCache, Topic, conformance};
use tokio::time::{Instant, timeout};
use weather::{Proxy, Weather, until};

const BOUND: Duration = Duration::from_secs(10);
const FIRST: CacheVersion = CacheVersion { generation: 1, term: 1, revision: 1 };

fn config() -> RedisConfig {
    let url = std::env::var("CASITAS_TEST_REDIS")
        .unwrap_or_else(|_| panic!("CASITAS_TEST_REDIS is not set: run `cargo xtask test`, which starts a private Redis"));
    RedisConfig::from_url(&url).expect("CASITAS_TEST_REDIS is redis://host:port")
}

fn through(proxy: &Proxy, upstream: &RedisConfig) -> RedisConfig {
    RedisConfig { host: "127.0.0.1".into(), port: proxy.port, ..upstream.clone() }
}

#[tokio::test]
async fn the_cache_keeps_the_contract() {
    conformance::cache::all(&RedisCache::new(&config()).expect("a cache")).await;
}

#[tokio::test]
async fn hints_reach_another_process_and_the_own() {
    let (one, two) = (RedisHints::start(&config()).expect("hints"), RedisHints::start(&config()).expect("hints"));
    conformance::hints::all(&one, &two).await;
    conformance::hints::all(&two, &two).await;
}

#[tokio::test]
async fn an_outage_costs_one_wait_and_then_nothing_until_redis_is_back() {
    for outage in [Weather::Silent, Weather::Cut] {
        let upstream = config();
        let proxy = Proxy::start(&upstream.host, upstream.port).await;
        let cache = RedisCache::new(&through(&proxy, &upstream)).expect("a cache");
        let key = format!("outage:{}", uuid::Uuid::now_v7());
        cache.put(&key, FIRST, Bytes::from_static(b"kept"), BOUND).await.expect("put");

        proxy.make(outage);
        let started = Instant::now();
        cache.get(&key).await.expect_err("Redis is away");
        assert!(started.elapsed() < Duration::from_millis(1_500), "the first request waited {:?}", started.elapsed());
        let started = Instant::now();
        for _ in 0..1_000 {
            cache.get(&key).await.expect_err("still away");
        }
        assert!(started.elapsed() < Duration::from_millis(500), "1,000 more took {:?}", started.elapsed());

        proxy.make(Weather::Fair);
        until("Redis is used again", async || matches!(cache.get(&key).await, Ok(Some(_)))).await;
    }
}

#[tokio::test]
async fn a_subscription_that_was_cut_is_made_again() {
    let upstream = config();
    let proxy = Proxy::start(&upstream.host, upstream.port).await;
    let (here, there) =
        (RedisHints::start(&upstream).expect("hints"), RedisHints::start(&through(&proxy, &upstream)).expect("hints"));
    conformance::hints::all(&here, &there).await;
    proxy.make(Weather::Cut);
    proxy.make(Weather::Fair);
    conformance::hints::all(&here, &there).await;
}

#[tokio::test]
async fn notify_neither_blocks_nor_fails_without_redis() {
    let nowhere = RedisConfig { host: "127.0.0.1".into(), port: 1, user: None, password: None };
    let hints = RedisHints::start(&nowhere).expect("hints");
    let mut own = hints.subscribe();
    let started = Instant::now();
    for _ in 0..10_000 {
        hints.notify(Topic::Views);
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(timeout(BOUND, own.next()).await.expect("in time"), Some(Topic::Views));
}

#[tokio::test]
async fn a_flushed_redis_is_empty_and_goes_on() {
    // The script is sent whole each time: SCRIPT FLUSH is what a restart does to it.
    let cache = RedisCache::new(&config()).expect("a cache");
    let key = format!("flushed:{}", uuid::Uuid::now_v7());
    cache.put(&key, FIRST, Bytes::from_static(b"before"), BOUND).await.expect("put");
    let client = redis::Client::open(std::env::var("CASITAS_TEST_REDIS").expect("set")).expect("a client");
    let mut admin = client.get_multiplexed_async_connection().await.expect("connected");
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut admin).await.expect("scripts forgotten");
    redis::cmd("DEL").arg(format!("casitas:{key}")).query_async::<()>(&mut admin).await.expect("deleted");
    assert_eq!(cache.get(&key).await.expect("get"), None);
    cache.put(&key, FIRST, Bytes::from_static(b"after"), BOUND).await.expect("put");
    assert_eq!(cache.get(&key).await.expect("get"), Some(Bytes::from_static(b"after")));
}

#[tokio::test]
async fn the_commands_of_the_acl_list_are_enough() {
    let config = config();
    let client = redis::Client::open(std::env::var("CASITAS_TEST_REDIS").expect("set")).expect("a client");
    let mut admin = client.get_multiplexed_async_connection().await.expect("connected");
    let user = format!("test-{}", uuid::Uuid::now_v7());
    let mut rules = redis::cmd("ACL");
    rules.arg("SETUSER").arg(&user).arg("on").arg(">secret").arg("~casitas:*").arg("&casitas:hints");
    for command in adapters::redis::ACL_COMMANDS {
        rules.arg(format!("+{command}"));
    }
    rules.query_async::<()>(&mut admin).await.expect("a user");
    let config = RedisConfig { user: Some(user.clone()), password: Some("secret".into()), ..config };
    conformance::cache::all(&RedisCache::new(&config).expect("a cache")).await;
    let hints = RedisHints::start(&config).expect("hints");
    conformance::hints::all(&RedisHints::start(&config).expect("hints"), &hints).await;
    redis::cmd("ACL").arg("DELUSER").arg(&user).query_async::<()>(&mut admin).await.expect("removed");
}
