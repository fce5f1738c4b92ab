//! The chart of accounts and the lines of entries; every balance anywhere derives from lines.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ChargeId, PaymentId};

/// An account of a lease's ledger, stored by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum Account {
    #[serde(rename = "1000")]
    OperatingBank,
    #[serde(rename = "1010")]
    DepositTrustBank,
    #[serde(rename = "1100")]
    TenantReceivable,
    #[serde(rename = "2000")]
    DepositsHeld,
    /// Deposits billed but not paid yet.
    #[serde(rename = "2010")]
    DepositsBilled,
    #[serde(rename = "2100")]
    TenantCredit,
    #[serde(rename = "4000")]
    RentIncome,
    #[serde(rename = "4100")]
    LateFeeIncome,
    #[serde(rename = "4200")]
    OtherIncome,
    #[serde(rename = "4300")]
    DamageRecovery,
}

impl Account {
    pub const ALL: [Self; 10] = [
        Self::OperatingBank,
        Self::DepositTrustBank,
        Self::TenantReceivable,
        Self::DepositsHeld,
        Self::DepositsBilled,
        Self::TenantCredit,
        Self::RentIncome,
        Self::LateFeeIncome,
        Self::OtherIncome,
        Self::DamageRecovery,
    ];

    pub fn number(self) -> u16 {
        match self {
            Self::OperatingBank => 1000,
            Self::DepositTrustBank => 1010,
            Self::TenantReceivable => 1100,
            Self::DepositsHeld => 2000,
            Self::DepositsBilled => 2010,
            Self::TenantCredit => 2100,
            Self::RentIncome => 4000,
            Self::LateFeeIncome => 4100,
            Self::OtherIncome => 4200,
            Self::DamageRecovery => 4300,
        }
    }

    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.number() == number)
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::OperatingBank => "operating bank",
            Self::DepositTrustBank => "deposit trust bank",
            Self::TenantReceivable => "tenant receivable",
            Self::DepositsHeld => "deposits held",
            Self::DepositsBilled => "deposits billed, unpaid",
            Self::TenantCredit => "tenant credit",
            Self::RentIncome => "rent",
            Self::LateFeeIncome => "late fees",
            Self::OtherIncome => "other income",
            Self::DamageRecovery => "damage recovery",
        }
    }
}

/// One side of an entry. Exactly one of debit and credit is positive, the other is zero; minor units of the ledger's
/// currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryLine {
    pub account: Account,
    pub debit: i64,
    pub credit: i64,
    #[schema(value_type = String, format = Date)]
    pub effective_on: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge_id: Option<ChargeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
}

impl EntryLine {
    /// Debit minus credit.
    pub fn signed(&self) -> i128 {
        i128::from(self.debit) - i128::from(self.credit)
    }
}

/// The lines of one event. They only come in pairs (a debit and a credit of one amount on one date), so that every event
/// balances on every date (I1, I2) by construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    lines: Vec<EntryLine>,
    charge_id: Option<ChargeId>,
    payment_id: Option<PaymentId>,
}

impl Lines {
    /// Lines about a charge, a payment, or the allocation of one to the other.
    pub fn about(charge_id: Option<ChargeId>, payment_id: Option<PaymentId>) -> Self {
        Self { lines: Vec::new(), charge_id, payment_id }
    }

    pub fn for_charge(mut self, charge_id: ChargeId) -> Self {
        self.charge_id = Some(charge_id);
        self
    }

    /// Debits one account and credits another; nothing for a zero amount.
    pub fn entry(mut self, debit: Account, credit: Account, amount: i64, effective_on: Date) -> Self {
        debug_assert!(amount >= 0, "an entry's amount is never negative");
        if amount > 0 {
            let line = |account, debit, credit| EntryLine {
                account,
                debit,
                credit,
                effective_on,
                charge_id: self.charge_id,
                payment_id: self.payment_id,
            };
            let pair = [line(debit, amount, 0), line(credit, 0, amount)];
            self.lines.extend(pair);
        }
        self
    }

    pub fn into_vec(self) -> Vec<EntryLine> {
        self.lines
    }
}

/// Debit minus credit of each account over the lines effective on or before `as_of`.
pub fn balances<'a>(lines: impl IntoIterator<Item = &'a EntryLine>, as_of: Date) -> BTreeMap<Account, i128> {
    let mut balances = BTreeMap::new();
    for line in lines.into_iter().filter(|line| line.effective_on <= as_of) {
        *balances.entry(line.account).or_default() += line.signed();
    }
    balances
}

/// What the tenant owes, in minor units: receivable less credit; negative when money was paid ahead.
pub fn tenant_balance(balances: &BTreeMap<Account, i128>) -> i128 {
    let of = |account| balances.get(&account).copied().unwrap_or(0);
    of(Account::TenantReceivable) + of(Account::TenantCredit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn accounts_are_stored_by_number() {
        for account in Account::ALL {
            let number = account.number();
            assert_eq!(serde_json::to_value(account).expect("json"), serde_json::json!(number.to_string()));
            assert_eq!(Account::from_number(number), Some(account));
        }
    }

    #[test]
    fn a_zero_amount_makes_no_lines_and_any_other_a_pair() {
        let on = date(2025, 1, 1);
        let lines = Lines::default()
            .entry(Account::OperatingBank, Account::TenantCredit, 0, on)
            .entry(Account::TenantReceivable, Account::RentIncome, 7, on)
            .into_vec();
        assert_eq!(lines.len(), 2);
        assert_eq!(balances(&lines, on).values().sum::<i128>(), 0);
        assert!(balances(&lines, date(2024, 12, 31)).is_empty());
    }
}
