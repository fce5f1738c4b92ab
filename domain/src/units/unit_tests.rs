use std::collections::BTreeSet;

use jiff::civil::{Date, date};
use proptest::prelude::*;
use uuid::Uuid;

use super::{AddUnit, Amenity, Bathrooms, EntryKind, PropertyFacts, Unit, UnitCommand, UnitError, UnitEvent, UpdateUnit};
use crate::testing::{given, instant};
use crate::{Aggregate, BlockId, Currency, Decide, HoldId, LeaseId, Moment, Money, PartyId, PropertyId, Refused};

const LEASE: LeaseId = LeaseId(Uuid::from_u128(1));
const NEXT_LEASE: LeaseId = LeaseId(Uuid::from_u128(2));
const HOLD: HoldId = HoldId(Uuid::from_u128(3));
const PARTY: PartyId = PartyId(Uuid::from_u128(4));
const STRANGER: PartyId = PartyId(Uuid::from_u128(5));
const BLOCK: BlockId = BlockId(Uuid::from_u128(6));

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("USD"))
}

fn add_unit() -> AddUnit {
    AddUnit {
        property: PropertyFacts {
            property_id: PropertyId(Uuid::from_u128(10)),
            property_name: "Palm Court".into(),
            city: "San Diego".into(),
            region: Some("CA".into()),
            country: "US".into(),
            time_zone: "America/Los_Angeles".into(),
            currency: Currency::new("USD").expect("USD"),
            jurisdiction: "US-CA".into(),
        },
        unit_number: "4B".into(),
        bedrooms: 2,
        bathrooms: Bathrooms::new(1.5).expect("halves"),
        area_m2: 80,
        amenities: BTreeSet::from([Amenity::Pool, Amenity::Balcony]),
    }
}

fn added() -> UnitEvent {
    let AddUnit { property, unit_number, bedrooms, bathrooms, area_m2, amenities } = add_unit();
    UnitEvent::UnitAdded { property, unit_number, bedrooms, bathrooms_x2: bathrooms.x2(), area_m2, amenities }
}

fn listed() -> UnitEvent {
    UnitEvent::UnitListed {
        price: usd(150_000),
        deposit: usd(150_000),
        available_from: date(2025, 1, 15),
        min_term_months: 12,
    }
}

fn list() -> UnitCommand {
    UnitCommand::ListUnit {
        price: usd(150_000),
        deposit: usd(150_000),
        available_from: date(2025, 1, 15),
        min_term_months: 12,
        rent_cap: None,
    }
}

fn place_hold(hold_id: HoldId, from: Date, to: Date, expires_at: &str) -> UnitCommand {
    UnitCommand::PlaceHold { hold_id, party_id: PARTY, from, to, expires_at: instant(expires_at) }
}

fn held(from: Date, to: Date, expires_at: &str) -> UnitEvent {
    UnitEvent::HoldPlaced { hold_id: HOLD, party_id: PARTY, from, to, expires_at: instant(expires_at) }
}

/// The golden lease: 15 Jan 2025 to 14 Jan 2026, both inclusive.
fn reserved() -> UnitEvent {
    UnitEvent::UnitReserved { lease_id: LEASE, from: date(2025, 1, 15), to: Some(date(2026, 1, 15)), consumed_holds: vec![] }
}

fn reserve(lease_id: LeaseId, from: Date, to: Option<Date>, parties: &[PartyId]) -> UnitCommand {
    UnitCommand::ReserveUnit { lease_id, from, to, parties: parties.to_vec() }
}

fn started() -> UnitEvent {
    UnitEvent::OccupancyStarted {
        lease_id: LEASE,
        on: date(2025, 1, 15),
        from: date(2025, 1, 15),
        to: Some(date(2026, 1, 15)),
    }
}

fn occupied() -> [UnitEvent; 3] {
    [added(), reserved(), started()]
}

fn occupied_and(event: UnitEvent) -> Vec<UnitEvent> {
    occupied().into_iter().chain([event]).collect()
}

