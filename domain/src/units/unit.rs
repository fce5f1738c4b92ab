//! The aggregate `Unit`: what it is, whether it is offered, and its calendar.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, civil::Date};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    AddUnit, Amenity, Bathrooms, Calendar, Entry, EntryKind, HOLD_DAYS_MAX, Own, PropertyFacts, UnitCommand, UnitError,
    UnitEvent, UpdateUnit,
};
use crate::fault::{Fault, optional_date, sane_date, text};
use crate::{
    Aggregate, AggregateKind, BlockId, Currency, DateRange, Decide, HoldId, LeaseId, Moment, Money, PartyId, bridge,
    today_in,
};

/// Bedrooms beyond this are typing errors.
const BEDROOMS_MAX: u8 = 50;
/// In square metres.
const AREA_MAX_M2: u32 = 100_000;
/// Ten trillion major units of a two-digit currency: sums of such amounts stay far from overflow.
const PRICE_MAX: i64 = 1_000_000_000_000_000;
const MIN_TERM_MAX_MONTHS: u16 = 600;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Absent until the unit is added.
    facts: Option<UnitFacts>,
    retired: bool,
    listing: Option<Listing>,
    calendar: Calendar,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFacts {
    pub property: PropertyFacts,
    pub unit_number: String,
    pub bedrooms: u8,
    /// Bathrooms counted in halves.
    pub bathrooms_x2: u8,
    pub area_m2: u32,
    pub amenities: BTreeSet<Amenity>,
}

impl UnitFacts {
    /// From `UnitAdded`; `None` for any other event.
    pub fn added(event: &UnitEvent) -> Option<Self> {
        let UnitEvent::UnitAdded { property, unit_number, bedrooms, bathrooms_x2, area_m2, amenities } = event else {
            return None;
        };
        Some(Self {
            property: property.clone(),
            unit_number: unit_number.clone(),
            bedrooms: *bedrooms,
            bathrooms_x2: *bathrooms_x2,
            area_m2: *area_m2,
            amenities: amenities.clone(),
        })
    }

    pub fn bathrooms(&self) -> Bathrooms {
        Bathrooms::from_x2(self.bathrooms_x2).unwrap_or_default()
    }

    /// Folds `UnitUpdated`; any other event changes nothing.
    pub fn update(&mut self, event: &UnitEvent) {
        let UnitEvent::UnitUpdated { unit_number, bedrooms, bathrooms_x2, area_m2, amenities } = event else {
            return;
        };
        if let Some(unit_number) = unit_number {
            self.unit_number.clone_from(unit_number);
        }
        if let Some(amenities) = amenities {
            self.amenities.clone_from(amenities);
        }
        self.bedrooms = bedrooms.unwrap_or(self.bedrooms);
        self.bathrooms_x2 = bathrooms_x2.unwrap_or(self.bathrooms_x2);
        self.area_m2 = area_m2.unwrap_or(self.area_m2);
    }
}

/// The offer to the public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The price listed with; see [`Listing::price_on`].
    price: Money,
    /// In the order they were recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    price_steps: Vec<PriceStep>,
    pub deposit: Money,
    pub available_from: Date,
    pub min_term_months: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceStep {
    pub effective_on: Date,
    pub price: Money,
}

