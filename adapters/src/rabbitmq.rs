//! RabbitMQ: the job queue as two durable quorum queues. Disposable; lost messages are published again from the reports log.
//!
//! lapin's own recovery is off: it does not bring back a channel that the broker closed (R11 of reliability-security.md), and
//! a consumer rebuilt here, with its prefetch, covers every kind of loss the same way.

mod consumer;
mod dead;
mod link;
mod queue;
mod settling;
mod topology;

pub use link::RabbitConfig;
pub use queue::RabbitQueue;
pub use topology::{
    BrokerUser, DEAD_EXCHANGE, DEAD_QUEUE, EXCHANGE, PROJECTOR, VHOST, WORKER, definitions_json, hash_password,
};
