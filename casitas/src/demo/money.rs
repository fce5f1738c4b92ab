//! What happens on a lease's ledger: the monthly charges, and how its tenant pays.

#![allow(clippy::inconsistent_digit_grouping, reason = "the last two digits are cents")]

use domain::finances::{ChargeType, ExternalRef, Fee, LedgerCommand, NewPayment, PaymentMethod, ReversalKind};
use domain::legal::LeaseTerms;
use domain::{ChargeId, Date, DateRange, Money, PartyId, PaymentId};

use super::blueprint::Days;
use super::days::{days_between, plus_days};
use super::places::Place;
use super::rng::Rng;
use super::tenancy::{Stage, periods};

/// A ledger command and the day it belongs to.
pub(super) struct Booking {
    on: Date,
    pub command: LedgerCommand,
}

#[derive(Clone, Copy)]
enum Habit {
    OnTime,
    Late,
    InParts,
    /// Has not paid the last months; how many.
    Behind(usize),
}

struct Drawer<'a> {
    rng: Rng,
    place: &'a Place,
    payer: Option<PartyId>,
    method: PaymentMethod,
    last_day: Date,
    bookings: Vec<Booking>,
}

pub(super) fn draw(
    mut rng: Rng,
    place: &Place,
    terms: &LeaseTerms,
    stage: Stage,
    signed_on: Date,
    days: &Days,
) -> Vec<Booking> {
    let habit = match rng.range(1, 100) {
        1..=64 => Habit::OnTime,
        65..=80 => Habit::Late,
        81..=88 => Habit::InParts,
        _ => Habit::Behind(rng.range(1, 3) as usize),
    };
    let method = rng.pick(place.methods());
    let payer = terms.tenants.first().map(|tenant| tenant.party_id);
    let mut drawer = Drawer { rng, place, payer, method, last_day: days.yesterday(), bookings: vec![] };
    if let Some(deposit) = terms.deposit {
        let on = plus_days(signed_on, drawer.rng.range(1, 3));
        drawer.pay(on, deposit.money.amount);
    }
    let end = match stage {
        Stage::Ended { vacated_on } => Some(vacated_on),
        Stage::Draft | Stage::Sent | Stage::Signed | Stage::Active => None,
    };
    let periods = periods(terms.start_date, end, days.today);
    let count = periods.len();
    for (index, period) in periods.into_iter().enumerate() {
        let total = drawer.charge(terms, period);
        drawer.settle(habit, period.0, total, count - index);
    }
    // Stable: what belongs to one day stays in the order it was drawn in.
    drawer.bookings.sort_by_key(|booking| booking.on);
    drawer.bookings
}

impl Drawer<'_> {
    fn book(&mut self, on: Date, command: LedgerCommand) {
        self.bookings.push(Booking { on, command });
    }

    /// Rent, and what is billed with it; minor units in all.
    fn charge(&mut self, terms: &LeaseTerms, (from, to): (Date, Date)) -> i64 {
        let rent = prorated(terms.rent.money, from, to);
        self.post(ChargeType::Rent, rent, from, to, format!("rent:{from}"), None);
        let mut total = rent.amount;
        for extra in &terms.extra_charges {
            let money = prorated(extra.money, from, to);
            self.post(extra.kind, money, from, to, format!("extra:{from}"), extra.description.clone());
            total += money.amount;
        }
        total
    }

    fn post(&mut self, kind: ChargeType, money: Money, from: Date, to: Date, key: String, memo: Option<String>) {
        let charge_id = ChargeId(self.rng.uuid());
        let period = DateRange::new(from, Some(to));
        self.book(from, LedgerCommand::PostCharge { charge_id, kind, money, due_on: from, period, key, memo });
    }

    /// `left`: periods from this one to the last, itself included.
    fn settle(&mut self, habit: Habit, due_on: Date, total: i64, left: usize) {
        match habit {
            Habit::Behind(unpaid) if left <= unpaid => {}
            Habit::OnTime | Habit::Behind(_) => {
                let on = plus_days(due_on, self.rng.range(-3, 3));
                self.pay_or_bounce(on, total);
            }
            Habit::Late => {
                let on = plus_days(due_on, self.rng.range(4, 24));
                self.pay_or_bounce(on, total);
            }
            Habit::InParts => {
                let first = total * self.rng.range(4, 7) / 10;
                let on = plus_days(due_on, self.rng.range(-1, 4));
                self.pay(on, first);
                let on = plus_days(on, self.rng.range(7, 18));
                self.pay(on, total - first);
            }
        }
    }

    /// Checks and direct debits may come back; then the tenant pays anew, with the fee.
    fn pay_or_bounce(&mut self, on: Date, amount: i64) {
        let bounces = matches!(self.method, PaymentMethod::Check | PaymentMethod::DirectDebit) && self.rng.chance(4);
        let Some(payment_id) = self.pay(on, amount) else { return };
        let back = plus_days(on, self.rng.range(2, 4));
        if !bounces || back > self.last_day {
            return;
        }
        let fee = self.place.nsf_fee();
        let charged = fee.map(|fee| Fee { charge_id: ChargeId(self.rng.uuid()), money: self.place.money(fee) });
        self.book(back, LedgerCommand::ReversePayment { payment_id, kind: ReversalKind::Bounced, on: back, fee: charged });
        let again = plus_days(back, self.rng.range(2, 6));
        self.pay(again, amount + fee.unwrap_or(0));
    }

    /// `None` when that day is not over yet.
    fn pay(&mut self, on: Date, amount: i64) -> Option<PaymentId> {
        let payment_id = PaymentId(self.rng.uuid());
        if on > self.last_day || amount <= 0 {
            return None;
        }
        let source = match self.method {
            PaymentMethod::BankTransfer | PaymentMethod::DirectDebit => Some("bank"),
            PaymentMethod::Card => Some("card"),
            PaymentMethod::Cash | PaymentMethod::Check | PaymentMethod::Other => None,
        };
        let reference = payment_id.0.simple().to_string().to_uppercase();
        let external_ref = source.map(|source| ExternalRef { source: source.into(), id: reference[..16].to_owned() });
        let money = self.place.money(amount);
        let (method, payer) = (self.method, self.payer);
        let payment = NewPayment { payment_id, money, method, received_on: on, external_ref, payer };
        self.book(on, LedgerCommand::RecordPayment(payment));
        Some(payment_id)
    }
}

/// By actual days, half away from zero; a whole month is never prorated (domain.md 2.0).
fn prorated(money: Money, from: Date, to: Date) -> Money {
    let (days, month) = (days_between(from, to), i64::from(from.days_in_month()));
    let amount = if days == month { money.amount } else { (2 * money.amount * days + month) / (2 * month) };
    Money::new(amount, money.currency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Currency;

    #[test]
    fn a_part_of_a_month_is_rounded_once_and_a_whole_one_is_whole() {
        let day = |text: &str| text.parse::<Date>().expect("a date");
        let rent = Money::new(1_000_00, Currency::new("USD").expect("a currency"));
        assert_eq!(prorated(rent, day("2025-01-15"), day("2025-02-01")).amount, 548_39);
        assert_eq!(prorated(rent, day("2025-02-01"), day("2025-03-01")).amount, 1_000_00);
    }
}
