//! The one translation of a [`Select`] into SQL, for both databases: names come from the program, values are only bound.

use ports::{Direction, Error, FieldKind, FieldValue, Filter, ModelSpec, Result, Select};

/// Rows that one `select` answers at most.
pub(crate) const SELECT_MAX: usize = 100_000;

/// What differs between the databases.
pub(crate) trait Dialect {
    /// The n-th placeholder, counted from 1.
    fn placeholder(n: usize) -> String;
    /// `column IN (the list bound at n)`.
    fn in_list(column: &str, n: usize) -> String;
}

/// A value to bind, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bind {
    Int(i64),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

pub(crate) struct Query {
    pub sql: String,
    pub binds: Vec<Bind>,
}

/// `v_<model>_<generation>`.
pub(crate) fn table(model: &str, generation: u64) -> Result<String> {
    Ok(format!("v_{}_{generation}", name(model)?))
}

/// Fields are prefixed so that no field can collide with `key`, `doc` or a word of SQL.
pub(crate) fn column(field: &str) -> Result<String> {
    Ok(format!("f_{}", name(field)?))
}

/// The columns of a field's index, by the rule of [`ModelSpec::fields`].
pub(crate) fn index_columns(spec: &ModelSpec, place: usize, nulls: &str) -> Result<String> {
    let (own, first) = (&spec.fields[place], &spec.fields[0]);
    let is_compared = place > 0 && own.kind == FieldKind::Text && first.kind == FieldKind::Int;
    let mut columns = format!("{}{nulls}", column(own.name)?);
    if is_compared {
        columns.push_str(&format!(", {}{nulls}", column(first.name)?));
    }
    columns.push_str(", key");
    if place == 0 || is_compared {
        for field in spec.fields[1..].iter().filter(|field| field.name != own.name) {
            columns.push_str(&format!(", {}", column(field.name)?));
        }
    }
    Ok(columns)
}

/// The shape of a generation's table, stored beside it: a changed shape without a raised fold version is noticed.
pub(crate) fn shape(spec: &ModelSpec) -> String {
    let fields = spec.fields.iter().map(|field| match field.kind {
        FieldKind::Text => format!("{}:text", field.name),
        FieldKind::Int => format!("{}:int", field.name),
    });
    fields.collect::<Vec<_>>().join(",")
}

pub(crate) fn name(text: &str) -> Result<&str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.is_empty() && text.len() <= 48 && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(Error::rejected("the view store", format!("{text:?} is not a name of a model or field")))
}

