//! Calendar dates and instants as the API writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-23`, so many days from today (UTC).
pub fn day(from_today: i64) -> String {
    let (year, month, day) = civil(now().as_secs() as i64 / 86_400 + from_today);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2026-11-23T04:10:00.123Z`.
pub fn instant(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs() as i64;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let rest = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since_1970.subsec_micros())
}

/// Days since 1970 as year, month, day (proleptic Gregorian; Howard Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_instants_read_as_written() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
        assert_eq!(instant(Duration::from_millis(1_700_000_000_250)), "2023-11-14T22:13:20.250000Z");
    }
}
