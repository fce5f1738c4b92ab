//! History on the move: the native export and import, backup and restore.
//!
//! A native export is lines of JSON: a header (each log's incarnation, head and followers at one moment), every event as stored with
//! its place, the idempotency keys that policies and timers keep for ever, and a trailer with counts and the SHA-256 of all lines
//! before it. The same history gives the same bytes, whichever mode wrote them. Keys of HTTP callers, which live for 30 days, stay
//! behind; the wrapped keys of data subjects go to a file of their own.

mod backup;
mod cloudevents;
mod cut;
mod format;
mod import;
mod lines;
mod progress;
mod renew;
mod restore;
mod write;

pub use backup::backup;
pub use cloudevents::{cloud_event, place_behind};
pub use cut::cut;
pub use format::{Header, Line, SubjectLine, event_line, key_line};
pub use import::{ImportArgs, import};
pub use lines::hex;
pub use renew::{RenewArgs, renew};
pub use restore::{RestoreArgs, restore};
pub use write::export;
