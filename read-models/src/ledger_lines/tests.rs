use domain::finances::{AllocationPolicy, Fee, Ledger, LedgerCommand, NewPayment};
use domain::{Currency, PropertyId, UnitId};
use jiff::civil::date;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ledgers::Ledgers;
use crate::testing::stories::Story;
use crate::testing::{Shelf, instant};

const LATER: &str = "2026-06-01T12:00:00Z";

fn lease_id() -> LeaseId {
    LeaseId(Uuid::from_u128(1))
}

fn usd(amount: i64) -> Money {
    Money::new(amount, Currency::new("USD").expect("a currency"))
}

fn opened() -> Story {
    let mut story = Story::default();
    story.run::<Ledger>(
        lease_id(),
        LATER,
        LedgerCommand::OpenLedger {
            lease_id: lease_id(),
            property_id: PropertyId(Uuid::from_u128(2)),
            unit_id: UnitId(Uuid::from_u128(3)),
            tenants: vec![],
            currency: usd(0).currency,
            time_zone: "America/New_York".into(),
            late_fee_policy: None,
            allocation_policy: AllocationPolicy::Oldest,
        },
    );
    story
}

fn charge(story: &mut Story, n: u128, kind: ChargeType, amount: i64, due_on: Date) {
    let command = LedgerCommand::PostCharge {
        charge_id: ChargeId(Uuid::from_u128(n)),
        kind,
        money: usd(amount),
        due_on,
        period: None,
        key: format!("key:{n}"),
        memo: Some(format!("charge {n}")),
    };
    story.run::<Ledger>(lease_id(), LATER, command);
}

fn pay(story: &mut Story, n: u128, amount: i64, received_on: Date) {
    let payment = NewPayment {
        payment_id: PaymentId(Uuid::from_u128(n)),
        money: usd(amount),
        method: PaymentMethod::BankTransfer,
        received_on,
        external_ref: None,
        payer: None,
    };
    story.run::<Ledger>(lease_id(), LATER, LedgerCommand::RecordPayment(payment));
}

fn bounce(story: &mut Story, n: u128, on: Date, fee: u128) {
    let command = LedgerCommand::ReversePayment {
        payment_id: PaymentId(Uuid::from_u128(n)),
        kind: ReversalKind::Bounced,
        on,
        fee: Some(Fee { charge_id: ChargeId(Uuid::from_u128(fee)), money: usd(2_500) }),
    };
    story.run::<Ledger>(lease_id(), LATER, command);
}

fn shelf(story: &Story) -> Shelf {
    story.shelf(&[&Ledgers, &LedgerLines])
}

fn on(day: Date) -> AsOf {
    AsOf { as_of: Some(day), known: None }
}

async fn owed(story: &Story, at: AsOf) -> i64 {
    let answer = ledger(&mut shelf(story), lease_id(), at, instant(LATER)).await.expect("an answer");
    answer.value.expect("the ledger").balance.balance.amount
}

/// 2.7, life test, as the API tells it.
fn life() -> Story {
    let mut story = opened();
    charge(&mut story, 10, ChargeType::Deposit, 150_000, date(2025, 1, 10));
    charge(&mut story, 11, ChargeType::Rent, 82_258, date(2025, 1, 15));
    pay(&mut story, 20, 232_258, date(2025, 1, 14));
    charge(&mut story, 12, ChargeType::Rent, 150_000, date(2025, 2, 1));
    pay(&mut story, 21, 150_000, date(2025, 2, 3));
    charge(&mut story, 13, ChargeType::Rent, 150_000, date(2025, 3, 1));
    pay(&mut story, 22, 100_000, date(2025, 3, 4));
    charge(&mut story, 14, ChargeType::LateFee, 2_500, date(2025, 3, 7));
    pay(&mut story, 23, 60_000, date(2025, 3, 10));
    bounce(&mut story, 23, date(2025, 3, 14), 15);
    story
}

#[tokio::test]
async fn the_life_of_a_ledger_reads_as_it_was_lived() {
    let story = life();
    for (day, balance) in [
        (date(2025, 1, 9), 0),
        (date(2025, 1, 14), -82_258),
        (date(2025, 1, 15), 0),
        (date(2025, 3, 9), 52_500),
        (date(2025, 3, 10), -7_500),
        (date(2025, 3, 14), 55_000),
    ] {
        assert_eq!(owed(&story, on(day)).await, balance, "on {day}");
    }
    let ledger = ledger(&mut shelf(&story), lease_id(), on(date(2025, 3, 14)), instant(LATER)).await.expect("an answer");
    let balance = ledger.value.expect("the ledger").balance;
    assert_eq!((balance.deposit_held, balance.deposit_billed, balance.credit), (usd(150_000), usd(0), usd(0)));
    assert_eq!((balance.charged, balance.paid), (usd(537_258), usd(482_258)));
    assert_eq!(balance.oldest_due, Some(date(2025, 3, 1)));
}