impl Listing {
    /// The listing after an event: listed, repriced, gone, or as it was.
    pub fn after(listing: Option<Self>, event: &UnitEvent) -> Option<Self> {
        match event {
            UnitEvent::UnitListed { price, deposit, available_from, min_term_months } => Some(Self {
                price: *price,
                price_steps: Vec::new(),
                deposit: *deposit,
                available_from: *available_from,
                min_term_months: *min_term_months,
            }),
            UnitEvent::ListingPriceChanged { price, effective_on } => listing.map(|mut listing| {
                listing.price_steps.push(PriceStep { effective_on: *effective_on, price: *price });
                listing
            }),
            UnitEvent::UnitUnlisted {} | UnitEvent::UnitRetired { .. } => None,
            UnitEvent::UnitAdded { .. }
            | UnitEvent::UnitUpdated { .. }
            | UnitEvent::HoldPlaced { .. }
            | UnitEvent::HoldReleased { .. }
            | UnitEvent::HoldExpired { .. }
            | UnitEvent::UnitReserved { .. }
            | UnitEvent::ReservationReleased { .. }
            | UnitEvent::OccupancyStarted { .. }
            | UnitEvent::VacancyScheduled { .. }
            | UnitEvent::VacancyCancelled { .. }
            | UnitEvent::OccupancyExtended { .. }
            | UnitEvent::OccupancyEnded { .. }
            | UnitEvent::UnitBlocked { .. }
            | UnitEvent::BlockEnded { .. }
            | UnitEvent::UnitReinstated {} => listing,
        }
    }

    /// The step with the latest date not after `day` holds; of two for one date, the one recorded last.
    pub fn price_on(&self, day: Date) -> Money {
        let begun = self.price_steps.iter().filter(|step| step.effective_on <= day);
        begun.max_by_key(|step| step.effective_on).map_or(self.price, |step| step.price)
    }

    /// The price when no change of it was ever announced.
    pub fn only_price(&self) -> Option<Money> {
        self.price_steps.is_empty().then_some(self.price)
    }

    /// Every price that holds on `day` or a later one.
    pub fn prices_from(&self, day: Date) -> impl Iterator<Item = Money> {
        let later = self.price_steps.iter().filter(move |step| step.effective_on > day).map(|step| step.price);
        std::iter::once(self.price_on(day)).chain(later)
    }

    /// The first day after `day` on which another price begins.
    pub fn next_price_change(&self, day: Date) -> Option<Date> {
        self.price_steps.iter().map(|step| step.effective_on).filter(|effective_on| *effective_on > day).min()
    }
}

impl Aggregate for Unit {
    const TYPE: &'static str = "unit";
    type Command = UnitCommand;
    type Event = UnitEvent;
    type Error = UnitError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: UnitEvent) {
        match (&event, &mut self.facts) {
            (UnitEvent::UnitAdded { .. }, facts) => *facts = UnitFacts::added(&event),
            (_, Some(facts)) => facts.update(&event),
            (_, None) => {}
        }
        match &event {
            UnitEvent::UnitRetired { .. } => self.retired = true,
            UnitEvent::UnitReinstated {} => self.retired = false,
            _ => {}
        }
        self.listing = Listing::after(self.listing.take(), &event);
        self.calendar.apply(&event);
    }
}

impl Decide for Unit {
    const KIND: AggregateKind = AggregateKind::Unit;

    fn decide(&self, command: &UnitCommand, at: &Moment) -> Result<Vec<UnitEvent>, UnitError> {
        let now = at.now;
        match command {
            UnitCommand::AddUnit(add) => self.add(add),
            UnitCommand::UpdateUnit(update) => self.update(update),
            UnitCommand::ListUnit { price, deposit, available_from, min_term_months, rent_cap } => {
                self.list(*price, *deposit, *available_from, *min_term_months, *rent_cap)
            }
            UnitCommand::UnlistUnit => self.unlist(),
            UnitCommand::ChangeListingPrice { price, effective_on, rent_cap } => {
                self.change_price(*price, *effective_on, *rent_cap)
            }
            UnitCommand::PlaceHold { hold_id, party_id, from, to, expires_at } => {
                self.place_hold(*hold_id, *party_id, *from, *to, *expires_at, now)
            }
            UnitCommand::ReleaseHold { hold_id } => self.release_hold(*hold_id),
            UnitCommand::ExpireHold { hold_id } => self.expire_hold(*hold_id, now),
            UnitCommand::ReserveUnit { lease_id, from, to, parties } => self.reserve(*lease_id, *from, *to, parties, now),
            UnitCommand::ReleaseReservation { lease_id } => self.release_reservation(*lease_id),
            UnitCommand::StartOccupancy { lease_id, on } => self.start_occupancy(*lease_id, *on, now),
            UnitCommand::ScheduleVacancy { lease_id, on } => self.schedule_vacancy(*lease_id, *on, now),
            UnitCommand::CancelVacancy { lease_id } => self.cancel_vacancy(*lease_id, now),
            UnitCommand::ExtendOccupancy { lease_id, to } => self.extend_occupancy(*lease_id, *to, now),
            UnitCommand::EndOccupancy { lease_id, on } => self.end_occupancy(*lease_id, *on, now),
            UnitCommand::BlockUnit { block_id, from, to, reason, request_id } => {
                self.block(*block_id, *from, *to, reason, *request_id, now)
            }
            UnitCommand::EndBlock { block_id } => self.end_block(*block_id, now),
            UnitCommand::RetireUnit { reason, on } => self.retire(reason, *on, now),
            UnitCommand::ReinstateUnit => self.reinstate(),
        }
    }

