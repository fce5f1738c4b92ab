//! Wake-up hints between processes. A hint may be lost, repeated or late: whoever waits for one also polls.

use async_trait::async_trait;
use domain::Context;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Events were appended to a context's log.
    Log(Context),
    /// A view batch was committed.
    Views,
}

pub trait Hints: Send + Sync + 'static {
    /// Never blocks and never fails: a hint that cannot be sent is dropped.
    fn notify(&self, topic: Topic);
    /// Hints from now on.
    fn subscribe(&self) -> Box<dyn HintStream>;
}

#[async_trait]
pub trait HintStream: Send {
    /// Waits for the next hint; cancel-safe. `None` once no more can come.
    async fn next(&mut self) -> Option<Topic>;
}
