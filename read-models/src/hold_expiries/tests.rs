use domain::units::UnitEvent;
use domain::{AggregateKind, HoldId, LeaseId, PartyId, UnitId};
use jiff::civil::date;
use serde_json::json;
use uuid::Uuid;

use super::{HoldExpiries, SPEC};
use crate::testing::{Shelf, instant, recorded};

const UNIT: UnitId = UnitId(Uuid::from_u128(1));
const HOLD: HoldId = HoldId(Uuid::from_u128(2));

fn placed(expires_at: &str) -> UnitEvent {
    UnitEvent::HoldPlaced {
        hold_id: HOLD,
        party_id: PartyId(Uuid::from_u128(3)),
        from: date(2025, 1, 10),
        to: date(2025, 2, 10),
        expires_at: instant(expires_at),
    }
}

fn shelf(events: &[UnitEvent]) -> Shelf {
    let events: Vec<_> = (1..)
        .zip(events)
        .map(|(sequence, event)| recorded(AggregateKind::Unit, UNIT, sequence, "2025-01-01T12:00:00Z", event))
        .collect();
    let mut shelf = Shelf::default();
    shelf.fold(&HoldExpiries, &events);
    shelf
}

#[test]
fn a_placed_hold_is_due_when_it_runs_out_and_never_before() {
    let doc = shelf(&[placed("2025-01-03T12:00:00Z")]).doc(SPEC.name, HOLD);
    assert_eq!(doc, Some(json!({"unit_id": UNIT, "hold_id": HOLD, "due_at": 1_735_905_600_000_i64})));
    let doc = shelf(&[placed("2025-01-03T12:00:00.000000001Z")]).doc(SPEC.name, HOLD);
    assert_eq!(doc.expect("a row")["due_at"], 1_735_905_600_001_i64);
}

#[test]
fn a_hold_that_is_gone_is_not_due() {
    let reserved = UnitEvent::UnitReserved {
        lease_id: LeaseId(Uuid::from_u128(4)),
        from: date(2025, 1, 10),
        to: None,
        consumed_holds: vec![HOLD],
    };
    let expired = UnitEvent::HoldExpired { hold_id: HOLD, expires_at: instant("2025-01-03T12:00:00Z") };
    for ending in [UnitEvent::HoldReleased { hold_id: HOLD }, expired, reserved] {
        assert_eq!(shelf(&[placed("2025-01-03T12:00:00Z"), ending]).doc(SPEC.name, HOLD), None);
    }
}