    fn effective_on(&self, event: &UnitEvent, at: &Moment) -> Date {
        match event {
            UnitEvent::UnitAdded { property, .. } => today_in(&property.time_zone, at.now),
            UnitEvent::ListingPriceChanged { effective_on, .. } => *effective_on,
            UnitEvent::HoldExpired { expires_at, .. } => self.today(*expires_at),
            UnitEvent::OccupancyStarted { on, .. }
            | UnitEvent::OccupancyEnded { on, .. }
            | UnitEvent::BlockEnded { on, .. }
            | UnitEvent::UnitRetired { on, .. } => *on,
            UnitEvent::UnitUpdated { .. }
            | UnitEvent::UnitListed { .. }
            | UnitEvent::UnitUnlisted {}
            | UnitEvent::HoldPlaced { .. }
            | UnitEvent::HoldReleased { .. }
            | UnitEvent::UnitReserved { .. }
            | UnitEvent::ReservationReleased { .. }
            | UnitEvent::VacancyScheduled { .. }
            | UnitEvent::VacancyCancelled { .. }
            | UnitEvent::OccupancyExtended { .. }
            | UnitEvent::UnitBlocked { .. }
            | UnitEvent::UnitReinstated {} => self.today(at.now),
        }
    }
}

type Decision = Result<Vec<UnitEvent>, UnitError>;

impl Unit {
    /// `None` before the unit is added.
    pub fn facts(&self) -> Option<&UnitFacts> {
        self.facts.as_ref()
    }

    pub fn is_retired(&self) -> bool {
        self.retired
    }

    pub fn listing(&self) -> Option<&Listing> {
        self.listing.as_ref()
    }

    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// The date at an instant where the unit stands.
    pub fn today(&self, now: Timestamp) -> Date {
        today_in(self.facts.as_ref().map_or("UTC", |facts| &facts.property.time_zone), now)
    }

    fn existing(&self) -> Result<&UnitFacts, UnitError> {
        self.facts.as_ref().ok_or(UnitError::NotFound)
    }

    fn active(&self) -> Result<&UnitFacts, UnitError> {
        match self.retired {
            true => Err(UnitError::InvalidState { current: "retired", allowed: &["active"] }),
            false => self.existing(),
        }
    }

    fn add(&self, add: &AddUnit) -> Decision {
        add.property.check()?;
        text("/unit_number", &add.unit_number, 50)?;
        check_description(Some(add.bedrooms), Some(add.area_m2))?;
        let added = UnitEvent::UnitAdded {
            property: add.property.clone(),
            unit_number: add.unit_number.clone(),
            bedrooms: add.bedrooms,
            bathrooms_x2: add.bathrooms.x2(),
            area_m2: add.area_m2,
            amenities: add.amenities.clone(),
        };
        match &self.facts {
            None => Ok(vec![added]),
            Some(facts) if UnitFacts::added(&added).as_ref() == Some(facts) => Ok(vec![]),
            Some(facts) => Err(UnitError::AlreadyExists { what: "unit", id: facts.property.property_id.0 }),
        }
    }

