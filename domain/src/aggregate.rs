//! What an aggregate is here, which ones exist, and which context's log holds each.

use std::fmt;
use std::str::FromStr;

use cqrs_es::{Aggregate, DomainEvent};
use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Refused;

/// A bounded context: one event log, one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Context {
    Auth,
    Units,
    Legal,
    Finances,
    Reports,
}

impl Context {
    pub const ALL: [Self; 5] = [Self::Auth, Self::Units, Self::Legal, Self::Finances, Self::Reports];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Units => "units",
            Self::Legal => "legal",
            Self::Finances => "finances",
            Self::Reports => "reports",
        }
    }

    /// The name of the context's Postgres database (and, with `.sqlite`, of its embedded file).
    pub fn database(self) -> &'static str {
        match self {
            Self::Auth => "auth_db",
            Self::Units => "units_db",
            Self::Legal => "legal_db",
            Self::Finances => "finances_db",
            Self::Reports => "reports_db",
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Context {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|context| context.as_str() == text)
            .ok_or_else(|| format!("unknown context {text:?}: one of auth, units, legal, finances, reports"))
    }
}

/// Lists every aggregate once; [`AggregateKind`] and `with_aggregate!` come from this list, so a new aggregate is one line.
macro_rules! aggregates {
    ($($kind:ident => $type:ty, $context:ident;)*) => {
        /// Which aggregate a stream belongs to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum AggregateKind { $($kind),* }

        impl AggregateKind {
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The stored `aggregate_type`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => <$type as Aggregate>::TYPE),* }
            }

            pub fn context(self) -> Context {
                match self { $(Self::$kind => Context::$context),* }
            }
        }
    };
}

aggregates! {
    Property => crate::units::Property, Units;
    Unit => crate::units::Unit, Units;
    User => crate::auth::User, Auth;
    UserNameClaim => crate::auth::UserNameClaim, Auth;
    Operations => crate::auth::Operations, Auth;
    Party => crate::legal::Party, Legal;
    Lease => crate::legal::Lease, Legal;
    Document => crate::legal::Document, Legal;
    LeaseProcess => crate::legal::LeaseProcess, Legal;
    Ledger => crate::finances::Ledger, Finances;
    PaymentReference => crate::finances::PaymentReference, Finances;
    Report => crate::reports::Report, Reports;
}

/// Runs an expression with `$A` bound to the aggregate type of a kind: `with_aggregate!(kind, A => repo.get_events::<A>(id))`.
#[macro_export]
macro_rules! with_aggregate {
    ($kind:expr, $A:ident => $body:expr) => {
        match $kind {
            $crate::AggregateKind::Property => {
                type $A = $crate::units::Property;
                $body
            }
            $crate::AggregateKind::Unit => {
                type $A = $crate::units::Unit;
                $body
            }
            $crate::AggregateKind::User => {
                type $A = $crate::auth::User;
                $body
            }
            $crate::AggregateKind::UserNameClaim => {
                type $A = $crate::auth::UserNameClaim;
                $body
            }
            $crate::AggregateKind::Operations => {
                type $A = $crate::auth::Operations;
                $body
            }
            $crate::AggregateKind::Party => {
                type $A = $crate::legal::Party;
                $body
            }
            $crate::AggregateKind::Lease => {
                type $A = $crate::legal::Lease;
                $body
            }
            $crate::AggregateKind::Document => {
                type $A = $crate::legal::Document;
                $body
            }
            $crate::AggregateKind::LeaseProcess => {
                type $A = $crate::legal::LeaseProcess;
                $body
            }
            $crate::AggregateKind::Ledger => {
                type $A = $crate::finances::Ledger;
                $body
            }
            $crate::AggregateKind::PaymentReference => {
                type $A = $crate::finances::PaymentReference;
                $body
            }
            $crate::AggregateKind::Report => {
                type $A = $crate::reports::Report;
                $body
            }
        }
    };
}

impl FromStr for AggregateKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("unknown aggregate type {text:?}"))
    }
}

/// One aggregate instance: `unit-0192…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    pub kind: AggregateKind,
    /// A UUID for most aggregates; a natural key (user name, `source:id`) for claims.
    pub id: String,
}

impl StreamId {
    pub fn new(kind: AggregateKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
    pub fn of<A: Decide>(id: Uuid) -> Self {
        Self::new(A::KIND, id.to_string())
    }
    pub fn context(&self) -> Context {
        self.kind.context()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.id)
    }
}

/// The instant a command is decided at; the only clock a decision sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub now: Timestamp,
}

/// An aggregate that decides purely.
pub trait Decide: Aggregate<Services = Moment, Error: Refused, Command: Send + Sync, Event: Fact> + Clone + 'static {
    const KIND: AggregateKind;

    /// The events the command leads to from this state. An empty list is a no-op: the fact already holds.
    fn decide(&self, command: &Self::Command, at: &Moment) -> Result<Vec<Self::Event>, Self::Error>;

    /// The business date of an event decided on this state, in the property's zone where there is one.
    fn effective_on(&self, event: &Self::Event, at: &Moment) -> Date;
}

/// A stored event. One that carries personal data has a field `personal: Personal<T>` and names the data subject.
pub trait Fact: DomainEvent {
    /// `party:<id>` or `user:<id>`: whose key seals the field `personal`; `None` when the event has no such field.
    fn subject(&self) -> Option<String> {
        None
    }
}

/// Implements `Aggregate::handle` as a bridge to [`Decide::decide`]; put it inside `impl Aggregate for X`.
#[macro_export]
macro_rules! bridge {
    () => {
        async fn handle(
            &mut self,
            command: Self::Command,
            at: &$crate::Moment,
            sink: &cqrs_es::event_sink::EventSink<Self>,
        ) -> Result<(), Self::Error> {
            for event in $crate::Decide::decide(self, &command, at)? {
                sink.write(event, self).await;
            }
            Ok(())
        }
    };
}
