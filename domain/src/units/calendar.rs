//! A unit's calendar: holds, reservations, occupancies and blocks, and which of them may meet on the same day.
//!
//! Decisions and read models fold the same events with the same code. Time is compared here: an entry that ran out does
//! not wait for a timer to stop counting.

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::units::UnitEvent;
use crate::{BlockId, DateRange, HoldId, LeaseId, PartyId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    Hold,
    Reservation,
    Occupancy,
    Block,
}

impl EntryKind {
    pub const ALL: [Self; 4] = [Self::Hold, Self::Reservation, Self::Occupancy, Self::Block];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Reservation => "reservation",
            Self::Occupancy => "occupancy",
            Self::Block => "block",
        }
    }
}

/// May a new entry lie on the days of an existing one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    Refused,
    /// Only when the existing one belongs to the newcomer, who consumes it.
    OwnOnly,
    Allowed,
}

/// The overlap matrix of domain.md 2.1, cell by cell.
pub const fn meeting(new: EntryKind, existing: EntryKind) -> Meeting {
    use EntryKind::{Block, Hold, Occupancy, Reservation};
    match (new, existing) {
        (Hold, Hold | Reservation | Occupancy | Block) => Meeting::Refused,
        (Reservation, Hold) => Meeting::OwnOnly,
        (Reservation, Reservation | Occupancy | Block) => Meeting::Refused,
        (Occupancy, Reservation) => Meeting::OwnOnly,
        (Occupancy, Hold | Occupancy | Block) => Meeting::Refused,
        (Block, Hold | Reservation | Occupancy) => Meeting::Refused,
        (Block, Block) => Meeting::Allowed,
    }
}

/// Whose entries count as the newcomer's own.
#[derive(Clone, Copy, Debug)]
pub enum Own<'a> {
    Nothing,
    /// The parties of a lease that reserves: their holds.
    Parties(&'a [PartyId]),
    /// The lease that moves in: its reservation.
    Lease(LeaseId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    Hold {
        hold_id: HoldId,
        party_id: PartyId,
        range: DateRange,
        /// Exclusive: at this instant the unit is free.
        expires_at: Timestamp,
    },
    Reservation {
        lease_id: LeaseId,
        range: DateRange,
    },
    Occupancy {
        lease_id: LeaseId,
        /// Empty (`from` = `to`) when it ended on the day it began.
        range: DateRange,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vacancy: Option<Vacancy>,
        /// The keys were returned.
        ended: bool,
    },
    Block {
        block_id: BlockId,
        range: DateRange,
        reason: String,
    },
}

/// A move-out that was announced; the occupancy's range already ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacancy {
    /// The occupancy's end before the announcement, restored when it is withdrawn.
    pub to_before: Option<Date>,
}

impl Entry {
    pub fn kind(&self) -> EntryKind {
        match self {
            Self::Hold { .. } => EntryKind::Hold,
            Self::Reservation { .. } => EntryKind::Reservation,
            Self::Occupancy { .. } => EntryKind::Occupancy,
            Self::Block { .. } => EntryKind::Block,
        }
    }

    pub fn range(&self) -> DateRange {
        match self {
            Self::Hold { range, .. }
            | Self::Reservation { range, .. }
            | Self::Occupancy { range, .. }
            | Self::Block { range, .. } => *range,
        }
    }

    /// The hold, lease or block it stands for.
    pub fn reference(&self) -> Uuid {
        match self {
            Self::Hold { hold_id, .. } => hold_id.0,
            Self::Reservation { lease_id, .. } | Self::Occupancy { lease_id, .. } => lease_id.0,
            Self::Block { block_id, .. } => block_id.0,
        }
    }

    pub fn lease_id(&self) -> Option<LeaseId> {
        match self {
            Self::Reservation { lease_id, .. } | Self::Occupancy { lease_id, .. } => Some(*lease_id),
            Self::Hold { .. } | Self::Block { .. } => None,
        }
    }

