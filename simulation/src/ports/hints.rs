use std::sync::Arc;

use adapters::inprocess::InProcessHints;
use ports::{HintStream, Hints, Topic};

use crate::fate::Gate;

pub struct SimHints {
    pub gate: Gate,
    pub inner: Arc<InProcessHints>,
}

impl Hints for SimHints {
    fn notify(&self, topic: Topic) {
        let inner = self.inner.clone();
        self.gate.hint(format!("hint {topic:?}"), move || inner.notify(topic));
    }

    fn subscribe(&self) -> Box<dyn HintStream> {
        self.inner.subscribe()
    }
}
