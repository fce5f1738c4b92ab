//! Units and leases by the clients' commands.

use std::collections::BTreeSet;

use commands::Handler;
use domain::legal::{
    Deposit, DepositHolder, Lease, LeaseCommand, LeasePlace, LeaseTenant, LeaseTerms, NoticeDays, ProrationMethod, Rent,
    RentFrequency, SignatureMethod, TermType,
};
use domain::units::{AddUnit, Bathrooms, PropertyFacts, Unit, UnitCommand};
use domain::{Currency, DocumentId, LeaseId, Money, PartyId, PropertyId, Sha256, UnitId};
use jiff::civil::date;
use uuid::Uuid;

use super::execute;

fn usd() -> Currency {
    Currency::new("USD").expect("a currency")
}

fn money(amount: i64) -> Money {
    Money { amount, currency: usd() }
}

const TENANT: PartyId = PartyId(Uuid::from_u128(77));

pub async fn started_unit(client: &Handler) -> Uuid {
    let unit_id = Uuid::now_v7();
    let add = AddUnit {
        property: PropertyFacts {
            property_id: PropertyId(Uuid::from_u128(5)),
            property_name: "Elm Court".into(),
            city: "Oakland".into(),
            region: None,
            country: "US".into(),
            time_zone: "UTC".into(),
            currency: usd(),
            jurisdiction: "US-CA".into(),
        },
        unit_number: unit_id.to_string(),
        bedrooms: 2,
        bathrooms: Bathrooms::new(1.5).expect("a count of bathrooms"),
        area_m2: 60,
        amenities: BTreeSet::new(),
    };
    execute::<Unit>(client, unit_id, UnitCommand::AddUnit(add)).await;
    unit_id
}

/// A lease of the unit from 10 March 2026 for a year, with a deposit that has to be paid before it starts.
pub async fn draft(client: &Handler, unit_id: Uuid) -> Uuid {
    let lease_id = Uuid::now_v7();
    let terms = LeaseTerms {
        unit_id: UnitId(unit_id),
        tenants: vec![LeaseTenant { party_id: TENANT, share_bp: None }],
        guarantors: vec![],
        start_date: date(2026, 3, 10),
        end_date: Some(date(2027, 3, 9)),
        term_type: TermType::Fixed,
        rent: Rent { money: money(150_000), frequency: RentFrequency::Monthly, due_day: 1 },
        extra_charges: vec![],
        proration_method: ProrationMethod::ActualDays,
        late_fee_policy: None,
        deposit: Some(Deposit { money: money(150_000), due_on: date(2026, 3, 10), held_by: DepositHolder::Landlord }),
        require_deposit_before_start: true,
        notice_days: NoticeDays::default(),
        escalation: None,
        clauses: vec![],
    };
    let place = LeasePlace {
        property_id: PropertyId(Uuid::from_u128(5)),
        time_zone: "UTC".into(),
        currency: usd(),
        jurisdiction: "US-CA".into(),
    };
    execute::<Lease>(client, lease_id, LeaseCommand::DraftLease { lease_id: LeaseId(lease_id), terms, place }).await;
    lease_id
}

pub async fn send(client: &Handler, lease_id: Uuid) {
    let command = LeaseCommand::SendForSignature {
        document_id: DocumentId(Uuid::from_u128(9)),
        document_sha256: Sha256::of(b"the lease"),
        signers: vec![TENANT],
    };
    execute::<Lease>(client, lease_id, command).await;
}

pub async fn sign(client: &Handler, lease_id: Uuid) {
    let command = LeaseCommand::Sign {
        party_id: TENANT,
        document_sha256: Sha256::of(b"the lease"),
        method: SignatureMethod::Electronic,
        on: date(2026, 3, 2),
    };
    execute::<Lease>(client, lease_id, command).await;
}

pub async fn void(client: &Handler, lease_id: Uuid) {
    execute::<Lease>(client, lease_id, LeaseCommand::VoidLease { reason: "changed their minds".into() }).await;
}
