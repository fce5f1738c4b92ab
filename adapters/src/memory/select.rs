//! A [`Select`] over rows in memory.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use ports::{Direction, Error, FieldValue, Filter, Result, Row, Select};
use serde_json::Value;

#[derive(Clone)]
pub(super) struct StoredRow {
    pub doc: Value,
    pub fields: Vec<FieldValue>,
}

pub(super) type Rows = BTreeMap<String, StoredRow>;

/// `names` are the fields in the order of the rows' values.
pub(super) fn select(rows: &Rows, names: &[&'static str], select: &Select) -> Result<Vec<Row>> {
    let order = select.order.field.map(|field| place(names, field)).transpose()?;
    for filter in &select.filters {
        if let Filter::Eq(field, _) | Filter::In(field, _) | Filter::AtLeast(field, _) | Filter::AtMost(field, _) = filter {
            place(names, field)?;
        }
    }
    let mut chosen = Vec::new();
    for (key, row) in rows {
        if matches(names, key, row, &select.filters)? {
            let value = order.map_or(FieldValue::Null, |index| row.fields[index].clone());
            chosen.push((value, key, row));
        }
    }
    let ordered = |a: (&FieldValue, &str), b: (&FieldValue, &str)| match select.order.direction {
        Direction::Ascending => a.cmp(&b),
        Direction::Descending => b.cmp(&a),
    };
    chosen.sort_by(|a, b| ordered((&a.0, a.1), (&b.0, b.1)));
    let after = |entry: &&(FieldValue, &String, &StoredRow)| match &select.after {
        None => true,
        Some((value, key)) => {
            let value = if order.is_some() { value } else { &FieldValue::Null };
            ordered((&entry.0, entry.1), (value, key)) == Ordering::Greater
        }
    };
    let rows = chosen.iter().filter(after).take(select.limit);
    Ok(rows.map(|(_, key, row)| Row { key: (*key).clone(), doc: row.doc.to_string() }).collect())
}

fn matches(names: &[&'static str], key: &str, row: &StoredRow, filters: &[Filter]) -> Result<bool> {
    for filter in filters {
        let holds = match filter {
            Filter::Eq(field, value) => row.fields[place(names, field)?] == *value,
            Filter::In(field, values) => values.contains(&row.fields[place(names, field)?]),
            Filter::AtLeast(field, value) => compare(&row.fields[place(names, field)?], value, Ordering::is_ge),
            Filter::AtMost(field, value) => compare(&row.fields[place(names, field)?], value, Ordering::is_le),
            Filter::KeyPrefix(prefix) => key.starts_with(prefix.as_str()),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A comparison with null never holds.
fn compare(stored: &FieldValue, value: &FieldValue, holds: fn(Ordering) -> bool) -> bool {
    *stored != FieldValue::Null && *value != FieldValue::Null && holds(stored.cmp(value))
}

fn place(names: &[&'static str], field: &str) -> Result<usize> {
    names
        .iter()
        .position(|name| *name == field)
        .ok_or_else(|| Error::rejected("the view store", format!("the model has no field {field:?}")))
}