#[tokio::test]
async fn what_was_known_then_stays_what_it_was() {
    let mut story = opened();
    charge(&mut story, 10, ChargeType::Rent, 150_000, date(2025, 5, 1));
    let known = Some(story.head());
    pay(&mut story, 20, 150_000, date(2025, 5, 10));
    let day = Some(date(2025, 6, 30));
    assert_eq!(owed(&story, AsOf { as_of: day, known }).await, 150_000);
    assert_eq!(owed(&story, AsOf { as_of: day, known: None }).await, 0);
    let mut shelf = shelf(&story);
    let before = ledger(&mut shelf, lease_id(), AsOf { as_of: day, known: Some(0) }, instant(LATER)).await;
    assert_eq!(before.expect("an answer").value, None);
    let other = LeaseId(Uuid::from_u128(404));
    assert_eq!(ledger(&mut shelf, other, on(date(2025, 6, 30)), instant(LATER)).await.expect("an answer").value, None);
}

#[tokio::test]
async fn today_is_the_ledgers_own_and_ends_at_its_midnight() {
    let mut story = opened();
    charge(&mut story, 10, ChargeType::Rent, 100, date(2026, 6, 2));
    let mut shelf = shelf(&story);
    let night = instant("2026-06-02T03:59:59Z");
    let answer = ledger(&mut shelf, lease_id(), AsOf::default(), night).await.expect("an answer");
    assert_eq!(answer.valid_until, Some(instant("2026-06-02T04:00:00Z")));
    assert_eq!(answer.value.expect("the ledger").balance.balance, usd(0));
    let morning = ledger(&mut shelf, lease_id(), AsOf::default(), instant("2026-06-02T04:00:00Z")).await;
    assert_eq!(morning.expect("an answer").value.expect("the ledger").balance.balance, usd(100));
    let dated = ledger(&mut shelf, lease_id(), on(date(2026, 6, 2)), night).await.expect("an answer");
    assert_eq!(dated.valid_until, None);
}

#[tokio::test]
async fn a_statement_tells_charges_payments_and_what_was_taken_back() {
    let story = life();
    let answer =
        statement(&mut shelf(&story), lease_id(), Some(date(2025, 3, 1)), on(date(2025, 3, 31)), instant(LATER)).await;
    let statement = answer.expect("an answer").value.expect("a statement");
    assert_eq!((statement.opening, statement.closing), (usd(0), usd(55_000)));
    let told: Vec<(StatementType, i64, i64)> = statement
        .lines
        .iter()
        .map(|line| {
            let amount = line.charge.or(line.payment).expect("an amount").amount;
            (line.kind, amount, line.balance.amount)
        })
        .collect();
    assert_eq!(
        told,
        [
            (StatementType::Charge, 150_000, 150_000),
            (StatementType::Payment, 100_000, 50_000),
            (StatementType::Charge, 2_500, 52_500),
            (StatementType::Payment, 60_000, -7_500),
            (StatementType::PaymentReversal, -60_000, 52_500),
            (StatementType::Charge, 2_500, 55_000),
        ]
    );
    assert_eq!(statement.lines[0].memo.as_deref(), Some("charge 13"));
}

/// 2.7, A1.
#[tokio::test]
async fn each_charge_is_open_as_far_as_it_was_on_that_day() {
    let mut story = opened();
    for month in [3, 4, 5, 6] {
        charge(&mut story, month as u128, ChargeType::Rent, 150_000, date(2025, month, 1));
    }
    pay(&mut story, 20, 200_000, date(2025, 5, 10));
    for (day, expected) in
        [(date(2025, 6, 30), [0, 100_000, 150_000, 150_000]), (date(2025, 5, 9), [150_000, 150_000, 150_000, 0])]
    {
        let answer = charges(&mut shelf(&story), lease_id(), on(day), &PageRequest::default(), instant(LATER)).await;
        let charges = answer.expect("an answer").value.expect("the ledger").data;
        assert_eq!(charges.iter().map(|charge| charge.open.amount).collect::<Vec<_>>(), expected, "on {day}");
    }
    let answer =
        charges(&mut shelf(&story), lease_id(), on(date(2025, 5, 9)), &PageRequest::default(), instant(LATER)).await;
    let charges = answer.expect("an answer").value.expect("the ledger").data;
    assert_eq!((charges[3].status, charges[3].days_due), (ChargeStatus::Future, None));
    assert_eq!((charges[0].status, charges[0].days_due), (ChargeStatus::Open, Some(69)));
}