fn next_reserved(from: Date) -> UnitEvent {
    UnitEvent::UnitReserved { lease_id: NEXT_LEASE, from, to: None, consumed_holds: vec![] }
}

fn block(from: Date, to: Date) -> UnitCommand {
    UnitCommand::BlockUnit { block_id: BLOCK, from, to, reason: "new floor".into(), request_id: None }
}

fn blocked(from: Date, to: Date) -> UnitEvent {
    UnitEvent::UnitBlocked { block_id: BLOCK, from, to, reason: "new floor".into(), request_id: None }
}

fn retire() -> UnitCommand {
    UnitCommand::RetireUnit { reason: "sold".into(), on: date(2025, 1, 31) }
}

fn retired() -> UnitEvent {
    UnitEvent::UnitRetired { reason: "sold".into(), on: date(2025, 1, 31) }
}

mod being {
    use super::*;

    #[test]
    fn a_unit_that_was_never_added_is_not_found() {
        for command in [
            UnitCommand::UpdateUnit(UpdateUnit::default()),
            list(),
            UnitCommand::UnlistUnit,
            place_hold(HOLD, date(2025, 1, 2), date(2025, 1, 3), "2025-01-02T00:00:00Z"),
            UnitCommand::ReleaseHold { hold_id: HOLD },
            UnitCommand::ExpireHold { hold_id: HOLD },
            reserve(LEASE, date(2025, 1, 2), None, &[]),
            UnitCommand::ReleaseReservation { lease_id: LEASE },
            UnitCommand::StartOccupancy { lease_id: LEASE, on: date(2025, 1, 2) },
            UnitCommand::EndOccupancy { lease_id: LEASE, on: date(2025, 1, 2) },
            block(date(2025, 1, 2), date(2025, 1, 3)),
            UnitCommand::EndBlock { block_id: BLOCK },
            retire(),
            UnitCommand::ReinstateUnit,
        ] {
            given::<Unit>([]).when(command).then_refused("NOT_FOUND");
        }
    }

    #[test]
    fn malformed_units_are_refused_with_a_pointer() {
        type Change = fn(&mut AddUnit);
        let changes: [(&str, Change); 5] = [
            ("/unit_number", |unit| unit.unit_number = String::new()),
            ("/unit_number", |unit| unit.unit_number = "9".repeat(51)),
            ("/bedrooms", |unit| unit.bedrooms = 51),
            ("/area_m2", |unit| unit.area_m2 = 0),
            ("/property/time_zone", |unit| unit.property.time_zone = "Nowhere".into()),
        ];
        for (pointer, change) in changes {
            let mut unit = add_unit();
            change(&mut unit);
            let error = given::<Unit>([]).when(UnitCommand::AddUnit(unit)).then_refused("VALIDATION_FAILED");
            assert_eq!(error.pointer(), Some(pointer));
        }
    }

    #[test]
    fn adding_twice_is_a_no_op_with_the_same_content_only() {
        let add = UnitCommand::AddUnit(add_unit());
        given::<Unit>([]).when(add.clone()).then([added()]).when(add).then_nothing();
        let other = UnitCommand::AddUnit(AddUnit { bedrooms: 3, ..add_unit() });
        given::<Unit>([added()]).when(other).then_refused("ALREADY_EXISTS");
    }

    #[test]
    fn an_update_records_only_what_changed() {
        let update = UpdateUnit { bedrooms: Some(2), area_m2: Some(81), ..UpdateUnit::default() };
        let updated = UnitEvent::UnitUpdated {
            unit_number: None,
            bedrooms: None,
            bathrooms_x2: None,
            area_m2: Some(81),
            amenities: None,
        };
        let update = UnitCommand::UpdateUnit(update);
        given::<Unit>([added()]).when(update.clone()).then([updated]).when(update).then_nothing();
    }

    #[test]
    fn a_unit_in_use_cannot_be_retired() {
        let hold = held(date(2025, 3, 1), date(2025, 4, 1), "2025-01-02T12:00:00Z");
        given::<Unit>(occupied()).when(retire()).then_refused("UNIT_OCCUPIED");
        given::<Unit>([added(), reserved()]).when(retire()).then_refused("UNIT_HAS_RESERVATION");
        given::<Unit>([added(), hold.clone()]).when(retire()).then_refused("UNIT_HAS_HOLD");
        given::<Unit>([added(), hold]).at("2025-01-02T12:00:00Z").when(retire()).then([retired()]);
    }

