use jiff::civil::date;
use uuid::Uuid;

use super::super::terms::*;
use super::*;
use crate::finances::ChargeType;
use crate::testing::{Given, given};
use crate::{Money, RefusalClass};

const BEFORE: &str = "2025-01-10T12:00:00Z";
const AFTER: &str = "2025-01-15T12:00:00Z";

type Spoil = Box<dyn Fn(&mut LeaseTerms)>;

fn party(n: u128) -> PartyId {
    PartyId(Uuid::from_u128(n))
}

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("a currency"))
}

pub(crate) fn terms() -> LeaseTerms {
    LeaseTerms {
        unit_id: UnitId(Uuid::from_u128(7)),
        tenants: vec![
            LeaseTenant { party_id: party(1), share_bp: Some(6_000) },
            LeaseTenant { party_id: party(2), share_bp: Some(4_000) },
        ],
        guarantors: vec![party(3)],
        start_date: date(2025, 1, 15),
        end_date: Some(date(2026, 1, 14)),
        term_type: TermType::Fixed,
        rent: Rent { money: usd(150_000), frequency: RentFrequency::Monthly, due_day: 1 },
        extra_charges: vec![],
        proration_method: ProrationMethod::ActualDays,
        late_fee_policy: None,
        deposit: Some(Deposit { money: usd(150_000), due_on: date(2025, 1, 10), held_by: DepositHolder::Landlord }),
        require_deposit_before_start: false,
        notice_days: NoticeDays { tenant: 30, landlord: 60 },
        escalation: None,
        clauses: vec![],
    }
}

fn place() -> LeasePlace {
    LeasePlace {
        property_id: PropertyId(Uuid::from_u128(8)),
        time_zone: "America/New_York".into(),
        currency: usd(0).currency,
        jurisdiction: "US-NY".into(),
    }
}

fn draft(terms: LeaseTerms) -> LeaseCommand {
    LeaseCommand::DraftLease { lease_id: LeaseId(Uuid::from_u128(9)), terms, place: place() }
}

fn paper() -> Sha256 {
    Sha256::of(b"the lease")
}

fn send() -> LeaseCommand {
    LeaseCommand::SendForSignature {
        document_id: DocumentId(Uuid::from_u128(10)),
        document_sha256: paper(),
        signers: vec![party(1), party(2)],
    }
}

fn sign(n: u128) -> LeaseCommand {
    LeaseCommand::Sign {
        party_id: party(n),
        document_sha256: paper(),
        method: SignatureMethod::Electronic,
        on: date(2025, 1, 9),
    }
}

fn decline(n: u128) -> LeaseCommand {
    LeaseCommand::Decline { party_id: party(n), reason: Some("too dear".into()) }
}

fn void() -> LeaseCommand {
    LeaseCommand::VoidLease { reason: "changed their mind".into() }
}

fn activate(deposit_paid: Option<bool>) -> LeaseCommand {
    LeaseCommand::ActivateLease { on: date(2025, 1, 15), deposit_paid }
}

fn terminate(day: i8) -> LeaseCommand {
    LeaseCommand::TerminateLease { vacated_on: date(2025, 1, day) }
}

fn refuse() -> LeaseCommand {
    LeaseCommand::RefuseSend {
        refusal: Refusal::new(RefusalClass::Conflict, "UNIT_NOT_AVAILABLE", "the unit is not available then"),
    }
}

fn after(commands: impl IntoIterator<Item = LeaseCommand>) -> Given<Lease> {
    let empty = given::<Lease>([]).at(BEFORE);
    commands.into_iter().fold(empty, |given, command| given.when(command).accepted())
}

fn drafted() -> Given<Lease> {
    after([draft(terms())])
}

fn sending() -> Given<Lease> {
    after([draft(terms()), send()])
}

fn sent() -> Given<Lease> {
    after([draft(terms()), send(), LeaseCommand::ConfirmSent])
}

fn signed() -> Given<Lease> {
    sent().when(sign(1)).accepted().when(sign(2)).accepted().at(AFTER)
}

fn active() -> Given<Lease> {
    signed().when(activate(None)).accepted().at("2025-01-20T12:00:00Z")
}

