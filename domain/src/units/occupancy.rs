//! The occupancy of a unit on a day: derived from its calendar, never stored. The words are AppFolio's.

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Calendar, Entry, EntryKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Occupancy {
    Occupied,
    /// The tenant leaves and nobody is booked after.
    NoticeUnrented,
    /// The tenant leaves and the next one is booked.
    NoticeRented,
    VacantUnrented,
    /// Empty, and somebody is booked.
    VacantRented,
    Held,
    Blocked,
}

impl Calendar {
    /// The state on a day as seen at an instant (holds run out). Occupied outranks blocked, blocked outranks held.
    pub fn occupancy_on(&self, day: Date, now: Timestamp) -> Occupancy {
        let covers = |kind: EntryKind| {
            self.entries().iter().find(|entry| entry.kind() == kind && entry.counts(now) && entry.range().contains(day))
        };
        let is_rented = self.entries().iter().any(|entry| {
            let is_booking = matches!(entry.kind(), EntryKind::Reservation | EntryKind::Occupancy);
            let is_later = day < entry.range().from;
            entry.counts(now)
                && is_booking
                && (is_later || entry.kind() == EntryKind::Reservation && entry.range().contains(day))
        });
        match (covers(EntryKind::Occupancy), covers(EntryKind::Block), covers(EntryKind::Hold)) {
            (Some(Entry::Occupancy { vacancy: Some(_), .. }), _, _) if is_rented => Occupancy::NoticeRented,
            (Some(Entry::Occupancy { vacancy: Some(_), .. }), _, _) => Occupancy::NoticeUnrented,
            (Some(_), _, _) => Occupancy::Occupied,
            (None, Some(_), _) => Occupancy::Blocked,
            (None, None, Some(_)) => Occupancy::Held,
            (None, None, None) if is_rented => Occupancy::VacantRented,
            (None, None, None) => Occupancy::VacantUnrented,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;
    use crate::units::UnitEvent;
    use crate::{BlockId, HoldId, LeaseId, PartyId};
    use jiff::civil::date;
    use uuid::Uuid;

    fn after(events: Vec<UnitEvent>) -> Calendar {
        let mut calendar = Calendar::default();
        events.iter().for_each(|event| calendar.apply(event));
        calendar
    }

    fn moved_in() -> Vec<UnitEvent> {
        let lease_id = LeaseId(Uuid::from_u128(1));
        let (from, to) = (date(2025, 1, 15), Some(date(2026, 1, 15)));
        vec![
            UnitEvent::UnitReserved { lease_id, from, to, consumed_holds: vec![] },
            UnitEvent::OccupancyStarted { lease_id, on: from, from, to },
        ]
    }

    fn next_reservation() -> UnitEvent {
        let lease_id = LeaseId(Uuid::from_u128(2));
        UnitEvent::UnitReserved { lease_id, from: date(2025, 8, 1), to: None, consumed_holds: vec![] }
    }

    fn leaves() -> UnitEvent {
        UnitEvent::VacancyScheduled { lease_id: LeaseId(Uuid::from_u128(1)), on: date(2025, 7, 1) }
    }

    #[test]
    fn every_state_is_derived_from_the_calendar() {
        let now = instant("2025-01-01T12:00:00Z");
        let [mut noticed, mut rented] = [moved_in(), moved_in()];
        noticed.push(leaves());
        rented.extend([leaves(), next_reservation()]);
        let hold = UnitEvent::HoldPlaced {
            hold_id: HoldId(Uuid::from_u128(3)),
            party_id: PartyId(Uuid::from_u128(4)),
            from: date(2025, 2, 1),
            to: date(2025, 3, 1),
            expires_at: instant("2025-01-02T12:00:00Z"),
        };
        let block = UnitEvent::UnitBlocked {
            block_id: BlockId(Uuid::from_u128(5)),
            from: date(2025, 2, 1),
            to: date(2025, 3, 1),
            reason: "renovation".into(),
            request_id: None,
        };
        let feb = date(2025, 2, 10);
        assert_eq!(after(vec![]).occupancy_on(feb, now), Occupancy::VacantUnrented);
        assert_eq!(after(vec![next_reservation()]).occupancy_on(feb, now), Occupancy::VacantRented);
        assert_eq!(after(vec![next_reservation()]).occupancy_on(date(2025, 8, 1), now), Occupancy::VacantRented);
        assert_eq!(after(moved_in()).occupancy_on(feb, now), Occupancy::Occupied);
        assert_eq!(after(moved_in()).occupancy_on(date(2026, 1, 15), now), Occupancy::VacantUnrented);
        assert_eq!(after(noticed.clone()).occupancy_on(feb, now), Occupancy::NoticeUnrented);
        assert_eq!(after(noticed).occupancy_on(date(2025, 7, 1), now), Occupancy::VacantUnrented);
        assert_eq!(after(rented).occupancy_on(feb, now), Occupancy::NoticeRented);
        assert_eq!(after(vec![block]).occupancy_on(feb, now), Occupancy::Blocked);
        assert_eq!(after(vec![hold.clone()]).occupancy_on(feb, now), Occupancy::Held);
        assert_eq!(after(vec![hold]).occupancy_on(feb, instant("2025-01-02T12:00:00Z")), Occupancy::VacantUnrented);
    }
}