    #[test]
    fn a_retired_unit_takes_nothing_new_until_it_is_reinstated() {
        let state = || given::<Unit>([added(), listed(), retired()]);
        for command in [
            retire(),
            list(),
            UnitCommand::ChangeListingPrice { price: usd(1), effective_on: date(2025, 1, 1), rent_cap: None },
            place_hold(HOLD, date(2025, 1, 2), date(2025, 1, 3), "2025-01-02T00:00:00Z"),
            reserve(LEASE, date(2025, 1, 2), None, &[]),
            block(date(2025, 1, 2), date(2025, 1, 3)),
        ] {
            let error = state().when(command).then_refused("INVALID_STATE");
            assert_eq!(error, UnitError::InvalidState { current: "retired", allowed: &["active"] });
        }
        state().when(UnitCommand::ReinstateUnit).then([UnitEvent::UnitReinstated {}]).when(list()).then([listed()]);
        given::<Unit>([added()]).when(UnitCommand::ReinstateUnit).then_refused("INVALID_STATE");
    }
}

mod listing {
    use super::*;

    fn list_at(price: Money, rent_cap: Option<Money>) -> UnitCommand {
        UnitCommand::ListUnit { price, deposit: usd(0), available_from: date(2025, 1, 15), min_term_months: 12, rent_cap }
    }

    #[test]
    fn a_price_must_be_positive_in_the_units_currency_and_under_the_cap() {
        let yen = Money::new(1_000, Currency::new("JPY").expect("JPY"));
        given::<Unit>([added()]).when(list_at(usd(0), None)).then_refused("VALIDATION_FAILED");
        given::<Unit>([added()]).when(list_at(usd(i64::MAX), None)).then_refused("VALIDATION_FAILED");
        given::<Unit>([added()]).when(list_at(yen, None)).then_refused("CURRENCY_MISMATCH");
        given::<Unit>([added()]).when(list_at(usd(101), Some(usd(100)))).then_refused("RENT_EXCEEDS_CAP");
        given::<Unit>([added()]).when(list_at(usd(100), Some(usd(100)))).accepted();
    }

    #[test]
    fn a_listed_unit_is_listed_again_only_with_the_same_terms() {
        given::<Unit>([added()]).when(list()).then([listed()]).when(list()).then_nothing();
        given::<Unit>([added(), listed()]).when(list_at(usd(1), None)).then_refused("INVALID_STATE");
    }

    #[test]
    fn an_unlisted_unit_has_no_price_to_change() {
        let change = UnitCommand::ChangeListingPrice { price: usd(1), effective_on: date(2025, 1, 1), rent_cap: None };
        given::<Unit>([added()]).when(change).then_refused("INVALID_STATE");
        given::<Unit>([added()]).when(UnitCommand::UnlistUnit).then_nothing();
        given::<Unit>([added(), listed()]).when(UnitCommand::UnlistUnit).then([UnitEvent::UnitUnlisted {}]);
    }

    #[test]
    fn a_price_holds_from_its_date_on() {
        let change = |amount, effective_on| UnitEvent::ListingPriceChanged { price: usd(amount), effective_on };
        let mut unit = Unit::default();
        let (march, feb) = (date(2025, 3, 1), date(2025, 2, 1));
        [added(), listed(), change(170_000, march), change(160_000, feb)].into_iter().for_each(|event| unit.apply(event));
        let listing = unit.listing().expect("listed");
        assert_eq!(listing.price_on(date(2025, 1, 31)), usd(150_000));
        assert_eq!(listing.price_on(feb), usd(160_000));
        assert_eq!(listing.price_on(date(2025, 4, 1)), usd(170_000));
        assert_eq!(listing.next_price_change(feb), Some(march));
        assert_eq!(listing.prices_from(feb).collect::<Vec<_>>(), [usd(160_000), usd(170_000)]);
        let again = UnitCommand::ChangeListingPrice { price: usd(170_000), effective_on: march, rent_cap: None };
        assert_eq!(unit.decide(&again, &Moment { now: instant("2025-01-01T00:00:00Z") }), Ok(vec![]));
    }
}

