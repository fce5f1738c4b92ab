//! The job queue of one process, with RabbitMQ's rules: settle each delivery, bounded prefetch, unsettled ones return to the
//! front when their consumer goes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use ports::{DeadLetter, DeadLetters, Delivery, Error, JobConsumer, JobQueue, Priority, QueueDepth, Result};
use tokio::sync::Notify;
use uuid::Uuid;

/// Messages per queue unless told otherwise; the dispatcher keeps at most 1,000 unfinished reports in it.
const MESSAGES_MAX: usize = 10_000;
/// Dead letters kept for inspection; the oldest go first.
const DEAD_MAX: usize = 1_000;

/// Clones are the same queue.
#[derive(Clone)]
pub struct InProcessQueue(Arc<Shared>);

struct Shared {
    messages_max: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: [VecDeque<Message>; 2],
    dead: VecDeque<(Priority, Uuid)>,
    unsettled: HashMap<u64, Unsettled>,
    /// Consumers, and how many messages of each priority they hold.
    consumers: HashMap<u64, [usize; 2]>,
    last_consumer: u64,
    last_tag: u64,
}

struct Message {
    report_id: Uuid,
    redelivered: bool,
}

/// A message in the hands of a consumer.
struct Unsettled {
    consumer: u64,
    priority: Priority,
    report_id: Uuid,
}

impl Default for InProcessQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl InProcessQueue {
    pub fn new() -> Self {
        Self::with_capacity(MESSAGES_MAX)
    }

    /// A queue that is `Full` at `messages_max` waiting messages per priority.
    pub fn with_capacity(messages_max: usize) -> Self {
        Self(Arc::new(Shared { messages_max, state: Default::default(), changed: Notify::new() }))
    }

    /// The messages that were given up, oldest first.
    pub fn dead_letters(&self) -> Vec<(Priority, Uuid)> {
        self.0.state().dead.iter().copied().collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the queue's lock is never poisoned: nothing under it panics")
    }
}

impl State {
    fn waiting(&mut self, priority: Priority) -> &mut VecDeque<Message> {
        &mut self.waiting[priority as usize]
    }

    fn take(&mut self, consumer: u64, priority: Priority, prefetch: usize) -> Option<Delivery> {
        if self.consumers.get(&consumer).is_none_or(|held| held[priority as usize] >= prefetch) {
            return None;
        }
        let Message { report_id, redelivered } = self.waiting(priority).pop_front()?;
        self.last_tag += 1;
        if let Some(held) = self.consumers.get_mut(&consumer) {
            held[priority as usize] += 1;
        }
        self.unsettled.insert(self.last_tag, Unsettled { consumer, priority, report_id });
        Some(Delivery { report_id, priority, redelivered, tag: (self.last_tag, consumer) })
    }

    /// `None` for a delivery of an earlier consumer: it was or will be delivered again.
    fn settle(&mut self, consumer: u64, delivery: &Delivery) -> Option<Unsettled> {
        let (tag, of_consumer) = delivery.tag;
        let settled = (of_consumer == consumer).then(|| self.unsettled.remove(&tag)).flatten()?;
        if let Some(held) = self.consumers.get_mut(&consumer) {
            held[settled.priority as usize] -= 1;
        }
        Some(settled)
    }

    fn put_back(&mut self, held: Unsettled) {
        self.waiting(held.priority).push_front(Message { report_id: held.report_id, redelivered: true });
    }
}

#[async_trait]
impl JobQueue for InProcessQueue {
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()> {
        {
            let mut state = self.0.state();
            let waiting = state.waiting(priority);
            if waiting.len() + report_ids.len() > self.0.messages_max {
                return Err(Error::Full(format!("the queue {}", priority.queue())));
            }
            waiting.extend(report_ids.iter().map(|&report_id| Message { report_id, redelivered: false }));
        }
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>> {
        let mut state = self.0.state();
        state.last_consumer += 1;
        let id = state.last_consumer;
        state.consumers.insert(id, [0; 2]);
        Ok(Box::new(Consumer { id, prefetch: [high_prefetch.into(), low_prefetch.into()], queue: self.0.clone() }))
    }

    async fn depth(&self, priority: Priority) -> Result<QueueDepth> {
        let mut state = self.0.state();
        let ready = state.waiting(priority).len() as u64;
        Ok(QueueDepth { ready, consumers: state.consumers.len() as u64 })
    }
}

#[async_trait]
impl DeadLetters for InProcessQueue {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let letter = |&(priority, report_id): &(Priority, Uuid)| DeadLetter {
            report_id: Some(report_id),
            priority: Some(priority),
            reason: "rejected".to_owned(),
        };
        Ok(self.0.state().dead.iter().take(limit).map(letter).collect())
    }

    async fn remove(&self, report_ids: &[Option<Uuid>]) -> Result<usize> {
        let mut state = self.0.state();
        let before = state.dead.len();
        state.dead.retain(|(_, report_id)| !report_ids.contains(&Some(*report_id)));
        Ok(before - state.dead.len())
    }
}

struct Consumer {
    id: u64,
    prefetch: [usize; 2],
    queue: Arc<Shared>,
}

impl Consumer {
    fn settle(&self, delivery: Delivery, then: impl FnOnce(&mut State, Unsettled)) {
        {
            let mut state = self.queue.state();
            if let Some(held) = state.settle(self.id, &delivery) {
                then(&mut state, held);
            }
        }
        self.queue.changed.notify_waiters();
    }
}

#[async_trait]
impl JobConsumer for Consumer {
    async fn receive(&self, priority: Priority) -> Result<Delivery> {
        loop {
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            // Enlisted before looking, so that a message that arrives in between is not slept over.
            changed.as_mut().enable();
            if let Some(delivery) = self.queue.state().take(self.id, priority, self.prefetch[priority as usize]) {
                return Ok(delivery);
            }
            changed.await;
        }
    }

    async fn ack(&self, delivery: Delivery) -> Result<()> {
        self.settle(delivery, |_, _| ());
        Ok(())
    }

    async fn requeue(&self, delivery: Delivery) -> Result<()> {
        self.settle(delivery, State::put_back);
        Ok(())
    }

    async fn reject(&self, delivery: Delivery) -> Result<()> {
        self.settle(delivery, |state, held| {
            if state.dead.len() >= DEAD_MAX {
                state.dead.pop_front();
            }
            state.dead.push_back((held.priority, held.report_id));
        });
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        {
            let mut state = self.queue.state();
            state.consumers.remove(&self.id);
            let mut tags: Vec<u64> =
                state.unsettled.iter().filter(|(_, held)| held.consumer == self.id).map(|(tag, _)| *tag).collect();
            // The oldest last, so that it ends up in front.
            tags.sort_unstable_by(|a, b| b.cmp(a));
            for held in tags.into_iter().filter_map(|tag| state.unsettled.remove(&tag)).collect::<Vec<_>>() {
                state.put_back(held);
            }
        }
        self.queue.changed.notify_waiters();
    }
}
