//! The one write path: load the streams, decide, append. HTTP, policies, timers and report workers all come through
//! [`Handler::execute`].
//!
//! Must not know: HTTP, a database driver, a read model. What is answered as done is durable; a refusal is judged on state that
//! was read from the log after the command arrived.

mod appender;
mod error;
mod handler;
mod in_flight;
mod step;

pub use appender::Appender;
pub use error::CommandError;
pub use handler::{Done, Handler, Issue, Key};
pub use step::{Loaded, Step, step};
