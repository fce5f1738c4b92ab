//! Rows into a generation that is being built, by `COPY`.

use ports::{FieldValue, Load, Result, StoredRow};
use sqlx::postgres::PgConnection;

use super::errors::{Call, map};
use super::generations::{begin, note, patiently};
use super::views::WHAT;
use crate::keyset::{column, table};

/// Text is sent in pieces of about so much.
const PIECE_BYTES: usize = 256 * 1024;

/// Rows and progress in one transaction: only this rebuild writes there, so nobody waits for it.
pub(super) async fn copy(connection: &mut PgConnection, load: &Load<'_>) -> Result<()> {
    let mut transaction = begin(connection).await?;
    note(&mut transaction, load).await?;
    let mut names = String::new();
    for field in load.spec.fields {
        names.push_str(&format!(", {}", column(field.name)?));
    }
    let sql = format!("COPY {} (key, doc{names}) FROM STDIN", table(load.spec.name, load.generation)?);
    let mut stream = patiently(Call::Read, transaction.copy_in_raw(&sql)).await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES * 2);
    for row in load.rows {
        line(&mut piece, row);
        if piece.len() >= PIECE_BYTES {
            patiently(Call::Read, stream.send(piece.as_slice())).await?;
            piece.clear();
        }
    }
    if !piece.is_empty() {
        patiently(Call::Read, stream.send(piece.as_slice())).await?;
    }
    patiently(Call::Read, stream.finish()).await?;
    transaction.commit().await.map_err(|error| map(WHAT, Call::Write, error))
}

/// A row in COPY's text format.
fn line(piece: &mut Vec<u8>, row: &StoredRow) {
    escaped(piece, &row.key);
    piece.push(b'\t');
    escaped(piece, &row.doc);
    for field in &row.fields {
        piece.push(b'\t');
        match field {
            FieldValue::Null => piece.extend_from_slice(b"\\N"),
            FieldValue::Int(number) => piece.extend_from_slice(number.to_string().as_bytes()),
            FieldValue::Text(text) => escaped(piece, text),
        }
    }
    piece.push(b'\n');
}

fn escaped(piece: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'\\' => piece.extend_from_slice(b"\\\\"),
            b'\t' => piece.extend_from_slice(b"\\t"),
            b'\n' => piece.extend_from_slice(b"\\n"),
            b'\r' => piece.extend_from_slice(b"\\r"),
            other => piece.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_columns_and_rows_is_escaped_and_null_is_no_text() {
        let mut piece = Vec::new();
        let fields = vec![FieldValue::Null, FieldValue::Int(-7), FieldValue::Text("\\N".into())];
        line(&mut piece, &StoredRow { key: "a\tb".into(), doc: "{\"x\":\"\\n\r\n\"}".into(), fields });
        assert_eq!(String::from_utf8(piece).expect("text"), "a\\tb\t{\"x\":\"\\\\n\\r\\n\"}\t\\N\t-7\t\\\\N\n");
    }
}