#[tokio::test]
async fn a_payment_shows_its_use_and_its_end() {
    let story = life();
    let read = |day| {
        let mut shelf = shelf(&story);
        async move {
            let answer = payments(&mut shelf, lease_id(), on(day), &PageRequest::default(), instant(LATER)).await;
            answer.expect("an answer").value.expect("the ledger").data
        }
    };
    assert_eq!(read(date(2025, 1, 14)).await.len(), 1);
    let before = read(date(2025, 3, 13)).await.pop().expect("the fourth payment");
    assert_eq!((before.status, before.credit), (PaymentStatus::Received, usd(7_500)));
    assert_eq!(before.allocations.iter().map(|part| part.money.amount).collect::<Vec<_>>(), [50_000, 2_500]);
    let after = read(date(2025, 3, 14)).await.pop().expect("the fourth payment");
    assert_eq!((after.status, after.reversed_on), (PaymentStatus::Bounced, Some(date(2025, 3, 14))));
    assert_eq!((after.credit, after.allocations.len()), (usd(0), 0));
}

#[tokio::test]
async fn pages_of_the_journal_follow_each_other_without_gap() {
    let mut shelf = shelf(&life());
    let all = |limit, after| PageRequest { limit, after };
    let whole = entries(&mut shelf, lease_id(), on(date(2026, 1, 1)), &all(1_000, None), instant(LATER)).await;
    let whole = whole.expect("an answer").value.expect("the ledger").data;
    let (mut seen, mut after) = (vec![], None);
    loop {
        let page = entries(&mut shelf, lease_id(), on(date(2026, 1, 1)), &all(7, after), instant(LATER)).await;
        let page = page.expect("an answer").value.expect("the ledger");
        seen.extend(page.data);
        let Some(cursor) = page.next_cursor else { break };
        after = Cursor::decode(&cursor);
    }
    assert_eq!(seen, whole);
    assert_eq!(whole.iter().map(|line| line.debit - line.credit).sum::<i64>(), 0);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Charge(i64, i32),
    Pay(i64, i32),
    Bounce(usize, i32),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// I8, and that balance, statement, charges and payments tell one story on every date.
    #[test]
    fn a_statements_closing_is_the_next_ones_opening(
        acts in proptest::collection::vec(
            prop_oneof![
                (1..5_000_i64, 0..100).prop_map(|(amount, day)| Act::Charge(amount, day)),
                (1..8_000_i64, 0..100).prop_map(|(amount, day)| Act::Pay(amount, day)),
                (0..4_usize, 100..120).prop_map(|(n, day)| Act::Bounce(n, day)),
            ],
            1..15,
        ),
        cut in 0..120,
    ) {
        let day = |n: i32| date(2025, 1, 1).checked_add(jiff::Span::new().days(n)).expect("a day");
        let mut story = opened();
        let (mut paid, mut bounced) = (vec![], vec![]);
        for (n, act) in (1_000_u128..).zip(acts) {
            match act {
                Act::Charge(amount, due) => {
                    let kind = if n % 3 == 0 { ChargeType::Deposit } else { ChargeType::Rent };
                    charge(&mut story, n, kind, amount, day(due));
                }
                Act::Pay(amount, on) => {
                    pay(&mut story, n, amount, day(on));
                    paid.push(n);
                }
                Act::Bounce(nth, on) => if let Some(payment) = paid.get(nth).filter(|id| !bounced.contains(*id)) {
                    bounce(&mut story, *payment, day(on), n);
                    bounced.push(*payment);
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let book = runtime.block_on(async { book(&mut shelf(&story), lease_id(), None).await });
        let book = book.expect("an answer").expect("a book");
        let first = book.statement(None, day(cut)).expect("a statement");
        let second = book.statement(Some(day(cut + 1)), day(150)).expect("a statement");
        prop_assert_eq!(first.closing, second.opening);
        let balance = book.balance(day(cut)).expect("a balance");
        prop_assert_eq!(first.closing, balance.balance);
        prop_assert_eq!(balance.charged.amount - balance.paid.amount, balance.balance.amount);
        prop_assert_eq!(balance.receivable.amount - balance.credit.amount, balance.balance.amount);
        let open: i64 = book.charges(day(cut)).expect("charges").iter().map(|charge| charge.open.amount).sum();
        prop_assert_eq!(open, balance.receivable.amount);
        let credit: i64 = book.payments(day(cut)).expect("payments").iter().map(|payment| payment.credit.amount).sum();
        prop_assert_eq!(credit, balance.credit.amount);
        prop_assert_eq!(book.trial_balance(day(cut)).values().sum::<i128>(), 0);
    }
}
