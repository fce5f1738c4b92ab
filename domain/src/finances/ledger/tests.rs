use jiff::civil::date;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::finances::{balances, tenant_balance};
use crate::testing::{Given, Then, given};

const LATER: &str = "2026-06-01T12:00:00Z";

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("a currency"))
}

fn open() -> LedgerCommand {
    LedgerCommand::OpenLedger {
        lease_id: LeaseId(id(1)),
        property_id: PropertyId(id(2)),
        unit_id: UnitId(id(3)),
        tenants: vec![PartyId(id(4))],
        currency: usd(0).currency,
        time_zone: "America/New_York".into(),
        late_fee_policy: None,
        allocation_policy: AllocationPolicy::Oldest,
    }
}

fn charge(n: u128, kind: ChargeType, amount: i64, due_on: Date) -> LedgerCommand {
    LedgerCommand::PostCharge {
        charge_id: ChargeId(id(n)),
        kind,
        money: usd(amount),
        due_on,
        period: None,
        key: format!("key:{n}"),
        memo: None,
    }
}

fn new_payment(n: u128, amount: i64, received_on: Date) -> NewPayment {
    NewPayment {
        payment_id: PaymentId(id(n)),
        money: usd(amount),
        method: PaymentMethod::BankTransfer,
        received_on,
        external_ref: None,
        payer: None,
    }
}

fn payment(n: u128, amount: i64, received_on: Date) -> LedgerCommand {
    LedgerCommand::RecordPayment(new_payment(n, amount, received_on))
}

fn bounce(n: u128, on: Date, fee: Option<Fee>) -> LedgerCommand {
    LedgerCommand::ReversePayment { payment_id: PaymentId(id(n)), kind: ReversalKind::Bounced, on, fee }
}

fn reverse(n: u128) -> LedgerCommand {
    LedgerCommand::ReverseCharge { charge_id: ChargeId(id(n)), reason: "posted by mistake".into() }
}

/// A ledger and every line it ever wrote.
struct Book {
    ledger: Ledger,
    lines: Vec<EntryLine>,
}

impl Book {
    fn empty() -> Self {
        let mut book = Self { ledger: Ledger::default(), lines: Vec::new() };
        book.run(&open()).expect("a ledger opens");
        book
    }

    fn with(policy: AllocationPolicy) -> Self {
        let LedgerCommand::OpenLedger { lease_id, property_id, unit_id, tenants, currency, time_zone, .. } = open() else {
            unreachable!("open() opens")
        };
        let mut book = Self { ledger: Ledger::default(), lines: Vec::new() };
        let (late_fee_policy, allocation_policy) = (None, policy);
        book.run(&LedgerCommand::OpenLedger {
            lease_id,
            property_id,
            unit_id,
            tenants,
            currency,
            time_zone,
            late_fee_policy,
            allocation_policy,
        })
        .expect("a ledger opens");
        book
    }

    fn run(&mut self, command: &LedgerCommand) -> Result<Vec<LedgerEvent>, LedgerError> {
        let events = self.ledger.decide(command, &Moment { now: crate::testing::instant(LATER) })?;
        for event in &events {
            self.lines.extend_from_slice(event.lines());
            self.ledger.apply(event.clone());
        }
        Ok(events)
    }

