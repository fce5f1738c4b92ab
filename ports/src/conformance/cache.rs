//! The contract of [`SharedCache`]. Each call uses fresh keys, so that a shared server needs no flushing.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::{CacheVersion, SharedCache};

const LONG: Duration = Duration::from_secs(60);

pub async fn all(cache: &dyn SharedCache) {
    an_absent_key_is_none(cache).await;
    bytes_come_back_as_they_were(cache).await;
    the_newer_value_stays(cache).await;
    a_later_term_beats_a_higher_revision_and_generation(cache).await;
    large_revisions_are_compared_exactly(cache).await;
    an_equally_new_value_replaces(cache).await;
    keys_are_independent(cache).await;
    a_value_expires(cache).await;
}

fn key(name: &str) -> String {
    format!("conformance:{name}:{}", Uuid::now_v7())
}

fn version(term: u64, revision: u64) -> CacheVersion {
    CacheVersion { generation: 1, term, revision }
}

async fn put(cache: &dyn SharedCache, key: &str, version: CacheVersion, value: &'static str) {
    cache.put(key, version, Bytes::from_static(value.as_bytes()), LONG).await.expect("put");
}

async fn expect(cache: &dyn SharedCache, key: &str, value: &'static str) {
    assert_eq!(cache.get(key).await.expect("get"), Some(Bytes::from_static(value.as_bytes())));
}

pub async fn an_absent_key_is_none(cache: &dyn SharedCache) {
    assert_eq!(cache.get(&key("absent")).await.expect("get"), None);
}

pub async fn bytes_come_back_as_they_were(cache: &dyn SharedCache) {
    for value in [Bytes::new(), Bytes::from_static(b"\0\xFF\r\n{}"), Bytes::from(vec![0x1F; 1_000_000])] {
        let key = key("bytes");
        cache.put(&key, version(1, 1), value.clone(), LONG).await.expect("put");
        assert_eq!(cache.get(&key).await.expect("get"), Some(value));
    }
}

pub async fn the_newer_value_stays(cache: &dyn SharedCache) {
    let key = key("newer");
    put(cache, &key, version(1, 9), "nine").await;
    put(cache, &key, version(1, 8), "eight").await;
    expect(cache, &key, "nine").await;
    put(cache, &key, version(1, 10), "ten").await;
    expect(cache, &key, "ten").await;
}

pub async fn a_later_term_beats_a_higher_revision_and_generation(cache: &dyn SharedCache) {
    let key = key("term");
    put(cache, &key, CacheVersion { generation: 5, term: 1, revision: 100 }, "deposed").await;
    put(cache, &key, CacheVersion { generation: 4, term: 2, revision: 1 }, "live").await;
    expect(cache, &key, "live").await;
    put(cache, &key, CacheVersion { generation: 5, term: 1, revision: 101 }, "deposed").await;
    expect(cache, &key, "live").await;
}

pub async fn large_revisions_are_compared_exactly(cache: &dyn SharedCache) {
    let key = key("large");
    // As doubles these two would be one number.
    put(cache, &key, version(1, (1 << 53) + 1), "later").await;
    put(cache, &key, version(1, 1 << 53), "earlier").await;
    expect(cache, &key, "later").await;
}

pub async fn an_equally_new_value_replaces(cache: &dyn SharedCache) {
    let key = key("equal");
    put(cache, &key, version(3, 3), "before the hold expired").await;
    put(cache, &key, version(3, 3), "after it").await;
    expect(cache, &key, "after it").await;
}

pub async fn keys_are_independent(cache: &dyn SharedCache) {
    let (one, two) = (key("one"), key("two"));
    put(cache, &one, version(1, 5), "one").await;
    put(cache, &two, version(1, 1), "two").await;
    expect(cache, &one, "one").await;
    expect(cache, &two, "two").await;
}

pub async fn a_value_expires(cache: &dyn SharedCache) {
    let key = key("expires");
    cache.put(&key, version(1, 1), Bytes::from_static(b"brief"), Duration::from_millis(1)).await.expect("put");
    let gone = async {
        while cache.get(&key).await.expect("get").is_some() {
            tokio::task::yield_now().await;
        }
    };
    let started = Instant::now();
    timeout(Duration::from_secs(5), gone).await.unwrap_or_else(|_| panic!("still there after {:?}", started.elapsed()));
    // An expired version no longer keeps an older value out.
    put(cache, &key, version(0, 0), "older").await;
    expect(cache, &key, "older").await;
}
