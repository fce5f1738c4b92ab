//! Rows to bytes, the same for every report.

use bytes::Bytes;
use domain::reports::ReportFormat;
use domain::Money;
use ports::{Error, Result};
use serde::Serialize;
use serde_json::json;

use super::Rendered;
use crate::Order;

/// Writes rows whose fields stand in the order of `columns`.
pub(super) fn document<R: Serialize>(order: &Order, columns: &[&str], rows: &[R]) -> Result<Rendered> {
    let bytes = match order.format {
        ReportFormat::Csv => csv(columns, rows)?,
        ReportFormat::Json => json_document(order, rows)?,
    };
    Ok(Rendered { bytes: Bytes::from(bytes), media_type: order.format.media_type() })
}

fn csv<R: Serialize>(columns: &[&str], rows: &[R]) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::corrupt(format!("a row cannot be written as CSV: {error}"));
    // The header is written by hand: an empty report has one too.
    let mut writer = csv::WriterBuilder::new().has_headers(false).terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(columns).map_err(failed)?;
    for row in rows {
        writer.serialize(row).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::corrupt(format!("CSV cannot be written: {error}")))
}

fn json_document<R: Serialize>(order: &Order, rows: &[R]) -> Result<Vec<u8>> {
    let document = json!({
        "kind": order.kind,
        "as_of": order.as_of,
        "positions": order.positions,
        "lease_id": order.params.lease_id,
        "rows": rows,
    });
    serde_json::to_vec_pretty(&document).map_err(|error| Error::corrupt(format!("a report cannot be written as JSON: {error}")))
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

    #[test]
    fn an_empty_csv_has_its_header() {
        assert_eq!(csv::<(u8, u8)>(&["a", "b"], &[]).expect("written"), b"a,b\r\n");
        assert_eq!(csv(&["a", "b"], &[("x,\"y", 1)]).expect("written"), b"a,b\r\n\"x,\"\"y\",1\r\n");
    }
}