/// The smallest text greater than every text with this prefix; `None` when there is none.
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(other as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

pub(crate) fn build<D: Dialect>(select: &Select, generation: u64) -> Result<Query> {
    let mut builder = Builder::<D> { binds: Vec::new(), dialect: std::marker::PhantomData };
    let mut conditions = Vec::new();
    for filter in &select.filters {
        conditions.push(builder.filter(filter)?);
    }
    if let Some((value, key)) = &select.after {
        conditions.push(builder.after(select, value, key)?);
    }
    let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let order = order(select)?;
    let limit = builder.bind(Bind::Int(select.limit.min(SELECT_MAX) as i64));
    let table = table(select.model, generation)?;
    Ok(Query { sql: format!("SELECT key, doc FROM {table}{filter} ORDER BY {order} LIMIT {limit}"), binds: builder.binds })
}

fn order(select: &Select) -> Result<String> {
    let (way, nulls) = match select.order.direction {
        Direction::Ascending => ("ASC", "FIRST"),
        Direction::Descending => ("DESC", "LAST"),
    };
    Ok(match select.order.field {
        None => format!("key {way}"),
        Some(field) => format!("{} {way} NULLS {nulls}, key {way}", column(field)?),
    })
}

struct Builder<D> {
    binds: Vec<Bind>,
    dialect: std::marker::PhantomData<D>,
}

impl<D: Dialect> Builder<D> {
    fn bind(&mut self, bind: Bind) -> String {
        self.binds.push(bind);
        D::placeholder(self.binds.len())
    }

    fn filter(&mut self, filter: &Filter) -> Result<String> {
        match filter {
            Filter::Eq(field, FieldValue::Null) => Ok(format!("{} IS NULL", column(field)?)),
            Filter::Eq(field, value) => self.compare(field, "=", value),
            Filter::AtLeast(field, value) => self.compare(field, ">=", value),
            Filter::AtMost(field, value) => self.compare(field, "<=", value),
            Filter::In(field, values) => self.one_of(field, values),
            Filter::KeyPrefix(prefix) => {
                let from = self.bind(Bind::Text(prefix.clone()));
                Ok(match prefix_end(prefix) {
                    None => format!("key >= {from}"),
                    Some(end) => format!("(key >= {from} AND key < {})", self.bind(Bind::Text(end))),
                })
            }
        }
    }

    /// A comparison with null holds for no row.
    fn compare(&mut self, field: &str, operator: &str, value: &FieldValue) -> Result<String> {
        let column = column(field)?;
        Ok(match value {
            FieldValue::Null => "FALSE".into(),
            FieldValue::Int(number) => format!("{column} {operator} {}", self.bind(Bind::Int(*number))),
            FieldValue::Text(text) => format!("{column} {operator} {}", self.bind(Bind::Text(text.clone()))),
        })
    }

    fn one_of(&mut self, field: &str, values: &[FieldValue]) -> Result<String> {
        let column = column(field)?;
        let (mut ints, mut texts, mut alternatives) = (Vec::new(), Vec::new(), Vec::new());
        for value in values {
            match value {
                FieldValue::Null => alternatives.push(format!("{column} IS NULL")),
                FieldValue::Int(number) => ints.push(*number),
                FieldValue::Text(text) => texts.push(text.clone()),
            }
        }
        alternatives.truncate(1);
        for list in [Bind::Ints(ints), Bind::Texts(texts)] {
            if !matches!(&list, Bind::Ints(list) if list.is_empty())
                && !matches!(&list, Bind::Texts(list) if list.is_empty())
            {
                self.binds.push(list);
                alternatives.push(D::in_list(&column, self.binds.len()));
            }
        }
        Ok(if alternatives.is_empty() { "FALSE".into() } else { format!("({})", alternatives.join(" OR ")) })
    }

    /// Everything behind (value, key) in the order of the query. Nulls come first ascending and so last descending; a row
    /// comparison with a null is never true.
    fn after(&mut self, select: &Select, value: &FieldValue, key: &str) -> Result<String> {
        let ascending = select.order.direction == Direction::Ascending;
        let operator = if ascending { ">" } else { "<" };
        let Some(field) = select.order.field else {
            return Ok(format!("key {operator} {}", self.bind(Bind::Text(key.into()))));
        };
        let column = column(field)?;
        let value = match value {
            FieldValue::Null => None,
            FieldValue::Int(number) => Some(self.bind(Bind::Int(*number))),
            FieldValue::Text(text) => Some(self.bind(Bind::Text(text.clone()))),
        };
        let key = self.bind(Bind::Text(key.into()));
        Ok(match (value, ascending) {
            (None, true) => format!("(({column} IS NULL AND key > {key}) OR {column} IS NOT NULL)"),
            (None, false) => format!("({column} IS NULL AND key < {key})"),
            (Some(value), true) => format!("({column}, key) > ({value}, {key})"),
            (Some(value), false) => format!("(({column}, key) < ({value}, {key}) OR {column} IS NULL)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::Context;
    use ports::Field;

    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_text_in_byte_order() {
        assert_eq!(prefix_end("ab").as_deref(), Some("ac"));
        assert_eq!(prefix_end("a\u{D7FF}").as_deref(), Some("a\u{E000}"));
        assert_eq!(prefix_end("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(prefix_end("\u{10FFFF}"), None);
        assert_eq!(prefix_end(""), None);
    }

    #[test]
    fn a_list_in_the_order_of_a_number_is_filtered_within_one_index() {
        static FIELDS: [Field; 4] = [
            Field { name: "rent", kind: FieldKind::Int },
            Field { name: "rooms", kind: FieldKind::Int },
            Field { name: "city", kind: FieldKind::Text },
            Field { name: "street", kind: FieldKind::Text },
        ];
        let mut spec = ModelSpec { name: "flats", fold_version: 1, context: Context::Units, fields: &FIELDS };
        let columns = |spec: &ModelSpec, place| index_columns(spec, place, " NULLS FIRST").expect("good names");
        assert_eq!(columns(&spec, 0), "f_rent NULLS FIRST, key, f_rooms, f_city, f_street");
        assert_eq!(columns(&spec, 1), "f_rooms NULLS FIRST, key");
        assert_eq!(columns(&spec, 2), "f_city NULLS FIRST, f_rent NULLS FIRST, key, f_rooms, f_street");
        spec.fields = &FIELDS[2..];
        assert_eq!(columns(&spec, 0), "f_city NULLS FIRST, key, f_street");
        assert_eq!(columns(&spec, 1), "f_street NULLS FIRST, key");
    }

    #[test]
    fn a_name_that_is_not_ours_never_reaches_sql() {
        assert!(table("units; DROP TABLE x", 1).is_err());
        assert!(column("a\"b").is_err());
        assert_eq!(column("rent_minor").expect("a plain name"), "f_rent_minor");
    }
}
