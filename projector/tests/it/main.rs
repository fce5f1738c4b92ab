//! The followers over adapters in memory, with time that jumps to the next timer when everybody waits.

mod dispatcher;
mod parking;
mod policy;
mod projection;
mod rebuild;
mod support;
mod timers;