#[test]
fn malformed_terms_are_refused_field_by_field() {
    let faulty: Vec<(&str, Spoil)> = vec![
        ("/tenants", Box::new(|terms| terms.tenants.clear())),
        ("/tenants", Box::new(|terms| terms.tenants[1].party_id = terms.tenants[0].party_id)),
        ("/tenants", Box::new(|terms| terms.tenants[1].share_bp = None)),
        ("/tenants", Box::new(|terms| terms.tenants[1].share_bp = Some(4_001))),
        ("/tenants", Box::new(|terms| terms.tenants.iter_mut().for_each(|tenant| tenant.share_bp = Some(u32::MAX)))),
        ("/guarantors", Box::new(|terms| terms.guarantors.push(terms.tenants[0].party_id))),
        ("/end_date", Box::new(|terms| terms.end_date = Some(terms.start_date))),
        ("/end_date", Box::new(|terms| terms.end_date = None)),
        ("/end_date", Box::new(|terms| terms.term_type = TermType::Periodic)),
        ("/start_date", Box::new(|terms| terms.start_date = date(1800, 1, 1))),
        ("/rent/due_day", Box::new(|terms| terms.rent.due_day = 32)),
        ("/rent/money", Box::new(|terms| terms.rent.money.amount = 0)),
        ("/deposit/money", Box::new(|terms| terms.deposit.as_mut().expect("a deposit").money.amount = -5)),
        ("/clauses", Box::new(|terms| terms.clauses.push(Clause { title: " ".into(), text: "x".into() }))),
        (
            "/escalation",
            Box::new(|terms| terms.escalation = Some(Escalation { fixed_bp: None, index: None, cap_bp: Some(1) })),
        ),
    ];
    for (pointer, spoil) in faulty {
        let mut terms = terms();
        spoil(&mut terms);
        let error = given::<Lease>([]).when(draft(terms)).then_refused("VALIDATION_FAILED");
        assert_eq!(error.pointer(), Some(pointer), "{error}");
    }
}

#[test]
fn rent_is_in_the_units_currency_and_within_bounds() {
    let with_rent = |money| LeaseTerms { rent: Rent { money, ..terms().rent }, ..terms() };
    let euros = Money::new(1, Currency::new("EUR").expect("a currency"));
    given::<Lease>([]).when(draft(with_rent(euros))).then_refused("CURRENCY_MISMATCH");
    given::<Lease>([]).when(draft(with_rent(usd(i64::MAX)))).then_refused("AMOUNT_TOO_LARGE");
    let mut extra = terms();
    extra.extra_charges = vec![ExtraCharge { kind: ChargeType::Utility, money: euros, description: None }];
    given::<Lease>([]).when(draft(extra)).then_refused("CURRENCY_MISMATCH");
}

#[test]
fn a_lease_is_drafted_once_and_nothing_works_before() {
    drafted().when(draft(terms())).then_refused("LEASE_EXISTS");
    for command in [send(), sign(1), void(), activate(None), terminate(15), LeaseCommand::ConfirmSent] {
        given::<Lease>([]).when(command).then_refused("NOT_FOUND");
    }
}

#[test]
fn every_command_is_refused_in_the_states_that_do_not_allow_it() {
    use LeaseState::*;
    let in_state = |state| match state {
        Draft => drafted(),
        Sending => sending(),
        Sent => sent(),
        Signed => signed(),
        Active => active(),
        Terminated => active().when(terminate(20)).accepted(),
        Voided => drafted().when(void()).accepted(),
    };
    let edit = LeaseCommand::EditDraft { terms: terms(), place: place() };
    let table: Vec<(LeaseCommand, &[LeaseState])> = vec![
        (edit, &[Sending, Sent, Signed, Active, Terminated, Voided]),
        (send(), &[Sending, Sent, Signed, Active, Terminated, Voided]),
        (LeaseCommand::ConfirmSent, &[Draft, Terminated, Voided]),
        (refuse(), &[Sent, Signed, Active, Terminated, Voided]),
        (sign(1), &[Draft, Sending, Active, Terminated, Voided]),
        (decline(1), &[Draft, Sending, Active, Terminated, Voided]),
        (void(), &[Sending, Active, Terminated, Voided]),
        (activate(None), &[Draft, Sending, Sent, Active, Terminated, Voided]),
        (terminate(20), &[Draft, Sending, Sent, Signed, Terminated, Voided]),
    ];
    for (command, refused_in) in table {
        for state in refused_in {
            let error = in_state(*state).when(command.clone()).then_refused("INVALID_STATE");
            let LeaseError::InvalidState { current, allowed } = error else { panic!("{error}") };
            assert_eq!(current, *state);
            assert!(!allowed.is_empty() && !allowed.contains(state));
        }
    }
}

#[test]
fn every_tenant_must_be_asked_to_sign_and_nobody_twice() {
    let send_to = |signers| LeaseCommand::SendForSignature {
        document_id: DocumentId(Uuid::from_u128(10)),
        document_sha256: paper(),
        signers,
    };
    drafted().when(send_to(vec![])).then_refused("VALIDATION_FAILED");
    drafted().when(send_to(vec![party(1)])).then_refused("VALIDATION_FAILED");
    drafted().when(send_to(vec![party(1), party(2), party(1)])).then_refused("VALIDATION_FAILED");
}

#[test]
fn one_changed_byte_is_not_what_was_sent() {
    let forged = LeaseCommand::Sign {
        party_id: party(1),
        document_sha256: Sha256::of(b"the leasf"),
        method: SignatureMethod::Electronic,
        on: date(2025, 1, 9),
    };
    sent().when(forged).then_refused("SIGNED_TERMS_MISMATCH");
}

