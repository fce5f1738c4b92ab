//! Cached query GETs: the cache protocol (`reader`, `feed`, `tiers`, `flight`) and the routes.
//!
//! Invariant: an answer is served from a cache only when it is provably what the view store would have answered at a moment of
//! the last second, as far as this replica's change feed knows; otherwise the view store answers. Only a public list may be known
//! to have changed since that moment, and only for who shows no position.
//! Must not know: drivers, the environment, how events are folded, how commands are decided.

mod api;
mod compute;
mod download;
mod entry;
mod feed;
mod flight;
mod hot;
mod kept;
mod key;
mod lane;
mod paging;
mod principals;
mod query;
mod reader;
mod respond;
mod routes;
mod tiers;
mod token;

#[cfg(test)]
mod lane_tests;
#[cfg(test)]
mod outdated_tests;
#[cfg(test)]
mod own_tests;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod routes_tests;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod testing;

pub use api::QueryApi;
pub use entry::{Dep, Entry};
pub use feed::{Feed, Life};
pub use hot::HotWriter;
pub use kept::Kept;
pub use principals::ViewPrincipals;
pub use query::{Body, Query, Sharing};
pub use reader::{ReadError, Reader, ReaderConfig, Served, Source, Wish};
pub use routes::{described, router};
pub use token::{MinPosition, Reached};
