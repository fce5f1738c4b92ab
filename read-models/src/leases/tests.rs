use domain::legal::{
    Deposit, DepositHolder, Lease, LeaseCommand, LeaseTenant, NoticeDays, ProrationMethod, Rent, RentFrequency, TermType,
};
use domain::{Money, RefusalClass};
use jiff::civil::date;
use uuid::Uuid;

use super::*;
use crate::testing::Shelf;
use crate::testing::stories::Story;

const JANUARY: &str = "2025-01-10T12:00:00Z";

fn lease_id(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

fn party(n: u128) -> PartyId {
    PartyId(Uuid::from_u128(n))
}

fn usd() -> Currency {
    Currency::new("USD").expect("a currency")
}

fn terms(unit: u128, tenant: u128, end: Option<Date>) -> LeaseTerms {
    LeaseTerms {
        unit_id: UnitId(Uuid::from_u128(unit)),
        tenants: vec![LeaseTenant { party_id: party(tenant), share_bp: None }],
        guarantors: vec![party(99)],
        start_date: date(2025, 1, 15),
        end_date: end,
        term_type: if end.is_some() { TermType::Fixed } else { TermType::Periodic },
        rent: Rent { money: Money::new(150_000, usd()), frequency: RentFrequency::Monthly, due_day: 1 },
        extra_charges: vec![],
        proration_method: ProrationMethod::ActualDays,
        late_fee_policy: None,
        deposit: Some(Deposit {
            money: Money::new(150_000, usd()),
            due_on: date(2025, 1, 10),
            held_by: DepositHolder::Landlord,
        }),
        require_deposit_before_start: false,
        notice_days: NoticeDays::default(),
        escalation: None,
        clauses: vec![],
    }
}

fn place() -> LeasePlace {
    LeasePlace {
        property_id: PropertyId(Uuid::from_u128(7)),
        time_zone: "America/New_York".into(),
        currency: usd(),
        jurisdiction: "US-NY".into(),
    }
}

pub(crate) fn draft(story: &mut Story, n: u128, unit: u128, tenant: u128, end: Option<Date>) {
    let lease_id = lease_id(n);
    story.run::<Lease>(
        lease_id,
        JANUARY,
        LeaseCommand::DraftLease { lease_id, terms: terms(unit, tenant, end), place: place() },
    );
}

pub(crate) fn send(story: &mut Story, n: u128, tenant: u128) {
    let (document_id, document_sha256) = (DocumentId(Uuid::from_u128(5)), Sha256::of(b"lease"));
    let signers = vec![party(tenant)];
    story.run::<Lease>(lease_id(n), JANUARY, LeaseCommand::SendForSignature { document_id, document_sha256, signers });
}

pub(crate) fn sign(story: &mut Story, n: u128, tenant: u128) {
    send(story, n, tenant);
    let command = LeaseCommand::Sign {
        party_id: party(tenant),
        document_sha256: Sha256::of(b"lease"),
        method: SignatureMethod::Electronic,
        on: date(2025, 1, 10),
    };
    story.run::<Lease>(lease_id(n), JANUARY, LeaseCommand::ConfirmSent).run::<Lease>(lease_id(n), JANUARY, command);
}

fn three() -> Story {
    let mut story = Story::default();
    draft(&mut story, 1, 11, 21, Some(date(2026, 1, 14)));
    draft(&mut story, 2, 12, 22, None);
    draft(&mut story, 3, 13, 21, Some(date(2025, 6, 30)));
    sign(&mut story, 3, 21);
    story
}

async fn ids(shelf: &mut Shelf, filter: LeasesFilter) -> Vec<u128> {
    let answer = leases(shelf, &filter, &PageRequest::default()).await.expect("an answer");
    answer.value.data.iter().map(|lease| lease.lease_id.0.as_u128()).collect()
}

#[tokio::test]
async fn each_filter_keeps_what_it_says() {
    let mut shelf = three().shelf(&[&Leases]);
    let filter = LeasesFilter::default;
    assert_eq!(ids(&mut shelf, filter()).await, [1, 2, 3]);
    assert_eq!(ids(&mut shelf, LeasesFilter { status: Some(LeaseState::Signed), ..filter() }).await, [3]);
    let unit_id = Some(UnitId(Uuid::from_u128(12)));
    assert_eq!(ids(&mut shelf, LeasesFilter { unit_id, ..filter() }).await, [2]);
    assert_eq!(ids(&mut shelf, LeasesFilter { party_id: Some(party(21)), ..filter() }).await, [1, 3]);
    assert_eq!(ids(&mut shelf, LeasesFilter { party_id: Some(party(1)), ..filter() }).await, [0; 0]);
    let ending = |day| LeasesFilter { ending_before: Some(day), ..filter() };
    assert_eq!(ids(&mut shelf, ending(date(2025, 6, 30))).await, [0; 0]);
    assert_eq!(ids(&mut shelf, ending(date(2025, 7, 1))).await, [3]);
    assert_eq!(ids(&mut shelf, ending(date(2026, 1, 15))).await, [1, 3]);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap() {
    let mut shelf = three().shelf(&[&Leases]);
    let (mut page, mut seen) = (PageRequest { limit: 1, after: None }, vec![]);
    loop {
        let answer = leases(&mut shelf, &LeasesFilter::default(), &page).await.expect("an answer").value;
        seen.extend(answer.data.iter().map(|lease| lease.lease_id.0.as_u128()));
        let Some(cursor) = answer.next_cursor else { break };
        page.after = crate::Cursor::decode(&cursor);
    }
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test]
async fn a_lease_shows_its_whole_way() {
    let mut story = three();
    let at = "2025-01-15T12:00:00Z";
    story.run::<Lease>(lease_id(3), at, LeaseCommand::ActivateLease { on: date(2025, 1, 15), deposit_paid: None });
    let mut shelf = story.shelf(&[&Leases]);
    let lease = lease(&mut shelf, lease_id(3)).await.expect("an answer").value.expect("the lease");
    assert_eq!((lease.status, lease.term_version, lease.version), (LeaseState::Active, 1, 6));
    assert_eq!((lease.signed_on, lease.activated_on), (Some(date(2025, 1, 10)), Some(date(2025, 1, 15))));
    assert_eq!(lease.terms_hash, Some(lease.terms.hash()));
    assert_eq!(lease.signatures.len(), 1);
    assert!(lease.concerns(party(21)) && lease.concerns(party(99)) && !lease.concerns(party(22)));
    assert_eq!(super::lease(&mut shelf, lease_id(4)).await.expect("an answer").value, None);
}

#[tokio::test]
async fn a_refused_send_says_why_until_the_next() {
    let mut story = three();
    send(&mut story, 1, 21);
    let refusal = Refusal::new(RefusalClass::Conflict, "UNIT_NOT_AVAILABLE", "taken");
    story.run::<Lease>(lease_id(1), JANUARY, LeaseCommand::RefuseSend { refusal });
    let refused = lease(&mut story.shelf(&[&Leases]), lease_id(1)).await.expect("an answer").value.expect("the lease");
    assert_eq!(refused.status, LeaseState::Draft);
    assert_eq!(refused.send_refusal.map(|refusal| refusal.code).as_deref(), Some("UNIT_NOT_AVAILABLE"));
    assert_eq!(refused.document_id, None);
    send(&mut story, 1, 21);
    let again = lease(&mut story.shelf(&[&Leases]), lease_id(1)).await.expect("an answer").value.expect("the lease");
    assert_eq!((again.status, again.send_refusal), (LeaseState::Sending, None));
}

#[tokio::test]
async fn a_register_at_a_position_stays_what_it_was() {
    let mut story = three();
    let (position, day) = (story.head(), date(2025, 1, 31));
    let before = register(&mut story.shelf(&[&Leases]), position, day, None).await.expect("a register");
    assert_eq!(
        before.iter().map(|line| line.status).collect::<Vec<_>>(),
        [LeaseState::Draft, LeaseState::Draft, LeaseState::Signed]
    );
    draft(&mut story, 4, 14, 24, None);
    let edited = LeaseCommand::EditDraft { terms: terms(12, 22, Some(date(2027, 1, 1))), place: place() };
    story.run::<Lease>(lease_id(2), JANUARY, edited);
    story.run::<Lease>(lease_id(3), JANUARY, LeaseCommand::VoidLease { reason: "x".into() });
    let mut shelf = story.shelf(&[&Leases]);
    assert_eq!(register(&mut shelf, position, day, None).await.expect("a register"), before);
    let one = register(&mut shelf, position, day, Some(lease_id(3))).await.expect("a register");
    assert_eq!(one, before[2..]);
    assert_eq!(register(&mut shelf, story.head(), day, None).await.expect("a register").len(), 4);
    assert_eq!(register(&mut shelf, position, date(2025, 1, 1), None).await.expect("a register"), []);
}
