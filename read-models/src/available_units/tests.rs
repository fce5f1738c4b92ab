use std::collections::BTreeSet;

use domain::units::{Amenity, Bathrooms, UnitEvent};
use domain::{BlockId, Date};
use jiff::civil::date;
use uuid::Uuid;

use super::{AvailableUnitOut, AvailableUnits, AvailableUnitsFilter, available_units};
use crate::testing::units::{HOLD, added, added_to, held, listed, property_id, reserved, stream, unit_id, usd};
use crate::testing::{Shelf, instant};
use crate::{Answer, Cursor, Page, PageRequest};

const NOON: &str = "2025-01-01T12:00:00Z";

fn shelf(units: &[&[UnitEvent]]) -> Shelf {
    let mut shelf = Shelf::default();
    for (number, events) in (1..).zip(units) {
        shelf.fold(&AvailableUnits, &stream(unit_id(number), events));
    }
    shelf
}

async fn ask(shelf: &mut Shelf, filter: &AvailableUnitsFilter, at: &str) -> Answer<Page<AvailableUnitOut>> {
    available_units(shelf, filter, &PageRequest::default(), instant(at)).await.expect("an answer")
}

/// The numbers of the units found.
async fn numbers(shelf: &mut Shelf, filter: &AvailableUnitsFilter, at: &str) -> Vec<String> {
    ask(shelf, filter, at).await.value.data.into_iter().map(|unit| unit.unit_number).collect()
}

fn from(day: Date) -> AvailableUnitsFilter {
    AvailableUnitsFilter { from: Some(day), ..AvailableUnitsFilter::default() }
}

fn between(from: Date, to: Date) -> AvailableUnitsFilter {
    AvailableUnitsFilter { from: Some(from), to: Some(to), ..AvailableUnitsFilter::default() }
}

#[tokio::test]
async fn only_listed_active_units_are_shown() {
    let retired = UnitEvent::UnitRetired { reason: "sold".into(), on: date(2025, 1, 1) };
    let mut shelf = shelf(&[
        &[added("plain")],
        &[added("listed"), listed(1)],
        &[added("unlisted"), listed(1), UnitEvent::UnitUnlisted {}],
        &[added("retired"), listed(1), retired.clone()],
        &[added("reinstated"), listed(1), retired, UnitEvent::UnitReinstated {}, listed(2)],
    ]);
    assert_eq!(numbers(&mut shelf, &AvailableUnitsFilter::default(), NOON).await, ["listed", "reinstated"]);
}

#[tokio::test]
async fn a_unit_listed_again_still_knows_its_calendar() {
    let taken = reserved(date(2025, 2, 1), None);
    let mut shelf = shelf(&[&[added("1"), listed(1), UnitEvent::UnitUnlisted {}, taken, listed(1)]]);
    assert!(numbers(&mut shelf, &from(date(2025, 2, 1)), NOON).await.is_empty());
    assert_eq!(numbers(&mut shelf, &between(date(2025, 1, 1), date(2025, 2, 1)), NOON).await, ["1"]);
}

#[tokio::test]
async fn nothing_may_intersect_the_days_asked_for() {
    let block = UnitEvent::UnitBlocked {
        block_id: BlockId(Uuid::from_u128(5)),
        from: date(2025, 3, 1),
        to: date(2025, 3, 10),
        reason: "paint".into(),
        request_id: None,
    };
    let mut shelf = shelf(&[&[added("1"), listed(1), block]]);
    for (first, last, is_free) in
        [((2, 1), (3, 1), true), ((2, 1), (3, 2), false), ((3, 9), (4, 1), false), ((3, 10), (4, 1), true)]
    {
        let filter = between(date(2025, first.0, first.1), date(2025, last.0, last.1));
        assert_eq!(!numbers(&mut shelf, &filter, NOON).await.is_empty(), is_free, "{filter:?}");
    }
}

