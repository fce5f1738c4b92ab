//! Kinds of charges and the policies a ledger is opened with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AMOUNT_MAX, Account};
use crate::Fault;
use crate::Money;
use crate::fault::at_most;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChargeType {
    Deposit,
    Rent,
    Utility,
    Insurance,
    Other,
    /// The fee for a payment that bounced.
    NsfFee,
    Damage,
    LateFee,
}

impl ChargeType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Rent => "rent",
            Self::Utility => "utility",
            Self::Insurance => "insurance",
            Self::Other => "other",
            Self::NsfFee => "nsf_fee",
            Self::Damage => "damage",
            Self::LateFee => "late_fee",
        }
    }

    /// The account credited when the charge is posted.
    pub fn credit_account(self) -> Account {
        match self {
            Self::Deposit => Account::DepositsBilled,
            Self::Rent => Account::RentIncome,
            Self::Utility | Self::Insurance | Self::Other | Self::NsfFee => Account::OtherIncome,
            Self::Damage => Account::DamageRecovery,
            Self::LateFee => Account::LateFeeIncome,
        }
    }

    /// Place in the default order among charges due on one day: deposit, rent, utility, other, late fee.
    pub(super) fn default_rank(self) -> usize {
        match self {
            Self::Deposit => 0,
            Self::Rent => 1,
            Self::Utility => 2,
            Self::Insurance | Self::Other | Self::NsfFee | Self::Damage => 3,
            Self::LateFee => 4,
        }
    }
}

/// Which open charges a payment settles first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AllocationPolicy {
    /// Due date, then type (deposit, rent, utility, other, late fee), then charge id.
    #[default]
    Oldest,
    /// Types in this order, each oldest first; types not named come last, oldest first.
    Priority(Vec<ChargeType>),
}

impl AllocationPolicy {
    pub fn check(&self) -> Result<(), Fault> {
        let Self::Priority(types) = self else { return Ok(()) };
        at_most("/allocation_policy", types, 8)?;
        let repeated = types.iter().enumerate().any(|(index, kind)| types[..index].contains(kind));
        match types.is_empty() || repeated {
            true => Err(Fault::new("/allocation_policy", "must name each type at most once and at least one type")),
            false => Ok(()),
        }
    }

    pub(super) fn rank(&self, kind: ChargeType) -> usize {
        match self {
            Self::Oldest => 0,
            Self::Priority(types) => types.iter().position(|other| *other == kind).unwrap_or(types.len()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentMethod {
    Cash,
    Check,
    BankTransfer,
    DirectDebit,
    Card,
    Other,
}

/// Terms under which late fees are charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LateFeePolicy {
    /// Whole days after the due day that are free of a fee.
    pub grace_days: u16,
    pub kind: FeeKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<LateFeeCap>,
    /// No fee while the open rent is below this, minor units.
    #[serde(default)]
    pub min_open: i64,
    /// The due day itself counts as the first day of grace.
    #[serde(default)]
    pub count_due_day: bool,
}

/// How a late fee is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "type", deny_unknown_fields)]
pub enum FeeKind {
    /// Minor units, once.
    Fixed { amount: i64 },
    /// Basis points of the open rent.
    PercentOpenRent { bp: u32 },
    /// Basis points of the period's rent.
    PercentRent { bp: u32 },
    /// Minor units for each day.
    Daily { amount: i64 },
}

/// The bound of a fee: a share of the rent, an amount, or the lesser or greater of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LateFeeCap {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bp: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    #[serde(default)]
    pub combine: CapCombine,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CapCombine {
    #[default]
    Lesser,
    Greater,
}

impl LateFeePolicy {
    pub fn check(&self) -> Result<(), Fault> {
        let fault = |detail: &str| Err(Fault::new("/late_fee_policy", detail));
        let (amount, bp) = match self.kind {
            FeeKind::Fixed { amount } | FeeKind::Daily { amount } => (amount, 0),
            FeeKind::PercentOpenRent { bp } | FeeKind::PercentRent { bp } => (0, bp),
        };
        if self.grace_days > 366 {
            return fault("grace_days must be at most 366");
        }
        if !(0..=AMOUNT_MAX).contains(&amount) || !(0..=AMOUNT_MAX).contains(&self.min_open) {
            return fault("amounts must not be negative or too large");
        }
        if bp > 10_000 || self.cap.and_then(|cap| cap.bp).is_some_and(|bp| bp > 10_000) {
            return fault("shares are basis points, at most 10000");
        }
        if let Some(money) = self.cap.and_then(|cap| cap.money)
            && !(0..=AMOUNT_MAX).contains(&money.amount)
        {
            return fault("the cap must not be negative or too large");
        }
        Ok(())
    }
}
