//! SQLite: the embedded mode's folder, one file a context for its log, one for the views.
//!
//! Exactly one connection a file writes and checkpoints; all others are opened read-only. Only one process holds a folder.

mod append;
mod chain;
mod file;
mod folder;
mod followers;
mod generations;
mod inspect;
mod log;
mod parked;
mod snapshot;
mod streams;
mod transfer;
mod views;

pub use folder::DataFolder;
pub use log::SqliteLog;
pub use views::SqliteViews;
