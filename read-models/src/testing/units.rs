//! Units in tests.

use std::collections::BTreeSet;

use domain::units::{Amenity, PropertyFacts, UnitEvent};
use domain::{AggregateKind, Currency, Date, HoldId, LeaseId, Money, PartyId, PropertyId, UnitId};
use jiff::civil::date;
use ports::Recorded;
use uuid::Uuid;

use super::{instant, recorded};

pub const LEASE: LeaseId = LeaseId(Uuid::from_u128(70));
pub const HOLD: HoldId = HoldId(Uuid::from_u128(71));
pub const PARTY: PartyId = PartyId(Uuid::from_u128(72));

pub fn unit_id(number: u128) -> UnitId {
    UnitId(Uuid::from_u128(number))
}

pub fn property_id(number: u128) -> PropertyId {
    PropertyId(Uuid::from_u128(number))
}

pub fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("USD"))
}

/// Two bedrooms in San Diego, in property 90.
pub fn added(unit_number: &str) -> UnitEvent {
    added_to("San Diego", property_id(90), unit_number)
}

pub fn added_to(city: &str, property_id: PropertyId, unit_number: &str) -> UnitEvent {
    UnitEvent::UnitAdded {
        property: PropertyFacts {
            property_id,
            property_name: "Palm Court".into(),
            city: city.into(),
            region: Some("CA".into()),
            country: "US".into(),
            time_zone: "America/Los_Angeles".into(),
            currency: Currency::new("USD").expect("USD"),
            jurisdiction: "US-CA".into(),
        },
        unit_number: unit_number.into(),
        bedrooms: 2,
        bathrooms_x2: 3,
        area_m2: 80,
        amenities: BTreeSet::from([Amenity::Balcony, Amenity::Pool]),
    }
}

pub fn listed(price: i64) -> UnitEvent {
    UnitEvent::UnitListed { price: usd(price), deposit: usd(150_000), available_from: date(2025, 1, 1), min_term_months: 12 }
}

pub fn held(from: Date, to: Date, expires_at: &str) -> UnitEvent {
    UnitEvent::HoldPlaced { hold_id: HOLD, party_id: PARTY, from, to, expires_at: instant(expires_at) }
}

pub fn reserved(from: Date, to: Option<Date>) -> UnitEvent {
    UnitEvent::UnitReserved { lease_id: LEASE, from, to, consumed_holds: vec![] }
}

/// The events of one unit, recorded at noon UTC of 1 January 2025.
pub fn stream(unit: UnitId, events: &[UnitEvent]) -> Vec<Recorded> {
    let record = |(sequence, event)| recorded(AggregateKind::Unit, unit, sequence, "2025-01-01T12:00:00Z", event);
    (1..).zip(events).map(record).collect()
}