    fn update(&self, update: &UpdateUnit) -> Decision {
        let facts = self.existing()?;
        if let Some(unit_number) = &update.unit_number {
            text("/unit_number", unit_number, 50)?;
        }
        check_description(update.bedrooms, update.area_m2)?;
        let updated = UnitEvent::UnitUpdated {
            unit_number: update.unit_number.clone().filter(|value| *value != facts.unit_number),
            bedrooms: update.bedrooms.filter(|value| *value != facts.bedrooms),
            bathrooms_x2: update.bathrooms.map(Bathrooms::x2).filter(|value| *value != facts.bathrooms_x2),
            area_m2: update.area_m2.filter(|value| *value != facts.area_m2),
            amenities: update.amenities.clone().filter(|value| *value != facts.amenities),
        };
        let mut after = facts.clone();
        after.update(&updated);
        Ok(if after == *facts { vec![] } else { vec![updated] })
    }

    fn list(
        &self,
        price: Money,
        deposit: Money,
        available_from: Date,
        min_term_months: u16,
        rent_cap: Option<Money>,
    ) -> Decision {
        let currency = self.active()?.property.currency;
        check_price(price, currency, rent_cap)?;
        check_amount("/deposit", deposit, currency, 0)?;
        sane_date("/available_from", available_from)?;
        if !(1..=MIN_TERM_MAX_MONTHS).contains(&min_term_months) {
            return Err(Fault::new("/min_term_months", format!("must be from 1 to {MIN_TERM_MAX_MONTHS}")).into());
        }
        let listed = UnitEvent::UnitListed { price, deposit, available_from, min_term_months };
        match &self.listing {
            None => Ok(vec![listed]),
            Some(listing) if Listing::after(None, &listed).as_ref() == Some(listing) => Ok(vec![]),
            Some(_) => Err(UnitError::InvalidState { current: "listed", allowed: &["unlisted"] }),
        }
    }

    fn unlist(&self) -> Decision {
        self.existing()?;
        Ok(self.listing.iter().map(|_| UnitEvent::UnitUnlisted {}).collect())
    }

    fn change_price(&self, price: Money, effective_on: Date, rent_cap: Option<Money>) -> Decision {
        let currency = self.active()?.property.currency;
        let listing = self.listing.as_ref();
        let listing = listing.ok_or(UnitError::InvalidState { current: "unlisted", allowed: &["listed"] })?;
        check_price(price, currency, rent_cap)?;
        sane_date("/effective_on", effective_on)?;
        let holds_already = listing.price_on(effective_on) == price && listing.next_price_change(effective_on).is_none();
        Ok(if holds_already { vec![] } else { vec![UnitEvent::ListingPriceChanged { price, effective_on }] })
    }

