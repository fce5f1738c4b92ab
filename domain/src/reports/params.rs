//! What can be asked for.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fault::sane_date;
use crate::{Context, Fault, LeaseId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    LedgerStatement,
    LeaseRegister,
}

impl ReportKind {
    pub const ALL: [Self; 2] = [Self::LedgerStatement, Self::LeaseRegister];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::LedgerStatement => "ledger_statement",
            Self::LeaseRegister => "lease_register",
        }
    }

    /// The context whose report it is: who may ask for it, and which queue it waits in.
    pub fn context(self) -> Context {
        match self {
            Self::LedgerStatement => Context::Finances,
            Self::LeaseRegister => Context::Legal,
        }
    }

    pub fn queue(self) -> ReportQueue {
        match self {
            Self::LedgerStatement => ReportQueue::HighPriority,
            Self::LeaseRegister => ReportQueue::LowPriority,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportQueue {
    HighPriority,
    LowPriority,
}

impl ReportQueue {
    /// The queue's name in the broker.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HighPriority => "high_priority",
            Self::LowPriority => "low_priority",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    #[default]
    Csv,
    Json,
}

impl ReportFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// What a report is limited to; all optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// The business date it is computed at; today when neither this nor `month` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub as_of: Option<Date>,
    /// `YYYY-MM`: as of the last day of that month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{4}-[0-9]{2}$", example = "2026-10")]
    pub month: Option<String>,
    /// Only this lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
}

impl ReportParams {
    pub fn resolve_as_of(&self, today: Date) -> Result<Date, Fault> {
        let as_of = match (self.as_of, &self.month) {
            (Some(_), Some(_)) => return Err(Fault::new("/month", "must not be given together with as_of")),
            (Some(as_of), None) => as_of,
            (None, Some(month)) => last_day(month).ok_or_else(|| Fault::new("/month", "must be a month, YYYY-MM"))?,
            (None, None) => today,
        };
        sane_date(if self.month.is_some() { "/month" } else { "/as_of" }, as_of)?;
        Ok(as_of)
    }
}

fn last_day(month: &str) -> Option<Date> {
    let bytes = month.as_bytes();
    let digits = bytes.len() == 7 && bytes[4] == b'-' && bytes.iter().filter(|byte| byte.is_ascii_digit()).count() == 6;
    let (year, month) = digits.then(|| month.split_once('-'))??;
    Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok().map(Date::last_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn month(text: &str) -> Result<Date, Fault> {
        let params = ReportParams { month: Some(text.into()), ..Default::default() };
        params.resolve_as_of(date(2026, 11, 1))
    }

    #[test]
    fn what_is_not_a_month_is_refused() {
        for text in ["2026-13", "2026-00", "26-10", "2026-1", "2026/10", "1899-12", "2026-10-01", "", "é026-1"] {
            assert!(month(text).is_err(), "{text}");
        }
        let both = ReportParams { as_of: Some(date(2026, 1, 1)), month: Some("2026-01".into()), lease_id: None };
        assert!(both.resolve_as_of(date(2026, 11, 1)).is_err());
    }

    #[test]
    fn a_month_is_its_last_day_and_nothing_is_today() {
        assert_eq!(month("2024-02"), Ok(date(2024, 2, 29)));
        assert_eq!(ReportParams::default().resolve_as_of(date(2026, 11, 1)), Ok(date(2026, 11, 1)));
    }
}
