//! The ledger of one lease: charges, payments, allocations, credit and deposit as double entry, one consistency boundary.
//!
//! | what | debit / credit | effective on |
//! |---|---|---|
//! | charge | 1100 / 4xxx (deposit: 1100 / 2010) | its due date, even when posted earlier |
//! | payment | 1000 / 2100 | the day it was received |
//! | allocation | 2100 / 1100; of a deposit also 2010 / 2000 and 1010 / 1000 | the later of received and due: before that it is prepaid |
//! | reversed payment | the mirror; deposit legs only up to what is still held | `bounced`: the bounce date; `error`: the original dates |
//! | reversed charge | the mirror; allocations return to credit | the original dates |
//!
//! A reopened allocation never takes effect before the allocation itself did, and what a bounce reopened is settled again at
//! the earliest on the day it bounced: so at no date credit (2100) or deposits held (2000) are negative, or more is
//! allocated to a charge than it is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    AMOUNT_MAX, Account, AllocationPolicy, ChargeType, EntryLine, ExternalRef, LateFeePolicy, Lines, PaymentMethod,
};
use crate::events::event_names;
use crate::fault::{not_in_the_future, optional_text, sane_date, text};
use crate::{
    Aggregate, AggregateKind, ChargeId, Currency, DateRange, Decide, Fact, Fault, LeaseId, Moment, Money, PartyId,
    PaymentId, PropertyId, RefusalClass, Refused, Sha256, UnitId, bridge, today_in, zone,
};

