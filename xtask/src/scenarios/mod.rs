//! The end-to-end scenarios of the product's promises, each a function of its size: `cargo xtask test` runs the short form,
//! `cargo xtask verify` the full one. They know the system by its HTTP API, its command line and its servers' own tools.

mod access;
mod caching;
pub mod client;
pub(crate) mod crashes;
pub(crate) mod dates;
mod doctor;
mod edge;
mod fuzz;
mod growth;
mod history;
mod input;
mod interrupts;
mod jobs;
mod large;
mod look;
mod operations;
mod privacy;
mod races;
mod reads;
mod rebuilds;
mod restored;
mod suite;
pub mod system;
mod tampering;
pub(crate) mod tokens;
mod upgrades;
mod walkthrough;
mod wire;
pub mod world;

pub use suite::{Row, Size, Suite, SuiteOptions, THEMES, run};
