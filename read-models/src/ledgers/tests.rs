use domain::finances::{Ledger, LedgerCommand};
use uuid::Uuid;

use super::*;
use crate::testing::stories::Story;

const AT: &str = "2025-01-10T12:00:00Z";

fn open(story: &mut Story, n: u128, tenant: u128) {
    let command = LedgerCommand::OpenLedger {
        lease_id: LeaseId(Uuid::from_u128(n)),
        property_id: PropertyId(Uuid::from_u128(100 + n)),
        unit_id: UnitId(Uuid::from_u128(200 + n)),
        tenants: vec![PartyId(Uuid::from_u128(tenant))],
        currency: Currency::new("USD").expect("a currency"),
        time_zone: "America/New_York".into(),
        late_fee_policy: None,
        allocation_policy: AllocationPolicy::Oldest,
    };
    story.run::<Ledger>(Uuid::from_u128(n), AT, command);
}

#[tokio::test]
async fn ledgers_are_found_by_status_property_and_tenant() {
    let mut story = Story::default();
    open(&mut story, 1, 21);
    open(&mut story, 2, 22);
    story.run::<Ledger>(Uuid::from_u128(2), AT, LedgerCommand::CloseLedger);
    let mut shelf = story.shelf(&[&Ledgers]);
    for (filter, expected) in [
        (LedgersFilter::default(), vec![1, 2]),
        (LedgersFilter { status: Some(LedgerStatus::Closed), ..Default::default() }, vec![2]),
        (LedgersFilter { property_id: Some(PropertyId(Uuid::from_u128(101))), ..Default::default() }, vec![1]),
        (LedgersFilter { tenant: Some(PartyId(Uuid::from_u128(22))), ..Default::default() }, vec![2]),
    ] {
        let found = ledgers(&mut shelf, &filter, &PageRequest::default()).await.expect("an answer").value.data;
        assert_eq!(found.iter().map(|head| head.lease_id.0.as_u128()).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_ledger_is_not_known_before_it_was_opened() {
    let mut story = Story::default();
    open(&mut story, 1, 21);
    open(&mut story, 2, 22);
    let mut shelf = story.shelf(&[&Ledgers]);
    assert_eq!(ledgers_at(&mut shelf, 1, None).await.expect("ledgers").len(), 1);
    assert_eq!(ledgers_at(&mut shelf, 2, None).await.expect("ledgers").len(), 2);
    let second = Some(LeaseId(Uuid::from_u128(2)));
    assert_eq!(ledgers_at(&mut shelf, 1, second).await.expect("ledgers"), []);
    assert_eq!(ledgers_at(&mut shelf, 2, second).await.expect("ledgers").len(), 1);
}