#[derive(Clone, Debug, PartialEq)]
pub enum LedgerCommand {
    OpenLedger {
        lease_id: LeaseId,
        property_id: PropertyId,
        unit_id: UnitId,
        tenants: Vec<PartyId>,
        currency: Currency,
        time_zone: String,
        late_fee_policy: Option<LateFeePolicy>,
        allocation_policy: AllocationPolicy,
    },
    PostCharge {
        charge_id: ChargeId,
        kind: ChargeType,
        money: Money,
        due_on: Date,
        /// The days it is for, e.g. the month of a rent.
        period: Option<DateRange>,
        /// Unique in the ledger for ever: what makes a run or a process post a thing once.
        key: String,
        memo: Option<String>,
    },
    RecordPayment(NewPayment),
    ReversePayment {
        payment_id: PaymentId,
        kind: ReversalKind,
        /// The day the bank took it back; of no effect for `error`.
        on: Date,
        /// Charged at once, due on that day; only for `bounced`.
        fee: Option<Fee>,
    },
    ReverseCharge {
        charge_id: ChargeId,
        reason: String,
    },
    /// Reverses every charge that is not reversed yet: compensation when a lease is voided.
    ReverseCharges {
        reason: String,
    },
    CloseLedger,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPayment {
    pub payment_id: PaymentId,
    pub money: Money,
    pub method: PaymentMethod,
    pub received_on: Date,
    pub external_ref: Option<ExternalRef>,
    pub payer: Option<PartyId>,
}

impl NewPayment {
    /// What makes two requests the same payment, whatever ids they were given.
    pub fn content_hash(&self, lease_id: LeaseId) -> Sha256 {
        Sha256::of_json(&(lease_id, self.money, self.method, self.received_on, &self.external_ref, self.payer))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fee {
    pub charge_id: ChargeId,
    pub money: Money,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReversalKind {
    /// The bank took the money back on a day of its own.
    Bounced,
    /// It was never received; recorded by mistake.
    Error,
}

/// An allocation taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unwound {
    pub payment_id: PaymentId,
    pub charge_id: ChargeId,
    /// Minor units.
    pub amount: i64,
    /// Of it, what left the deposit held.
    pub deposit: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LedgerEvent {
    LedgerOpened {
        lease_id: LeaseId,
        property_id: PropertyId,
        unit_id: UnitId,
        tenants: Vec<PartyId>,
        currency: Currency,
        time_zone: String,
        late_fee_policy: Option<LateFeePolicy>,
        allocation_policy: AllocationPolicy,
        opened_on: Date,
    },
    ChargePosted {
        charge_id: ChargeId,
        #[serde(rename = "type")]
        kind: ChargeType,
        money: Money,
        due_on: Date,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        period: Option<DateRange>,
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memo: Option<String>,
        lines: Vec<EntryLine>,
    },
    PaymentReceived {
        payment_id: PaymentId,
        money: Money,
        method: PaymentMethod,
        received_on: Date,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_ref: Option<ExternalRef>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payer: Option<PartyId>,
        content_hash: Sha256,
        lines: Vec<EntryLine>,
    },
    PaymentAllocated {
        payment_id: PaymentId,
        charge_id: ChargeId,
        money: Money,
        effective_on: Date,
        lines: Vec<EntryLine>,
    },
    PaymentReversed {
        payment_id: PaymentId,
        money: Money,
        kind: ReversalKind,
        on: Date,
        unwound: Vec<Unwound>,
        lines: Vec<EntryLine>,
    },
    ChargeReversed {
        charge_id: ChargeId,
        money: Money,
        reason: String,
        /// The charge's due date.
        on: Date,
        unwound: Vec<Unwound>,
        lines: Vec<EntryLine>,
    },
    LedgerClosed {
        on: Date,
    },
}

event_names!(LedgerEvent:
    LedgerOpened,
    ChargePosted,
    PaymentReceived,
    PaymentAllocated,
    PaymentReversed,
    ChargeReversed,
    LedgerClosed,
);

impl Fact for LedgerEvent {}

impl LedgerEvent {
    /// The double entry of the event: what every balance and statement is made from.
    pub fn lines(&self) -> &[EntryLine] {
        match self {
            Self::LedgerOpened { .. } | Self::LedgerClosed { .. } => &[],
            Self::ChargePosted { lines, .. }
            | Self::PaymentReceived { lines, .. }
            | Self::PaymentAllocated { lines, .. }
            | Self::PaymentReversed { lines, .. }
            | Self::ChargeReversed { lines, .. } => lines,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
    #[error("there is no such {what}")]
    NotFound { what: &'static str },
    #[error("the ledger of this lease is open already")]
    LedgerExists,
    #[error("the ledger is closed")]
    LedgerClosed,
    #[error("the ledger is in {ledger}, not in {given}")]
    CurrencyMismatch { ledger: Currency, given: Currency },
    #[error("the amount is too large")]
    AmountTooLarge,
    #[error("this charge was posted already")]
    DuplicateCharge { charge_id: ChargeId },
    #[error("a payment with this id was recorded already, with other content")]
    DuplicatePayment { payment_id: PaymentId },
    #[error("this payment reference was already recorded with other content")]
    ReferenceConflict { payment_id: PaymentId },
    #[error("it was reversed already")]
    AlreadyReversed,
    #[error("part of this deposit is no longer held")]
    DepositInsufficient { held: i64 },
    #[error("the ledger is not at zero")]
    LedgerOpen { receivable: i64, credit: i64, deposit_held: i64, deposit_billed: i64 },
}

impl From<Fault> for LedgerError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl Refused for LedgerError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::LedgerExists => "LEDGER_EXISTS",
            Self::LedgerClosed => "LEDGER_CLOSED",
            Self::CurrencyMismatch { .. } => "CURRENCY_MISMATCH",
            Self::AmountTooLarge => "AMOUNT_TOO_LARGE",
            Self::DuplicateCharge { .. } => "DUPLICATE_CHARGE",
            Self::DuplicatePayment { .. } => "DUPLICATE_PAYMENT",
            Self::ReferenceConflict { .. } => "PAYMENT_REFERENCE_CONFLICT",
            Self::AlreadyReversed => "ALREADY_REVERSED",
            Self::DepositInsufficient { .. } => "DEPOSIT_INSUFFICIENT",
            Self::LedgerOpen { .. } => "LEDGER_OPEN",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
            Self::NotFound { .. } => RefusalClass::NotFound,
            Self::CurrencyMismatch { .. } | Self::AmountTooLarge => RefusalClass::Policy,
            Self::LedgerExists
            | Self::LedgerClosed
            | Self::DuplicateCharge { .. }
            | Self::DuplicatePayment { .. }
            | Self::ReferenceConflict { .. }
            | Self::AlreadyReversed
            | Self::DepositInsufficient { .. }
            | Self::LedgerOpen { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::CurrencyMismatch { ledger, given } => json!({ "ledger": ledger, "given": given }),
            Self::DuplicateCharge { charge_id } => json!({ "charge_id": charge_id }),
            Self::DuplicatePayment { payment_id } | Self::ReferenceConflict { payment_id } => {
                json!({ "payment_id": payment_id })
            }
            Self::DepositInsufficient { held } => json!({ "held": held }),
            Self::LedgerOpen { receivable, credit, deposit_held, deposit_billed } => json!({
                "receivable": receivable,
                "credit": credit,
                "deposit_held": deposit_held,
                "deposit_billed": deposit_billed,
            }),
            Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::LedgerExists
            | Self::LedgerClosed
            | Self::AmountTooLarge
            | Self::AlreadyReversed => Value::Null,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } => Some(pointer),
            Self::CurrencyMismatch { .. } => Some("/money/currency"),
            Self::AmountTooLarge => Some("/money/amount"),
            Self::ReferenceConflict { .. } => Some("/external_ref"),
            Self::NotFound { .. }
            | Self::LedgerExists
            | Self::LedgerClosed
            | Self::DuplicateCharge { .. }
            | Self::DuplicatePayment { .. }
            | Self::AlreadyReversed
            | Self::DepositInsufficient { .. }
            | Self::LedgerOpen { .. } => None,
        }
    }
}

/// A charge as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    pub kind: ChargeType,
    /// Minor units, as all amounts here.
    pub amount: i64,
    pub due_on: Date,
    pub reversed: bool,
    /// Of a deposit charge: what is billed and not yet held (its share of 2010).
    deposit_billed: i64,
    /// What is open, by the day since when: the due date, or the day a payment bounced.
    open_since: BTreeMap<Date, i64>,
    allocations: Vec<Allocation>,
}

/// A part of a payment that settled a part of a charge, for a while or for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Allocation {
    payment_id: PaymentId,
    amount: i64,
    /// Of it, what became deposit held.
    deposit: i64,
    effective_on: Date,
    /// What it settled, by the day since when that was open.
    settled: Vec<(Date, i64)>,
    /// Set when the payment bounced: the day it did, and what left the deposit held then.
    ended: Option<(Date, i64)>,
}

impl Charge {
    /// What is still to be paid on it.
    pub fn open(&self) -> i64 {
        self.open_since.values().sum()
    }