mod holding {
    use super::*;

    const FROM: Date = date(2025, 1, 10);
    const TO: Date = date(2025, 2, 10);

    #[test]
    fn impossible_holds_are_refused() {
        let at_noon = || given::<Unit>([added()]);
        at_noon().when(place_hold(HOLD, TO, FROM, "2025-01-02T12:00:00Z")).then_refused("VALIDATION_FAILED");
        at_noon().when(place_hold(HOLD, FROM, FROM, "2025-01-02T12:00:00Z")).then_refused("VALIDATION_FAILED");
        at_noon().when(place_hold(HOLD, FROM, date(9999, 1, 1), "2025-01-02T12:00:00Z")).then_refused("VALIDATION_FAILED");
        at_noon().when(place_hold(HOLD, FROM, TO, "2025-01-01T12:00:00Z")).then_refused("VALIDATION_FAILED");
        at_noon().when(place_hold(HOLD, FROM, TO, "2025-01-16T12:00:00.000000001Z")).then_refused("HOLD_TOO_LONG");
        at_noon().when(place_hold(HOLD, FROM, TO, "2025-01-16T12:00:00Z")).accepted();
    }

    #[test]
    fn a_second_hold_on_the_same_days_names_the_first() {
        let second = HoldId(Uuid::from_u128(99));
        let error = given::<Unit>([added(), held(FROM, TO, "2025-01-03T12:00:00Z")])
            .when(place_hold(second, date(2025, 2, 9), date(2025, 3, 1), "2025-01-03T12:00:00Z"))
            .then_refused("UNIT_NOT_AVAILABLE");
        assert_eq!(error, UnitError::NotAvailable { conflict_id: HOLD.0, kind: EntryKind::Hold });
        assert_eq!(error.facts()["kind"], "hold");
    }

    #[test]
    fn a_repeated_hold_is_a_no_op_and_with_other_content_a_conflict() {
        let state = || given::<Unit>([added(), held(FROM, TO, "2025-01-03T12:00:00Z")]);
        state().when(place_hold(HOLD, FROM, TO, "2025-01-03T12:00:00Z")).then_nothing();
        state().when(place_hold(HOLD, FROM, TO, "2025-01-04T12:00:00Z")).then_refused("ALREADY_EXISTS");
    }

    /// Golden: a hold expiring 12:00:00Z: at 12:00:00Z the unit is free, with no timer having fired.
    #[test]
    fn at_the_instant_a_hold_expires_the_unit_is_free() {
        let second = HoldId(Uuid::from_u128(99));
        let state = || given::<Unit>([added(), held(FROM, TO, "2025-01-03T12:00:00Z")]);
        let place = || place_hold(second, FROM, TO, "2025-01-05T12:00:00Z");
        state().at("2025-01-03T11:59:59.999999999Z").when(place()).then_refused("UNIT_NOT_AVAILABLE");
        state().at("2025-01-03T12:00:00Z").when(place()).accepted();
    }

    #[test]
    fn a_hold_expires_when_its_time_has_come_and_only_once() {
        let expire = UnitCommand::ExpireHold { hold_id: HOLD };
        let expired = UnitEvent::HoldExpired { hold_id: HOLD, expires_at: instant("2025-01-03T12:00:00Z") };
        let state = || given::<Unit>([added(), held(FROM, TO, "2025-01-03T12:00:00Z")]);
        state().at("2025-01-03T11:59:59Z").when(expire.clone()).then_nothing();
        state().at("2025-01-03T12:00:00Z").when(expire.clone()).then([expired]).when(expire).then_nothing();
    }

