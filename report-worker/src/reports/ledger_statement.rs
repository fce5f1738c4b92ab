//! The statement of ledgers (finances): what was charged and paid on each, and what is owed since when.

use async_trait::async_trait;
use domain::reports::ReportKind;
use domain::{Context, Currency, Date, LeaseId};
use ports::{Error, ModelSpec, Result, ViewSnapshot};
use read_models::ledger_lines::{self, Books, LedgerBalance, book};
use read_models::ledgers::{self, LedgerHead, ledgers_at};
use serde::Serialize;

use super::document::{Line, cell, decimal, document};
use super::{Render, Rendered};
use crate::Order;

static MODELS: [&ModelSpec; 2] = [&ledgers::SPEC, &ledger_lines::SPEC];

pub(super) struct LedgerStatement;

#[derive(Serialize)]
struct LedgerLine {
    lease_id: LeaseId,
    currency: Currency,
    /// Amounts are exact decimals in the currency.
    charged: String,
    paid: String,
    balance: String,
    oldest_due: Option<Date>,
}

impl LedgerLine {
    fn of(head: &LedgerHead, balance: &LedgerBalance) -> Self {
        Self {
            lease_id: head.lease_id,
            currency: head.currency,
            charged: decimal(balance.charged),
            paid: decimal(balance.paid),
            balance: decimal(balance.balance),
            oldest_due: balance.oldest_due,
        }
    }
}

fn is_untouched(balance: &LedgerBalance) -> bool {
    [balance.charged, balance.paid, balance.balance].iter().all(|money| money.amount == 0)
}

impl Line for LedgerLine {
    const COLUMNS: &'static [&'static str] = &["lease_id", "currency", "charged", "paid", "balance", "oldest_due"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.lease_id.to_string(),
            self.currency.to_string(),
            self.charged.clone(),
            self.paid.clone(),
            self.balance.clone(),
            cell(&self.oldest_due),
        ]
    }
}

#[async_trait]
impl Render for LedgerStatement {
    fn kind(&self) -> ReportKind {
        ReportKind::LedgerStatement
    }

    fn models(&self) -> &'static [&'static ModelSpec] {
        &MODELS
    }

    async fn render(&self, order: &Order, views: &mut dyn ViewSnapshot) -> Result<Rendered> {
        let position = order.position(Context::Finances)?;
        let heads = ledgers_at(views, position, order.params.lease_id).await?;
        let mut lines = Vec::new();
        let mut add = |head: &LedgerHead, balance: LedgerBalance| {
            // One opened after the business date belongs to it only by what was booked back to it.
            if head.opened_on <= order.as_of || !is_untouched(&balance) {
                lines.push(LedgerLine::of(head, &balance));
            }
        };
        if let Some(lease_id) = order.params.lease_id {
            for head in heads {
                let book = book(views, lease_id, Some(position)).await?;
                let book = book.ok_or_else(|| Error::corrupt(format!("ledger {lease_id} has no book")))?;
                add(&head, book.balance(order.as_of)?);
            }
        } else {
            // Two ordered scans beside each other, however many ledgers there are.
            let mut books = Books::new(views, position);
            for head in heads {
                let book = books.of(head).await?;
                let balance = book.balance(order.as_of)?;
                add(&book.head, balance);
            }
        }
        document(order, &lines)
    }
}