    fn allocation_mut(&mut self, payment_id: PaymentId) -> impl Iterator<Item = &mut Allocation> {
        self.allocations.iter_mut().filter(move |part| part.payment_id == payment_id && part.ended.is_none())
    }

    fn standing(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.iter().filter(|part| part.ended.is_none())
    }

    /// Settles what was open longest.
    fn settle(&mut self, payment_id: PaymentId, amount: i64, deposit: i64, effective_on: Date) {
        let mut rest = amount;
        let mut settled = Vec::new();
        for (since, open) in &mut self.open_since {
            let part = rest.min(*open);
            if part > 0 {
                settled.push((*since, part));
                *open -= part;
                rest -= part;
            }
        }
        self.open_since.retain(|_, open| *open > 0);
        self.deposit_billed -= deposit;
        self.allocations.push(Allocation { payment_id, amount, deposit, effective_on, settled, ended: None });
    }

    /// Opens again what a reversed payment had settled: from the day it bounced, or as if it had never been settled when
    /// that was not after the settling.
    fn reopen(&mut self, payment_id: PaymentId, on: Date, mut deposit: i64) {
        self.deposit_billed += deposit;
        let mut open_since = std::mem::take(&mut self.open_since);
        for part in self.allocation_mut(payment_id) {
            let returned = deposit.min(part.deposit);
            deposit -= returned;
            let end = on.max(part.effective_on);
            part.ended = Some((end, returned));
            match end > part.effective_on {
                true => *open_since.entry(end).or_default() += part.amount,
                false => part.settled.iter().for_each(|(since, amount)| *open_since.entry(*since).or_default() += amount),
            }
        }
        self.open_since = open_since;
    }
}

/// A payment as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    pub amount: i64,
    pub received_on: Date,
    pub external_ref: Option<ExternalRef>,
    pub content_hash: Sha256,
    /// What no charge has taken yet.
    pub credit: i64,
    pub reversed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    lease_id: LeaseId,
    currency: Currency,
    time_zone: String,
    allocation_policy: AllocationPolicy,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    opened: Option<Opened>,
    closed: bool,
    charges: BTreeMap<ChargeId, Charge>,
    keys: BTreeSet<String>,
    payments: BTreeMap<PaymentId, Payment>,
    /// Debit minus credit of each account over all lines, whatever their date.
    balances: BTreeMap<Account, i64>,
}

impl Ledger {
    pub fn is_open(&self) -> bool {
        self.opened.is_some() && !self.closed
    }

