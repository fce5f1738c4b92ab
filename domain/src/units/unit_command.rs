//! What can be asked of a unit.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Date};
use uuid::Uuid;

use super::{Amenity, Bathrooms, PropertyFacts};
use crate::{BlockId, HoldId, LeaseId, Money, PartyId};

/// A hold lasts at most this many days of 24 hours from its placing (domain.md 2.1).
pub const HOLD_DAYS_MAX: i64 = 15;

/// Intervals are half-open: `[from, to)`.
#[derive(Clone, Debug, PartialEq)]
pub enum UnitCommand {
    AddUnit(AddUnit),
    UpdateUnit(UpdateUnit),
    ListUnit {
        price: Money,
        deposit: Money,
        available_from: Date,
        min_term_months: u16,
        /// What the policy of the jurisdiction allows, when it says so.
        rent_cap: Option<Money>,
    },
    UnlistUnit,
    ChangeListingPrice {
        price: Money,
        effective_on: Date,
        rent_cap: Option<Money>,
    },
    PlaceHold {
        hold_id: HoldId,
        party_id: PartyId,
        from: Date,
        to: Date,
        expires_at: Timestamp,
    },
    ReleaseHold {
        hold_id: HoldId,
    },
    /// From the timer; before the hold's time, or when it is gone, nothing happens.
    ExpireHold {
        hold_id: HoldId,
    },
    ReserveUnit {
        lease_id: LeaseId,
        from: Date,
        to: Option<Date>,
        /// The lease's parties: holds of theirs do not stand in the way, they are used up.
        parties: Vec<PartyId>,
    },
    ReleaseReservation {
        lease_id: LeaseId,
    },
    StartOccupancy {
        lease_id: LeaseId,
        on: Date,
    },
    /// The unit becomes free from `on`.
    ScheduleVacancy {
        lease_id: LeaseId,
        on: Date,
    },
    CancelVacancy {
        lease_id: LeaseId,
    },
    /// Without `to` it becomes open-ended.
    ExtendOccupancy {
        lease_id: LeaseId,
        to: Option<Date>,
    },
    /// The keys were returned `on` that day, which is free for the next tenant.
    EndOccupancy {
        lease_id: LeaseId,
        on: Date,
    },
    BlockUnit {
        block_id: BlockId,
        from: Date,
        to: Date,
        reason: String,
        /// The maintenance request behind it.
        request_id: Option<Uuid>,
    },
    /// As of today, in the unit's zone.
    EndBlock {
        block_id: BlockId,
    },
    RetireUnit {
        reason: String,
        on: Date,
    },
    ReinstateUnit,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AddUnit {
    /// From the property's stream: `Property::facts`.
    pub property: PropertyFacts,
    pub unit_number: String,
    pub bedrooms: u8,
    pub bathrooms: Bathrooms,
    pub area_m2: u32,
    pub amenities: BTreeSet<Amenity>,
}

/// What is absent stays as it is. A new number is claimed on the property in the same append.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateUnit {
    pub unit_number: Option<String>,
    pub bedrooms: Option<u8>,
    pub bathrooms: Option<Bathrooms>,
    pub area_m2: Option<u32>,
    pub amenities: Option<BTreeSet<Amenity>>,
}
