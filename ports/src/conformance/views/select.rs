//! Queries: whatever a [`Select`] asks, the answer is that of a naive reference over all rows.

use std::cmp::Ordering;

use serde_json::Value;

use super::{keys, lead, put, step};
use crate::{Direction, Error, FieldValue, Filter, OrderBy, Row, Select, ViewStore, conformance_spec};

const ROUNDS: usize = 300;
const CITIES: [Option<&str>; 7] =
    [None, Some(""), Some("Berlin"), Some("berlin"), Some("Łódź"), Some("Z"), Some("a\u{10FFFF}b")];
const PREFIXES: [&str; 7] = ["", "a", "ab", "é", "b/", "a\u{10FFFF}", "none"];

struct Reference {
    key: String,
    city: FieldValue,
    rent: FieldValue,
    doc: Value,
}

/// Rows with duplicates, nulls, signs, and text on both sides of every byte-order trap.
async fn fill(views: &dyn ViewStore, spec: &'static crate::ModelSpec) -> Vec<Reference> {
    let claim = lead(views, spec).await;
    let mut rows = Vec::new();
    for number in 0..120_usize {
        let stem = ["a", "ab", "A", "é", "b/", "a\u{10FFFF}", "z"][number % 7];
        let key = format!("{stem}{}", number / 7);
        let city = CITIES[rand::random_range(0..CITIES.len())];
        let rent = [None, Some(-5), Some(0), Some(7), Some(i64::MAX), Some(i64::MIN)][rand::random_range(0..6)];
        rows.push((key, city, rent));
    }
    let change = |(key, city, rent): &(String, Option<&str>, Option<i64>)| put(key, 0, *city, *rent);
    views.apply(&step(spec, &claim, 0, rows.iter().map(change).collect())).await.expect("applied");
    let reference = |(key, city, rent): &(String, Option<&'static str>, Option<i64>)| {
        let crate::RowChange::Put { doc, .. } = put(key, 0, *city, *rent) else { unreachable!("a put") };
        Reference { key: key.clone(), city: FieldValue::from(*city), rent: FieldValue::from(*rent), doc }
    };
    rows.iter().map(reference).collect()
}

impl Reference {
    fn field(&self, name: Option<&str>) -> &FieldValue {
        match name {
            Some("city") => &self.city,
            Some("rent") => &self.rent,
            _ => &FieldValue::Null,
        }
    }

    fn matches(&self, filter: &Filter) -> bool {
        let comparable = |field: &FieldValue, value: &FieldValue| *field != FieldValue::Null && *value != FieldValue::Null;
        match filter {
            Filter::Eq(name, value) => self.field(Some(name)) == value,
            Filter::In(name, values) => values.iter().any(|value| self.field(Some(name)) == value),
            Filter::AtLeast(name, value) => comparable(self.field(Some(name)), value) && self.field(Some(name)) >= value,
            Filter::AtMost(name, value) => comparable(self.field(Some(name)), value) && self.field(Some(name)) <= value,
            Filter::KeyPrefix(prefix) => self.key.starts_with(prefix.as_str()),
        }
    }

    fn order(&self, by: OrderBy, other: (&FieldValue, &str)) -> Ordering {
        let ascending = (self.field(by.field), self.key.as_str()).cmp(&other);
        if by.direction == Direction::Ascending { ascending } else { ascending.reverse() }
    }
}

/// Everything that matches, in order; paging aside.
fn whole<'a>(rows: &'a [Reference], select: &Select) -> Vec<&'a Reference> {
    let mut matching: Vec<_> = rows.iter().filter(|row| select.filters.iter().all(|filter| row.matches(filter))).collect();
    matching.sort_by(|a, b| a.order(select.order, (b.field(select.order.field), &b.key)));
    matching
}

fn expected(rows: &[Reference], select: &Select) -> Vec<Row> {
    let behind = |row: &&&Reference| match &select.after {
        None => true,
        Some((value, key)) => row.order(select.order, (value, key)) == Ordering::Greater,
    };
    let row = |row: &&Reference| Row { key: row.key.clone(), doc: row.doc.to_string() };
    whole(rows, select).iter().filter(behind).take(select.limit).map(row).collect()
}