    pub fn charge(&self, id: ChargeId) -> Option<&Charge> {
        self.charges.get(&id)
    }

    pub fn payment(&self, id: PaymentId) -> Option<&Payment> {
        self.payments.get(&id)
    }

    /// Debit minus credit over all lines, minor units.
    pub fn balance(&self, account: Account) -> i64 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    /// Whether every deposit charge is paid in full: the fact `LeaseCommand::ActivateLease` asks for. True without one.
    pub fn deposit_paid(&self) -> bool {
        self.charges.values().filter(|charge| charge.kind == ChargeType::Deposit).all(|charge| charge.open() == 0)
    }

    fn open_for_business(&self) -> Result<&Opened, LedgerError> {
        match &self.opened {
            None => Err(LedgerError::NotFound { what: "ledger" }),
            Some(_) if self.closed => Err(LedgerError::LedgerClosed),
            Some(opened) => Ok(opened),
        }
    }

    /// Currency and size of an amount that enters the ledger.
    fn check_money(&self, opened: &Opened, money: Money) -> Result<(), LedgerError> {
        if money.currency != opened.currency {
            return Err(LedgerError::CurrencyMismatch { ledger: opened.currency, given: money.currency });
        }
        if !money.is_positive() {
            return Err(Fault::new("/money/amount", "must be more than zero").into());
        }
        if money.amount > AMOUNT_MAX {
            return Err(LedgerError::AmountTooLarge);
        }
        Ok(())
    }

    fn deposit_held(&self) -> i64 {
        -self.balance(Account::DepositsHeld)
    }
}

/// A decision in the making: the state after the events decided so far.
struct Draft {
    ledger: Ledger,
    opened: Opened,
    events: Vec<LedgerEvent>,
}

impl Draft {
    fn on(ledger: &Ledger) -> Result<Self, LedgerError> {
        let opened = ledger.open_for_business()?.clone();
        Ok(Self { ledger: ledger.clone(), opened, events: Vec::new() })
    }

    /// Adds an event once its lines are known to balance on every date and to stay within the range of an amount.
    fn emit(&mut self, event: LedgerEvent) -> Result<(), LedgerError> {
        let mut per_date: BTreeMap<Date, i128> = BTreeMap::new();
        let mut balances = self.ledger.balances.clone();
        for line in event.lines() {
            *per_date.entry(line.effective_on).or_default() += line.signed();
            let balance = balances.entry(line.account).or_default();
            *balance = balance
                .checked_add(line.debit)
                .and_then(|balance| balance.checked_sub(line.credit))
                .ok_or(LedgerError::AmountTooLarge)?;
        }
        assert!(per_date.values().all(|sum| *sum == 0), "Lines come in pairs, so an event balances on each date");
        self.ledger.apply(event.clone());
        self.events.push(event);
        Ok(())
    }

    fn money(&self, amount: i64) -> Money {
        Money::new(amount, self.opened.currency)
    }

    fn post_charge(
        &mut self,
        charge_id: ChargeId,
        kind: ChargeType,
        money: Money,
        due_on: Date,
        period: Option<DateRange>,
        key: &str,
        memo: Option<&str>,
    ) -> Result<(), LedgerError> {
        self.ledger.check_money(&self.opened, money)?;
        sane_date("/due_on", due_on)?;
        text("/key", key, 200)?;
        optional_text("/memo", memo, 500)?;
        if self.ledger.keys.contains(key) || self.ledger.charges.contains_key(&charge_id) {
            return Err(LedgerError::DuplicateCharge { charge_id });
        }
        let lines = Lines::about(Some(charge_id), None)
            .entry(Account::TenantReceivable, kind.credit_account(), money.amount, due_on)
            .into_vec();
        self.emit(LedgerEvent::ChargePosted {
            charge_id,
            kind,
            money,
            due_on,
            period,
            key: key.to_owned(),
            memo: memo.map(Into::into),
            lines,
        })
    }

