//! Why a command to a unit is refused.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Entry, EntryKind};
use crate::fault::Fault;
use crate::{Currency, Money, RefusalClass, Refused};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnitError {
    #[error("{}: {}", .0.pointer, .0.detail)]
    Invalid(Fault),
    #[error("there is no such unit")]
    NotFound,
    #[error("the unit has no {what} {id}")]
    NoSuchEntry { what: &'static str, id: Uuid },
    #[error("the unit already has another {what} {id}")]
    AlreadyExists { what: &'static str, id: Uuid },
    #[error("the unit is {current}")]
    InvalidState { current: &'static str, allowed: &'static [&'static str] },
    #[error("the unit is not available: a {} takes these days", .kind.as_str())]
    NotAvailable { conflict_id: Uuid, kind: EntryKind },
    #[error("a hold lasts at most {limit_days} days")]
    HoldTooLong { limit_days: i64 },
    #[error("the lease holds no reservation of this unit")]
    NoReservation,
    #[error("the next tenant is booked")]
    NextTenantBooked { conflict_id: Uuid },
    #[error("the lease does not occupy this unit")]
    NotOccupied,
    #[error("the unit is occupied")]
    Occupied { lease_id: Uuid },
    #[error("the unit has a reservation")]
    HasReservation { lease_id: Uuid },
    #[error("the unit has a hold")]
    HasHold { hold_id: Uuid },
    #[error("the rent is above the cap of {cap}")]
    RentExceedsCap { cap: Money },
    #[error("the unit is let in {expected}")]
    CurrencyMismatch { expected: Currency },
}

impl From<Fault> for UnitError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl UnitError {
    pub(super) fn not_available(entry: &Entry) -> Self {
        Self::NotAvailable { conflict_id: entry.reference(), kind: entry.kind() }
    }
}

impl Refused for UnitError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "VALIDATION_FAILED",
            Self::NotFound | Self::NoSuchEntry { .. } => "NOT_FOUND",
            Self::AlreadyExists { .. } => "ALREADY_EXISTS",
            Self::InvalidState { .. } => "INVALID_STATE",
            Self::NotAvailable { .. } => "UNIT_NOT_AVAILABLE",
            Self::HoldTooLong { .. } => "HOLD_TOO_LONG",
            Self::NoReservation => "NO_RESERVATION",
            Self::NextTenantBooked { .. } => "NEXT_TENANT_BOOKED",
            Self::NotOccupied => "NOT_OCCUPIED",
            Self::Occupied { .. } => "UNIT_OCCUPIED",
            Self::HasReservation { .. } => "UNIT_HAS_RESERVATION",
            Self::HasHold { .. } => "UNIT_HAS_HOLD",
            Self::RentExceedsCap { .. } => "RENT_EXCEEDS_CAP",
            Self::CurrencyMismatch { .. } => "CURRENCY_MISMATCH",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid(_) => RefusalClass::Invalid,
            Self::NotFound | Self::NoSuchEntry { .. } => RefusalClass::NotFound,
            Self::HoldTooLong { .. } | Self::RentExceedsCap { .. } | Self::CurrencyMismatch { .. } => RefusalClass::Policy,
            Self::AlreadyExists { .. }
            | Self::InvalidState { .. }
            | Self::NotAvailable { .. }
            | Self::NoReservation
            | Self::NextTenantBooked { .. }
            | Self::NotOccupied
            | Self::Occupied { .. }
            | Self::HasReservation { .. }
            | Self::HasHold { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Invalid(_) | Self::NotFound | Self::NoReservation | Self::NotOccupied => Value::Null,
            Self::NoSuchEntry { what, id } | Self::AlreadyExists { what, id } => json!({ "what": what, "id": id }),
            Self::InvalidState { current, allowed } => json!({ "current": current, "allowed": allowed }),
            Self::NotAvailable { conflict_id, kind } => json!({ "conflict_id": conflict_id, "kind": kind }),
            Self::HoldTooLong { limit_days } => json!({ "limit_days": limit_days }),
            Self::NextTenantBooked { conflict_id } => json!({ "conflict_id": conflict_id }),
            Self::Occupied { lease_id } | Self::HasReservation { lease_id } => json!({ "lease_id": lease_id }),
            Self::HasHold { hold_id } => json!({ "hold_id": hold_id }),
            Self::RentExceedsCap { cap } => json!({ "cap": cap }),
            Self::CurrencyMismatch { expected } => json!({ "expected": expected }),
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(fault) => Some(fault.pointer),
            _ => None,
        }
    }
}
