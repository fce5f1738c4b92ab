//! Checks shared by the aggregates: bounds on texts, dates and lists, so that nothing unbounded enters a log.

use jiff::civil::{Date, date};

/// A malformed field of a command: where it stands in the request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer, e.g. `/end_date`.
    pub pointer: &'static str,
    pub detail: String,
}

impl Fault {
    pub fn new(pointer: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer, detail: detail.into() }
    }
}

/// A text of 1 to `max` characters without control characters (line breaks are allowed) that is not blank.
pub fn text(pointer: &'static str, value: &str, max: usize) -> Result<(), Fault> {
    if value.trim().is_empty() {
        return Err(Fault::new(pointer, "must not be empty"));
    }
    if value.chars().count() > max {
        return Err(Fault::new(pointer, format!("must have at most {max} characters")));
    }
    if value.chars().any(|character| character.is_control() && character != '\n' && character != '\t') {
        return Err(Fault::new(pointer, "must not contain control characters"));
    }
    Ok(())
}

pub fn optional_text(pointer: &'static str, value: Option<&str>, max: usize) -> Result<(), Fault> {
    value.map_or(Ok(()), |value| text(pointer, value, max))
}

pub fn at_most<T>(pointer: &'static str, list: &[T], max: usize) -> Result<(), Fault> {
    match list.len() > max {
        true => Err(Fault::new(pointer, format!("must have at most {max} entries"))),
        false => Ok(()),
    }
}

/// Dates outside 1900 to 2200 are typing errors, and date arithmetic on them could leave the calendar.
pub fn sane_date(pointer: &'static str, day: Date) -> Result<(), Fault> {
    if day < date(1900, 1, 1) || day > date(2200, 12, 31) {
        return Err(Fault::new(pointer, "must be between 1900-01-01 and 2200-12-31"));
    }
    Ok(())
}

pub fn optional_date(pointer: &'static str, day: Option<Date>) -> Result<(), Fault> {
    day.map_or(Ok(()), |day| sane_date(pointer, day))
}

/// A fact of the past: at most `today`. One day of grace, because a client may stand in a zone ahead of the property's.
pub fn not_in_the_future(pointer: &'static str, day: Date, today: Date) -> Result<(), Fault> {
    let latest = today.tomorrow().unwrap_or(today);
    match day > latest {
        true => Err(Fault::new(pointer, format!("must not be in the future (today is {today} there)"))),
        false => Ok(()),
    }
}

/// Cuts a text to at most `max` characters: for words that come from another system, which are kept rather than refused.
pub fn cut(value: &str, max: usize) -> String {
    value.chars().take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_long_and_binary_texts_are_refused() {
        assert!(text("/name", "  ", 10).is_err());
        assert!(text("/name", "12345678901", 10).is_err());
        assert!(text("/name", "a\0b", 10).is_err());
        assert!(text("/name", "Ñuñoa\n2", 10).is_ok());
    }

    #[test]
    fn dates_outside_the_business_calendar_are_refused() {
        assert!(sane_date("/on", date(1899, 12, 31)).is_err());
        assert!(sane_date("/on", date(2201, 1, 1)).is_err());
        assert!(sane_date("/on", date(2025, 2, 28)).is_ok());
    }

    #[test]
    fn tomorrow_is_granted_to_clients_ahead_of_us() {
        assert!(not_in_the_future("/on", date(2025, 1, 2), date(2025, 1, 1)).is_ok());
        assert!(not_in_the_future("/on", date(2025, 1, 3), date(2025, 1, 1)).is_err());
    }
}
