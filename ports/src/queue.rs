//! The job queue: two priorities, at-least-once, carrying only report ids. Its loss is healed from the reports log.

use async_trait::async_trait;
use uuid::Uuid;

use crate::Result;

/// Which of the two queues. The queue is the priority; message numbers are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// `high_priority`: finances.
    High,
    /// `low_priority`: legal.
    Low,
}

impl Priority {
    pub const ALL: [Self; 2] = [Self::High, Self::Low];

    pub fn queue(self) -> &'static str {
        match self {
            Self::High => "high_priority",
            Self::Low => "low_priority",
        }
    }
}

/// One message handed to a worker; it must be settled through the consumer it came from.
#[derive(Debug)]
pub struct Delivery {
    pub report_id: Uuid,
    pub priority: Priority,
    pub redelivered: bool,
    /// The adapter's handle (an AMQP delivery tag and channel incarnation).
    pub tag: (u64, u64),
}

/// Messages waiting in a queue and not yet handed to a consumer, and how many consumers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    pub ready: u64,
    pub consumers: u64,
}

#[async_trait]
pub trait JobQueue: Send + Sync + 'static {
    /// Returns once the broker has confirmed every message as stored. Messages returned as unroutable are an error.
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()>;
    /// A consumer whose prefetch is bounded: `high_prefetch` and `low_prefetch` unsettled messages at most.
    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>>;
    async fn depth(&self, priority: Priority) -> Result<QueueDepth>;
}

#[async_trait]
pub trait JobConsumer: Send + Sync {
    /// The next message of one priority; cancel-safe. An error means that the consumer is dead: make a new one.
    async fn receive(&self, priority: Priority) -> Result<Delivery>;
    /// Removes the message for good.
    async fn ack(&self, delivery: Delivery) -> Result<()>;
    /// Puts the message back, to be delivered again.
    async fn requeue(&self, delivery: Delivery) -> Result<()>;
    /// Gives the message up: to the dead letters.
    async fn reject(&self, delivery: Delivery) -> Result<()>;
}

/// A message that was given up: by a worker (its report failed or is dead), or by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `None` when the message names no report.
    pub report_id: Option<Uuid>,
    /// The queue it was given up from, where the adapter knows.
    pub priority: Option<Priority>,
    /// Why, in the broker's word: `rejected`, `delivery_limit` …
    pub reason: String,
}

/// What was given up, for operators.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Oldest first, at most `limit`; they stay where they are.
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>>;
    /// Removes for good those of these reports (`None`: those that name no report); how many there were.
    async fn remove(&self, report_ids: &[Option<Uuid>]) -> Result<usize>;
}
