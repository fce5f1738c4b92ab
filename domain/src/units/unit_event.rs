//! What happened to a unit. Stored shapes never change; they gain upcasters.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Amenity, PropertyFacts};
use crate::events::event_names;
use crate::{BlockId, Fact, HoldId, LeaseId, Money, PartyId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitEvent {
    UnitAdded {
        property: PropertyFacts,
        unit_number: String,
        bedrooms: u8,
        /// Bathrooms counted in halves.
        bathrooms_x2: u8,
        area_m2: u32,
        amenities: BTreeSet<Amenity>,
    },
    /// Only what changed is present.
    UnitUpdated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit_number: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bedrooms: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bathrooms_x2: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        area_m2: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amenities: Option<BTreeSet<Amenity>>,
    },
    UnitListed {
        price: Money,
        deposit: Money,
        available_from: Date,
        min_term_months: u16,
    },
    UnitUnlisted {},
    ListingPriceChanged {
        price: Money,
        effective_on: Date,
    },
    HoldPlaced {
        hold_id: HoldId,
        party_id: PartyId,
        from: Date,
        to: Date,
        expires_at: Timestamp,
    },
    HoldReleased {
        hold_id: HoldId,
    },
    HoldExpired {
        hold_id: HoldId,
        /// When it ran out; the event itself may be recorded later.
        expires_at: Timestamp,
    },
    UnitReserved {
        lease_id: LeaseId,
        from: Date,
        to: Option<Date>,
        /// Holds of the lease's parties that this reservation used up.
        consumed_holds: Vec<HoldId>,
    },
    ReservationReleased {
        lease_id: LeaseId,
    },
    /// The reservation's days became the occupancy's.
    OccupancyStarted {
        lease_id: LeaseId,
        on: Date,
        from: Date,
        to: Option<Date>,
    },
    /// The unit is free from `on`.
    VacancyScheduled {
        lease_id: LeaseId,
        on: Date,
    },
    /// The occupancy runs to `to` again.
    VacancyCancelled {
        lease_id: LeaseId,
        to: Option<Date>,
    },
    OccupancyExtended {
        lease_id: LeaseId,
        to: Option<Date>,
    },
    /// The keys came back `on` that day; the unit is free from `to` (earlier than `on` when the next tenant was booked).
    OccupancyEnded {
        lease_id: LeaseId,
        on: Date,
        to: Date,
    },
    UnitBlocked {
        block_id: BlockId,
        from: Date,
        to: Date,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<Uuid>,
    },
    /// The unit is free from `on`.
    BlockEnded {
        block_id: BlockId,
        on: Date,
    },
    /// A retired unit is not listed either.
    UnitRetired {
        reason: String,
        on: Date,
    },
    UnitReinstated {},
}

event_names!(
    UnitEvent: UnitAdded,
    UnitUpdated,
    UnitListed,
    UnitUnlisted,
    ListingPriceChanged,
    HoldPlaced,
    HoldReleased,
    HoldExpired,
    UnitReserved,
    ReservationReleased,
    OccupancyStarted,
    VacancyScheduled,
    VacancyCancelled,
    OccupancyExtended,
    OccupancyEnded,
    UnitBlocked,
    BlockEnded,
    UnitRetired,
    UnitReinstated,
);

impl Fact for UnitEvent {}
