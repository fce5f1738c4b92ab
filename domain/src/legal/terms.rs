//! The terms of a lease: what is drafted, hashed and signed.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fault::{at_most, optional_date, optional_text, sane_date, text};
use crate::finances::{AMOUNT_MAX, ChargeType, LateFeePolicy};
use crate::{Currency, DateRange, Fault, Money, PartyId, PropertyId, Sha256, UnitId, zone};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TermType {
    /// Ends on its last day.
    Fixed,
    /// Goes on from month to month after its last day.
    FixedRollover,
    /// Has no last day.
    Periodic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RentFrequency {
    Weekly,
    Monthly,
    Quarterly,
    Yearly,
}

/// How a part of a period is charged (domain rules, 2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProrationMethod {
    #[default]
    ActualDays,
    ThirtyDayMonth,
    /// Rent x 12 / 365 a day.
    DailyRate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseTenant {
    pub party_id: PartyId,
    /// Share of the rent in basis points: all tenants have one, adding up to 10000, or none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub share_bp: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rent {
    pub money: Money,
    pub frequency: RentFrequency,
    /// Day of the month, 1 to 31; a month that is shorter has it on its last day.
    #[schema(minimum = 1, maximum = 31)]
    pub due_day: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtraCharge {
    #[serde(rename = "type")]
    pub kind: ChargeType,
    pub money: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DepositHolder {
    Landlord,
    Agent,
    Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deposit {
    pub money: Money,
    #[schema(value_type = String, format = Date)]
    pub due_on: Date,
    pub held_by: DepositHolder,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeDays {
    pub tenant: u16,
    pub landlord: u16,
}

/// How the rent rises: by a fixed share, or with an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_bp: Option<u32>,
    /// Name of a published index, e.g. `CO-CPI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_bp: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Clause {
    pub title: String,
    pub text: String,
}

/// What the parties agree on. The order of the fields is part of the terms hash: fields are added at the end only, and
/// skipped while empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseTerms {
    pub unit_id: UnitId,
    pub tenants: Vec<LeaseTenant>,
    #[serde(default)]
    pub guarantors: Vec<PartyId>,
    #[schema(value_type = String, format = Date)]
    pub start_date: Date,
    /// The last day, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub end_date: Option<Date>,
    pub term_type: TermType,
    pub rent: Rent,
    #[serde(default)]
    pub extra_charges: Vec<ExtraCharge>,
    #[serde(default)]
    pub proration_method: ProrationMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_fee_policy: Option<LateFeePolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<Deposit>,
    /// The lease does not start before the deposit is paid in full.
    #[serde(default)]
    pub require_deposit_before_start: bool,
    #[serde(default)]
    pub notice_days: NoticeDays,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<Escalation>,
    #[serde(default)]
    pub clauses: Vec<Clause>,
}

/// What the lease takes over from its unit when it is drafted; facts of the units context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasePlace {
    pub property_id: PropertyId,
    pub time_zone: String,
    pub currency: Currency,
    /// E.g. `US-CA`.
    pub jurisdiction: String,
}

/// Why terms cannot be drafted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TermsFault {
    Malformed(Fault),
    CurrencyMismatch { pointer: &'static str, unit: Currency, given: Currency },
    AmountTooLarge { pointer: &'static str },
}

impl From<Fault> for TermsFault {
    fn from(fault: Fault) -> Self {
        Self::Malformed(fault)
    }
}

fn malformed(pointer: &'static str, detail: &str) -> Result<(), TermsFault> {
    Err(Fault::new(pointer, detail).into())
}

impl LeaseTerms {
    /// SHA-256 over the canonical JSON of the terms.
    pub fn hash(&self) -> Sha256 {
        Sha256::of_json(self)
    }

    /// The days it occupies its unit: `start..end` is `[start, end+1)`. Only a fixed term ends by itself.
    pub fn occupies(&self) -> DateRange {
        let last = match self.term_type {
            TermType::Fixed | TermType::FixedRollover => self.end_date,
            TermType::Periodic => None,
        };
        DateRange::from_inclusive(self.start_date, last).unwrap_or(DateRange { from: self.start_date, to: None })
    }

    pub fn tenant_ids(&self) -> Vec<PartyId> {
        self.tenants.iter().map(|tenant| tenant.party_id).collect()
    }

    pub fn check(&self, place: &LeasePlace) -> Result<(), TermsFault> {
        if zone(&place.time_zone).is_none() {
            malformed("/unit_id", "the unit's time zone is not known")?;
        }
        self.check_people()?;
        self.check_dates()?;
        self.check_money(place.currency)?;
        self.check_texts()
    }

    fn check_people(&self) -> Result<(), TermsFault> {
        if self.tenants.is_empty() {
            malformed("/tenants", "must name at least one tenant")?;
        }
        at_most("/tenants", &self.tenants, 50)?;
        at_most("/guarantors", &self.guarantors, 50)?;
        let tenants: BTreeSet<PartyId> = self.tenants.iter().map(|tenant| tenant.party_id).collect();
        let guarantors: BTreeSet<PartyId> = self.guarantors.iter().copied().collect();
        if tenants.len() != self.tenants.len() {
            malformed("/tenants", "must name each tenant once")?;
        }
        if guarantors.len() != self.guarantors.len() || !guarantors.is_disjoint(&tenants) {
            malformed("/guarantors", "must name each guarantor once, and no tenant")?;
        }
        let shares: Vec<u32> = self.tenants.iter().filter_map(|tenant| tenant.share_bp).collect();
        let sum: u64 = shares.iter().copied().map(u64::from).sum();
        if !shares.is_empty() && (shares.len() != self.tenants.len() || sum != 10_000 || shares.contains(&0)) {
            malformed("/tenants", "shares must be given to all tenants and add up to 10000 basis points")?;
        }
        Ok(())
    }

    fn check_dates(&self) -> Result<(), TermsFault> {
        sane_date("/start_date", self.start_date)?;
        optional_date("/end_date", self.end_date)?;
        if self.end_date.is_some_and(|end| end <= self.start_date) {
            malformed("/end_date", "must be after the start date")?;
        }
        match (self.term_type, self.end_date) {
            (TermType::Fixed | TermType::FixedRollover, None) => malformed("/end_date", "a fixed term needs an end date")?,
            (TermType::Periodic, Some(_)) => malformed("/end_date", "a periodic term has no end date")?,
            (TermType::Fixed | TermType::FixedRollover, Some(_)) | (TermType::Periodic, None) => {}
        }
        if !(1..=31).contains(&self.rent.due_day) {
            malformed("/rent/due_day", "must be from 1 to 31")?;
        }
        if self.notice_days.tenant > 1_000 || self.notice_days.landlord > 1_000 {
            malformed("/notice_days", "must be at most 1000 days")?;
        }
        self.deposit.map_or(Ok(()), |deposit| sane_date("/deposit/due_on", deposit.due_on))?;
        Ok(())
    }

    fn check_money(&self, currency: Currency) -> Result<(), TermsFault> {
        check_amount("/rent/money", self.rent.money, currency)?;
        if let Some(deposit) = self.deposit {
            check_amount("/deposit/money", deposit.money, currency)?;
        }
        at_most("/extra_charges", &self.extra_charges, 50)?;
        for charge in &self.extra_charges {
            check_amount("/extra_charges", charge.money, currency)?;
        }
        if let Some(policy) = &self.late_fee_policy {
            policy.check()?;
            if let Some(given) = policy.cap.and_then(|cap| cap.money).map(|money| money.currency)
                && given != currency
            {
                return Err(TermsFault::CurrencyMismatch { pointer: "/late_fee_policy", unit: currency, given });
            }
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), TermsFault> {
        for charge in &self.extra_charges {
            optional_text("/extra_charges", charge.description.as_deref(), 200)?;
        }
        if let Some(Escalation { fixed_bp, index, cap_bp }) = &self.escalation {
            optional_text("/escalation/index", index.as_deref(), 50)?;
            if fixed_bp.is_some() == index.is_some() {
                malformed("/escalation", "must be either fixed_bp or an index")?;
            }
            if fixed_bp.iter().chain(cap_bp).any(|bp| *bp > 100_000) {
                malformed("/escalation", "shares are basis points, at most 100000")?;
            }
        }
        at_most("/clauses", &self.clauses, 200)?;
        for clause in &self.clauses {
            text("/clauses", &clause.title, 200)?;
            text("/clauses", &clause.text, 10_000)?;
        }
        Ok(())
    }
}

fn check_amount(pointer: &'static str, money: Money, currency: Currency) -> Result<(), TermsFault> {
    if money.currency != currency {
        return Err(TermsFault::CurrencyMismatch { pointer, unit: currency, given: money.currency });
    }
    if money.amount > AMOUNT_MAX {
        return Err(TermsFault::AmountTooLarge { pointer });
    }
    if !money.is_positive() {
        malformed(pointer, "must be more than zero")?;
    }
    Ok(())
}
