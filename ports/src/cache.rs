//! The shared cache tier. It can be lost at any moment: every method may fail, and no caller may become wrong by it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;

/// Orders two values of one key: the later term, then the later revision, is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheVersion {
    pub generation: u64,
    pub term: u64,
    pub revision: u64,
}

#[async_trait]
pub trait SharedCache: Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Bytes>>;
    /// Keeps the newer of the stored and the given value.
    async fn put(&self, key: &str, version: CacheVersion, value: Bytes, ttl: Duration) -> Result<()>;
}
