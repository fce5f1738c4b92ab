use domain::legal::{Lease, LeaseCommand};
use jiff::civil::date;
use uuid::Uuid;

use super::*;
use crate::leases::tests::{draft, sign};
use crate::testing::instant;
use crate::testing::stories::Story;

fn start(story: &Story) -> Option<LeaseStart> {
    let doc = story.shelf(&[&LeaseStarts]).doc(SPEC.name, Uuid::from_u128(1))?;
    serde_json::from_value(doc).ok()
}

fn signed() -> Story {
    let mut story = Story::default();
    draft(&mut story, 1, 11, 21, None);
    assert_eq!(start(&story), None, "a draft starts nothing");
    sign(&mut story, 1, 21);
    story
}

#[test]
fn a_signed_lease_is_due_at_midnight_in_its_own_zone() {
    let start = start(&signed()).expect("a row");
    assert_eq!(start.due_at, instant("2025-01-15T05:00:00Z").as_millisecond());
    assert_eq!(start.start_date, date(2025, 1, 15));
}

#[test]
fn a_lease_that_is_active_or_voided_is_not_due() {
    let lease_id = LeaseId(Uuid::from_u128(1));
    let mut story = signed();
    let activate = LeaseCommand::ActivateLease { on: date(2025, 1, 15), deposit_paid: None };
    story.run::<Lease>(lease_id, "2025-01-15T12:00:00Z", activate);
    assert_eq!(start(&story), None);
    let mut story = signed();
    story.run::<Lease>(lease_id, "2025-01-15T12:00:00Z", LeaseCommand::VoidLease { reason: "x".into() });
    assert_eq!(start(&story), None);
}