    #[test]
    fn a_released_hold_frees_its_days() {
        let release = UnitCommand::ReleaseHold { hold_id: HOLD };
        given::<Unit>([added(), held(FROM, TO, "2025-01-03T12:00:00Z")])
            .when(release.clone())
            .then([UnitEvent::HoldReleased { hold_id: HOLD }])
            .when(reserve(LEASE, FROM, None, &[STRANGER]))
            .accepted()
            .when(release)
            .then_refused("NOT_FOUND");
    }
}

mod reserving {
    use super::*;

    /// Golden: occupied [15 Jan 2025, 15 Jan 2026): from 14 Jan 2026 refused, 15 Jan accepted.
    #[test]
    fn the_day_before_the_end_is_taken_and_the_end_is_free() {
        for events in [vec![added(), reserved()], occupied().to_vec()] {
            let refused = given::<Unit>(events.clone()).when(reserve(NEXT_LEASE, date(2026, 1, 14), None, &[]));
            assert_eq!(refused.then_refused("UNIT_NOT_AVAILABLE").facts()["conflict_id"], LEASE.to_string());
            given::<Unit>(events).when(reserve(NEXT_LEASE, date(2026, 1, 15), None, &[])).accepted();
        }
    }

    #[test]
    fn of_two_reservations_of_the_same_days_exactly_one_is_accepted() {
        given::<Unit>([added()])
            .when(reserve(LEASE, date(2025, 1, 15), Some(date(2026, 1, 15)), &[PARTY]))
            .then([reserved()])
            .when(reserve(NEXT_LEASE, date(2025, 1, 15), Some(date(2026, 1, 15)), &[PARTY]))
            .then_refused("UNIT_NOT_AVAILABLE");
    }

    #[test]
    fn a_strangers_hold_stands_in_the_way_and_an_own_one_is_used_up() {
        let hold = held(date(2025, 1, 20), date(2025, 2, 1), "2025-01-03T12:00:00Z");
        let reserve_for = |party| reserve(LEASE, date(2025, 1, 15), Some(date(2026, 1, 15)), &[party]);
        given::<Unit>([added(), hold.clone()]).when(reserve_for(STRANGER)).then_refused("UNIT_NOT_AVAILABLE");
        let consumed = UnitEvent::UnitReserved {
            lease_id: LEASE,
            from: date(2025, 1, 15),
            to: Some(date(2026, 1, 15)),
            consumed_holds: vec![HOLD],
        };
        given::<Unit>([added(), hold])
            .when(reserve_for(PARTY))
            .then([consumed])
            .when(UnitCommand::ReleaseHold { hold_id: HOLD })
            .then_refused("NOT_FOUND");
    }

    #[test]
    fn a_repeated_reservation_is_a_no_op_and_other_dates_of_the_same_lease_a_conflict() {
        let state = || given::<Unit>([added(), reserved()]);
        state().when(reserve(LEASE, date(2025, 1, 15), Some(date(2026, 1, 15)), &[])).then_nothing();
        state().when(reserve(LEASE, date(2025, 1, 15), None, &[])).then_refused("ALREADY_EXISTS");
        given::<Unit>(occupied()).when(reserve(LEASE, date(2025, 1, 15), Some(date(2026, 1, 15)), &[])).then_nothing();
    }

    #[test]
    fn a_released_reservation_is_gone_and_releasing_again_changes_nothing() {
        let release = UnitCommand::ReleaseReservation { lease_id: LEASE };
        given::<Unit>([added(), reserved()])
            .when(release.clone())
            .then([UnitEvent::ReservationReleased { lease_id: LEASE }])
            .when(release)
            .then_nothing()
            .when(reserve(NEXT_LEASE, date(2025, 6, 1), None, &[]))
            .accepted();
    }
}

mod occupying {
    use super::*;

    fn start(on: Date) -> UnitCommand {
        UnitCommand::StartOccupancy { lease_id: LEASE, on }
    }

    fn schedule(on: Date) -> UnitCommand {
        UnitCommand::ScheduleVacancy { lease_id: LEASE, on }
    }

    fn scheduled(on: Date) -> UnitEvent {
        UnitEvent::VacancyScheduled { lease_id: LEASE, on }
    }