    /// Gives all credit to open charges: the payments in the order they came, the charges in the order of the policy.
    fn settle(&mut self) -> Result<(), LedgerError> {
        let mut credits: Vec<(Date, PaymentId)> = (self.ledger.payments.iter())
            .filter(|(_, payment)| payment.credit > 0)
            .map(|(id, payment)| (payment.received_on, *id))
            .collect();
        credits.sort();
        let mut credits = credits.into_iter().peekable();
        for charge_id in self.open_charges() {
            while let Some((received_on, payment_id)) = credits.peek().copied() {
                match self.allocate(payment_id, received_on, charge_id)? {
                    Settled::Charge => break,
                    Settled::Credit => _ = credits.next(),
                    Settled::Part => {}
                }
            }
        }
        Ok(())
    }

    fn open_charges(&self) -> Vec<ChargeId> {
        let policy = &self.opened.allocation_policy;
        let mut open: Vec<_> = (self.ledger.charges.iter())
            .filter(|(_, charge)| charge.open() > 0)
            .map(|(id, charge)| (policy.rank(charge.kind), charge.due_on, charge.kind.default_rank(), *id))
            .collect();
        open.sort();
        open.into_iter().map(|(.., id)| id).collect()
    }

    /// Gives a payment's credit to what is open of a charge, as far as it takes effect on one date: the later of the day
    /// the money was received and the day since when that part is open.
    fn allocate(&mut self, payment_id: PaymentId, received_on: Date, charge_id: ChargeId) -> Result<Settled, LedgerError> {
        let credit = self.ledger.payments.get(&payment_id).map_or(0, |payment| payment.credit);
        let Some(charge) = self.ledger.charges.get(&charge_id) else { return Ok(Settled::Charge) };
        let Some(&first) = charge.open_since.keys().next() else { return Ok(Settled::Charge) };
        if credit == 0 {
            return Ok(Settled::Credit);
        }
        let effective_on = received_on.max(first);
        let open: i64 = charge.open_since.range(..=effective_on).map(|(_, open)| open).sum();
        let amount = open.min(credit);
        let deposit = amount.min(charge.deposit_billed);
        let lines = Lines::about(Some(charge_id), Some(payment_id));
        let lines = settled(lines, amount, deposit, effective_on).into_vec();
        let money = self.money(amount);
        self.emit(LedgerEvent::PaymentAllocated { payment_id, charge_id, money, effective_on, lines })?;
        Ok(Settled::Part)
    }

    fn reverse_payment(&mut self, payment_id: PaymentId, kind: ReversalKind, on: Date) -> Result<(), LedgerError> {
        let payment = self.ledger.payments.get(&payment_id).ok_or(LedgerError::NotFound { what: "payment" })?;
        if payment.reversed {
            return Err(LedgerError::AlreadyReversed);
        }
        let on = match kind {
            ReversalKind::Error => payment.received_on,
            ReversalKind::Bounced if on < payment.received_on => {
                return Err(Fault::new("/on", "must not be before the day the payment was received").into());
            }
            ReversalKind::Bounced => on,
        };
        let mut held = self.ledger.deposit_held();
        let (mut unwound, mut lines) = (Vec::new(), Vec::new());
        for (charge_id, charge) in &self.ledger.charges {
            let mut sum = Unwound { payment_id, charge_id: *charge_id, amount: 0, deposit: 0 };
            for part in charge.standing().filter(|part| part.payment_id == payment_id) {
                let deposit = part.deposit.min(held);
                held -= deposit;
                sum.amount += part.amount;
                sum.deposit += deposit;
                let about = Lines::about(Some(*charge_id), Some(payment_id));
                lines.extend(reopened(about, part.amount, deposit, on.max(part.effective_on)).into_vec());
            }
            if sum.amount > 0 {
                unwound.push(sum);
            }
        }
        let mirror = Lines::about(None, Some(payment_id));
        lines.extend(mirror.entry(Account::TenantCredit, Account::OperatingBank, payment.amount, on).into_vec());
        let money = self.money(payment.amount);
        self.emit(LedgerEvent::PaymentReversed { payment_id, money, kind, on, unwound, lines })
    }

