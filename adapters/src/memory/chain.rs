//! The hash chain's links; the rows are what was appended.

use async_trait::async_trait;
use ports::{ChainHead, Error, HashChain, Link, Position, Result, StoredEvent};

use super::log::MemoryLog;
use crate::stored::{READ_MAX, from_micros, micros};

#[async_trait]
impl HashChain for MemoryLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        let state = self.state();
        let from = usize::try_from(after.max(0)).unwrap_or(usize::MAX);
        Ok(state.events.iter().skip(from).take(limit.min(READ_MAX)).map(StoredEvent::of).collect())
    }

    async fn last_link(&self) -> Result<Option<Link>> {
        Ok(self.state().chain.last().cloned())
    }

    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        Ok(self.state().chain.iter().filter(|link| link.head.position > after).take(limit).cloned().collect())
    }

    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        let sealed_at = from_micros(micros(self.clock.now()))?;
        let chain = &mut self.state().chain;
        if chain.iter().any(|link| link.after == after || link.head.position == head.position) {
            return Err(Error::Conflict(format!("the {} log was sealed from {after} on already", self.context)));
        }
        chain.push(Link { after, head: head.clone(), marks: marks.to_vec(), sealed_at });
        chain.sort_by_key(|link| link.head.position);
        Ok(())
    }
}