    fn ok(mut self, command: LedgerCommand) -> Self {
        self.run(&command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self
    }

    fn owed(&self, as_of: Date) -> i128 {
        tenant_balance(&balances(&self.lines, as_of))
    }

    fn balance(&self, account: Account, as_of: Date) -> i128 {
        balances(&self.lines, as_of).get(&account).copied().unwrap_or(0)
    }

    fn given(self) -> Given<Ledger> {
        let mut events = Vec::new();
        let mut replayed = Ledger::default();
        let command = open();
        for event in replayed.decide(&command, &Moment { now: crate::testing::instant(LATER) }).expect("opens") {
            replayed.apply(event.clone());
            events.push(event);
        }
        given::<Ledger>(events).at(LATER)
    }
}

fn opened() -> Given<Ledger> {
    Book::empty().given()
}

fn then(commands: impl IntoIterator<Item = LedgerCommand>, last: LedgerCommand) -> Then<Ledger> {
    commands.into_iter().fold(opened(), |given, command| given.when(command).accepted()).when(last)
}

#[test]
fn a_ledger_that_was_not_opened_is_not_found() {
    let refused = given::<Ledger>([]).when(charge(10, ChargeType::Rent, 1, date(2025, 1, 1)));
    refused.then_refused("NOT_FOUND");
    given::<Ledger>([]).when(payment(20, 1, date(2025, 1, 1))).then_refused("NOT_FOUND");
    given::<Ledger>([]).when(LedgerCommand::CloseLedger).then_refused("NOT_FOUND");
}

#[test]
fn a_ledger_opens_once() {
    opened().when(open()).then_refused("LEDGER_EXISTS");
}

#[test]
fn amounts_must_be_positive_bounded_and_in_the_ledgers_currency() {
    let on = date(2025, 1, 1);
    opened().when(charge(10, ChargeType::Rent, 0, on)).then_refused("VALIDATION_FAILED");
    opened().when(payment(20, -1, on)).then_refused("VALIDATION_FAILED");
    opened().when(charge(10, ChargeType::Rent, AMOUNT_MAX + 1, on)).then_refused("AMOUNT_TOO_LARGE");
    opened().when(payment(20, i64::MAX, on)).then_refused("AMOUNT_TOO_LARGE");
    let mut euros = new_payment(20, 100, on);
    euros.money.currency = Currency::new("EUR").expect("a currency");
    opened().when(LedgerCommand::RecordPayment(euros)).then_refused("CURRENCY_MISMATCH");
}

#[test]
fn sums_beyond_the_range_are_refused_and_never_wrap() {
    let mut book = Book::empty();
    // As after some nine thousand charges of the largest amount.
    book.ledger.balances.insert(Account::TenantReceivable, i64::MAX - AMOUNT_MAX + 1);
    let refused = book.run(&charge(10, ChargeType::Rent, AMOUNT_MAX, date(2025, 1, 1)));
    assert_eq!(refused, Err(LedgerError::AmountTooLarge));
}

#[test]
fn a_key_or_a_charge_id_is_posted_once_even_after_a_reversal() {
    let first = || charge(10, ChargeType::Rent, 100, date(2025, 1, 1));
    let LedgerCommand::PostCharge { key, .. } = first() else { unreachable!("charge() posts") };
    let other = LedgerCommand::PostCharge {
        charge_id: ChargeId(id(11)),
        kind: ChargeType::Rent,
        money: usd(5),
        due_on: date(2025, 1, 1),
        period: None,
        key,
        memo: None,
    };
    then([first()], first()).then_refused("DUPLICATE_CHARGE");
    then([first(), reverse(10)], other).then_refused("DUPLICATE_CHARGE");
}

#[test]
fn money_cannot_be_received_in_the_future() {
    opened().when(payment(20, 100, date(2026, 6, 3))).then_refused("VALIDATION_FAILED");
    opened().when(payment(20, 100, date(1815, 6, 3))).then_refused("VALIDATION_FAILED");
}

#[test]
fn a_payment_id_or_reference_with_other_content_is_refused_and_with_the_same_is_nothing_new() {
    let on = date(2025, 1, 1);
    let reference = Some(ExternalRef { source: "bank".into(), id: "tx-1".into() });
    let named = |n, amount| {
        LedgerCommand::RecordPayment(NewPayment { external_ref: reference.clone(), ..new_payment(n, amount, on) })
    };
    then([payment(20, 100, on)], payment(20, 101, on)).then_refused("DUPLICATE_PAYMENT");
    then([named(20, 100)], named(21, 101)).then_refused("PAYMENT_REFERENCE_CONFLICT");
    then([payment(20, 100, on)], payment(20, 100, on)).then_nothing();
    then([named(20, 100)], named(21, 100)).then_nothing();
}

#[test]
fn what_is_reversed_is_not_reversed_again() {
    let on = date(2025, 1, 1);
    then([payment(20, 100, on), bounce(20, on, None)], bounce(20, on, None)).then_refused("ALREADY_REVERSED");
    then([charge(10, ChargeType::Rent, 100, on), reverse(10)], reverse(10)).then_refused("ALREADY_REVERSED");
    then([], bounce(20, on, None)).then_refused("NOT_FOUND");
    then([], reverse(10)).then_refused("NOT_FOUND");
}

#[test]
fn a_bounce_before_the_receipt_and_a_fee_for_an_error_are_refused() {
    let on = date(2025, 1, 10);
    then([payment(20, 100, on)], bounce(20, date(2025, 1, 9), None)).then_refused("VALIDATION_FAILED");
    let fee = Some(Fee { charge_id: ChargeId(id(30)), money: usd(25) });
    let error = LedgerCommand::ReversePayment { payment_id: PaymentId(id(20)), kind: ReversalKind::Error, on, fee };
    then([payment(20, 100, on)], error).then_refused("VALIDATION_FAILED");
}

#[test]
fn a_ledger_closes_only_at_zero_and_takes_nothing_afterwards() {
    let on = date(2025, 1, 1);
    let rent = || charge(10, ChargeType::Rent, 100, on);
    let open = then([rent()], LedgerCommand::CloseLedger).then_refused("LEDGER_OPEN");
    assert_eq!(open, LedgerError::LedgerOpen { receivable: 100, credit: 0, deposit_held: 0, deposit_billed: 0 });
    then([payment(20, 100, on)], LedgerCommand::CloseLedger).then_refused("LEDGER_OPEN");
    let deposit = || charge(10, ChargeType::Deposit, 100, on);
    then([deposit(), payment(20, 100, on)], LedgerCommand::CloseLedger).then_refused("LEDGER_OPEN");
    let settled = || [rent(), payment(20, 100, on), LedgerCommand::CloseLedger];
    then(settled(), rent()).then_refused("LEDGER_CLOSED");
    then(settled(), payment(21, 100, on)).then_refused("LEDGER_CLOSED");
    then(settled(), bounce(20, on, None)).then_refused("LEDGER_CLOSED");
    then(settled(), LedgerCommand::CloseLedger).then_nothing();
    then(settled(), payment(20, 100, on)).then_nothing();
}

#[test]
fn a_charge_debits_the_receivable_and_a_deposit_is_billed_not_earned() {
    let on = date(2025, 1, 10);
    let book = Book::empty().ok(charge(10, ChargeType::Deposit, 150_000, on)).ok(charge(11, ChargeType::Rent, 82_258, on));
    assert_eq!(book.balance(Account::TenantReceivable, on), 232_258);
    assert_eq!(book.balance(Account::DepositsBilled, on), -150_000);
    assert_eq!(book.balance(Account::RentIncome, on), -82_258);
    assert!(!book.ledger.deposit_paid());
    let book = book.ok(payment(20, 150_000, on));
    assert_eq!(book.balance(Account::DepositsHeld, on), -150_000);
    assert_eq!(book.balance(Account::DepositTrustBank, on), 150_000);
    assert_eq!(book.balance(Account::DepositsBilled, on), 0);
    assert_eq!(book.balance(Account::OperatingBank, on), 0);
    assert!(book.ledger.deposit_paid());
}

/// 2.7, life test, with its fees posted by hand; carried on to a bounce, its fee, and a capped late fee.
#[test]
fn the_life_of_a_ledger_has_these_balances() {
    let jan = |day| date(2025, 1, day);
    let book = Book::empty()
        .ok(charge(10, ChargeType::Deposit, 150_000, jan(10)))
        .ok(charge(11, ChargeType::Rent, 82_258, jan(15)))
        .ok(payment(20, 232_258, jan(14)));
    assert_eq!(book.owed(jan(9)), 0);
    assert_eq!(book.owed(jan(13)), 150_000);
    assert_eq!(book.owed(jan(14)), -82_258, "prepaid rent until it is due");
    assert_eq!(book.owed(jan(15)), 0);

    let book = book
        .ok(charge(12, ChargeType::Rent, 150_000, date(2025, 2, 1)))
        .ok(payment(21, 150_000, date(2025, 2, 3)))
        .ok(charge(13, ChargeType::Rent, 150_000, date(2025, 3, 1)))
        .ok(payment(22, 100_000, date(2025, 3, 4)))
        .ok(charge(14, ChargeType::LateFee, 2_500, date(2025, 3, 7)));
    assert_eq!(book.owed(date(2025, 2, 2)), 150_000);
    assert_eq!(book.owed(date(2025, 2, 3)), 0);
    assert_eq!(book.owed(date(2025, 3, 6)), 50_000);
    assert_eq!(book.owed(date(2025, 3, 9)), 52_500);

    let mut book = book;
    let events = book.run(&payment(23, 60_000, date(2025, 3, 10))).expect("a payment");
    let parts: Vec<(u128, i64)> = events
        .iter()
        .filter_map(|event| match event {
            LedgerEvent::PaymentAllocated { charge_id, money, .. } => Some((charge_id.0.as_u128(), money.amount)),
            _ => None,
        })
        .collect();
    assert_eq!(parts, [(13, 50_000), (14, 2_500)], "500 + 25, and 75 stay as credit");
    assert_eq!(book.owed(date(2025, 3, 10)), -7_500);
    assert_eq!(book.balance(Account::TenantCredit, date(2025, 3, 10)), -7_500);

    // The payment of 10 March bounces on 14 March: 525 reopen, the credit of 75 goes with it, NSF 25 is charged.
    let fee = Some(Fee { charge_id: ChargeId(id(15)), money: usd(2_500) });
    let book = book.ok(bounce(23, date(2025, 3, 14), fee));
    assert_eq!(book.owed(date(2025, 3, 13)), -7_500);
    assert_eq!(book.owed(date(2025, 3, 14)), 55_000);
    let march = book.ledger.charge(ChargeId(id(13))).expect("the rent of March");
    assert_eq!((march.open(), march.due_on), (50_000, date(2025, 3, 1)), "it reopens with its original due date");

    // April unpaid: 5 % of 1,500.00 would be 75, the cap makes it 50.
    let book = book.ok(charge(16, ChargeType::Rent, 150_000, date(2025, 4, 1))).ok(charge(
        17,
        ChargeType::LateFee,
        5_000,
        date(2025, 4, 7),
    ));
    assert_eq!(book.owed(date(2025, 4, 7)), 210_000);
    let book = book.ok(payment(24, 210_000, date(2025, 4, 8)));
    assert_eq!(book.owed(date(2025, 4, 8)), 0);
    for line in &book.lines {
        assert_eq!(balances(&book.lines, line.effective_on).values().sum::<i128>(), 0);
    }
    assert_eq!(book.balance(Account::DepositsHeld, date(2025, 4, 8)), -150_000);
}

/// 2.7, A1, at the level of the ledger.
#[test]
fn a_late_recorded_payment_settles_the_oldest_rent_first() {
    let due = |month| date(2025, month, 1);
    let mut book = Book::empty();
    for month in [3, 4, 5, 6] {
        book = book.ok(charge(month as u128, ChargeType::Rent, 150_000, due(month)));
    }
    assert_eq!(book.owed(date(2025, 6, 30)), 600_000);
    let book = book.ok(payment(20, 200_000, date(2025, 5, 10)));
    assert_eq!(book.owed(date(2025, 6, 30)), 400_000);
    assert_eq!(book.owed(date(2025, 5, 9)), 450_000);
    let open: Vec<i64> = [3, 4].map(|n| book.ledger.charge(ChargeId(id(n))).expect("posted").open()).into();
    assert_eq!(open, [0, 100_000]);
}

/// 2.7, Allocation.
#[test]
fn a_priority_list_decides_what_stays_open() {
    let on = date(2025, 1, 1);
    let book = Book::with(AllocationPolicy::Priority(vec![ChargeType::Rent, ChargeType::Insurance, ChargeType::LateFee]))
        .ok(charge(10, ChargeType::LateFee, 10_000, date(2024, 12, 1)))
        .ok(charge(11, ChargeType::Rent, 100_000, on))
        .ok(charge(12, ChargeType::Insurance, 1_450, on))
        .ok(payment(20, 105_000, on));
    let open: Vec<i64> = [10, 11, 12].map(|n| book.ledger.charge(ChargeId(id(n))).expect("posted").open()).into();
    assert_eq!(open, [6_450, 0, 0]);
}

#[test]
fn on_one_due_day_deposit_comes_before_rent_and_late_fee_last() {
    let on = date(2025, 1, 1);
    let book = Book::empty()
        .ok(charge(10, ChargeType::LateFee, 10, on))
        .ok(charge(11, ChargeType::Other, 10, on))
        .ok(charge(12, ChargeType::Utility, 10, on))
        .ok(charge(13, ChargeType::Rent, 10, on))
        .ok(charge(14, ChargeType::Deposit, 10, on))
        .ok(payment(20, 35, on));
    let open: Vec<i64> = [14, 13, 12, 11, 10].map(|n| book.ledger.charge(ChargeId(id(n))).expect("posted").open()).into();
    assert_eq!(open, [0, 0, 0, 5, 10]);
}

#[test]
fn credit_is_applied_when_the_next_charge_posts() {
    let book = Book::empty().ok(payment(20, 100, date(2025, 1, 1)));
    assert_eq!(book.owed(date(2025, 1, 1)), -100);
    let book = book.ok(charge(10, ChargeType::Rent, 60, date(2025, 2, 1)));
    assert_eq!(book.owed(date(2025, 1, 31)), -100);
    assert_eq!(book.owed(date(2025, 2, 1)), -40);
    assert_eq!(book.ledger.payment(PaymentId(id(20))).expect("recorded").credit, 40);
}

#[test]
fn a_reversed_charge_returns_its_allocations_to_credit() {
    let on = date(2025, 1, 1);
    let book = Book::empty().ok(charge(10, ChargeType::Deposit, 100, on)).ok(payment(20, 100, on)).ok(reverse(10));
    assert_eq!(book.owed(on), -100);
    assert_eq!(book.balance(Account::DepositsHeld, on), 0);
    assert_eq!(book.balance(Account::DepositTrustBank, on), 0);
    assert_eq!(book.balance(Account::OperatingBank, on), 100);
    assert_eq!(book.ledger.payment(PaymentId(id(20))).expect("recorded").credit, 100);
}

#[test]
fn a_voided_leases_ledger_reverses_and_closes() {
    let on = date(2025, 1, 1);
    let book = Book::empty()
        .ok(charge(10, ChargeType::Deposit, 100, on))
        .ok(charge(11, ChargeType::Rent, 7, on))
        .ok(LedgerCommand::ReverseCharges { reason: "voided".into() })
        .ok(LedgerCommand::ReverseCharges { reason: "voided".into() })
        .ok(LedgerCommand::CloseLedger);
    assert!(!book.ledger.is_open());
    assert_eq!(book.owed(on), 0);
}

#[test]
fn money_prepaid_that_bounces_before_it_is_due_never_makes_a_phantom_credit() {
    let book = Book::empty()
        .ok(charge(10, ChargeType::Rent, 100, date(2025, 1, 15)))
        .ok(payment(20, 100, date(2025, 1, 10)))
        .ok(bounce(20, date(2025, 1, 12), None));
    assert_eq!(book.balance(Account::TenantCredit, date(2025, 1, 11)), -100);
    for day in 12..=16 {
        assert_eq!(book.balance(Account::TenantCredit, date(2025, 1, day)), 0, "on day {day}");
    }
    assert_eq!(book.owed(date(2025, 1, 14)), 0);
    assert_eq!(book.owed(date(2025, 1, 15)), 100);
}

#[test]
fn an_error_is_undone_on_its_original_date() {
    let on = date(2025, 1, 10);
    let error = LedgerCommand::ReversePayment {
        payment_id: PaymentId(id(20)),
        kind: ReversalKind::Error,
        on: date(2025, 3, 1),
        fee: None,
    };
    let book = Book::empty().ok(charge(10, ChargeType::Rent, 100, on)).ok(payment(20, 100, on)).ok(error);
    assert_eq!(book.owed(on), 100);
    assert_eq!(book.balance(Account::OperatingBank, on), 0);
}

#[test]
fn a_payment_in_the_place_of_a_bounced_one_settles_from_the_bounce_on() {
    let due = date(2025, 1, 10);
    let book = Book::empty()
        .ok(charge(10, ChargeType::Deposit, 100, due))
        .ok(payment(20, 100, due))
        .ok(bounce(20, date(2025, 1, 20), None))
        .ok(payment(21, 100, date(2025, 1, 15)));
    assert_eq!(book.owed(date(2025, 1, 14)), 0);
    assert_eq!(book.owed(date(2025, 1, 15)), -100, "both payments were there");
    assert_eq!(book.balance(Account::DepositsHeld, date(2025, 1, 19)), -100);
    assert_eq!(book.owed(date(2025, 1, 20)), 0);
    assert_eq!(book.balance(Account::DepositsHeld, date(2025, 1, 20)), -100);
    let book = book.ok(reverse(10));
    check_invariants(&book);
    assert_eq!(book.owed(date(2025, 1, 19)), -200);
    assert_eq!(book.owed(date(2025, 1, 20)), -100);
}

#[test]
fn after_an_error_the_right_payment_counts_from_its_own_day() {
    let error =
        LedgerCommand::ReversePayment { payment_id: PaymentId(id(20)), kind: ReversalKind::Error, on: day(0), fee: None };
    let book = Book::empty()
        .ok(charge(10, ChargeType::Rent, 100, date(2025, 3, 1)))
        .ok(payment(20, 100, date(2025, 3, 10)))
        .ok(error)
        .ok(payment(21, 100, date(2025, 3, 5)));
    assert_eq!(book.owed(date(2025, 3, 4)), 100);
    assert_eq!(book.owed(date(2025, 3, 5)), 0);
}

#[derive(Clone, Debug)]
enum Act {
    Charge(ChargeType, i64, i32),
    Pay(i64, i32),
    Bounce(usize, i32),
    Mistake(usize),
    ReverseCharge(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let kind = prop_oneof![
        Just(ChargeType::Deposit),
        Just(ChargeType::Rent),
        Just(ChargeType::Utility),
        Just(ChargeType::Other),
        Just(ChargeType::LateFee),
    ];
    let act = prop_oneof![
        4 => (kind, 1..5_000_i64, 0..120).prop_map(|(kind, amount, day)| Act::Charge(kind, amount, day)),
        4 => (1..8_000_i64, 0..120).prop_map(|(amount, day)| Act::Pay(amount, day)),
        2 => (0..20_usize, 0..150).prop_map(|(n, day)| Act::Bounce(n, day)),
        1 => (0..20_usize).prop_map(Act::Mistake),
        2 => (0..20_usize).prop_map(Act::ReverseCharge),
    ];
    proptest::collection::vec(act, 1..30)
}

fn day(n: i32) -> Date {
    date(2025, 1, 1).checked_add(jiff::Span::new().days(n)).expect("a day of 2025")
}

fn check_invariants(book: &Book) {
    let mut days: Vec<Date> = book.lines.iter().map(|line| line.effective_on).collect();
    days.sort();
    days.dedup();
    for as_of in days {
        let at = balances(&book.lines, as_of);
        let of = |account| at.get(&account).copied().unwrap_or(0);
        assert_eq!(at.values().sum::<i128>(), 0, "I2: the trial balance at {as_of}");
        assert!(of(Account::DepositsHeld) <= 0, "I3: deposits held at {as_of}");
        assert_eq!(of(Account::DepositTrustBank), -of(Account::DepositsHeld), "I4: trust at {as_of}");
        assert!(of(Account::TenantCredit) <= 0, "I6: credit at {as_of}");
        assert!(of(Account::TenantReceivable) >= 0, "I5: no more is allocated than is due at {as_of}");
        assert!(of(Account::DepositsBilled) <= 0, "no more deposit is held than was billed at {as_of}");
    }
    let mut allocated: BTreeMap<PaymentId, i64> = BTreeMap::new();
    for charge in book.ledger.charges.values() {
        let taken: i64 = charge.standing().map(|part| part.amount).sum();
        assert!((0..=charge.amount).contains(&taken), "I5: of a charge");
        assert_eq!(charge.open(), if charge.reversed { 0 } else { charge.amount - taken });
        assert!((0..=charge.amount).contains(&charge.deposit_billed));
        charge.standing().for_each(|part| *allocated.entry(part.payment_id).or_default() += part.amount);
    }
    for (id, payment) in &book.ledger.payments {
        let used = allocated.get(id).copied().unwrap_or(0);
        let left = if payment.reversed { 0 } else { payment.amount };
        assert!(payment.credit >= 0 && used + payment.credit == left, "I5: of a payment");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// I1 to I6 after every command, at every date; and a fold of the stored events is the same state.
    #[test]
    fn the_ledger_always_balances(acts in acts()) {
        let mut book = Book::empty();
        let mut stored: Vec<LedgerEvent> = Vec::new();
        for (n, act) in acts.into_iter().enumerate() {
            let new = 1_000 + n as u128;
            let nth_payment = |n: usize| book.ledger.payments.keys().nth(n).copied().unwrap_or(PaymentId(id(0)));
            let nth_charge = |n: usize| book.ledger.charges.keys().nth(n).copied().unwrap_or(ChargeId(id(0)));
            let command = match act {
                Act::Charge(kind, amount, due) => charge(new, kind, amount, day(due)),
                Act::Pay(amount, on) => payment(new, amount, day(on)),
                Act::Bounce(n, on) => LedgerCommand::ReversePayment {
                    payment_id: nth_payment(n),
                    kind: ReversalKind::Bounced,
                    on: day(on),
                    fee: Some(Fee { charge_id: ChargeId(id(new)), money: usd(25) }),
                },
                Act::Mistake(n) => LedgerCommand::ReversePayment {
                    payment_id: nth_payment(n),
                    kind: ReversalKind::Error,
                    on: day(0),
                    fee: None,
                },
                Act::ReverseCharge(n) => {
                    LedgerCommand::ReverseCharge { charge_id: nth_charge(n), reason: "mistake".into() }
                }
            };
            let events = book.run(&command).unwrap_or_default();
            for event in events {
                let mut sums: BTreeMap<Date, i128> = BTreeMap::new();
                event.lines().iter().for_each(|line| *sums.entry(line.effective_on).or_default() += line.signed());
                prop_assert!(sums.values().all(|sum| *sum == 0), "I1");
                let text = serde_json::to_string(&event).expect("an event encodes");
                stored.push(serde_json::from_str(&text).expect("a stored event decodes"));
            }
            check_invariants(&book);
        }
        let mut replayed = Book::empty().ledger;
        stored.into_iter().for_each(|event| replayed.apply(event));
        prop_assert_eq!(replayed, book.ledger, "I9: a replay yields the same state");
    }
}
