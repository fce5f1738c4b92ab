use serde_json::json;

use super::*;

fn known(key: &str, doc: Option<Value>) -> Rows {
    let mut rows = Rows::default();
    rows.load(&[key.to_owned()], doc.map(|doc| (key.to_owned(), doc)).into_iter().collect());
    rows
}

fn put(rows: &mut Rows, key: &str, doc: Value) {
    rows.put_tagged(key, doc, vec![], &[key, Rows::COLLECTION]).expect("a row");
}

#[derive(Clone, PartialEq, Serialize, serde::Deserialize)]
struct Numbered(i64);

impl Indexed for Numbered {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.0.into()]
    }
}

#[test]
fn fields_are_those_of_the_document_as_it_is_written() {
    let mut rows = known("a", None);
    (1..=3).for_each(|number| rows.put("a", Numbered(number)).expect("a row"));
    let (changes, _) = rows.take_changes().expect("changes");
    assert_eq!(changes, [RowChange::Put { key: "a".into(), doc: json!(3), fields: vec![3.into()] }]);
    let mut rows = Rows::first();
    (1..=3).for_each(|number| rows.put("a", Numbered(number)).expect("a row"));
    let stored = rows.into_stored().expect("rows");
    assert_eq!(stored, [StoredRow { key: "a".into(), doc: "3".into(), fields: vec![3.into()] }]);
}

#[test]
fn many_changes_of_a_row_are_one_with_its_last_document() {
    let mut rows = known("a", Some(json!(0)));
    (1..=5).for_each(|number| put(&mut rows, "a", json!(number)));
    assert_eq!(rows.changed(), 1);
    let (changes, tags) = rows.take_changes().expect("changes");
    assert_eq!(changes, [RowChange::Put { key: "a".into(), doc: json!(5), fields: vec![] }]);
    assert_eq!(tags, BTreeSet::from(["a".to_owned(), "*".to_owned()]));
}

#[test]
fn a_row_is_known_after_its_changes_were_taken_and_the_same_again_is_no_change() {
    let mut rows = known("a", None);
    put(&mut rows, "a", json!(1));
    rows.take_changes().expect("changes");
    assert_eq!(rows.get::<Value>("a").expect("known"), Some(json!(1)));
    put(&mut rows, "a", json!(1));
    rows.delete("a");
    rows.delete("a");
    let (changes, _) = rows.take_changes().expect("changes");
    assert_eq!(changes, [RowChange::Delete { key: "a".into() }]);
    assert_eq!(rows.get::<Value>("a").expect("known"), None);
    let (changes, tags) = rows.take_changes().expect("changes");
    assert!(changes.is_empty() && tags.is_empty());
}

#[test]
fn a_document_equal_to_the_stored_one_is_no_change_read_before_or_not() {
    let mut rows = known("a", Some(json!({"x": 1})));
    put(&mut rows, "a", json!({"x": 1}));
    rows.get::<Value>("a").expect("known");
    put(&mut rows, "a", json!({"x": 1}));
    assert_eq!(rows.changed(), 0);
}

#[test]
fn a_row_that_was_not_loaded_is_an_error_and_loading_again_overwrites_nothing() {
    let mut rows = known("a", Some(json!(1)));
    assert!(rows.get::<Value>("b").is_err());
    put(&mut rows, "a", json!(2));
    rows.load(&["a".to_owned()], HashMap::from([("a".to_owned(), json!(1))]));
    assert_eq!(rows.get::<Value>("a").expect("known"), Some(json!(2)));
}

#[test]
fn when_too_much_is_kept_only_what_is_being_written_stays() {
    let mut rows = known("kept", Some(json!(1)));
    let large = "x".repeat(1024 * 1024);
    let keys: Vec<String> = (0..KEPT_BYTES_MAX / large.len() + 1).map(|n| format!("large-{n}")).collect();
    rows.load(&keys, keys.iter().map(|key| (key.clone(), json!(large))).collect());
    assert!(rows.is_full());
    put(&mut rows, "kept", json!(2));
    rows.take_changes().expect("changes");
    assert!(!rows.is_full());
    assert!(!rows.knows(&keys[0]));
    assert_eq!(rows.get::<Value>("kept").expect("known"), Some(json!(2)));
}

#[test]
fn first_rows_are_handed_over_and_stored_as_they_were_last_put() {
    let mut rows = Rows::first();
    assert_eq!(rows.get::<Value>("a").expect("nothing was before"), None);
    for number in 0..3 {
        let was = rows.get::<Value>("a").expect("a row").unwrap_or(json!([]));
        assert_eq!(was, json!(vec![0; number]));
        rows.put_tagged("a", json!(vec![0; number + 1]), vec![(number as i64).into()], &[]).expect("put");
    }
    put(&mut rows, "b", json!(1));
    rows.delete("b");
    rows.delete("c");
    let stored = rows.into_stored().expect("rows");
    assert_eq!(stored, [StoredRow { key: "a".into(), doc: "[0,0,0]".into(), fields: vec![2.into()] }]);
}

#[test]
fn a_first_row_that_is_not_put_back_is_an_error_and_not_lost() {
    let taken = || {
        let mut rows = Rows::first();
        put(&mut rows, "a", json!(1));
        rows.get::<Value>("a").expect("a row");
        rows
    };
    assert!(matches!(taken().get::<Value>("a"), Err(Error::Corrupt(_))));
    assert!(matches!(taken().into_stored(), Err(Error::Corrupt(_))));
}

#[test]
fn an_updated_row_is_changed_in_place_or_put_back_and_an_error_is_told() {
    for mut rows in [known("a", Some(json!(5))), Rows::first()] {
        let was = if rows.is_first { 1 } else { 5 };
        for number in 0..3 {
            rows.update(
                "a",
                || Numbered(1),
                |row: &mut Numbered| {
                    assert_eq!(row.0, was + number);
                    row.0 += 1;
                    Ok(())
                },
            )
            .expect("a row");
        }
        assert!(rows.update("a", || Numbered(1), |_| Err(Error::corrupt("no"))).is_err());
        assert_eq!(rows.get::<Numbered>("a").expect("a row").map(|row| row.0), Some(was + 3));
    }
    let mut rows = Rows::first();
    put(&mut rows, "a", json!(1));
    assert!(rows.update("a", || Numbered(1), |_| Ok(())).is_err(), "of another type");
}
