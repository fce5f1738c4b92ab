use domain::units::{EntryKind, UnitEvent};
use jiff::civil::date;

use super::{UnitCalendar, unit_calendar};
use crate::testing::units::{HOLD, LEASE, PARTY, added, held, reserved, stream, unit_id};
use crate::testing::{Shelf, instant};

fn shelf(events: &[UnitEvent]) -> Shelf {
    let mut shelf = Shelf::default();
    shelf.fold(&UnitCalendar, &stream(unit_id(1), events));
    shelf
}

#[tokio::test]
async fn the_calendar_of_no_unit_is_absent_and_of_a_new_one_empty() {
    let now = instant("2025-01-01T12:00:00Z");
    let none = unit_calendar(&mut Shelf::default(), unit_id(1), None, None, now).await.expect("an answer");
    assert_eq!(none.value, None);
    let new = unit_calendar(&mut shelf(&[added("1")]), unit_id(1), None, None, now).await.expect("an answer");
    assert_eq!(new.value.map(|calendar| calendar.entries), Some(vec![]));
}

#[tokio::test]
async fn entries_are_shown_that_intersect_the_days_and_count_at_the_instant() {
    let hold = held(date(2025, 1, 10), date(2025, 1, 20), "2025-01-03T12:00:00Z");
    let mut shelf = shelf(&[added("1"), hold, reserved(date(2025, 2, 1), None)]);
    let early = unit_calendar(&mut shelf, unit_id(1), None, Some(date(2025, 2, 1)), instant("2025-01-03T11:59:59Z"));
    let early = early.await.expect("an answer");
    assert_eq!(early.valid_until, Some(instant("2025-01-03T12:00:00Z")));
    let [entry] = &early.value.expect("a calendar").entries[..] else { panic!("one entry") };
    assert_eq!((entry.kind, entry.reference, entry.party_id), (EntryKind::Hold, HOLD.0, Some(PARTY)));

    let late = unit_calendar(&mut shelf, unit_id(1), None, None, instant("2025-01-03T12:00:00Z")).await.expect("an answer");
    assert_eq!(late.valid_until, None);
    let [entry] = &late.value.expect("a calendar").entries[..] else { panic!("one entry") };
    assert_eq!((entry.kind, entry.reference, entry.to), (EntryKind::Reservation, LEASE.0, None));
}
