use domain::units::{Occupancy, UnitEvent};
use jiff::civil::date;

use super::{UnitStatus, Units, UnitsFilter, unit, units};
use crate::testing::units::{added, added_to, held, listed, property_id, reserved, stream, unit_id, usd};
use crate::testing::{Shelf, instant};
use crate::{PageRequest, Tag};

const NOON: &str = "2025-01-01T12:00:00Z";

fn shelf(all: &[&[UnitEvent]]) -> Shelf {
    let mut shelf = Shelf::default();
    for (number, events) in (1..).zip(all) {
        shelf.fold(&Units, &stream(unit_id(number), events));
    }
    shelf
}

#[tokio::test]
async fn a_unit_that_was_never_added_is_absent() {
    let answer = unit(&mut shelf(&[]), unit_id(1), None, instant(NOON)).await.expect("an answer");
    assert_eq!(answer.value, None);
    assert_eq!(answer.tags, [Tag::row("units", unit_id(1).to_string())]);
}

#[tokio::test]
async fn a_unit_is_shown_with_version_price_and_occupancy_of_the_day() {
    let raised = UnitEvent::ListingPriceChanged { price: usd(200), effective_on: date(2025, 2, 1) };
    let mut shelf = shelf(&[&[added("4B"), listed(100), raised, reserved(date(2025, 3, 1), None)]]);
    let answer = unit(&mut shelf, unit_id(1), Some(date(2025, 2, 1)), instant(NOON)).await.expect("an answer");
    assert_eq!(answer.valid_until, None);
    let seen = answer.value.expect("a unit");
    assert_eq!((seen.version, seen.unit_number.as_str(), seen.status), (4, "4B", UnitStatus::Active));
    assert_eq!(seen.listing.map(|listing| listing.price), Some(usd(200)));
    assert_eq!(seen.occupancy, Occupancy::VacantRented);
    let today = unit(&mut shelf, unit_id(1), None, instant(NOON)).await.expect("an answer");
    assert_eq!(today.value.and_then(|unit| unit.listing).map(|listing| listing.price), Some(usd(100)));
    assert_eq!(today.valid_until, Some(instant("2025-01-02T08:00:00Z")));
}

#[tokio::test]
async fn a_hold_that_ran_out_is_not_shown_as_held() {
    let hold = held(date(2025, 1, 1), date(2025, 2, 1), "2025-01-01T13:00:00Z");
    let mut shelf = shelf(&[&[added("1"), hold]]);
    let before = unit(&mut shelf, unit_id(1), None, instant("2025-01-01T12:59:59Z")).await.expect("an answer");
    assert_eq!(before.value.map(|unit| unit.occupancy), Some(Occupancy::Held));
    assert_eq!(before.valid_until, Some(instant("2025-01-01T13:00:00Z")));
    let after = unit(&mut shelf, unit_id(1), None, instant("2025-01-01T13:00:00Z")).await.expect("an answer");
    assert_eq!(after.value.map(|unit| unit.occupancy), Some(Occupancy::VacantUnrented));
}

#[tokio::test]
async fn the_list_is_filtered_by_what_is_stored_and_by_what_is_derived() {
    let retired = UnitEvent::UnitRetired { reason: "sold".into(), on: date(2025, 1, 1) };
    let mut shelf = shelf(&[
        &[added("1"), listed(100)],
        &[added_to("Bogotá", property_id(91), "2"), reserved(date(2025, 3, 1), None)],
        &[added("3"), retired],
    ]);
    let any = UnitsFilter::default;
    let cases: Vec<(UnitsFilter, &[&str])> = vec![
        (any(), &["1", "2", "3"]),
        (UnitsFilter { property_id: Some(property_id(91)), ..any() }, &["2"]),
        (UnitsFilter { city: Some("bogotá".into()), ..any() }, &["2"]),
        (UnitsFilter { status: Some(UnitStatus::Retired), ..any() }, &["3"]),
        (UnitsFilter { listed: Some(true), ..any() }, &["1"]),
        (UnitsFilter { listed: Some(false), ..any() }, &["2", "3"]),
        (UnitsFilter { occupancy: Some(Occupancy::VacantRented), ..any() }, &["2"]),
    ];
    for (filter, expected) in cases {
        let page = PageRequest::default();
        let answer = units(&mut shelf, &filter, None, &page, instant(NOON)).await.expect("an answer");
        let numbers: Vec<_> = answer.value.data.into_iter().map(|unit| unit.unit_number).collect();
        assert_eq!(numbers, expected, "{filter:?}");
    }
}