    /// When it stops counting without an event.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Hold { expires_at, .. } => Some(*expires_at),
            Self::Reservation { .. } | Self::Occupancy { .. } | Self::Block { .. } => None,
        }
    }

    /// False for a hold that ran out and for an occupancy without days.
    pub fn counts(&self, now: Timestamp) -> bool {
        let range = self.range();
        self.expires_at().is_none_or(|expires_at| now < expires_at) && range.to.is_none_or(|to| range.from < to)
    }

    pub fn takes(&self, days: &DateRange, now: Timestamp) -> bool {
        self.counts(now) && self.range().overlaps(days)
    }

    fn is_own(&self, own: Own<'_>) -> bool {
        match (self, own) {
            (Self::Hold { party_id, .. }, Own::Parties(parties)) => parties.contains(party_id),
            (Self::Reservation { lease_id, .. }, Own::Lease(lease)) => *lease_id == lease,
            (Self::Hold { .. }, Own::Nothing | Own::Lease(_))
            | (Self::Reservation { .. }, Own::Nothing | Own::Parties(_))
            | (Self::Occupancy { .. } | Self::Block { .. }, Own::Nothing | Own::Parties(_) | Own::Lease(_)) => false,
        }
    }
}

/// The entries of one unit, ordered by their first day. Ended occupancies and blocks stay as history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Calendar(Vec<Entry>);

impl Calendar {
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The entry that keeps a new one of this kind off these days; `None` when it may be placed.
    pub fn conflict(&self, new: EntryKind, days: &DateRange, own: Own<'_>, now: Timestamp) -> Option<&Entry> {
        self.0.iter().filter(|entry| entry.takes(days, now)).find(|entry| match meeting(new, entry.kind()) {
            Meeting::Refused => true,
            Meeting::OwnOnly => !entry.is_own(own),
            Meeting::Allowed => false,
        })
    }

    /// What keeps the occupancy of a lease off these days, itself aside.
    pub fn conflict_with_other(&self, lease_id: LeaseId, days: &DateRange, now: Timestamp) -> Option<&Entry> {
        let another = |entry: &&Entry| entry.kind() != EntryKind::Occupancy || entry.lease_id() != Some(lease_id);
        self.0.iter().filter(another).find(|entry| entry.takes(days, now))
    }

    /// The holds of these parties that a reservation of these days uses up.
    pub fn own_holds(&self, days: &DateRange, parties: &[PartyId], now: Timestamp) -> Vec<HoldId> {
        let taken = self.0.iter().filter(|entry| entry.takes(days, now) && entry.is_own(Own::Parties(parties)));
        taken.map(|entry| HoldId(entry.reference())).collect()
    }

