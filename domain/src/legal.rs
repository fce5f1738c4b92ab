//! Legal: the people, the leases they sign, the documents they sign them on, and the way of a lease between contexts.

mod document;
mod lease;
pub mod move_in;
mod party;
mod process;
mod terms;

pub use document::{Document, DocumentCommand, DocumentError, DocumentEvent, DocumentKind, NewDocument};
pub use lease::{ActivationFailure, Lease, LeaseCommand, LeaseError, LeaseEvent, LeaseOutline, LeaseState, SignatureMethod};
pub use party::{
    EmergencyContact, Names, Party, PartyCommand, PartyDetails, PartyError, PartyEvent, PartyKind, PartyPatch, PartyRole,
    PostalAddress,
};
pub use process::{LeaseProcess, ProcessCommand, ProcessError, ProcessEvent, ProcessStep, StepOutcome, Stuck};
pub use terms::{
    Clause, Deposit, DepositHolder, Escalation, ExtraCharge, LeasePlace, LeaseTenant, LeaseTerms, NoticeDays,
    ProrationMethod, Rent, RentFrequency, TermType, TermsFault,
};
