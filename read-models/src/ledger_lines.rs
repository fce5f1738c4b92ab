//! `ledger_lines`: what happened to the money of each ledger, as double entry. Insert-only, one row for each event that moved
//! money, with all its lines; every balance, statement and list derives from them, as of a business date and as known at a
//! position of the log. Nothing here ever changes, so an answer about the past stays what it was.

mod books;

use std::collections::BTreeMap;

use domain::finances::{Account, ChargeType, EntryLine, ExternalRef, LedgerEvent, PaymentMethod, ReversalKind, balances};
use domain::{AggregateKind, ChargeId, Context, Date, DateRange, LeaseId, Money, PartyId, PaymentId, Timestamp, today_in};
use ports::{
    Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Position, Recorded, Result, Select, ViewSnapshot,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ledgers::{self, LedgerHead, ledger_head};
use crate::time::next_midnight;
use crate::{Answer, Cursor, Feed, Page, PageRequest, ReadModel, Rows, Tag};

pub use books::Books;

pub static SPEC: ModelSpec = ModelSpec {
    name: "ledger_lines",
    fold_version: 1,
    context: Context::Finances,
    fields: &[
        Field { name: "ledger_id", kind: FieldKind::Text },
        Field { name: "position", kind: FieldKind::Int },
        // The event's date; a line may have a later one.
        Field { name: "effective_on", kind: FieldKind::Text },
    ],
};

/// Rows read at once.
const CHUNK: usize = 1_000;

pub struct LedgerLines;

/// One event that moved money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Movement {
    pub position: Position,
    pub recorded_at: Timestamp,
    pub event: LedgerEvent,
}

impl ReadModel for LedgerLines {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Events(AggregateKind::Ledger)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(if concerns(event) { vec![row_key(event)] } else { vec![] })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if !concerns(event) {
            return Ok(());
        }
        let movement = Movement { position: event.position, recorded_at: event.recorded_at, event: event.decode()? };
        let position = i64::try_from(event.position).map_err(|_| Error::corrupt("a position beyond the range"))?;
        let ledger = event.stream.id.as_str();
        let fields = vec![ledger.into(), position.into(), event.effective_on.to_string().into()];
        rows.put_tagged(&row_key(event), movement, fields, &[ledger, Rows::COLLECTION])
    }
}

/// The ledger and the place in its stream, so that a prefix of keys is a ledger in order.
fn row_key(event: &Recorded) -> String {
    format!("{}:{:010}", event.stream.id, event.sequence)
}

fn concerns(event: &Recorded) -> bool {
    event.stream.kind == AggregateKind::Ledger && !matches!(event.event_type.as_str(), "LedgerOpened" | "LedgerClosed")
}

/// The point of view of an answer: the business date and how much of the log is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AsOf {
    /// Today in the ledger's zone when absent.
    pub as_of: Option<Date>,
    /// Only what stood in the log at this position; all of it when absent.
    pub known: Option<Position>,
}

/// A ledger with what moved its money.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    pub head: LedgerHead,
    /// In the order they were recorded.
    pub movements: Vec<Movement>,
}

/// A ledger's book as known at a position; `None` when the lease has no ledger, or had none then.
pub async fn book(snapshot: &mut dyn ViewSnapshot, lease_id: LeaseId, known: Option<Position>) -> Result<Option<Book>> {
    let Some(head) = ledger_head(snapshot, lease_id).await?.value else { return Ok(None) };
    if known.is_some_and(|known| known < head.position) {
        return Ok(None);
    }
    let prefix = Filter::KeyPrefix(format!("{lease_id}:"));
    let mut select = Select { model: SPEC.name, filters: vec![prefix], order: OrderBy::KEY, after: None, limit: CHUNK };
    let mut movements = Vec::new();
    loop {
        let rows = snapshot.select(&select).await?;
        let is_last = rows.len() < CHUNK;
        for row in rows {
            let movement: Movement = row.read(SPEC.name)?;
            // A stream's positions rise, so nothing that is known comes after something that is not.
            if known.is_some_and(|known| known < movement.position) {
                return Ok(Some(Book { head, movements }));
            }
            movements.push(movement);
            select.after = Some((FieldValue::Null, row.key));
        }
        if is_last {
            return Ok(Some(Book { head, movements }));
        }
    }
}

