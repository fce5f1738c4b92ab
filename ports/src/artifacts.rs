//! Finished reports and uploaded documents, named by the SHA-256 of their bytes.

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;

#[async_trait]
pub trait Artifacts: Send + Sync + 'static {
    /// Stores the bytes durably and answers their SHA-256 in lower-case hex. Storing the same bytes again is a no-op.
    /// A reader never sees a half-written artifact.
    async fn put(&self, bytes: Bytes) -> Result<String>;
    /// `None` when there is no such artifact. Bytes whose hash differs from their name are `Corrupt`.
    async fn get(&self, sha256: &str) -> Result<Option<Bytes>>;
}
