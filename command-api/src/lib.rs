//! Command POSTs: an extractor says who may, the body becomes a domain command, the handler decides and appends, the answer
//! carries version and position. A library over ports; `casitas` wires it.
//!
//! Must not know: any driver, any read model (what it must know of other streams it reads from their logs).

mod api;
mod command;
mod hashing;
mod principals;
mod reply;
pub mod routes;

pub use api::{Api, ApiConfig};
pub use hashing::hash_password;
pub use principals::LogPrincipals;
pub use routes::router;
