//! Half-open intervals of civil dates, and time zones.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `[from, to)`; without `to` it is open-ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DateRange {
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub to: Option<Date>,
}

impl DateRange {
    /// `None` when `to` is not after `from`.
    pub fn new(from: Date, to: Option<Date>) -> Option<Self> {
        (to.is_none_or(|to| from < to)).then_some(Self { from, to })
    }

    /// From a first and an *inclusive* last day, as the API writes leases: `start..end` occupies `[start, end+1)`.
    /// `None` when the end is before the start or beyond the calendar.
    pub fn from_inclusive(first: Date, last: Option<Date>) -> Option<Self> {
        match last {
            None => Some(Self { from: first, to: None }),
            Some(last) => Self::new(first, Some(last.tomorrow().ok()?)),
        }
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        other.to.is_none_or(|end| self.from < end) && self.to.is_none_or(|end| other.from < end)
    }

    pub fn contains(&self, day: Date) -> bool {
        self.from <= day && self.to.is_none_or(|to| day < to)
    }

    /// Length in days; `None` when open-ended.
    pub fn days(&self) -> Option<i32> {
        self.to.map(|to| (to - self.from).get_days())
    }
}

/// The time zone of an IANA name, or `None` when there is no such zone.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// The civil date at an instant in an IANA zone; UTC for a name that is not known (names are checked on entry).
pub fn today_in(name: &str, now: Timestamp) -> Date {
    now.to_zoned(zone(name).unwrap_or(TimeZone::UTC)).date()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn range(from: Date, to: Option<Date>) -> DateRange {
        DateRange::new(from, to).expect("a valid range")
    }

    #[test]
    fn an_empty_range_is_refused() {
        assert_eq!(DateRange::new(date(2025, 1, 1), Some(date(2025, 1, 1))), None);
    }

    #[test]
    fn same_day_turnover_does_not_overlap() {
        let lease = DateRange::from_inclusive(date(2025, 1, 15), Some(date(2026, 1, 14))).expect("valid");
        assert!(!lease.overlaps(&range(date(2026, 1, 15), None)));
        assert!(lease.overlaps(&range(date(2026, 1, 14), None)));
        assert!(range(date(2024, 1, 1), None).overlaps(&lease));
        assert_eq!(lease.days(), Some(365));
    }

    #[test]
    fn today_depends_on_the_zone() {
        let now: Timestamp = "2025-01-01T03:00:00Z".parse().expect("an instant");
        assert_eq!(today_in("America/New_York", now), date(2024, 12, 31));
        assert_eq!(today_in("Asia/Tokyo", now), date(2025, 1, 1));
    }
}