    fn reverse_charge(&mut self, charge_id: ChargeId, reason: &str) -> Result<(), LedgerError> {
        text("/reason", reason, 500)?;
        let charge = self.ledger.charges.get(&charge_id).ok_or(LedgerError::NotFound { what: "charge" })?;
        if charge.reversed {
            return Err(LedgerError::AlreadyReversed);
        }
        let (held, amount, on) = (self.ledger.deposit_held(), charge.amount, charge.due_on);
        let deposit: i64 = charge.standing().map(|part| part.deposit).sum();
        let whole = charge.kind != ChargeType::Deposit || deposit + charge.deposit_billed == amount;
        if deposit > held || !whole {
            return Err(LedgerError::DepositInsufficient { held });
        }
        let (mut unwound, mut lines) = (Vec::new(), Vec::new());
        for part in &charge.allocations {
            let payment_id = part.payment_id;
            let about = || Lines::about(Some(charge_id), Some(payment_id));
            lines.extend(reopened(about(), part.amount, part.deposit, part.effective_on).into_vec());
            match part.ended {
                None => unwound.push(Unwound { payment_id, charge_id, amount: part.amount, deposit: part.deposit }),
                // The money of a payment that bounced later was prepaid while it was there.
                Some((end, returned)) => lines.extend(settled(about(), part.amount, returned, end).into_vec()),
            }
        }
        let mirror = Lines::about(Some(charge_id), None);
        let income = charge.kind.credit_account();
        lines.extend(mirror.entry(income, Account::TenantReceivable, amount, on).into_vec());
        let (money, reason) = (self.money(amount), reason.to_owned());
        self.emit(LedgerEvent::ChargeReversed { charge_id, money, reason, on, unwound, lines })
    }
}

/// What ran out when a payment met a charge.
enum Settled {
    Charge,
    Credit,
    Part,
}

/// The lines of an allocation.
fn settled(lines: Lines, amount: i64, deposit: i64, effective_on: Date) -> Lines {
    lines
        .entry(Account::TenantCredit, Account::TenantReceivable, amount, effective_on)
        .entry(Account::DepositsBilled, Account::DepositsHeld, deposit, effective_on)
        .entry(Account::DepositTrustBank, Account::OperatingBank, deposit, effective_on)
}

/// Their mirror.
fn reopened(lines: Lines, amount: i64, deposit: i64, effective_on: Date) -> Lines {
    lines
        .entry(Account::TenantReceivable, Account::TenantCredit, amount, effective_on)
        .entry(Account::DepositsHeld, Account::DepositsBilled, deposit, effective_on)
        .entry(Account::OperatingBank, Account::DepositTrustBank, deposit, effective_on)
}

impl Decide for Ledger {
    const KIND: AggregateKind = AggregateKind::Ledger;

