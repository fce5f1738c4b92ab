//! Everything that touches a socket or a disk: one folder per technology, each implementing ports.
//!
//! Invariants: nothing in a log is updated or deleted; no lock of a server is held across a client round trip; every call
//! ends within its deadline; every queue, pool and batch is bounded. Every adapter passes `ports::conformance`.
//!
//! Must not know: HTTP, configuration, what an event means.

pub mod files;
pub mod inprocess;
pub mod memory;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod sqlite;

mod address;
mod keyset;
mod stored;
mod views;