    fn end(on: Date) -> UnitCommand {
        UnitCommand::EndOccupancy { lease_id: LEASE, on }
    }

    fn extend(to: Option<Date>) -> UnitCommand {
        UnitCommand::ExtendOccupancy { lease_id: LEASE, to }
    }

    #[test]
    fn nobody_moves_in_without_an_own_reservation() {
        given::<Unit>([added()]).when(start(date(2025, 1, 15))).then_refused("NO_RESERVATION");
        let foreign = UnitCommand::StartOccupancy { lease_id: NEXT_LEASE, on: date(2025, 1, 15) };
        given::<Unit>([added(), reserved()]).when(foreign).then_refused("NO_RESERVATION");
        given::<Unit>([added(), reserved()]).when(start(date(2025, 1, 14))).then_refused("VALIDATION_FAILED");
    }

    #[test]
    fn a_reservation_becomes_an_occupancy_of_the_same_days_once() {
        let on = date(2025, 1, 15);
        given::<Unit>([added(), reserved()]).when(start(on)).then([started()]).when(start(on)).then_nothing();
    }

    #[test]
    fn who_does_not_occupy_cannot_leave_or_stay() {
        let cancel = UnitCommand::CancelVacancy { lease_id: LEASE };
        for command in [schedule(date(2025, 7, 1)), cancel, extend(None), end(date(2025, 7, 1))] {
            given::<Unit>([added(), reserved()]).when(command).then_refused("NOT_OCCUPIED");
        }
    }

    #[test]
    fn an_announced_move_out_frees_the_days_after_it() {
        given::<Unit>(occupied())
            .when(schedule(date(2025, 7, 1)))
            .then([scheduled(date(2025, 7, 1))])
            .when(schedule(date(2025, 7, 1)))
            .then_nothing()
            .when(reserve(NEXT_LEASE, date(2025, 6, 30), None, &[]))
            .then_refused("UNIT_NOT_AVAILABLE");
        let events = occupied_and(scheduled(date(2025, 7, 1)));
        given::<Unit>(events).when(reserve(NEXT_LEASE, date(2025, 7, 1), None, &[])).accepted();
    }

    #[test]
    fn a_withdrawn_move_out_restores_the_end_unless_the_next_tenant_is_booked() {
        let cancel = UnitCommand::CancelVacancy { lease_id: LEASE };
        let cancelled = UnitEvent::VacancyCancelled { lease_id: LEASE, to: Some(date(2026, 1, 15)) };
        let noticed = || occupied_and(scheduled(date(2025, 7, 1)));
        given::<Unit>(noticed()).when(cancel.clone()).then([cancelled]).when(cancel.clone()).then_nothing();
        let mut booked = noticed();
        booked.push(next_reserved(date(2025, 8, 1)));
        given::<Unit>(booked).when(cancel.clone()).then_refused("NEXT_TENANT_BOOKED");
        let mut in_repair = noticed();
        in_repair.push(blocked(date(2025, 8, 1), date(2025, 8, 5)));
        given::<Unit>(in_repair).when(cancel).then_refused("UNIT_NOT_AVAILABLE");
    }

    #[test]
    fn a_move_out_later_than_the_end_needs_the_days_to_be_free() {
        let booked = occupied_and(next_reserved(date(2026, 2, 1)));
        given::<Unit>(booked.clone()).when(schedule(date(2026, 2, 2))).then_refused("NEXT_TENANT_BOOKED");
        given::<Unit>(booked).when(schedule(date(2026, 2, 1))).accepted();
    }

    #[test]
    fn an_extension_stops_at_the_next_tenant() {
        let booked = || occupied_and(next_reserved(date(2026, 2, 1)));
        given::<Unit>(booked()).when(extend(None)).then_refused("NEXT_TENANT_BOOKED");
        given::<Unit>(booked()).when(extend(Some(date(2026, 2, 2)))).then_refused("NEXT_TENANT_BOOKED");
        given::<Unit>(booked()).when(extend(Some(date(2026, 2, 1)))).accepted();
        given::<Unit>(occupied()).when(extend(Some(date(2025, 12, 31)))).then_refused("VALIDATION_FAILED");
        given::<Unit>(occupied()).when(extend(Some(date(2026, 1, 15)))).then_nothing();
        let noticed = occupied_and(scheduled(date(2025, 7, 1)));
        given::<Unit>(noticed).when(extend(None)).then_refused("INVALID_STATE");
    }

