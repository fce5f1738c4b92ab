//! Postgres: one database a context for its log, one for the views.
//!
//! Appends are one call of a `SECURITY DEFINER` function (`migrations/postgres/log/0002_append.sql`); a step of a
//! projection is one statement. So no lock is ever held across a client round trip. Connections are made when they are
//! first needed: a process starts while its server is still coming up, and its calls are `Unavailable` until then.

mod append;
mod chain;
mod claims;
mod diagnosis;
mod errors;
mod followers;
mod generations;
mod inspect;
mod loading;
mod log;
mod migrate;
mod parked;
mod pool;
mod recorded;
#[cfg(feature = "seeded-bugs")]
mod seeded;
mod shelf;
mod snapshot;
mod still;
mod streams;
mod transfer;
mod views;

pub use diagnosis::{Blocker, Diagnosis};
pub use log::PostgresLog;
pub use migrate::{Databases, RolePasswords, migrate};
pub use pool::{PostgresServer, VIEWS_DATABASE};
#[cfg(feature = "seeded-bugs")]
pub use seeded::SeededBug;
pub use views::PostgresViews;
