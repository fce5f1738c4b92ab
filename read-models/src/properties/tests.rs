use domain::units::{Address, OwnerShare, PropertyEvent, PropertyType, RegisterProperty};
use domain::{AggregateKind, Currency, PartyId, PropertyId};
use jiff::civil::date;
use uuid::Uuid;

use super::{Properties, PropertiesFilter, PropertyStatus, properties, property};
use crate::PageRequest;
use crate::testing::units::{property_id, unit_id};
use crate::testing::{Shelf, instant, recorded};

const NOON: &str = "2025-01-01T12:00:00Z";

fn owner(party: u128) -> Vec<OwnerShare> {
    vec![OwnerShare { party_id: PartyId(Uuid::from_u128(party)), share_bp: 10_000 }]
}

fn registered(property_id: PropertyId, city: &str) -> PropertyEvent {
    PropertyEvent::PropertyRegistered(RegisterProperty {
        property_id,
        name: format!("{city} Court"),
        property_type: PropertyType::ApartmentBuilding,
        address: Address {
            line1: "1 Palm Ave".into(),
            line2: None,
            city: city.into(),
            region: None,
            postal_code: None,
            country: "US".into(),
        },
        time_zone: "America/Los_Angeles".into(),
        currency: Currency::new("USD").expect("USD"),
        jurisdiction: "US-CA".into(),
        owners: owner(1),
    })
}

fn fold(shelf: &mut Shelf, property_id: PropertyId, events: &[PropertyEvent]) {
    let events: Vec<_> = (1..)
        .zip(events)
        .map(|(sequence, event)| recorded(AggregateKind::Property, property_id, sequence, NOON, event))
        .collect();
    shelf.fold(&Properties, &events);
}

#[tokio::test]
async fn owners_are_those_of_the_day_asked_for() {
    let id = property_id(90);
    let mut shelf = Shelf::default();
    let assigned = PropertyEvent::OwnersAssigned { owners: owner(2), effective_on: date(2025, 2, 1) };
    fold(&mut shelf, id, &[registered(id, "San Diego"), assigned]);
    for (day, expected) in [(date(2025, 1, 31), owner(1)), (date(2025, 2, 1), owner(2))] {
        let answer = property(&mut shelf, id, Some(day), instant(NOON)).await.expect("an answer");
        assert_eq!(answer.value.map(|property| property.owners), Some(expected));
        assert_eq!(answer.valid_until, None);
    }
    let today = property(&mut shelf, id, None, instant(NOON)).await.expect("an answer");
    assert_eq!(today.valid_until, Some(instant("2025-01-02T08:00:00Z")));
    assert_eq!(property(&mut shelf, property_id(1), None, instant(NOON)).await.expect("an answer").value, None);
}

#[tokio::test]
async fn a_property_counts_its_units_and_those_not_retired() {
    let id = property_id(90);
    let claimed =
        |number: u128| PropertyEvent::UnitNumberClaimed { unit_id: unit_id(number), unit_number: number.to_string() };
    let released = PropertyEvent::UnitNumberReleased { unit_id: unit_id(1), unit_number: "1".into() };
    let retired = PropertyEvent::UnitRetirementNoted { unit_id: unit_id(2) };
    let mut shelf = Shelf::default();
    fold(&mut shelf, id, &[registered(id, "San Diego"), claimed(1), claimed(2), released, claimed(1), retired]);
    let seen = property(&mut shelf, id, None, instant(NOON)).await.expect("an answer").value.expect("a property");
    assert_eq!((seen.units, seen.active_units, seen.version), (2, 1, 6));
}

#[tokio::test]
async fn the_list_is_filtered() {
    let mut shelf = Shelf::default();
    fold(&mut shelf, property_id(90), &[registered(property_id(90), "San Diego")]);
    fold(&mut shelf, property_id(91), &[registered(property_id(91), "Reno"), PropertyEvent::PropertyInactivated {}]);
    let any = PropertiesFilter::default;
    let cases: Vec<(PropertiesFilter, &[&str])> = vec![
        (any(), &["San Diego Court", "Reno Court"]),
        (PropertiesFilter { city: Some("RENO".into()), ..any() }, &["Reno Court"]),
        (PropertiesFilter { status: Some(PropertyStatus::Active), ..any() }, &["San Diego Court"]),
        (PropertiesFilter { country: Some("CO".into()), ..any() }, &[]),
    ];
    for (filter, expected) in cases {
        let page = PageRequest::default();
        let answer = properties(&mut shelf, &filter, None, &page, instant(NOON)).await.expect("an answer");
        let names: Vec<_> = answer.value.data.into_iter().map(|property| property.name).collect();
        assert_eq!(names, expected, "{filter:?}");
    }
}
