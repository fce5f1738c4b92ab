//! Finances: the ledger of a lease as double entry, and the references under which payments are known outside.

mod accounts;
mod charges;
mod ledger;
mod reference;

pub use accounts::{Account, EntryLine, Lines, balances, tenant_balance};
pub use charges::{AllocationPolicy, CapCombine, ChargeType, FeeKind, LateFeeCap, LateFeePolicy, PaymentMethod};
pub use ledger::{Charge, Fee, Ledger, LedgerCommand, LedgerError, LedgerEvent, NewPayment, Payment, ReversalKind, Unwound};
pub use reference::{ExternalRef, PaymentReference, ReferenceCommand, ReferenceError, ReferenceEvent};

/// The largest amount of one charge or payment, in minor units.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