#[test]
fn only_a_named_signer_signs_and_only_once() {
    sent().when(sign(3)).then_refused("NOT_A_SIGNER");
    sent().when(decline(3)).then_refused("NOT_A_SIGNER");
    sent().when(sign(1)).accepted().when(sign(1)).then_refused("ALREADY_SIGNED");
    signed().when(sign(2)).then_refused("ALREADY_SIGNED");
    sent().when(sign(1)).accepted().when(decline(1)).then_refused("ALREADY_SIGNED");
}

#[test]
fn a_signature_cannot_be_of_the_future() {
    let tomorrow = LeaseCommand::Sign {
        party_id: party(1),
        document_sha256: paper(),
        method: SignatureMethod::WetInk,
        on: date(2025, 1, 12),
    };
    sent().when(tomorrow).then_refused("VALIDATION_FAILED");
}

#[test]
fn a_lease_does_not_start_before_its_first_day_in_its_own_zone() {
    // 04:59 UTC on the 15th is still the 14th in New York.
    signed().at("2025-01-15T04:59:59Z").when(activate(None)).then_refused("NOT_STARTED");
    signed().at("2025-01-15T05:00:00Z").when(activate(None)).accepted();
}

#[test]
fn an_unpaid_deposit_stops_the_start_only_where_the_terms_say_so() {
    let strict = || {
        let terms = LeaseTerms { require_deposit_before_start: true, ..terms() };
        after([draft(terms), send(), LeaseCommand::ConfirmSent, sign(1), sign(2)]).at(AFTER)
    };
    strict().when(activate(Some(false))).then_refused("DEPOSIT_UNPAID");
    strict().when(activate(None)).then_refused("DEPOSIT_UNPAID");
    strict().when(activate(Some(true))).accepted();
    signed().when(activate(Some(false))).accepted();
}

#[test]
fn keys_come_back_between_the_start_and_today() {
    active().when(terminate(14)).then_refused("VALIDATION_FAILED");
    active().when(terminate(22)).then_refused("VALIDATION_FAILED");
    active().when(terminate(20)).accepted();
}

#[test]
fn sending_waits_for_the_unit_and_goes_back_to_draft_without_it() {
    let refused = sending().when(refuse()).accepted();
    let edited = LeaseTerms { end_date: Some(date(2026, 2, 14)), ..terms() };
    refused.when(LeaseCommand::EditDraft { terms: edited, place: place() }).accepted().when(send()).accepted();
}

#[test]
fn a_repeated_step_of_the_process_is_nothing_new() {
    sent().when(LeaseCommand::ConfirmSent).then_nothing();
    signed().when(LeaseCommand::ConfirmSent).then_nothing();
    sending().when(refuse()).accepted().when(refuse()).then_nothing();
    let unchanged = LeaseCommand::EditDraft { terms: terms(), place: place() };
    drafted().when(unchanged).then_nothing();
}

#[test]
fn the_last_signature_signs_the_lease() {
    let first = sent().when(sign(1));
    assert_eq!(first.outcome.as_ref().map(Vec::len), Ok(1));
    let last = first.accepted().when(sign(2));
    let events = last.outcome.clone().expect("accepted");
    let [LeaseEvent::LeaseSignatureAdded { .. }, LeaseEvent::LeaseSigned { version, terms_hash, signed_on, outline }] =
        events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((*version, *terms_hash, *signed_on), (1, terms().hash(), date(2025, 1, 9)));
    assert_eq!((outline.from, outline.to), (date(2025, 1, 15), Some(date(2026, 1, 15))));
}

#[test]
fn declining_goes_back_to_draft_and_forgets_the_signatures() {
    let again = sent().when(sign(1)).accepted().when(decline(2)).accepted().when(send()).accepted();
    again.when(LeaseCommand::ConfirmSent).accepted().when(sign(1)).accepted();
}

#[test]
fn a_failure_is_flagged_once_and_again_when_it_changes() {
    let flag = |code: &str| LeaseCommand::FlagActivationFailed {
        failure: ActivationFailure { code: code.into(), detail: "why".into() },
    };
    let flagged = || signed().when(flag("DEPOSIT_UNPAID")).accepted();
    flagged().when(flag("DEPOSIT_UNPAID")).then_nothing();
    assert_eq!(flagged().when(flag("LEDGER_CLOSED")).outcome.map(|events| events.len()), Ok(1));
}

#[test]
fn the_terms_hash_is_of_these_bytes() {
    let canonical = serde_json::to_string(&terms()).expect("terms encode");
    assert!(canonical.starts_with(r#"{"unit_id":"00000000-0000-0000-0000-000000000007","tenants":[{"party_id""#));
    assert_eq!(terms().hash(), Sha256::of(canonical.as_bytes()));
    assert_eq!(terms().hash().to_string(), "641db5c11913569013611f8156c95a722db60068fec8b4ea909a5e98f0e7f6ff");
}
