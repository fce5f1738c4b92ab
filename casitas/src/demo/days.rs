//! Steps on the calendar. The demo's dates lie within decades of today, so none of them can leave it.

use std::time::Duration;

use domain::Date;

const DAY_SECONDS: u64 = 86_400;
const INSIDE: &str = "dates of the demo lie within decades of today";

pub(super) fn plus_days(day: Date, days: i64) -> Date {
    let by = Duration::from_secs(days.unsigned_abs() * DAY_SECONDS);
    match days < 0 {
        true => day.checked_sub(by).expect(INSIDE),
        false => day.checked_add(by).expect(INSIDE),
    }
}

/// The same day of another month, or its last one.
pub(super) fn plus_months(day: Date, months: i64) -> Date {
    let count = i64::from(day.year()) * 12 + i64::from(day.month()) - 1 + months;
    let (year, month) = (count.div_euclid(12) as i16, count.rem_euclid(12) as i8 + 1);
    let first = Date::new(year, month, 1).expect(INSIDE);
    Date::new(year, month, day.day().min(first.days_in_month())).expect(INSIDE)
}

pub(super) fn next_month(day: Date) -> Date {
    plus_months(day.first_of_month(), 1)
}

pub(super) fn days_between(from: Date, to: Date) -> i64 {
    i64::from((to - from).get_days())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_clamped_and_days_cross_them() {
        let day = |text: &str| text.parse::<Date>().expect("a date");
        assert_eq!(plus_months(day("2025-01-31"), 1), day("2025-02-28"));
        assert_eq!(plus_months(day("2025-01-15"), -13), day("2023-12-15"));
        assert_eq!(plus_days(day("2025-03-01"), -1), day("2025-02-28"));
        assert_eq!(next_month(day("2025-12-31")), day("2026-01-01"));
        assert_eq!(days_between(day("2025-02-01"), day("2025-03-01")), 28);
    }
}
