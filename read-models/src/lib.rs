//! The read models: pure folds from events to rows, and the typed queries over the rows.
//!
//! One file a model: spec, fold, queries, response types; and one line in [`all`]. A model has one source context, and its fold
//! may rely on order within one stream only. Must not do I/O (queries read through the `ViewSnapshot` port), read a clock (the
//! time is handed in), or keep personal data outside `party_card`.

mod answer;
mod rows;

pub use answer::{Answer, Cursor, Page, PageRequest, Tag};
pub use rows::Rows;

use ports::{ModelSpec, Recorded, Result};

/// A fold from one context's events to rows.
pub trait ReadModel: Send + Sync + 'static {
    fn spec(&self) -> &'static ModelSpec;

    /// Keys of the rows that folding the event reads or writes; empty for an event that does not concern the model.
    fn keys(&self, event: &Recorded) -> Result<Vec<String>>;

    /// Folds the event into the rows named by `keys`. An error stops the follower and names the event.
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()>;
}

/// Every read model, in the order operators see them.
pub fn all() -> Vec<&'static dyn ReadModel> {
    vec![]
}
