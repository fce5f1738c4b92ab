//! Embedded mode's queue and hints: plain memory of the one process. What a crash takes from the queue is published again
//! from the reports log.

mod hints;
mod queue;

pub use hints::InProcessHints;
pub use queue::InProcessQueue;
