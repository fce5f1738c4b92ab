//! Adapters in memory, for tests and simulation. They keep every promise of their ports except durability. (Hints within a process: `inprocess`.)

mod chain;
mod generations;
mod log;
mod select;
mod transfer;
mod views;

pub use log::MemoryLog;
pub use views::MemoryViews;