#[tokio::test]
async fn without_an_end_the_reply_says_until_when_the_unit_is_free() {
    let mut shelf = shelf(&[&[added("1"), listed(1), reserved(date(2025, 3, 1), None)], &[added("2"), listed(2)]]);
    let answer = ask(&mut shelf, &from(date(2025, 2, 1)), NOON).await;
    let until: Vec<_> = answer.value.data.iter().map(|unit| unit.free_until).collect();
    assert_eq!(until, [Some(date(2025, 3, 1)), None]);
    assert_eq!(answer.valid_until, None);
}

#[tokio::test]
async fn a_hold_hides_the_unit_until_the_instant_it_expires() {
    let hold = held(date(2025, 1, 10), date(2025, 2, 10), "2025-01-03T12:00:00Z");
    let mut shelf = shelf(&[&[added("1"), listed(1), hold]]);
    let filter = between(date(2025, 1, 20), date(2025, 1, 21));
    let answer = ask(&mut shelf, &filter, "2025-01-03T11:59:59.999Z").await;
    assert!(answer.value.data.is_empty());
    assert_eq!(answer.valid_until, Some(instant("2025-01-03T12:00:00Z")));
    let answer = ask(&mut shelf, &filter, "2025-01-03T12:00:00Z").await;
    assert_eq!((answer.value.data.len(), answer.valid_until), (1, None));
}

#[tokio::test]
async fn a_hold_that_only_ends_free_until_limits_the_answer_too() {
    let hold = held(date(2025, 2, 1), date(2025, 2, 10), "2025-01-03T12:00:00Z");
    let released = UnitEvent::HoldReleased { hold_id: HOLD };
    let mut held_later = shelf(&[&[added("1"), listed(1), hold.clone()]]);
    let answer = ask(&mut held_later, &from(date(2025, 1, 20)), NOON).await;
    assert_eq!(answer.value.data[0].free_until, Some(date(2025, 2, 1)));
    assert_eq!(answer.valid_until, Some(instant("2025-01-03T12:00:00Z")));
    let answer = ask(&mut shelf(&[&[added("1"), listed(1), hold, released]]), &from(date(2025, 1, 20)), NOON).await;
    assert_eq!((answer.value.data[0].free_until, answer.valid_until), (None, None));
}

#[tokio::test]
async fn today_is_the_units_own_and_ends_at_its_midnight() {
    // 05:00Z on 5 March is still 4 March in San Diego.
    let mut shelf = shelf(&[&[added("1"), listed(1), reserved(date(2025, 3, 5), None)]]);
    let answer = ask(&mut shelf, &AvailableUnitsFilter::default(), "2025-03-05T05:00:00Z").await;
    assert_eq!(answer.value.data[0].free_until, Some(date(2025, 3, 5)));
    assert_eq!(answer.valid_until, Some(instant("2025-03-05T08:00:00Z")));
    assert!(numbers(&mut shelf, &AvailableUnitsFilter::default(), "2025-03-05T08:00:00Z").await.is_empty());
}

#[tokio::test]
async fn an_announced_price_is_asked_from_its_day_on() {
    let raised = UnitEvent::ListingPriceChanged { price: usd(200), effective_on: date(2025, 2, 1) };
    let mut shelf = shelf(&[&[added("1"), listed(100), raised]]);
    let filter = |min_price, max_price| AvailableUnitsFilter { min_price, max_price, ..from(date(2025, 3, 1)) };
    let before = ask(&mut shelf, &filter(None, None), NOON).await;
    assert_eq!(before.value.data[0].price, usd(100));
    assert_eq!(before.valid_until, Some(instant("2025-02-01T08:00:00Z")));
    let february = "2025-02-01T08:00:00Z";
    assert_eq!(ask(&mut shelf, &filter(None, None), february).await.value.data[0].price, usd(200));
    assert!(numbers(&mut shelf, &filter(None, Some(150)), february).await.is_empty());
    assert!(numbers(&mut shelf, &filter(Some(150), None), NOON).await.is_empty());
    assert_eq!(numbers(&mut shelf, &filter(Some(150), None), february).await, ["1"]);
}