    pub fn find(&self, kind: EntryKind, reference: Uuid) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.kind() == kind && entry.reference() == reference)
    }

    pub fn is_free(&self, days: &DateRange, now: Timestamp) -> bool {
        !self.0.iter().any(|entry| entry.takes(days, now))
    }

    /// On a free day: the first later day that is taken; `None` when it stays free.
    pub fn free_until(&self, day: Date, now: Timestamp) -> Option<Date> {
        let later = self.0.iter().filter(|entry| entry.counts(now) && day < entry.range().from);
        later.map(|entry| entry.range().from).min()
    }

    /// The first instant after `now` at which a hold on these days runs out: until then the answer about them stands.
    pub fn next_expiry(&self, days: &DateRange, now: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter(|entry| entry.takes(days, now)).filter_map(Entry::expires_at).min()
    }

    /// Folds an event of the unit; events that do not touch the calendar change nothing.
    pub fn apply(&mut self, event: &UnitEvent) {
        match event {
            UnitEvent::HoldPlaced { hold_id, party_id, from, to, expires_at } => self.insert(Entry::Hold {
                hold_id: *hold_id,
                party_id: *party_id,
                range: DateRange { from: *from, to: Some(*to) },
                expires_at: *expires_at,
            }),
            UnitEvent::HoldReleased { hold_id } | UnitEvent::HoldExpired { hold_id, .. } => {
                self.remove(EntryKind::Hold, hold_id.0);
            }
            UnitEvent::UnitReserved { lease_id, from, to, consumed_holds } => {
                consumed_holds.iter().for_each(|hold_id| self.remove(EntryKind::Hold, hold_id.0));
                self.insert(Entry::Reservation { lease_id: *lease_id, range: DateRange { from: *from, to: *to } });
            }
            UnitEvent::ReservationReleased { lease_id } => self.remove(EntryKind::Reservation, lease_id.0),
            UnitEvent::OccupancyStarted { lease_id, on: _, from, to } => {
                self.remove(EntryKind::Reservation, lease_id.0);
                let range = DateRange { from: *from, to: *to };
                self.insert(Entry::Occupancy { lease_id: *lease_id, range, vacancy: None, ended: false });
            }
            UnitEvent::VacancyScheduled { lease_id, on } => self.occupancy(*lease_id, |range, vacancy, _| {
                let to_before = vacancy.map_or(range.to, |vacancy| vacancy.to_before);
                *vacancy = Some(Vacancy { to_before });
                range.to = Some(*on);
            }),
            UnitEvent::VacancyCancelled { lease_id, to } => self.occupancy(*lease_id, |range, vacancy, _| {
                *vacancy = None;
                range.to = *to;
            }),
            UnitEvent::OccupancyExtended { lease_id, to } => {
                self.occupancy(*lease_id, |range, _, _| range.to = *to);
            }
            UnitEvent::OccupancyEnded { lease_id, on: _, to } => self.occupancy(*lease_id, |range, _, ended| {
                range.to = Some(*to);
                *ended = true;
            }),
            UnitEvent::UnitBlocked { block_id, from, to, reason, request_id: _ } => self.insert(Entry::Block {
                block_id: *block_id,
                range: DateRange { from: *from, to: Some(*to) },
                reason: reason.clone(),
            }),
            UnitEvent::BlockEnded { block_id, on } => self.end_block(*block_id, *on),
            UnitEvent::UnitAdded { .. }
            | UnitEvent::UnitUpdated { .. }
            | UnitEvent::UnitListed { .. }
            | UnitEvent::UnitUnlisted {}
            | UnitEvent::ListingPriceChanged { .. }
            | UnitEvent::UnitRetired { .. }
            | UnitEvent::UnitReinstated {} => {}
        }
    }

    fn insert(&mut self, entry: Entry) {
        let at = self.0.partition_point(|earlier| earlier.range().from <= entry.range().from);
        self.0.insert(at, entry);
    }

    fn remove(&mut self, kind: EntryKind, reference: Uuid) {
        self.0.retain(|entry| entry.kind() != kind || entry.reference() != reference);
    }

    /// Changes the lease's occupancy that has not ended.
    fn occupancy(&mut self, lease: LeaseId, change: impl FnOnce(&mut DateRange, &mut Option<Vacancy>, &mut bool)) {
        for entry in &mut self.0 {
            if let Entry::Occupancy { lease_id, range, vacancy, ended } = entry
                && *lease_id == lease
                && !*ended
            {
                return change(range, vacancy, ended);
            }
        }
    }

    /// Keeps the days before `on`; a block that never took a day leaves no trace.
    fn end_block(&mut self, block: BlockId, on: Date) {
        self.0.retain(|entry| entry.kind() != EntryKind::Block || entry.reference() != block.0 || entry.range().from < on);
        for entry in &mut self.0 {
            if let Entry::Block { block_id, range, .. } = entry
                && *block_id == block
            {
                range.to = range.to.map_or(Some(on), |to| Some(to.min(on)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;
    use jiff::civil::date;

    const LEASE: LeaseId = LeaseId(Uuid::from_u128(1));
    const PARTY: PartyId = PartyId(Uuid::from_u128(2));

    fn days(from: i8, to: i8) -> DateRange {
        DateRange::new(date(2025, 1, from), Some(date(2025, 1, to))).expect("a range")
    }

    fn noon() -> Timestamp {
        instant("2025-01-01T12:00:00Z")
    }

    fn entry(kind: EntryKind, range: DateRange) -> Entry {
        let id = Uuid::from_u128(9);
        match kind {
            EntryKind::Hold => {
                Entry::Hold { hold_id: HoldId(id), party_id: PARTY, range, expires_at: instant("2025-01-01T12:00:01Z") }
            }
            EntryKind::Reservation => Entry::Reservation { lease_id: LEASE, range },
            EntryKind::Occupancy => Entry::Occupancy { lease_id: LEASE, range, vacancy: None, ended: false },
            EntryKind::Block => Entry::Block { block_id: BlockId(id), range, reason: "paint".into() },
        }
    }

    fn may_meet(new: EntryKind, existing: EntryKind, own: Own<'_>) -> bool {
        let calendar = Calendar(vec![entry(existing, days(10, 20))]);
        calendar.conflict(new, &days(19, 25), own, noon()).is_none()
    }

    #[test]
    fn the_overlap_matrix_holds_in_every_cell() {
        use EntryKind::{Block, Hold, Occupancy, Reservation};
        // (new, existing, others may meet, the owner may meet), as domain.md 2.1 writes it.
        let table = [
            (Hold, Hold, false, false),
            (Hold, Reservation, false, false),
            (Hold, Occupancy, false, false),
            (Hold, Block, false, false),
            (Reservation, Hold, false, true),
            (Reservation, Reservation, false, false),
            (Reservation, Occupancy, false, false),
            (Reservation, Block, false, false),
            (Occupancy, Hold, false, false),
            (Occupancy, Reservation, false, true),
            (Occupancy, Occupancy, false, false),
            (Occupancy, Block, false, false),
            (Block, Hold, false, false),
            (Block, Reservation, false, false),
            (Block, Occupancy, false, false),
            (Block, Block, true, true),
        ];
        for (new, existing, others, owner) in table {
            let own = match new {
                Reservation => Own::Parties(&[PARTY]),
                Occupancy => Own::Lease(LEASE),
                Hold | Block => Own::Nothing,
            };
            assert_eq!(may_meet(new, existing, Own::Nothing), others, "{new:?} on another's {existing:?}");
            assert_eq!(may_meet(new, existing, own), owner, "{new:?} on its own {existing:?}");
        }
    }

    #[test]
    fn entries_that_only_touch_never_conflict() {
        for new in EntryKind::ALL {
            for existing in EntryKind::ALL {
                let calendar = Calendar(vec![entry(existing, days(10, 20))]);
                assert_eq!(calendar.conflict(new, &days(20, 25), Own::Nothing, noon()), None);
                assert_eq!(calendar.conflict(new, &days(5, 10), Own::Nothing, noon()), None);
            }
        }
    }

    #[test]
    fn a_hold_expiring_at_noon_is_gone_at_noon() {
        let at = |expires_at: &str| {
            let hold = Entry::Hold {
                hold_id: HoldId(Uuid::from_u128(9)),
                party_id: PARTY,
                range: days(10, 20),
                expires_at: instant(expires_at),
            };
            Calendar(vec![hold]).is_free(&days(10, 11), noon())
        };
        assert!(!at("2025-01-01T12:00:00.000000001Z"));
        assert!(at("2025-01-01T12:00:00Z"));
    }

    #[test]
    fn free_until_is_the_next_day_that_is_taken() {
        let calendar = Calendar(vec![entry(EntryKind::Hold, days(10, 20)), entry(EntryKind::Block, days(25, 26))]);
        assert_eq!(calendar.free_until(date(2025, 1, 5), noon()), Some(date(2025, 1, 10)));
        assert_eq!(calendar.free_until(date(2025, 1, 5), instant("2025-01-01T13:00:00Z")), Some(date(2025, 1, 25)));
        assert_eq!(calendar.free_until(date(2025, 1, 26), noon()), None);
    }

    #[test]
    fn the_next_expiry_is_that_of_a_hold_in_the_way() {
        let calendar = Calendar(vec![entry(EntryKind::Hold, days(10, 20))]);
        assert_eq!(calendar.next_expiry(&days(1, 5), noon()), None);
        assert_eq!(calendar.next_expiry(&days(1, 11), noon()), Some(instant("2025-01-01T12:00:01Z")));
    }
}