    #[test]
    fn returned_keys_cut_the_occupancy_and_come_back_once() {
        let ended = UnitEvent::OccupancyEnded { lease_id: LEASE, on: date(2025, 9, 1), to: date(2025, 9, 1) };
        given::<Unit>(occupied()).when(end(date(2025, 1, 14))).then_refused("VALIDATION_FAILED");
        given::<Unit>(occupied())
            .when(end(date(2025, 9, 1)))
            .then([ended])
            .when(end(date(2025, 9, 1)))
            .then_nothing()
            .when(reserve(NEXT_LEASE, date(2025, 9, 1), None, &[]))
            .accepted();
    }

    #[test]
    fn an_occupancy_that_ended_on_its_first_day_takes_no_day() {
        given::<Unit>(occupied())
            .when(end(date(2025, 1, 15)))
            .accepted()
            .when(reserve(NEXT_LEASE, date(2025, 1, 1), None, &[]))
            .accepted();
    }

    #[test]
    fn late_keys_never_take_days_from_the_next_tenant() {
        let late = |to| UnitEvent::OccupancyEnded { lease_id: LEASE, on: date(2026, 2, 10), to };
        given::<Unit>(occupied()).when(end(date(2026, 2, 10))).then([late(date(2026, 2, 10))]);
        let booked = occupied_and(next_reserved(date(2026, 2, 1)));
        given::<Unit>(booked).when(end(date(2026, 2, 10))).then([late(date(2026, 1, 15))]);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn a_block_waits_for_tenants_but_not_for_other_blocks() {
        given::<Unit>(occupied()).when(block(date(2025, 3, 1), date(2025, 3, 5))).then_refused("UNIT_NOT_AVAILABLE");
        let other = UnitEvent::UnitBlocked {
            block_id: BlockId(Uuid::from_u128(77)),
            from: date(2025, 3, 1),
            to: date(2025, 3, 5),
            reason: "paint".into(),
            request_id: None,
        };
        given::<Unit>([added(), other]).when(block(date(2025, 3, 1), date(2025, 3, 5))).accepted();
        given::<Unit>([added()]).when(block(date(2025, 3, 5), date(2025, 3, 5))).then_refused("VALIDATION_FAILED");
    }

    #[test]
    fn a_block_ends_today_where_the_unit_stands() {
        let end = || UnitCommand::EndBlock { block_id: BLOCK };
        let state = || given::<Unit>([added(), blocked(date(2025, 3, 1), date(2025, 3, 10))]);
        given::<Unit>([added()]).when(end()).then_refused("NOT_FOUND");
        // 05:00Z on 5 March is still the evening of 4 March in Los Angeles.
        let ended = UnitEvent::BlockEnded { block_id: BLOCK, on: date(2025, 3, 4) };
        let after = state().at("2025-03-05T05:00:00Z").when(end()).then([ended]);
        let after = after.when(end()).then_nothing();
        after.when(reserve(LEASE, date(2025, 3, 4), None, &[])).accepted();
        state().at("2025-03-10T12:00:00Z").when(end()).then_nothing();
    }

    #[test]
    fn a_block_ended_before_it_began_takes_no_day() {
        given::<Unit>([added(), blocked(date(2025, 3, 1), date(2025, 3, 10))])
            .when(UnitCommand::EndBlock { block_id: BLOCK })
            .accepted()
            .when(reserve(LEASE, date(2025, 3, 1), None, &[]))
            .accepted();
    }
}

#[test]
fn business_dates_are_those_of_the_units_zone() {
    let mut unit = Unit::default();
    unit.apply(added());
    let at = Moment { now: instant("2025-03-05T05:00:00Z") };
    assert_eq!(unit.effective_on(&reserved(), &at), date(2025, 3, 4));
    assert_eq!(unit.effective_on(&started(), &at), date(2025, 1, 15));
    let expired = UnitEvent::HoldExpired { hold_id: HOLD, expires_at: instant("2025-03-01T01:00:00Z") };
    assert_eq!(unit.effective_on(&expired, &at), date(2025, 2, 28));
}

fn any_command() -> impl Strategy<Value = (UnitCommand, i64)> {
    let day = || (0_i64..40).prop_map(|days| date(2025, 1, 1).saturating_add(jiff::Span::new().days(days)));
    let lease = || (0_u128..4).prop_map(|id| LeaseId(Uuid::from_u128(100 + id)));
    let party = || (0_u128..3).prop_map(|id| PartyId(Uuid::from_u128(200 + id)));
    let other = || (0_u128..6).prop_map(|id| Uuid::from_u128(300 + id));
    let command = prop_oneof![
        3 => (other(), party(), day(), day(), 0_i64..72).prop_map(|(id, party_id, from, to, hours)| UnitCommand::PlaceHold {
            hold_id: HoldId(id),
            party_id,
            from,
            to,
            expires_at: instant("2025-01-01T12:00:00Z") + jiff::SignedDuration::from_hours(hours),
        }),
        1 => other().prop_map(|id| UnitCommand::ReleaseHold { hold_id: HoldId(id) }),
        1 => other().prop_map(|id| UnitCommand::ExpireHold { hold_id: HoldId(id) }),
        4 => (lease(), day(), proptest::option::of(day()), party())
            .prop_map(|(lease_id, from, to, party)| UnitCommand::ReserveUnit { lease_id, from, to, parties: vec![party] }),
        1 => lease().prop_map(|lease_id| UnitCommand::ReleaseReservation { lease_id }),
        4 => (lease(), day()).prop_map(|(lease_id, on)| UnitCommand::StartOccupancy { lease_id, on }),
        2 => (lease(), day()).prop_map(|(lease_id, on)| UnitCommand::ScheduleVacancy { lease_id, on }),
        2 => lease().prop_map(|lease_id| UnitCommand::CancelVacancy { lease_id }),
        2 => (lease(), proptest::option::of(day())).prop_map(|(lease_id, to)| UnitCommand::ExtendOccupancy { lease_id, to }),
        2 => (lease(), day()).prop_map(|(lease_id, on)| UnitCommand::EndOccupancy { lease_id, on }),
        2 => (other(), day(), day()).prop_map(|(id, from, to)| UnitCommand::BlockUnit {
            block_id: BlockId(id),
            from,
            to,
            reason: "r".into(),
            request_id: None,
        }),
        1 => other().prop_map(|id| UnitCommand::EndBlock { block_id: BlockId(id) }),
    ];
    (command, 0_i64..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// No double booking, ever: whatever is asked in whatever order, two entries meet only where the matrix lets them.
    #[test]
    fn no_two_bookings_ever_share_a_day(commands in proptest::collection::vec(any_command(), 1..60)) {
        let mut unit = Unit::default();
        unit.apply(added());
        let mut now = instant("2025-01-01T12:00:00Z");
        for (command, hours) in commands {
            now += jiff::SignedDuration::from_hours(hours);
            let Ok(events) = unit.decide(&command, &Moment { now }) else { continue };
            events.into_iter().for_each(|event| unit.apply(event));
            let entries: Vec<_> = unit.calendar().entries().iter().filter(|entry| entry.counts(now)).collect();
            for (index, entry) in entries.iter().enumerate() {
                for other in &entries[index + 1..] {
                    let may_meet = entry.kind() == EntryKind::Block && other.kind() == EntryKind::Block;
                    prop_assert!(may_meet || !entry.range().overlaps(&other.range()), "{entry:?} and {other:?} after {command:?}");
                }
            }
            // Deciding the same again at the same instant never adds anything, unless it is refused.
            if let Ok(again) = unit.decide(&command, &Moment { now }) {
                prop_assert_eq!(again, vec![]);
            }
        }
    }
}
