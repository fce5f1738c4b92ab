use domain::legal::{Party, PartyCommand};
use jiff::civil::date;
use uuid::Uuid;

use super::*;
use crate::testing::stories::Story;

const AT: &str = "2025-01-10T12:00:00Z";

fn id(n: u128) -> PartyId {
    PartyId(Uuid::from_u128(n))
}

fn ana() -> PartyDetails {
    PartyDetails {
        names: Names { full: "Ana Gómez".into(), given: None, family: None },
        birth_date: Some(date(1990, 5, 1)),
        tax_id: Some("123-45-6789".into()),
        emails: vec!["ana@example.org".into(), "root@localhost".into()],
        phones: vec!["+1 212 555 0142".into(), "110".into()],
        address: Some(PostalAddress {
            line1: "1 Secret Street".into(),
            line2: None,
            city: "Albany".into(),
            region: None,
            postal_code: Some("12207".into()),
            country: "US".into(),
        }),
        emergency_contact: Some(EmergencyContact { name: "Eva".into(), phone: "2".into(), relation: None }),
    }
}

fn register(n: u128, kind: PartyKind, role: PartyRole) -> PartyCommand {
    let personal = PartyDetails { birth_date: None, ..ana() };
    PartyCommand::RegisterParty { party_id: id(n), kind, roles: BTreeSet::from([role]), personal }
}

fn story() -> Story {
    let mut story = Story::default();
    let tenant = PartyCommand::RegisterParty {
        party_id: id(1),
        kind: PartyKind::Person,
        roles: BTreeSet::from([PartyRole::Tenant]),
        personal: ana(),
    };
    story.run::<Party>(id(1), AT, tenant);
    story.run::<Party>(id(2), AT, register(2, PartyKind::Company, PartyRole::Owner));
    story
}

#[tokio::test]
async fn a_masked_reader_gets_the_name_and_nothing_that_identifies() {
    let mut shelf = story().shelf(&[&PartyCard]);
    let masked = party(&mut shelf, id(1), Mask::Masked).await.expect("an answer").value.expect("the party");
    assert_eq!(masked.names.as_ref().map(|names| names.full.as_str()), Some("Ana Gómez"));
    assert!(masked.masked && !masked.erased);
    assert_eq!(masked.tax_id.as_deref(), Some("***89"));
    assert_eq!(masked.emails, ["a***@***.org", "r***@***"]);
    assert_eq!(masked.phones, ["***42", "***"]);
    assert_eq!((masked.birth_date, &masked.emergency_contact), (None, &None));
    let text = serde_json::to_string(&masked).expect("json");
    for secret in ["123-45", "example", "localhost", "555", "Secret", "12207", "Eva", "1990"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let clear = party(&mut shelf, id(1), Mask::Clear).await.expect("an answer").value.expect("the party");
    assert_eq!((clear.tax_id.as_deref(), clear.birth_date), (Some("123-45-6789"), Some(date(1990, 5, 1))));
    assert!(!format!("{clear:?}").contains("Ana"));
}

#[tokio::test]
async fn an_erased_party_is_a_fact_without_a_person() {
    let mut story = story();
    let erased =
        PartyEvent::PartyUpdated { party_id: id(1), roles: BTreeSet::from([PartyRole::Tenant]), personal: Personal(None) };
    story.write(AggregateKind::Party, id(1), AT, &erased);
    let mut shelf = story.shelf(&[&PartyCard]);
    let party = party(&mut shelf, id(1), Mask::Clear).await.expect("an answer").value.expect("the party");
    assert!(party.erased && party.names.is_none() && party.emails.is_empty() && party.tax_id.is_none());
}

#[tokio::test]
async fn parties_are_found_by_kind_and_role() {
    let mut shelf = story().shelf(&[&PartyCard]);
    let page = PageRequest::default();
    for (filter, expected) in [
        (PartiesFilter::default(), vec![id(1), id(2)]),
        (PartiesFilter { kind: Some(PartyKind::Company), role: None }, vec![id(2)]),
        (PartiesFilter { kind: None, role: Some(PartyRole::Tenant) }, vec![id(1)]),
        (PartiesFilter { kind: None, role: Some(PartyRole::Vendor) }, vec![]),
    ] {
        let found = parties(&mut shelf, &filter, Mask::Masked, &page).await.expect("an answer").value.data;
        assert_eq!(found.iter().map(|party| party.party_id).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn no_other_model_and_no_index_field_holds_a_person() {
    let story = story();
    for model in crate::all() {
        for event in &story.0 {
            let keys = model.keys(event).expect("keys");
            assert!(keys.is_empty() || model.spec().name == SPEC.name, "{}", model.spec().name);
        }
    }
    assert!(SPEC.fields.iter().all(|field| field.name == "kind"));
}