    fn decide(&self, command: &LedgerCommand, at: &Moment) -> Result<Vec<LedgerEvent>, LedgerError> {
        match command {
            LedgerCommand::OpenLedger {
                lease_id,
                property_id,
                unit_id,
                tenants,
                currency,
                time_zone,
                late_fee_policy,
                allocation_policy,
            } => {
                if self.opened.is_some() {
                    return Err(LedgerError::LedgerExists);
                }
                if zone(time_zone).is_none() {
                    return Err(Fault::new("/time_zone", "is not an IANA time zone").into());
                }
                allocation_policy.check()?;
                late_fee_policy.as_ref().map_or(Ok(()), LateFeePolicy::check)?;
                Ok(vec![LedgerEvent::LedgerOpened {
                    lease_id: *lease_id,
                    property_id: *property_id,
                    unit_id: *unit_id,
                    tenants: tenants.clone(),
                    currency: *currency,
                    time_zone: time_zone.clone(),
                    late_fee_policy: late_fee_policy.clone(),
                    allocation_policy: allocation_policy.clone(),
                    opened_on: today_in(time_zone, at.now),
                }])
            }
            LedgerCommand::PostCharge { charge_id, kind, money, due_on, period, key, memo } => {
                let mut draft = Draft::on(self)?;
                draft.post_charge(*charge_id, *kind, *money, *due_on, *period, key, memo.as_deref())?;
                draft.settle()?;
                Ok(draft.events)
            }
            LedgerCommand::RecordPayment(payment) => self.record_payment(payment, at),
            LedgerCommand::ReversePayment { payment_id, kind, on, fee } => {
                let mut draft = Draft::on(self)?;
                sane_date("/on", *on)?;
                not_in_the_future("/on", *on, today_in(&draft.opened.time_zone, at.now))?;
                draft.reverse_payment(*payment_id, *kind, *on)?;
                match (fee, kind) {
                    (None, _) => {}
                    (Some(_), ReversalKind::Error) => {
                        return Err(Fault::new("/fee", "only a bounced payment bears a fee").into());
                    }
                    (Some(Fee { charge_id, money }), ReversalKind::Bounced) => {
                        let key = format!("nsf:{payment_id}");
                        draft.post_charge(*charge_id, ChargeType::NsfFee, *money, *on, None, &key, None)?;
                        draft.settle()?;
                    }
                }
                Ok(draft.events)
            }
            LedgerCommand::ReverseCharge { charge_id, reason } => {
                let mut draft = Draft::on(self)?;
                draft.reverse_charge(*charge_id, reason)?;
                Ok(draft.events)
            }
            LedgerCommand::ReverseCharges { reason } => {
                let mut draft = Draft::on(self)?;
                for (charge_id, _) in self.charges.iter().filter(|(_, charge)| !charge.reversed) {
                    draft.reverse_charge(*charge_id, reason)?;
                }
                Ok(draft.events)
            }
            LedgerCommand::CloseLedger => self.close(at),
        }
    }

    fn effective_on(&self, event: &LedgerEvent, at: &Moment) -> Date {
        match event {
            LedgerEvent::LedgerOpened { opened_on, .. } => *opened_on,
            LedgerEvent::ChargePosted { due_on, .. } => *due_on,
            LedgerEvent::PaymentReceived { received_on, .. } => *received_on,
            LedgerEvent::PaymentAllocated { effective_on, .. } => *effective_on,
            LedgerEvent::PaymentReversed { on, .. } | LedgerEvent::ChargeReversed { on, .. } => *on,
            LedgerEvent::LedgerClosed { .. } => {
                today_in(self.opened.as_ref().map_or("UTC", |opened| &opened.time_zone), at.now)
            }
        }
    }
}

impl Ledger {
    fn record_payment(&self, payment: &NewPayment, at: &Moment) -> Result<Vec<LedgerEvent>, LedgerError> {
        let opened = self.opened.as_ref().ok_or(LedgerError::NotFound { what: "ledger" })?;
        let content_hash = payment.content_hash(opened.lease_id);
        let same_reference = (self.payments.iter())
            .find(|(_, known)| known.external_ref.is_some() && known.external_ref == payment.external_ref);
        // Answered before anything else: a repeated request gets its first answer even when the ledger has moved on.
        match (self.payments.get_key_value(&payment.payment_id), same_reference) {
            (Some((_, known)), _) | (None, Some((_, known))) if known.content_hash == content_hash => {
                return Ok(Vec::new());
            }
            (Some(_), _) => return Err(LedgerError::DuplicatePayment { payment_id: payment.payment_id }),
            (None, Some((id, _))) => return Err(LedgerError::ReferenceConflict { payment_id: *id }),
            (None, None) => {}
        }
        let mut draft = Draft::on(self)?;
        self.check_money(opened, payment.money)?;
        sane_date("/received_on", payment.received_on)?;
        not_in_the_future("/received_on", payment.received_on, today_in(&opened.time_zone, at.now))?;
        payment.external_ref.as_ref().map_or(Ok(()), ExternalRef::check)?;
        let lines = Lines::about(None, Some(payment.payment_id))
            .entry(Account::OperatingBank, Account::TenantCredit, payment.money.amount, payment.received_on)
            .into_vec();
        draft.emit(LedgerEvent::PaymentReceived {
            payment_id: payment.payment_id,
            money: payment.money,
            method: payment.method,
            received_on: payment.received_on,
            external_ref: payment.external_ref.clone(),
            payer: payment.payer,
            content_hash,
            lines,
        })?;
        draft.settle()?;
        Ok(draft.events)
    }

