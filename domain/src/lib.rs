//! The rules of a rental business: aggregates, commands, events. Pure: no I/O, no clock, no environment.
//!
//! Each aggregate decides in a plain synchronous function ([`Decide::decide`]); cqrs-es's async `handle` is a bridge to
//! it ([`bridge!`]). Facts from outside (the time, another stream's state) travel inside the command or the [`Moment`].

mod aggregate;
mod calendar;
mod events;
mod fault;
#[cfg(test)]
mod golden;
mod ids;
mod money;
mod personal;
mod refusal;
mod sha256;
#[cfg(test)]
mod testing;
mod upcast;

pub mod auth;
pub mod finances;
pub mod legal;
pub mod reports;
pub mod units;

pub use aggregate::{AggregateKind, Context, Decide, Fact, Moment, StreamId};
pub use calendar::{DateRange, today_in, zone};
pub use fault::{Fault, sane_date};
pub use ids::*;
pub use money::{Currency, Money};
pub use personal::Personal;
pub use refusal::{Refusal, RefusalClass, Refused};
pub use sha256::Sha256;
pub use upcast::{Upcast, is_old, is_readable, upcast};

pub use cqrs_es::{Aggregate, DomainEvent};
pub use jiff::{Timestamp, civil::Date};
