//! Leases from draft to signed or void.

use std::sync::Arc;

use commands::step;
use domain::legal::{
    Deposit, DepositHolder, Lease, LeaseCommand, LeasePlace, LeaseState, LeaseTenant, LeaseTerms, NoticeDays,
    ProrationMethod, Rent, RentFrequency, SignatureMethod, TermType,
};
use domain::{Aggregate, AggregateKind, Context, DocumentId, LeaseId, PartyId, PropertyId, Sha256, UnitId};
use jiff::civil::date;
use rand::Rng;
use uuid::Uuid;

use super::writers::usd;
use super::{insist, pause, unit_id, uuid};
use crate::world::World;

const TENANT: PartyId = PartyId(Uuid::from_u128(77));

fn drafted(lease_id: LeaseId, unit: Uuid, with_deposit: bool) -> LeaseCommand {
    let deposit = Deposit { money: usd(150_000), due_on: date(2026, 3, 10), held_by: DepositHolder::Landlord };
    let terms = LeaseTerms {
        unit_id: UnitId(unit),
        tenants: vec![LeaseTenant { party_id: TENANT, share_bp: None }],
        guarantors: vec![],
        start_date: date(2026, 3, 10),
        end_date: Some(date(2027, 3, 9)),
        term_type: TermType::Fixed,
        rent: Rent { money: usd(150_000), frequency: RentFrequency::Monthly, due_day: 1 },
        extra_charges: vec![],
        proration_method: ProrationMethod::ActualDays,
        late_fee_policy: None,
        deposit: with_deposit.then_some(deposit),
        require_deposit_before_start: with_deposit,
        notice_days: NoticeDays::default(),
        escalation: None,
        clauses: vec![],
    };
    let place = LeasePlace {
        property_id: PropertyId(Uuid::from_u128(5)),
        time_zone: "UTC".into(),
        currency: usd(0).currency,
        jurisdiction: "US-CA".into(),
    };
    LeaseCommand::DraftLease { lease_id, terms, place }
}

/// One tenant: drafts, sends, waits for the process, then signs, declines or changes their mind.
pub async fn rent(world: Arc<World>, index: usize) {
    let mut rng = world.fate.rng_for(&format!("tenant {index}"));
    let id = uuid(&mut rng);
    let unit = unit_id(rng.random_range(0..world.plan.units));
    pause(&mut rng, 1, world.plan.lasts_ms / 3).await;
    let mut count = 0;
    let draft = drafted(LeaseId(id), unit, rng.random_bool(0.6));
    let send = LeaseCommand::SendForSignature {
        document_id: DocumentId(Uuid::from_u128(9)),
        document_sha256: Sha256::of(b"the lease"),
        signers: vec![TENANT],
    };
    let sign = LeaseCommand::Sign {
        party_id: TENANT,
        document_sha256: Sha256::of(b"the lease"),
        method: SignatureMethod::Electronic,
        on: date(2026, 3, 2),
    };
    let void = LeaseCommand::VoidLease { reason: "changed their minds".into() };
    let mut say = async |rng: &mut rand::rngs::StdRng, command: &LeaseCommand| {
        count += 1;
        insist(&world, rng, &format!("l{index}-{count}"), || step::<Lease>(id.to_string(), command.clone())).await;
    };
    say(&mut rng, &draft).await;
    for _ in 0..3 {
        say(&mut rng, &send).await;
        let state = decided(&world, id).await;
        if state == Some(LeaseState::Sent) {
            match rng.random_range(0..4) {
                0 => say(&mut rng, &void).await,
                1 => say(&mut rng, &LeaseCommand::Decline { party_id: TENANT, reason: None }).await,
                2 => say(&mut rng, &sign).await,
                _ => {
                    say(&mut rng, &sign).await;
                    pause(&mut rng, 1, 400).await;
                    say(&mut rng, &void).await;
                }
            }
            return;
        }
        pause(&mut rng, 50, 500).await;
    }
}

/// The lease's state once the process has decided about the send.
async fn decided(world: &World, id: Uuid) -> Option<LeaseState> {
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        let state = state_of(world, id).await;
        if state != Some(LeaseState::Sending) {
            return state;
        }
    }
}

async fn state_of(world: &World, id: Uuid) -> Option<LeaseState> {
    let mut lease = Lease::default();
    for event in world.events(Context::Legal).await {
        if event.stream.kind == AggregateKind::Lease && event.stream.id == id.to_string() {
            lease.apply(event.decode().ok()?);
        }
    }
    lease.state()
}
