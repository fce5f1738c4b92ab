//! Hints within one process.

use async_trait::async_trait;
use ports::{HintStream, Hints, Topic};
use tokio::sync::broadcast;

/// Hints that a slow listener may be behind by; beyond it the oldest are lost to it, which the contract allows.
const BEHIND_MAX: usize = 256;

#[derive(Clone)]
pub struct InProcessHints(broadcast::Sender<Topic>);

impl InProcessHints {
    pub fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }

    pub(crate) fn sender(&self) -> broadcast::Sender<Topic> {
        self.0.clone()
    }
}

impl Default for InProcessHints {
    fn default() -> Self {
        Self::new()
    }
}

impl Hints for InProcessHints {
    fn notify(&self, topic: Topic) {
        // An error only says that nobody listens.
        let _ = self.0.send(topic);
    }

    fn subscribe(&self) -> Box<dyn HintStream> {
        Box::new(Listener(self.0.subscribe()))
    }
}

struct Listener(broadcast::Receiver<Topic>);

#[async_trait]
impl HintStream for Listener {
    async fn next(&mut self) -> Option<Topic> {
        loop {
            match self.0.recv().await {
                Ok(topic) => return Some(topic),
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
