//! The shared cache tier in Redis: one hash per key with the value (`v`) and what it is a value of (`o`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ports::{CacheVersion, Error, Result, SharedCache};

use super::KEY_PREFIX;
use super::connection::{Connection, RedisConfig};

/// Values above this are not worth the shared tier: reading one would stall all other requests on the connection.
const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Keeps the newer value. The order is text of fixed width, so that Lua's doubles never see a number above 2^53. A value as
/// new as the stored one replaces it: at one revision an answer can still change when its `valid_until` passes.
///
/// Sent as EVAL, not EVALSHA: a flushed or restarted server has forgotten the script, and loading needs a right more.
const PUT: &str = "
local stored = redis.call('HGET', KEYS[1], 'o')
if stored and stored > ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'o', ARGV[1], 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

pub struct RedisCache(Arc<Connection>);

impl RedisCache {
    /// Connects at first use; a Redis that is away is no reason not to start.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Connection::new(config).map(Self)
    }

    /// Whether Redis answers now; for readiness and `doctor`.
    pub async fn ping(&self) -> Result<()> {
        self.0
            .request(|mut redis| async move { ::redis::cmd("PING").query_async::<String>(&mut redis).await })
            .await
            .map(drop)
    }
}

#[async_trait]
impl SharedCache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let key = format!("{KEY_PREFIX}{key}");
        self.0
            .request(|mut redis| async move {
                ::redis::cmd("HGET").arg(key).arg("v").query_async::<Option<Vec<u8>>>(&mut redis).await
            })
            .await
            .map(|value| value.map(Bytes::from))
    }

    async fn put(&self, key: &str, version: CacheVersion, value: Bytes, ttl: Duration) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Rejected { what: format!("a cached value of {} bytes", value.len()), source: None });
        }
        let key = format!("{KEY_PREFIX}{key}");
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_TTL_MS);
        self.0
            .request(|mut redis| async move {
                ::redis::cmd("EVAL")
                    .arg(PUT)
                    .arg(1)
                    .arg(key)
                    .arg(order(version))
                    .arg(value.as_ref())
                    .arg(ttl_ms)
                    .query_async::<i64>(&mut redis)
                    .await
            })
            .await
            .map(drop)
    }
}

/// A year: what is cached is never older, and Redis refuses expiries that overflow its clock.
const MAX_TTL_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// Term first: every claim of a projection starts a later one, whatever generation it writes.
fn order(version: CacheVersion) -> String {
    format!("{:020}{:020}{:020}", version.term, version.revision, version.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_by_term_then_revision_and_of_fixed_width() {
        let order = |term, revision, generation| super::order(CacheVersion { generation, term, revision });
        assert!(order(2, 0, 1) > order(1, u64::MAX, 9));
        assert!(order(2, 10, 1) > order(2, 9, 3));
        assert!(order(2, 9, 2) > order(2, 9, 1));
        assert_eq!(order(u64::MAX, u64::MAX, u64::MAX).len(), order(0, 0, 0).len());
    }
}