fn pick<T: Clone>(from: &[T]) -> T {
    from[rand::random_range(0..from.len())].clone()
}

fn value(field: &str) -> FieldValue {
    match field {
        "city" => FieldValue::from(pick(&CITIES)),
        _ => FieldValue::from(pick(&[None, Some(-5), Some(0), Some(3), Some(i64::MAX)])),
    }
}

fn filter() -> Filter {
    let field = pick(&["city", "rent"]);
    match rand::random_range(0..5) {
        0 => Filter::Eq(field, value(field)),
        1 => Filter::In(field, (0..rand::random_range(0..4)).map(|_| value(field)).collect()),
        2 => Filter::AtLeast(field, value(field)),
        3 => Filter::AtMost(field, value(field)),
        _ => Filter::KeyPrefix(pick(&PREFIXES).into()),
    }
}

fn order() -> OrderBy {
    OrderBy {
        field: pick(&[None, Some("city"), Some("rent")]),
        direction: pick(&[Direction::Ascending, Direction::Descending]),
    }
}

pub async fn every_select_equals_the_naive_reference(views: &dyn ViewStore) {
    let spec = conformance_spec!("selected");
    let rows = fill(views, spec).await;
    let mut snapshot = views.snapshot().await.expect("a snapshot");
    for _ in 0..ROUNDS {
        let filters = (0..rand::random_range(0..3)).map(|_| filter()).collect();
        let order = order();
        // A cursor: an existing row's place, or one where no row stands.
        let after = match rand::random_range(0..3) {
            0 => None,
            1 => Some((order.field.map_or(FieldValue::Null, value), pick(&PREFIXES).to_owned())),
            _ => {
                let row = &rows[rand::random_range(0..rows.len())];
                Some((row.field(order.field).clone(), row.key.clone()))
            }
        };
        let select = Select { model: spec.name, filters, order, after, limit: pick(&[0, 1, 7, 1_000]) };
        let answer = snapshot.select(&select).await.expect("rows");
        let expected = expected(&rows, &select);
        assert_eq!(keys(&answer), keys(&expected), "{select:?}");
        assert_eq!(answer, expected);
    }
}

pub async fn pages_put_together_are_the_whole(views: &dyn ViewStore) {
    let spec = conformance_spec!("paged");
    let rows = fill(views, spec).await;
    let mut snapshot = views.snapshot().await.expect("a snapshot");
    for field in [None, Some("city"), Some("rent")] {
        for direction in [Direction::Ascending, Direction::Descending] {
            let order = OrderBy { field, direction };
            let mut select = Select { model: spec.name, filters: vec![], order, after: None, limit: 7 };
            let mut paged = Vec::new();
            loop {
                let page = snapshot.select(&select).await.expect("a page");
                let Some(last) = page.last() else { break };
                let row = rows.iter().find(|row| row.key == last.key).expect("a known row");
                select.after = Some((row.field(field).clone(), row.key.clone()));
                paged.extend(page);
            }
            let whole: Vec<&str> = whole(&rows, &select).iter().map(|row| row.key.as_str()).collect();
            assert_eq!(keys(&paged), whole, "{order:?}");
        }
    }
}

pub async fn an_unknown_field_or_model_is_refused(views: &dyn ViewStore) {
    let spec = conformance_spec!("refusing");
    lead(views, spec).await;
    let select = |model, filters, field| {
        let order = OrderBy { field, direction: Direction::Ascending };
        Select { model, filters, order, after: None, limit: 1 }
    };
    let unknown = [
        select(spec.name, vec![Filter::Eq("colour", FieldValue::Int(1))], None),
        select(spec.name, vec![], Some("colour")),
        select(spec.name, vec![], Some("city; DROP TABLE view_heads")),
    ];
    for query in unknown {
        let answer = views.snapshot().await.expect("a snapshot").select(&query).await;
        assert!(matches!(answer, Err(Error::Rejected { .. })), "{answer:?}");
    }
    let answer = views.snapshot().await.expect("a snapshot").select(&select("unheard_of", vec![], None)).await;
    assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
}
