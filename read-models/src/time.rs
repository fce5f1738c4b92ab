//! Local days as instants: when an answer about "today" ends.

use domain::{Date, Timestamp, today_in, zone};
use jiff::tz::TimeZone;

/// The first instant of a civil date in an IANA zone; `None` at the end of the calendar.
pub fn day_begins(day: Date, zone_name: &str) -> Option<Timestamp> {
    let zone = zone(zone_name).unwrap_or(TimeZone::UTC);
    day.to_zoned(zone).ok().map(|begin| begin.timestamp())
}

/// The end of today there.
pub fn next_midnight(zone_name: &str, now: Timestamp) -> Option<Timestamp> {
    day_begins(today_in(zone_name, now).tomorrow().ok()?, zone_name)
}

/// The earliest of some instants that may exist.
pub fn earliest(instants: impl IntoIterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    instants.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> Timestamp {
        text.parse().expect("an instant")
    }

    #[test]
    fn midnight_is_the_zones_own_also_when_clocks_change() {
        let midnight = |zone, now| next_midnight(zone, instant(now)).expect("a midnight");
        assert_eq!(midnight("America/Los_Angeles", "2025-03-05T05:00:00Z"), instant("2025-03-05T08:00:00Z"));
        // Clocks went forward at midnight in Asuncion: the day began at 01:00.
        assert_eq!(midnight("America/Asuncion", "2023-10-01T02:00:00Z"), instant("2023-10-01T04:00:00Z"));
        assert_eq!(midnight("UTC", "2025-01-01T00:00:00Z"), instant("2025-01-02T00:00:00Z"));
    }

    #[test]
    fn the_earliest_of_nothing_is_nothing() {
        assert_eq!(earliest([None, None]), None);
        let [early, late] = ["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"].map(|text| Some(instant(text)));
        assert_eq!(earliest([None, late, early]), early);
    }
}