/// Amounts of one ledger on a date; minor units of its currency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedgerBalance {
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
    /// What is owed; negative when it was paid ahead.
    pub balance: Money,
    /// Charges that are due and not paid (account 1100).
    pub receivable: Money,
    /// Money received and not yet used (account 2100).
    pub credit: Money,
    pub deposit_held: Money,
    /// Deposit billed and not paid.
    pub deposit_billed: Money,
    /// Due by then, without what was reversed.
    pub charged: Money,
    /// Received by then, without what was taken back.
    pub paid: Money,
    /// The due date of the oldest charge that is not paid in full.
    #[schema(value_type = Option<String>, format = Date)]
    pub oldest_due: Option<Date>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedgerOut {
    #[serde(flatten)]
    pub head: LedgerHead,
    #[serde(flatten)]
    pub balance: LedgerBalance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatementType {
    Charge,
    ChargeReversal,
    Payment,
    PaymentReversal,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatementLine {
    #[schema(value_type = String, format = Date)]
    pub on: Date,
    #[serde(rename = "type")]
    pub kind: StatementType,
    /// Of a charge and its reversal.
    pub charge_type: Option<ChargeType>,
    pub charge_id: Option<ChargeId>,
    pub payment_id: Option<PaymentId>,
    pub memo: Option<String>,
    /// Adds to what is owed; negative for a reversal.
    pub charge: Option<Money>,
    /// Takes from what is owed; negative for a reversal.
    pub payment: Option<Money>,
    /// What is owed after this line.
    pub balance: Money,
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatementOut {
    pub lease_id: LeaseId,
    /// The first day of the statement; from the beginning when absent.
    #[schema(value_type = Option<String>, format = Date)]
    pub from: Option<Date>,
    /// The last day, inclusive.
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
    /// What was owed before the first day.
    pub opening: Money,
    pub lines: Vec<StatementLine>,
    /// What is owed at the end of the last day: the opening of the next statement.
    pub closing: Money,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EntryOut {
    #[schema(value_type = String, format = Date)]
    pub effective_on: Date,
    pub position: Position,
    /// Place among the lines of its event.
    pub line: usize,
    /// The event that wrote it, e.g. `PaymentAllocated`.
    pub event: String,
    pub account: Account,
    pub account_title: String,
    /// Minor units; exactly one of debit and credit is not zero.
    pub debit: i64,
    pub credit: i64,
    pub charge_id: Option<ChargeId>,
    pub payment_id: Option<PaymentId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChargeStatus {
    /// Not due yet.
    Future,
    Open,
    Paid,
    Reversed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChargeOut {
    pub charge_id: ChargeId,
    #[serde(rename = "type")]
    pub kind: ChargeType,
    pub money: Money,
    #[schema(value_type = String, format = Date)]
    pub due_on: Date,
    pub period: Option<DateRange>,
    pub key: String,
    pub memo: Option<String>,
    pub status: ChargeStatus,
    /// Due and not paid; zero before the due date.
    pub open: Money,
    /// Days since the due date while it is open.
    pub days_due: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    Received,
    Bounced,
    /// Recorded by mistake.
    Reversed,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AllocationOut {
    pub charge_id: ChargeId,
    pub money: Money,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PaymentOut {
    pub payment_id: PaymentId,
    pub money: Money,
    pub method: PaymentMethod,
    #[schema(value_type = String, format = Date)]
    pub received_on: Date,
    pub external_ref: Option<ExternalRef>,
    pub payer: Option<PartyId>,
    pub status: PaymentStatus,
    #[schema(value_type = Option<String>, format = Date)]
    pub reversed_on: Option<Date>,
    /// What no charge has taken by then.
    pub credit: Money,
    pub allocations: Vec<AllocationOut>,
}

impl Book {
    /// The business date of an answer, and the end of it when it is today.
    pub fn date(&self, as_of: Option<Date>, now: Timestamp) -> (Date, Option<Timestamp>) {
        match as_of {
            Some(day) => (day, None),
            None => (today_in(&self.head.time_zone, now), next_midnight(&self.head.time_zone, now)),
        }
    }

    fn money(&self, amount: i128) -> Result<Money> {
        let amount = i64::try_from(amount)
            .map_err(|_| Error::corrupt(format!("ledger {} sums up beyond the range", self.head.lease_id)))?;
        Ok(Money::new(amount, self.head.currency))
    }

    fn lines(&self) -> impl Iterator<Item = &EntryLine> {
        self.movements.iter().flat_map(|movement| movement.event.lines())
    }

    pub fn balance(&self, as_of: Date) -> Result<LedgerBalance> {
        let balances = balances(self.lines(), as_of);
        let of = |account| balances.get(&account).copied().unwrap_or(0);
        let charges = self.charges(as_of)?;
        let owing = charges.iter().filter(|charge| charge.open.amount > 0);
        let due = charges.iter().filter(|charge| matches!(charge.status, ChargeStatus::Open | ChargeStatus::Paid));
        let payments = self.payments(as_of)?;
        let kept = payments.iter().filter(|payment| payment.status == PaymentStatus::Received);
        Ok(LedgerBalance {
            as_of,
            balance: self.money(of(Account::TenantReceivable) + of(Account::TenantCredit))?,
            receivable: self.money(of(Account::TenantReceivable))?,
            credit: self.money(-of(Account::TenantCredit))?,
            deposit_held: self.money(-of(Account::DepositsHeld))?,
            deposit_billed: self.money(-of(Account::DepositsBilled))?,
            charged: self.money(due.map(|charge| i128::from(charge.money.amount)).sum())?,
            paid: self.money(kept.map(|payment| i128::from(payment.money.amount)).sum())?,
            oldest_due: owing.map(|charge| charge.due_on).min(),
        })
    }

    /// Debit minus credit of each account; adds up to zero.
    pub fn trial_balance(&self, as_of: Date) -> BTreeMap<Account, i128> {
        balances(self.lines(), as_of)
    }

    /// What was charged and paid from one day to another, with what was owed before, in between and after.
    pub fn statement(&self, from: Option<Date>, as_of: Date) -> Result<StatementOut> {
        let mut items: Vec<Item> = self.movements.iter().filter_map(|movement| self.item(movement)).collect();
        items.retain(|item| item.on <= as_of);
        items.sort_by_key(|item| (item.on, item.position));
        let (mut owed, mut opening, mut lines) = (0_i128, 0_i128, Vec::new());
        for item in items {
            owed += item.adds();
            match from.is_some_and(|from| item.on < from) {
                true => opening = owed,
                false => lines.push(item.line(self.money(owed)?)),
            }
        }
        let (opening, closing) = (self.money(opening)?, self.money(owed)?);
        Ok(StatementOut { lease_id: self.head.lease_id, from, as_of, opening, lines, closing })
    }

    fn item<'a>(&'a self, movement: &'a Movement) -> Option<Item<'a>> {
        let (kind, on, money, charge, payment_id) = match &movement.event {
            LedgerEvent::ChargePosted { charge_id, money, due_on, .. } => {
                (StatementType::Charge, *due_on, *money, self.posted(*charge_id), None)
            }
            LedgerEvent::ChargeReversed { charge_id, money, on, .. } => {
                (StatementType::ChargeReversal, *on, *money, self.posted(*charge_id), None)
            }
            LedgerEvent::PaymentReceived { payment_id, money, received_on, .. } => {
                (StatementType::Payment, *received_on, *money, None, Some(*payment_id))
            }
            LedgerEvent::PaymentReversed { payment_id, money, on, .. } => {
                (StatementType::PaymentReversal, *on, *money, None, Some(*payment_id))
            }
            LedgerEvent::PaymentAllocated { .. } | LedgerEvent::LedgerOpened { .. } | LedgerEvent::LedgerClosed { .. } => {
                return None;
            }
        };
        let (position, recorded_at) = (movement.position, movement.recorded_at);
        Some(Item { on, position, recorded_at, kind, money, charge, payment_id })
    }

    fn posted(&self, wanted: ChargeId) -> Option<(ChargeId, ChargeType, Option<&str>)> {
        self.movements.iter().find_map(|movement| match &movement.event {
            LedgerEvent::ChargePosted { charge_id, kind, memo, .. } if *charge_id == wanted => {
                Some((wanted, *kind, memo.as_deref()))
            }
            _ => None,
        })
    }

    /// The journal up to a date, by date and then as it was recorded.
    pub fn entries(&self, as_of: Date) -> Vec<EntryOut> {
        let mut entries: Vec<EntryOut> = Vec::new();
        for movement in &self.movements {
            let lines = movement.event.lines().iter().enumerate().filter(|(_, line)| line.effective_on <= as_of);
            entries.extend(lines.map(|(place, line)| EntryOut {
                effective_on: line.effective_on,
                position: movement.position,
                line: place,
                event: movement.event.name().to_owned(),
                account: line.account,
                account_title: line.account.title().to_owned(),
                debit: line.debit,
                credit: line.credit,
                charge_id: line.charge_id,
                payment_id: line.payment_id,
            }));
        }
        entries.sort_by_key(|entry| (entry.effective_on, entry.position, entry.line));
        entries
    }

    /// Every charge that was posted, by due date, as it stood on a date.
    pub fn charges(&self, as_of: Date) -> Result<Vec<ChargeOut>> {
        let mut open: BTreeMap<ChargeId, i128> = BTreeMap::new();
        let receivable = |line: &&EntryLine| line.account == Account::TenantReceivable && line.effective_on <= as_of;
        for line in self.lines().filter(receivable) {
            if let Some(charge_id) = line.charge_id {
                *open.entry(charge_id).or_default() += line.signed();
            }
        }
        let reversed = |wanted: ChargeId| {
            self.movements.iter().any(
                |movement| matches!(&movement.event, LedgerEvent::ChargeReversed { charge_id, .. } if *charge_id == wanted),
            )
        };
        let mut charges = Vec::new();
        for movement in &self.movements {
            let LedgerEvent::ChargePosted { charge_id, kind, money, due_on, period, key, memo, .. } = &movement.event else {
                continue;
            };
            let still = open.get(charge_id).copied().unwrap_or(0);
            let status = match (reversed(*charge_id), still) {
                (true, _) => ChargeStatus::Reversed,
                (false, _) if *due_on > as_of => ChargeStatus::Future,
                (false, 0) => ChargeStatus::Paid,
                (false, _) => ChargeStatus::Open,
            };
            charges.push(ChargeOut {
                charge_id: *charge_id,
                kind: *kind,
                money: *money,
                due_on: *due_on,
                period: *period,
                key: key.clone(),
                memo: memo.clone(),
                status,
                open: self.money(still)?,
                days_due: (status == ChargeStatus::Open).then(|| (as_of - *due_on).get_days()),
            });
        }
        charges.sort_by_key(|charge| (charge.due_on, charge.charge_id));
        Ok(charges)
    }

    /// Every payment received by a date, by date, as it stood then.
    pub fn payments(&self, as_of: Date) -> Result<Vec<PaymentOut>> {
        let mut payments = Vec::new();
        for movement in &self.movements {
            let LedgerEvent::PaymentReceived { payment_id, money, method, received_on, external_ref, payer, .. } =
                &movement.event
            else {
                continue;
            };
            if *received_on > as_of {
                continue;
            }
            let (status, reversed_on) = match self.reversal(*payment_id) {
                Some((ReversalKind::Bounced, on)) if on <= as_of => (PaymentStatus::Bounced, Some(on)),
                Some((ReversalKind::Error, on)) => (PaymentStatus::Reversed, Some(on)),
                Some((ReversalKind::Bounced, _)) | None => (PaymentStatus::Received, None),
            };
            let (credit, allocations) = self.use_of(*payment_id, as_of)?;
            payments.push(PaymentOut {
                payment_id: *payment_id,
                money: *money,
                method: *method,
                received_on: *received_on,
                external_ref: external_ref.clone(),
                payer: *payer,
                status,
                reversed_on,
                credit,
                allocations,
            });
        }
        payments.sort_by_key(|payment| (payment.received_on, payment.payment_id));
        Ok(payments)
    }

    fn reversal(&self, wanted: PaymentId) -> Option<(ReversalKind, Date)> {
        self.movements.iter().find_map(|movement| match &movement.event {
            LedgerEvent::PaymentReversed { payment_id, kind, on, .. } if *payment_id == wanted => Some((*kind, *on)),
            _ => None,
        })
    }

    /// What is left of a payment, and which charges took the rest.
    fn use_of(&self, payment_id: PaymentId, as_of: Date) -> Result<(Money, Vec<AllocationOut>)> {
        let mut credit = 0_i128;
        let mut taken: BTreeMap<ChargeId, i128> = BTreeMap::new();
        for line in self.lines().filter(|line| line.payment_id == Some(payment_id) && line.effective_on <= as_of) {
            match (line.account, line.charge_id) {
                (Account::TenantCredit, _) => credit -= line.signed(),
                (Account::TenantReceivable, Some(charge_id)) => *taken.entry(charge_id).or_default() -= line.signed(),
                _ => {}
            }
        }
        let mut allocations = Vec::new();
        for (charge_id, amount) in taken.into_iter().filter(|(_, amount)| *amount != 0) {
            allocations.push(AllocationOut { charge_id, money: self.money(amount)? });
        }
        Ok((self.money(credit)?, allocations))
    }
}

/// A charge, a payment or the reversal of one.
struct Item<'a> {
    on: Date,
    position: Position,
    recorded_at: Timestamp,
    kind: StatementType,
    money: Money,
    charge: Option<(ChargeId, ChargeType, Option<&'a str>)>,
    payment_id: Option<PaymentId>,
}

impl Item<'_> {
    fn adds(&self) -> i128 {
        match self.kind {
            StatementType::Charge | StatementType::PaymentReversal => i128::from(self.money.amount),
            StatementType::ChargeReversal | StatementType::Payment => -i128::from(self.money.amount),
        }
    }

    fn line(&self, balance: Money) -> StatementLine {
        let negative = Money::new(-self.money.amount, self.money.currency);
        let (charge, payment) = match self.kind {
            StatementType::Charge => (Some(self.money), None),
            StatementType::ChargeReversal => (Some(negative), None),
            StatementType::Payment => (None, Some(self.money)),
            StatementType::PaymentReversal => (None, Some(negative)),
        };
        StatementLine {
            on: self.on,
            kind: self.kind,
            charge_type: self.charge.map(|(_, kind, _)| kind),
            charge_id: self.charge.map(|(id, ..)| id),
            payment_id: self.payment_id,
            memo: self.charge.and_then(|(_, _, memo)| memo.map(Into::into)),
            charge,
            payment,
            balance,
            recorded_at: self.recorded_at,
        }
    }
}

fn tags(lease_id: LeaseId) -> Vec<Tag> {
    vec![Tag::row(SPEC.name, lease_id.to_string()), Tag::row(ledgers::SPEC.name, lease_id.to_string())]
}

/// Asks a lease's book something; `None` when there is no ledger.
async fn ask<T>(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    at: AsOf,
    now: Timestamp,
    answer: impl FnOnce(&Book, Date) -> Result<T> + Send,
) -> Result<Answer<Option<T>>> {
    let tags = tags(lease_id);
    let Some(book) = book(snapshot, lease_id, at.known).await? else {
        return Ok(Answer { value: None, tags, valid_until: None });
    };
    let (as_of, valid_until) = book.date(at.as_of, now);
    Ok(Answer { value: Some(answer(&book, as_of)?), tags, valid_until })
}

/// The ledger of a lease with its balance.
pub async fn ledger(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    at: AsOf,
    now: Timestamp,
) -> Result<Answer<Option<LedgerOut>>> {
    ask(snapshot, lease_id, at, now, |book, as_of| Ok(LedgerOut { head: book.head.clone(), balance: book.balance(as_of)? }))
        .await
}

pub async fn statement(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    from: Option<Date>,
    at: AsOf,
    now: Timestamp,
) -> Result<Answer<Option<StatementOut>>> {
    ask(snapshot, lease_id, at, now, |book, as_of| book.statement(from, as_of)).await
}

pub async fn entries(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    at: AsOf,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Option<Page<EntryOut>>>> {
    ask(snapshot, lease_id, at, now, |book, as_of| Ok(cut(book.entries(as_of), page))).await
}

pub async fn charges(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    at: AsOf,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Option<Page<ChargeOut>>>> {
    ask(snapshot, lease_id, at, now, |book, as_of| Ok(cut(book.charges(as_of)?, page))).await
}

pub async fn payments(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: LeaseId,
    at: AsOf,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Option<Page<PaymentOut>>>> {
    ask(snapshot, lease_id, at, now, |book, as_of| Ok(cut(book.payments(as_of)?, page))).await
}

/// A row of a list that is put in order here, not by the view store.
trait Placed {
    /// Unique in its list, and ordered as the list is.
    fn place(&self) -> (String, String);
}

impl Placed for EntryOut {
    fn place(&self) -> (String, String) {
        (self.effective_on.to_string(), format!("{:020}:{:05}", self.position, self.line))
    }
}

impl Placed for ChargeOut {
    fn place(&self) -> (String, String) {
        (self.due_on.to_string(), self.charge_id.to_string())
    }
}

impl Placed for PaymentOut {
    fn place(&self) -> (String, String) {
        (self.received_on.to_string(), self.payment_id.to_string())
    }
}

fn cut<T: Placed>(list: Vec<T>, page: &PageRequest) -> Page<T> {
    let after = page.after.as_ref().map(|Cursor(value, key)| match value {
        FieldValue::Text(value) => (value.clone(), key.clone()),
        // Not a cursor of these lists: from the beginning.
        FieldValue::Null | FieldValue::Int(_) => (String::new(), String::new()),
    });
    let limit = page.limit.clamp(1, PageRequest::MAX_LIMIT);
    let mut rest = list.into_iter().filter(|row| after.as_ref().is_none_or(|after| row.place() > *after));
    let data: Vec<T> = rest.by_ref().take(limit).collect();
    let last = data.last().filter(|_| rest.next().is_some()).map(|row| {
        let (value, key) = row.place();
        Cursor(value.into(), key).encode()
    });
    Page { data, next_cursor: last }
}

#[cfg(test)]
mod tests;
