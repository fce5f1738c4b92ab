use jiff::civil::date;
use uuid::Uuid;

use super::{Address, OwnerShare, Property, PropertyCommand, PropertyError, PropertyEvent, PropertyType, RegisterProperty};
use crate::testing::given;
use crate::{Currency, PartyId, PropertyId, Refused, UnitId};

const UNIT: UnitId = UnitId(Uuid::from_u128(1));
const OTHER_UNIT: UnitId = UnitId(Uuid::from_u128(2));

fn share(party: u128, share_bp: u32) -> OwnerShare {
    OwnerShare { party_id: PartyId(Uuid::from_u128(party)), share_bp }
}

fn palm_court() -> RegisterProperty {
    RegisterProperty {
        property_id: PropertyId(Uuid::from_u128(10)),
        name: "Palm Court".into(),
        property_type: PropertyType::ApartmentBuilding,
        address: Address {
            line1: "1 Palm Ave".into(),
            line2: None,
            city: "San Diego".into(),
            region: Some("CA".into()),
            postal_code: None,
            country: "US".into(),
        },
        time_zone: "America/Los_Angeles".into(),
        currency: Currency::new("USD").expect("USD"),
        jurisdiction: "US-CA".into(),
        owners: vec![share(1, 6_000), share(2, 4_000)],
    }
}

fn registered() -> PropertyEvent {
    PropertyEvent::PropertyRegistered(palm_court())
}

fn claimed(unit_id: UnitId, unit_number: &str) -> PropertyEvent {
    PropertyEvent::UnitNumberClaimed { unit_id, unit_number: unit_number.into() }
}

fn claim(unit_id: UnitId, unit_number: &str) -> PropertyCommand {
    PropertyCommand::ClaimUnitNumber { unit_id, unit_number: unit_number.into() }
}

#[test]
fn a_property_that_was_never_registered_is_not_found() {
    for command in [
        PropertyCommand::InactivateProperty,
        claim(UNIT, "1"),
        PropertyCommand::NoteUnitRetired { unit_id: UNIT },
        PropertyCommand::AssignOwners { owners: vec![share(1, 10_000)], effective_on: date(2025, 1, 1) },
    ] {
        given::<Property>([]).when(command).then_refused("NOT_FOUND");
    }
}

#[test]
fn malformed_properties_are_refused_with_a_pointer() {
    type Change = fn(&mut RegisterProperty);
    let changes: [(&str, Change); 6] = [
        ("/name", |property| property.name = " ".into()),
        ("/name", |property| property.name = "x".repeat(201)),
        ("/time_zone", |property| property.time_zone = "Mars/Olympus".into()),
        ("/jurisdiction", |property| property.jurisdiction = "California".into()),
        ("/address/country", |property| property.address.country = "us".into()),
        ("/address/city", |property| property.address.city = String::new()),
    ];
    for (pointer, change) in changes {
        let mut property = palm_court();
        change(&mut property);
        let refused = given::<Property>([]).when(PropertyCommand::RegisterProperty(property));
        assert_eq!(refused.then_refused("VALIDATION_FAILED").pointer(), Some(pointer));
    }
}

#[test]
fn shares_that_do_not_make_the_whole_are_refused() {
    let sets = [
        vec![],
        vec![share(1, 9_999)],
        vec![share(1, 10_001)],
        vec![share(1, 5_000), share(1, 5_000)],
        vec![share(1, 10_000), share(2, 0)],
        vec![share(1, u32::MAX), share(2, u32::MAX)],
    ];
    for owners in sets {
        let property = RegisterProperty { owners: owners.clone(), ..palm_court() };
        given::<Property>([]).when(PropertyCommand::RegisterProperty(property)).then_refused("OWNER_SHARES_INVALID");
        let assign = PropertyCommand::AssignOwners { owners, effective_on: date(2025, 2, 1) };
        given::<Property>([registered()]).when(assign).then_refused("OWNER_SHARES_INVALID");
    }
}

#[test]
fn registering_twice_with_the_same_content_is_a_no_op_and_with_other_content_a_conflict() {
    let again = PropertyCommand::RegisterProperty(palm_court());
    given::<Property>([]).when(again.clone()).then([registered()]).when(again).then_nothing();
    let other = RegisterProperty { name: "Oak Court".into(), ..palm_court() };
    given::<Property>([registered()]).when(PropertyCommand::RegisterProperty(other)).then_refused("ALREADY_EXISTS");
}

#[test]
fn a_unit_number_is_unique_whatever_its_case() {
    let state = || given::<Property>([registered(), claimed(UNIT, "4B")]);
    let error = state().when(claim(OTHER_UNIT, " 4b ")).then_refused("DUPLICATE_UNIT_NUMBER");
    assert_eq!(error, PropertyError::DuplicateUnitNumber { unit_number: "4B".into(), unit_id: UNIT });
    state().when(claim(UNIT, "4B")).then_nothing();
    state().when(claim(OTHER_UNIT, "4C")).then([claimed(OTHER_UNIT, "4C")]);
}

#[test]
fn a_renumbered_unit_gives_its_old_number_back() {
    let released = PropertyEvent::UnitNumberReleased { unit_id: UNIT, unit_number: "4B".into() };
    given::<Property>([registered(), claimed(UNIT, "4B")])
        .when(claim(UNIT, "5A"))
        .then([released, claimed(UNIT, "5A")])
        .when(claim(OTHER_UNIT, "4B"))
        .then([claimed(OTHER_UNIT, "4B")])
        .when(claim(OTHER_UNIT, "5a"))
        .then_refused("DUPLICATE_UNIT_NUMBER");
}

#[test]
fn a_property_with_an_active_unit_stays_active() {
    let retired = PropertyEvent::UnitRetirementNoted { unit_id: UNIT };
    given::<Property>([registered(), claimed(UNIT, "1"), claimed(OTHER_UNIT, "2"), retired])
        .when(PropertyCommand::InactivateProperty)
        .then_refused("PROPERTY_HAS_ACTIVE_UNITS");
}

#[test]
fn a_property_whose_units_are_all_retired_can_be_inactivated_and_then_takes_no_units() {
    let inactive = || {
        given::<Property>([registered(), claimed(UNIT, "1")])
            .when(PropertyCommand::NoteUnitRetired { unit_id: UNIT })
            .then([PropertyEvent::UnitRetirementNoted { unit_id: UNIT }])
            .when(PropertyCommand::InactivateProperty)
            .then([PropertyEvent::PropertyInactivated {}])
    };
    inactive().when(PropertyCommand::InactivateProperty).then_nothing();
    inactive().when(claim(OTHER_UNIT, "2")).then_refused("INVALID_STATE");
    inactive().when(PropertyCommand::NoteUnitReinstated { unit_id: UNIT }).then_refused("INVALID_STATE");
}

#[test]
fn owners_change_on_a_date() {
    let assign = PropertyCommand::AssignOwners { owners: vec![share(3, 10_000)], effective_on: date(2025, 2, 1) };
    let assigned = PropertyEvent::OwnersAssigned { owners: vec![share(3, 10_000)], effective_on: date(2025, 2, 1) };
    given::<Property>([registered()]).when(assign.clone()).then([assigned]).when(assign).then_nothing();
}
