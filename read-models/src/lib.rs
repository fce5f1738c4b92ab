//! The read models: pure folds from events to rows, and the typed queries over the rows.
//!
//! One file a model: spec, fold, queries, response types; and one line in [`all`]. A model has one source context, and its fold
//! may rely on order within one stream only. Must not do I/O (queries read through the `ViewSnapshot` port), read a clock (the
//! time is handed in), or keep personal data outside `party_card`.

mod answer;
pub mod available_units;
pub mod documents;
pub mod hold_expiries;
pub mod lease_starts;
pub mod leases;
pub mod ledger_lines;
pub mod ledgers;
pub mod party_card;
pub mod processes;
pub mod properties;
pub mod reports;
mod rows;
mod scan;
#[cfg(test)]
mod testing;
mod time;
pub mod unit_calendar;
pub mod units;
pub mod users;

pub use answer::{Answer, Cursor, Page, PageRequest, Tag};
pub use rows::{Indexed, Rows};
pub use scan::{Look, find, scan};
pub use time::{day_begins, earliest, next_midnight};

use domain::AggregateKind;
use ports::{ModelSpec, Recorded, Result};

/// A fold from one context's events to rows.
pub trait ReadModel: Send + Sync + 'static {
    fn spec(&self) -> &'static ModelSpec;

    /// What its rows are made of, which decides how a rebuild may read the log.
    fn feed(&self) -> Feed {
        Feed::Mixed
    }

    /// Keys of the rows that folding the event reads or writes; empty for an event that does not concern the model.
    fn keys(&self, event: &Recorded) -> Result<Vec<String>>;

    /// Folds the event into the rows named by `keys`. An error stops the follower and names the event.
    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()>;
}

/// What feeds a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// The events of several streams: the log is folded in its order.
    Mixed,
    /// The events of one stream of this kind: streams may be folded in any order and beside each other, each in its own.
    Streams(AggregateKind),
    /// One event of a stream of this kind; the row is never read by a fold.
    Events(AggregateKind),
}

/// Every read model, in the order operators see them.
pub fn all() -> Vec<&'static dyn ReadModel> {
    vec![
        &available_units::AvailableUnits,
        &units::Units,
        &unit_calendar::UnitCalendar,
        &properties::Properties,
        &users::Users,
        &hold_expiries::HoldExpiries,
        &leases::Leases,
        &lease_starts::LeaseStarts,
        &processes::Processes,
        &party_card::PartyCard,
        &documents::Documents,
        &ledgers::Ledgers,
        &ledger_lines::LedgerLines,
        &reports::Reports,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_model_has_a_name_of_its_own_that_can_be_a_tables() {
        let names: BTreeSet<_> = all().iter().map(|model| model.spec().name).collect();
        assert_eq!(names.len(), all().len());
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(names.iter().all(|name| is_plain(name)), "{names:?}");
        let fields = all().into_iter().flat_map(|model| model.spec().fields);
        assert!(
            fields.into_iter().all(|field| field
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()))
        );
    }
}