    fn place_hold(
        &self,
        hold_id: HoldId,
        party_id: PartyId,
        from: Date,
        to: Date,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Decision {
        self.active()?;
        let range = check_range(from, Some(to))?;
        let hold = Entry::Hold { hold_id, party_id, range, expires_at };
        if let Some(existing) = self.calendar.find(EntryKind::Hold, hold_id.0) {
            return repeated(*existing == hold, "hold", hold_id.0);
        }
        if expires_at <= now {
            return Err(Fault::new("/expires_at", "must be in the future").into());
        }
        if expires_at.duration_since(now) > SignedDuration::from_hours(24 * HOLD_DAYS_MAX) {
            return Err(UnitError::HoldTooLong { limit_days: HOLD_DAYS_MAX });
        }
        self.check_free(EntryKind::Hold, &range, Own::Nothing, now)?;
        Ok(vec![UnitEvent::HoldPlaced { hold_id, party_id, from, to, expires_at }])
    }

    fn release_hold(&self, hold_id: HoldId) -> Decision {
        self.existing()?;
        match self.calendar.find(EntryKind::Hold, hold_id.0) {
            Some(_) => Ok(vec![UnitEvent::HoldReleased { hold_id }]),
            None => Err(UnitError::NoSuchEntry { what: "hold", id: hold_id.0 }),
        }
    }

    fn expire_hold(&self, hold_id: HoldId, now: Timestamp) -> Decision {
        self.existing()?;
        let expires_at = self.calendar.find(EntryKind::Hold, hold_id.0).and_then(Entry::expires_at);
        let expired = expires_at.filter(|expires_at| *expires_at <= now);
        Ok(expired.map(|expires_at| UnitEvent::HoldExpired { hold_id, expires_at }).into_iter().collect())
    }

    fn reserve(&self, lease_id: LeaseId, from: Date, to: Option<Date>, parties: &[PartyId], now: Timestamp) -> Decision {
        self.active()?;
        let range = check_range(from, to)?;
        if let Some(existing) = self.calendar.find(EntryKind::Reservation, lease_id.0) {
            return repeated(existing.range() == range, "reservation", lease_id.0);
        }
        let moved_in = self.calendar.find(EntryKind::Occupancy, lease_id.0);
        if moved_in.is_some_and(|occupancy| occupancy.range().from == from) {
            return Ok(vec![]);
        }
        self.check_free(EntryKind::Reservation, &range, Own::Parties(parties), now)?;
        let consumed_holds = self.calendar.own_holds(&range, parties, now);
        Ok(vec![UnitEvent::UnitReserved { lease_id, from, to, consumed_holds }])
    }

    fn release_reservation(&self, lease_id: LeaseId) -> Decision {
        self.existing()?;
        let reservation = self.calendar.find(EntryKind::Reservation, lease_id.0);
        Ok(reservation.map(|_| UnitEvent::ReservationReleased { lease_id }).into_iter().collect())
    }

    fn start_occupancy(&self, lease_id: LeaseId, on: Date, now: Timestamp) -> Decision {
        self.existing()?;
        if self.calendar.find(EntryKind::Occupancy, lease_id.0).is_some() {
            return Ok(vec![]);
        }
        let reservation = self.calendar.find(EntryKind::Reservation, lease_id.0).ok_or(UnitError::NoReservation)?;
        let range = reservation.range();
        if !range.contains(on) {
            return Err(Fault::new("/on", "must be a day of the reservation").into());
        }
        self.check_free(EntryKind::Occupancy, &range, Own::Lease(lease_id), now)?;
        Ok(vec![UnitEvent::OccupancyStarted { lease_id, on, from: range.from, to: range.to }])
    }

    fn schedule_vacancy(&self, lease_id: LeaseId, on: Date, now: Timestamp) -> Decision {
        let (range, is_noticed) = self.occupancy(lease_id)?;
        sane_date("/on", on)?;
        if on <= range.from {
            return Err(Fault::new("/on", "must be after the move-in").into());
        }
        if is_noticed && range.to == Some(on) {
            return Ok(vec![]);
        }
        self.check_extension(lease_id, range.to, Some(on), now)?;
        Ok(vec![UnitEvent::VacancyScheduled { lease_id, on }])
    }

    fn cancel_vacancy(&self, lease_id: LeaseId, now: Timestamp) -> Decision {
        let (range, is_noticed) = self.occupancy(lease_id)?;
        if !is_noticed {
            return Ok(vec![]);
        }
        let to = self.to_before_notice(lease_id);
        self.check_extension(lease_id, range.to, to, now)?;
        Ok(vec![UnitEvent::VacancyCancelled { lease_id, to }])
    }

    fn extend_occupancy(&self, lease_id: LeaseId, to: Option<Date>, now: Timestamp) -> Decision {
        let (range, is_noticed) = self.occupancy(lease_id)?;
        optional_date("/to", to)?;
        if is_noticed {
            return Err(UnitError::InvalidState { current: "notice", allowed: &["occupied"] });
        }
        if range.to == to {
            return Ok(vec![]);
        }
        let is_later = range.to.is_some_and(|current| to.is_none_or(|to| current < to));
        if !is_later {
            return Err(Fault::new("/to", "must be after the occupancy's end").into());
        }
        self.check_extension(lease_id, range.to, to, now)?;
        Ok(vec![UnitEvent::OccupancyExtended { lease_id, to }])
    }

    fn end_occupancy(&self, lease_id: LeaseId, on: Date, now: Timestamp) -> Decision {
        let has_ended = self.occupancies(lease_id).any(|(_, ended)| ended);
        let range = match self.occupancy(lease_id) {
            Err(UnitError::NotOccupied) if has_ended => return Ok(vec![]),
            found => found?.0,
        };
        sane_date("/on", on)?;
        if on < range.from {
            return Err(Fault::new("/on", "must not be before the move-in").into());
        }
        // Late keys cannot take days the next tenant has booked: then the occupancy ends where it was to end.
        let to = match (range.to, self.check_extension(lease_id, range.to, Some(on), now)) {
            (Some(to), Err(_)) => to,
            (Some(_) | None, Ok(()) | Err(_)) => on,
        };
        Ok(vec![UnitEvent::OccupancyEnded { lease_id, on, to }])
    }

    fn block(
        &self,
        block_id: BlockId,
        from: Date,
        to: Date,
        reason: &str,
        request_id: Option<Uuid>,
        now: Timestamp,
    ) -> Decision {
        self.active()?;
        let range = check_range(from, Some(to))?;
        text("/reason", reason, 500)?;
        if let Some(existing) = self.calendar.find(EntryKind::Block, block_id.0) {
            let same = *existing == Entry::Block { block_id, range, reason: reason.to_owned() };
            return repeated(same, "block", block_id.0);
        }
        self.check_free(EntryKind::Block, &range, Own::Nothing, now)?;
        Ok(vec![UnitEvent::UnitBlocked { block_id, from, to, reason: reason.to_owned(), request_id }])
    }

    fn end_block(&self, block_id: BlockId, now: Timestamp) -> Decision {
        self.existing()?;
        let block = self.calendar.find(EntryKind::Block, block_id.0);
        let block = block.ok_or(UnitError::NoSuchEntry { what: "block", id: block_id.0 })?;
        let today = self.today(now);
        let is_over = block.range().to.is_some_and(|to| to <= today);
        Ok(if is_over { vec![] } else { vec![UnitEvent::BlockEnded { block_id, on: today }] })
    }

    fn retire(&self, reason: &str, on: Date, now: Timestamp) -> Decision {
        self.active()?;
        text("/reason", reason, 500)?;
        sane_date("/on", on)?;
        for entry in self.calendar.entries().iter().filter(|entry| entry.counts(now)) {
            match entry {
                Entry::Occupancy { lease_id, ended: false, .. } => {
                    return Err(UnitError::Occupied { lease_id: lease_id.0 });
                }
                Entry::Reservation { lease_id, .. } => return Err(UnitError::HasReservation { lease_id: lease_id.0 }),
                Entry::Hold { hold_id, .. } => return Err(UnitError::HasHold { hold_id: hold_id.0 }),
                Entry::Occupancy { ended: true, .. } | Entry::Block { .. } => {}
            }
        }
        Ok(vec![UnitEvent::UnitRetired { reason: reason.to_owned(), on }])
    }

    fn reinstate(&self) -> Decision {
        self.existing()?;
        match self.retired {
            true => Ok(vec![UnitEvent::UnitReinstated {}]),
            false => Err(UnitError::InvalidState { current: "active", allowed: &["retired"] }),
        }
    }

    fn check_free(&self, kind: EntryKind, range: &DateRange, own: Own<'_>, now: Timestamp) -> Result<(), UnitError> {
        match self.calendar.conflict(kind, range, own, now) {
            Some(entry) => Err(UnitError::not_available(entry)),
            None => Ok(()),
        }
    }

    /// May the occupancy of a lease run on from one end to a later one? An earlier one is always fine.
    fn check_extension(
        &self,
        lease_id: LeaseId,
        current: Option<Date>,
        to: Option<Date>,
        now: Timestamp,
    ) -> Result<(), UnitError> {
        let Some(added) = current.and_then(|current| DateRange::new(current, to)) else {
            return Ok(());
        };
        match self.calendar.conflict_with_other(lease_id, &added, now) {
            None => Ok(()),
            Some(entry) if matches!(entry.kind(), EntryKind::Reservation | EntryKind::Occupancy) => {
                Err(UnitError::NextTenantBooked { conflict_id: entry.reference() })
            }
            Some(entry) => Err(UnitError::not_available(entry)),
        }
    }

    fn occupancies(&self, lease: LeaseId) -> impl Iterator<Item = (&Entry, bool)> {
        self.calendar.entries().iter().filter_map(move |entry| match entry {
            Entry::Occupancy { lease_id, ended, .. } if *lease_id == lease => Some((entry, *ended)),
            _ => None,
        })
    }

    /// The running occupancy of a lease, and whether its move-out was announced.
    fn occupancy(&self, lease_id: LeaseId) -> Result<(DateRange, bool), UnitError> {
        self.existing()?;
        let running = self.occupancies(lease_id).find(|(_, ended)| !ended);
        let (entry, _) = running.ok_or(UnitError::NotOccupied)?;
        let is_noticed = matches!(entry, Entry::Occupancy { vacancy: Some(_), .. });
        Ok((entry.range(), is_noticed))
    }

    fn to_before_notice(&self, lease_id: LeaseId) -> Option<Date> {
        self.occupancies(lease_id).find_map(|(entry, _)| match entry {
            Entry::Occupancy { vacancy: Some(vacancy), ended: false, .. } => vacancy.to_before,
            _ => None,
        })
    }
}

/// A command that was carried out before changes nothing; the same id with other content is refused.
fn repeated(same: bool, what: &'static str, id: Uuid) -> Decision {
    if same { Ok(vec![]) } else { Err(UnitError::AlreadyExists { what, id }) }
}

fn check_range(from: Date, to: Option<Date>) -> Result<DateRange, Fault> {
    sane_date("/from", from)?;
    optional_date("/to", to)?;
    DateRange::new(from, to).ok_or_else(|| Fault::new("/to", "must be after from"))
}

fn check_description(bedrooms: Option<u8>, area_m2: Option<u32>) -> Result<(), Fault> {
    if bedrooms.is_some_and(|bedrooms| bedrooms > BEDROOMS_MAX) {
        return Err(Fault::new("/bedrooms", format!("must be at most {BEDROOMS_MAX}")));
    }
    match area_m2.is_none_or(|area_m2| (1..=AREA_MAX_M2).contains(&area_m2)) {
        true => Ok(()),
        false => Err(Fault::new("/area_m2", format!("must be from 1 to {AREA_MAX_M2}"))),
    }
}

fn check_price(price: Money, currency: Currency, rent_cap: Option<Money>) -> Result<(), UnitError> {
    check_amount("/price", price, currency, 1)?;
    match rent_cap {
        Some(cap) if cap.currency == currency && price.amount > cap.amount => Err(UnitError::RentExceedsCap { cap }),
        Some(_) | None => Ok(()),
    }
}

fn check_amount(pointer: &'static str, money: Money, currency: Currency, least: i64) -> Result<(), UnitError> {
    if money.currency != currency {
        return Err(UnitError::CurrencyMismatch { expected: currency });
    }
    match (least..=PRICE_MAX).contains(&money.amount) {
        true => Ok(()),
        false => Err(Fault::new(pointer, format!("must be from {least} to {PRICE_MAX} minor units")).into()),
    }
}
