//! Report workers: take jobs from the two queues, render, store, record.
//!
//! Invariants: a waiting high job starts before a low one, and a low one starts after at most 30 s of continuous high load;
//! the report's own stream is the truth about a job, the message only its id; an artifact is stored before the report is
//! completed, and a message is settled after that; the only log written is that of reports; equal parameters and positions
//! give equal bytes.
//!
//! Must not know: which queue, store or folder it is given, HTTP, the environment.

mod config;
mod job;
mod order;
mod pins;
mod places;
mod reports;
#[cfg(feature = "seeded-bugs")]
mod seeded;
mod streams;
mod worker;

pub use config::{CrashAt, CrashPoint, WorkerConfig, WorkerPorts, WorkerStatus};
pub use order::Order;
pub use reports::{Registry, Render, Rendered};
pub use worker::run;
