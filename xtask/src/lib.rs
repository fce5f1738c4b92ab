//! The private native stack: real Postgres, Redis, RabbitMQ and Nginx from Debian's packages on free loopback ports, the
//! roles of `casitas` on top, and the drivers that test them.
//!
//! Everything here is blocking and built on `std::process`: no runtime is needed to use it from a test. Whatever is
//! started belongs to this process: `stop`, `Drop`, and even this process's sudden death leave nothing behind.
//!
//! This crate knows the binary's command line and environment, and nothing of the crates it is made of.

pub mod chaos;
pub mod http;
pub mod net;
pub mod packages;
pub mod process;
pub mod scenarios;
pub mod servers;
pub mod stack;
pub mod test;
pub mod tidy;
pub mod workspace;