    fn close(&self, at: &Moment) -> Result<Vec<LedgerEvent>, LedgerError> {
        if self.closed {
            return Ok(Vec::new());
        }
        let opened = self.open_for_business()?;
        let receivable = self.balance(Account::TenantReceivable);
        let credit = self.balance(Account::TenantCredit).saturating_neg();
        let deposit_held = self.deposit_held();
        let deposit_billed = self.balance(Account::DepositsBilled).saturating_neg();
        if [receivable, credit, deposit_held, deposit_billed] != [0; 4] {
            return Err(LedgerError::LedgerOpen { receivable, credit, deposit_held, deposit_billed });
        }
        Ok(vec![LedgerEvent::LedgerClosed { on: today_in(&opened.time_zone, at.now) }])
    }
}

impl Aggregate for Ledger {
    const TYPE: &'static str = "ledger";
    type Command = LedgerCommand;
    type Event = LedgerEvent;
    type Error = LedgerError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: LedgerEvent) {
        for line in event.lines() {
            let balance = self.balances.entry(line.account).or_default();
            *balance = balance.saturating_add(line.debit).saturating_sub(line.credit);
        }
        match event {
            LedgerEvent::LedgerOpened { lease_id, currency, time_zone, allocation_policy, .. } => {
                self.opened = Some(Opened { lease_id, currency, time_zone, allocation_policy });
            }
            LedgerEvent::ChargePosted { charge_id, kind, money, due_on, key, .. } => {
                let amount = money.amount;
                let charge = Charge {
                    kind,
                    amount,
                    due_on,
                    reversed: false,
                    deposit_billed: if kind == ChargeType::Deposit { amount } else { 0 },
                    open_since: BTreeMap::from([(due_on, amount)]),
                    allocations: Vec::new(),
                };
                self.keys.insert(key);
                self.charges.insert(charge_id, charge);
            }
            LedgerEvent::PaymentReceived { payment_id, money, received_on, external_ref, content_hash, .. } => {
                let (amount, credit) = (money.amount, money.amount);
                let payment = Payment { amount, received_on, external_ref, content_hash, credit, reversed: false };
                self.payments.insert(payment_id, payment);
            }
            LedgerEvent::PaymentAllocated { payment_id, charge_id, money, effective_on, lines } => {
                if let Some(payment) = self.payments.get_mut(&payment_id) {
                    payment.credit -= money.amount;
                }
                if let Some(charge) = self.charges.get_mut(&charge_id) {
                    let held = lines.iter().filter(|line| line.account == Account::DepositsHeld);
                    charge.settle(payment_id, money.amount, held.map(|line| line.credit).sum(), effective_on);
                }
            }
            LedgerEvent::PaymentReversed { payment_id, on, unwound, .. } => {
                for Unwound { charge_id, deposit, .. } in unwound {
                    if let Some(charge) = self.charges.get_mut(&charge_id) {
                        charge.reopen(payment_id, on, deposit);
                    }
                }
                if let Some(payment) = self.payments.get_mut(&payment_id) {
                    payment.reversed = true;
                    payment.credit = 0;
                }
            }
            LedgerEvent::ChargeReversed { charge_id, unwound, .. } => {
                for Unwound { payment_id, amount, .. } in unwound {
                    if let Some(payment) = self.payments.get_mut(&payment_id) {
                        payment.credit += amount;
                    }
                }
                if let Some(charge) = self.charges.get_mut(&charge_id) {
                    charge.reversed = true;
                    charge.deposit_billed = 0;
                    charge.open_since.clear();
                    charge.allocations.clear();
                }
            }
            LedgerEvent::LedgerClosed { .. } => self.closed = true,
        }
    }
}

#[cfg(test)]
mod tests;
