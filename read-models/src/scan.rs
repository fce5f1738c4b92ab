//! A page of rows that pass a test the view store cannot make.

use domain::Timestamp;
use ports::{FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Result, Select, ViewSnapshot, document};
use serde::de::DeserializeOwned;

use crate::{Cursor, Page, PageRequest};

/// While a page stays unfilled, no fewer rows are asked for at once.
const CHUNK_MIN: usize = 64;
/// While a page stays unfilled, each chunk is as much larger than the one before, up to the most.
const CHUNK_GROWTH: usize = 4;
const CHUNK_MAX: usize = 1_000;

/// What a row contributes to a page.
pub struct Look<T> {
    /// `None`: the row does not belong to the answer.
    pub shown: Option<T>,
    /// When another look at the same row may tell something else.
    pub valid_until: Option<Timestamp>,
}

/// Rows asked of the store at first: the page, the one that tells whether there is a next, and some for those that do not belong.
/// Most pages are filled by the first rows, and reading a row costs more than finding it.
fn first_chunk(limit: usize) -> usize {
    limit + 1 + limit / 8
}

/// Reads rows in order until the page is full; `place` is a row's stored value in that order (`Null` when ordered by key).
/// The instant is the earliest at which any row that was looked at may tell something else.
pub async fn scan<D, T>(
    snapshot: &mut dyn ViewSnapshot,
    spec: &'static ModelSpec,
    filters: Vec<Filter>,
    order: OrderBy,
    page: &PageRequest,
    place: impl Fn(&D) -> FieldValue,
    mut look: impl FnMut(&D) -> Look<T>,
) -> Result<(Page<T>, Option<Timestamp>)>
where
    D: DeserializeOwned,
{
    let limit = page.limit.clamp(1, PageRequest::MAX_LIMIT);
    let after = page.after.clone().map(|Cursor(value, key)| (fitting(value, spec, order), key));
    let mut select = Select { model: spec.name, filters, order, after, limit: first_chunk(limit) };
    let mut data = Vec::new();
    let mut last: Option<Cursor> = None;
    let mut valid_until: Option<Timestamp> = None;
    loop {
        let rows = snapshot.select(&select).await?;
        let is_last = rows.len() < select.limit;
        for row in rows {
            let doc: D = row.read(select.model)?;
            let key = row.key;
            let Look { shown, valid_until: until } = look(&doc);
            valid_until = crate::time::earliest([valid_until, until]);
            if let Some(shown) = shown {
                if data.len() == limit {
                    return Ok((Page { data, next_cursor: last.map(|cursor| cursor.encode()) }, valid_until));
                }
                data.push(shown);
                last = Some(Cursor(place(&doc), key.clone()));
            }
            select.after = Some((place(&doc), key));
        }
        if is_last {
            return Ok((Page { data, next_cursor: None }, valid_until));
        }
        select.limit = (select.limit * CHUNK_GROWTH).clamp(CHUNK_MIN, CHUNK_MAX.max(limit + 1));
    }
}

/// A cursor comes from outside: a value that cannot be one of this order's stands before all of them.
fn fitting(value: FieldValue, spec: &ModelSpec, order: OrderBy) -> FieldValue {
    let kind = order.field.and_then(|name| spec.fields.iter().find(|field| field.name == name)).map(|field| field.kind);
    match (kind, value) {
        (Some(FieldKind::Int), FieldValue::Int(number)) => FieldValue::Int(number),
        (Some(FieldKind::Text), FieldValue::Text(text)) => FieldValue::Text(text),
        (Some(_) | None, _) => FieldValue::Null,
    }
}

/// A row that must be readable when it is there.
pub async fn find<D: DeserializeOwned>(
    snapshot: &mut dyn ViewSnapshot,
    model: &'static str,
    key: &str,
) -> Result<Option<D>> {
    let Some(doc) = snapshot.get(model, key).await? else { return Ok(None) };
    document(model, key, &doc).map(Some)
}
