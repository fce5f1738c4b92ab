//! The contract of each port as functions that an adapter's tests call with a fresh adapter.

pub mod artifacts;
pub mod cache;
pub mod generations;
pub mod hints;
pub mod log;
pub mod queue;
pub mod views;
