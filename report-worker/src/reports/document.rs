//! Rows to bytes, the same for every report.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::reports::{ReportFormat, ReportKind};
use domain::{Context, Date, LeaseId, Money};
use ports::{Error, Position, Result};
use serde::Serialize;

use super::Rendered;
use crate::Order;

/// One row: its fields are the JSON, its cells the CSV.
pub(super) trait Line: Serialize {
    const COLUMNS: &'static [&'static str];
    /// As many as there are columns.
    fn cells(&self) -> Vec<String>;
}

pub(super) fn document<L: Line>(order: &Order, lines: &[L]) -> Result<Rendered> {
    let bytes = match order.format {
        ReportFormat::Csv => csv(lines)?,
        ReportFormat::Json => json_document(order, lines)?,
    };
    Ok(Rendered { bytes: Bytes::from(bytes), media_type: order.format.media_type() })
}

/// RFC 4180, with a header also when there are no lines.
fn csv<L: Line>(lines: &[L]) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::corrupt(format!("a line cannot be written as CSV: {error}"));
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(L::COLUMNS).map_err(failed)?;
    for line in lines {
        writer.write_record(line.cells()).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::corrupt(format!("CSV cannot be written: {error}")))
}

/// A struct and not a map: its fields keep their order in every build.
#[derive(Serialize)]
struct JsonDocument<'a, L> {
    kind: ReportKind,
    as_of: Date,
    positions: &'a BTreeMap<Context, Position>,
    lease_id: Option<LeaseId>,
    lines: &'a [L],
}

fn json_document<L: Line>(order: &Order, lines: &[L]) -> Result<Vec<u8>> {
    let Order { kind, as_of, positions, params, .. } = order;
    let document = JsonDocument { kind: *kind, as_of: *as_of, positions, lease_id: params.lease_id, lines };
    serde_json::to_vec_pretty(&document)
        .map_err(|error| Error::corrupt(format!("a report cannot be written as JSON: {error}")))
}

/// An optional value as a cell: empty when there is none.
pub(super) fn cell<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(T::to_string).unwrap_or_default()
}

/// The exact decimal with as many digits as the currency has: 929.03, 77419, 1.005.
pub(super) fn decimal(money: Money) -> String {
    let text = money.to_string();
    text.split_once(' ').map_or(text.clone(), |(number, _)| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Currency;

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        let decimal = |amount, code| super::decimal(Money::new(amount, Currency::new(code).expect("known")));
        assert_eq!(decimal(92_903, "USD"), "929.03");
        assert_eq!(decimal(-5, "USD"), "-0.05");
        assert_eq!(decimal(77_419, "JPY"), "77419");
        assert_eq!(decimal(1_005, "KWD"), "1.005");
    }

    #[derive(Serialize)]
    struct Pair(&'static str, u8);

    impl Line for Pair {
        const COLUMNS: &'static [&'static str] = &["a", "b"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn csv_quotes_what_needs_it_and_has_a_header_when_empty() {
        assert_eq!(csv::<Pair>(&[]).expect("written"), b"a,b\r\n");
        assert_eq!(csv(&[Pair("x,\"y", 1)]).expect("written"), b"a,b\r\n\"x,\"\"y\",1\r\n");
    }
}