#[tokio::test]
async fn every_filter_restricts() {
    let mut shelf = shelf(&[&[added("1"), listed(100)], &[added_to("Bogotá", property_id(91), "2"), listed(300)]]);
    let any = AvailableUnitsFilter::default;
    let both = ["1", "2"].as_slice();
    let cases: Vec<(AvailableUnitsFilter, &[&str])> = vec![
        (any(), both),
        (AvailableUnitsFilter { city: Some("san diego ".into()), ..any() }, &["1"]),
        (AvailableUnitsFilter { city: Some("BOGOTÁ".into()), ..any() }, &["2"]),
        (AvailableUnitsFilter { min_price: Some(100), max_price: Some(300), ..any() }, both),
        (AvailableUnitsFilter { min_price: Some(101), ..any() }, &["2"]),
        (AvailableUnitsFilter { max_price: Some(299), ..any() }, &["1"]),
        (AvailableUnitsFilter { bedrooms: Some(2), ..any() }, both),
        (AvailableUnitsFilter { bedrooms: Some(1), ..any() }, &[]),
        (AvailableUnitsFilter { min_bedrooms: Some(2), ..any() }, both),
        (AvailableUnitsFilter { min_bedrooms: Some(3), ..any() }, &[]),
        (AvailableUnitsFilter { bathrooms: Bathrooms::new(1.5), ..any() }, both),
        (AvailableUnitsFilter { bathrooms: Bathrooms::new(1.0), ..any() }, &[]),
        (AvailableUnitsFilter { min_area: Some(80), ..any() }, both),
        (AvailableUnitsFilter { min_area: Some(81), ..any() }, &[]),
        (AvailableUnitsFilter { amenities: BTreeSet::from([Amenity::Pool]), ..any() }, both),
        (AvailableUnitsFilter { amenities: BTreeSet::from([Amenity::Pool, Amenity::Gym]), ..any() }, &[]),
        (AvailableUnitsFilter { property_id: Some(property_id(91)), ..any() }, &["2"]),
    ];
    for (filter, expected) in cases {
        assert_eq!(numbers(&mut shelf, &filter, NOON).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_by_price_without_gap_or_repetition() {
    let units: Vec<Vec<UnitEvent>> =
        (0..25).map(|number| vec![added(&number.to_string()), listed(100 + number % 3)]).collect();
    let mut shelf = shelf(&units.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut page = PageRequest { limit: 4, after: None };
    let mut seen = vec![];
    loop {
        let filter = AvailableUnitsFilter::default();
        let answer = available_units(&mut shelf, &filter, &page, instant(NOON)).await.expect("a page");
        seen.extend(answer.value.data.iter().map(|unit| (unit.price.amount, unit.unit_id)));
        match answer.value.next_cursor {
            None => break,
            Some(cursor) => page.after = Cursor::decode(&cursor),
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 25);
}

#[tokio::test]
async fn a_foreign_cursor_is_no_error() {
    let mut shelf = shelf(&[&[added("1"), listed(1)]]);
    let after = Some(Cursor(ports::FieldValue::Text("x".into()), "y".into()));
    let page = PageRequest { limit: 1, after };
    let answer = available_units(&mut shelf, &AvailableUnitsFilter::default(), &page, instant(NOON)).await;
    assert_eq!(answer.expect("an answer").value.data.len(), 1);
}

#[tokio::test]
async fn the_public_reply_names_nobody() {
    let hold = held(date(2025, 2, 1), date(2025, 2, 10), "2025-01-03T12:00:00Z");
    let mut shelf = shelf(&[&[added("1"), listed(1), hold, reserved(date(2025, 3, 1), None)]]);
    let answer = ask(&mut shelf, &AvailableUnitsFilter::default(), NOON).await;
    let json = serde_json::to_value(&answer.value.data[0]).expect("JSON");
    let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert!(
        !names.iter().any(|name| ["tenant", "lease", "party", "hold"].iter().any(|word| name.contains(word))),
        "{names:?}"
    );
}

#[test]
fn impossible_searches_are_refused() {
    assert!(between(date(2025, 1, 2), date(2025, 1, 2)).check().is_err());
    assert!(from(date(1, 1, 1)).check().is_err());
    assert!(from(Date::MAX).check().is_err());
    assert!(between(date(2025, 1, 2), date(2025, 1, 3)).check().is_ok());
}
