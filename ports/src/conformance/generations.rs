//! The contract of [`Generations`]. Each check has models of its own, so that they can share one fresh store.

use std::sync::Arc;

use serde_json::json;

use super::views::parked::parked;
use super::views::{FIELDS, at, keys, lead, put, spec, step};
use crate::{
    Error, FieldValue, Generation, Generations, Load, ModelSpec, OrderBy, Parking, Part, Position, Select, Standing,
    StoredRow, ViewStore, conformance_spec,
};

pub async fn all(views: Arc<dyn Generations>) {
    let shared = views.as_ref();
    a_generation_is_seen_by_nobody_until_it_is_switched_to(shared).await;
    a_rebuild_goes_on_with_the_parts_it_had_in_a_higher_term(shared).await;
    a_trial_is_told_from_a_rebuild(shared).await;
    a_load_in_an_earlier_term_writes_nothing(shared).await;
    a_load_parks_streams_which_go_with_their_generation(shared).await;
    an_unfinished_generation_is_never_live(shared).await;
    a_row_of_two_streams_is_refused(shared).await;
    a_switch_never_goes_back(shared).await;
    a_switch_to_another_life_of_the_log_may_go_back(shared).await;
    a_switch_deposes_the_leader_and_a_rollback_lands_on_what_was_folded_on(shared).await;
    only_the_last_live_generation_stays_on_standby(shared).await;
    a_dropped_generation_leaves_nothing_and_the_live_one_cannot_be(shared).await;
    a_paused_model_is_led_by_nobody(shared).await;
    a_still_picture_does_not_move(shared).await;
    a_generation_of_another_shape_shows_no_fields(shared).await;
}

fn row(key: &str, number: i64) -> StoredRow {
    let doc = json!({"key": key, "number": number}).to_string();
    StoredRow { key: key.into(), doc, fields: vec![FieldValue::from("Łódź\t\\N\n"), FieldValue::Null] }
}

async fn generations(views: &dyn Generations, spec: &'static ModelSpec) -> Vec<Generation> {
    views.generations(&[spec]).await.expect("generations")
}

async fn number(views: &dyn Generations, spec: &'static ModelSpec, standing: Standing) -> Option<u64> {
    let all = generations(views, spec).await;
    all.iter().find(|found| found.standing == standing).map(|found| found.head.generation)
}

/// A complete generation at a position, with these rows.
async fn built(views: &dyn Generations, spec: &'static ModelSpec, position: Position, rows: &[StoredRow]) -> Generation {
    let built = views.build(spec, &at(position), 1, false).await.expect("begun");
    let Generation { head, parts, .. } = &built;
    let part = Part { finished: true, events: 9, rows: rows.len() as u64, ..parts[0].clone() };
    views
        .load(&Load { spec, generation: head.generation, term: head.term, part: &part, rows, parking: &[] })
        .await
        .expect("loaded");
    views.complete(spec, head.generation, head.term).await.expect("complete");
    built
}

async fn seen(views: &dyn ViewStore, model: &'static str) -> Vec<String> {
    let mut snapshot = views.snapshot().await.expect("a snapshot");
    let select = Select { model, filters: vec![], order: OrderBy::KEY, after: None, limit: 100 };
    keys(&snapshot.select(&select).await.expect("selected")).into_iter().map(str::to_owned).collect()
}

pub async fn a_generation_is_seen_by_nobody_until_it_is_switched_to(views: &dyn Generations) {
    let spec = conformance_spec!("hidden");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("old", 1, None, None)])).await.expect("applied");
    let built = built(views, spec, 1, &[row("new", 1), row("other", 2)]).await;
    assert_eq!((built.head.generation, built.standing), (2, Standing::Building));
    assert_eq!(seen(views, "hidden").await, ["old"]);
    let live = views.heads().await.expect("heads").into_iter().find(|head| head.model == "hidden").expect("a head");
    assert_eq!(live.generation, 1);

    views.ready(spec, 2, built.head.term).await.expect("ready");
    views.complete(spec, 2, built.head.term).await.expect_err("it is not being built any more");
    assert_eq!(seen(views, "hidden").await, ["old"]);
    let head = views.switch(spec, 2).await.expect("switched");
    assert_eq!((head.generation, head.checkpoint, head.revision), (2, at(1), 0));
    assert_eq!(seen(views, "hidden").await, ["new", "other"]);
    let stored = views.rows(spec, 2, &["new".into()]).await.expect("rows");
    assert_eq!(stored["new"], json!({"key": "new", "number": 1}));
    let all = generations(views, spec).await;
    let standings: Vec<_> = all.iter().map(|found| (found.head.generation, found.standing)).collect();
    assert_eq!(standings, [(1, Standing::Standby), (2, Standing::Live)]);
    assert_eq!(views.switch(spec, 2).await.expect("again changes nothing").term, head.term);
}

pub async fn a_rebuild_goes_on_with_the_parts_it_had_in_a_higher_term(views: &dyn Generations) {
    let spec = conformance_spec!("resumed");
    let claim = lead(views, spec).await;
    let begun = views.build(spec, &at(7), 3, false).await.expect("begun");
    assert!(begun.head.term > claim.term && begun.fits);
    assert_eq!(begun.parts, (0..3).map(|number| Part { number, ..Part::default() }).collect::<Vec<_>>());
    let part = Part { number: 1, stream: "m".into(), position: 3, finished: false, events: 5, rows: 1 };
    let load = Load { spec, generation: 2, term: begun.head.term, part: &part, rows: &[row("a", 1)], parking: &[] };
    views.load(&load).await.expect("loaded");
    let again = views.build(spec, &at(99), 5, false).await.expect("begun again");
    assert_eq!((again.head.generation, again.head.checkpoint), (2, at(7)));
    assert!(again.head.term > begun.head.term);
    assert_eq!((again.parts.len(), &again.parts[1]), (3, &part));
}

pub async fn a_trial_is_told_from_a_rebuild(views: &dyn Generations) {
    let spec = conformance_spec!("tried");
    lead(views, spec).await;
    let trials = async || generations(views, spec).await.into_iter().map(|found| found.trial).collect::<Vec<_>>();
    let begun = views.build(spec, &at(7), 1, true).await.expect("begun");
    assert!(begun.trial);
    assert_eq!(trials().await, [false, true]);
    views.drop_generation(spec.name, begun.head.generation).await.expect("dropped");
    assert!(!views.build(spec, &at(7), 1, false).await.expect("begun").trial);
    // What is gone on with stays what it was begun as.
    assert!(!views.build(spec, &at(7), 1, true).await.expect("begun again").trial);
    assert_eq!(trials().await, [false, false]);
}

pub async fn a_load_parks_streams_which_go_with_their_generation(views: &dyn Generations) {
    let spec = conformance_spec!("parked_in_a_load");
    let claim = lead(views, spec).await;
    let Generation { head, .. } = views.build(spec, &at(7), 1, false).await.expect("begun");
    let part = Part { stream: "one".into(), events: 2, rows: 1, ..Part::default() };
    let parking = [Parking::Park(parked("one", 3))];
    let load =
        Load { spec, generation: head.generation, term: head.term, part: &part, rows: &[row("one", 1)], parking: &parking };
    let late = views.load(&Load { term: claim.term, ..load.clone() }).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    assert_eq!(views.parked(spec.name, head.generation).await.expect("none"), []);
    views.load(&load).await.expect("loaded");
    assert_eq!(views.parked(spec.name, head.generation).await.expect("parked"), [parked("one", 3)]);
    assert_eq!(views.parked(spec.name, claim.generation).await.expect("none"), []);
    // The number is used again, and what was parked under it is not inherited.
    views.drop_generation(spec.name, head.generation).await.expect("dropped");
    let again = views.build(spec, &at(7), 1, false).await.expect("begun again").head.generation;
    assert_eq!((again, views.parked(spec.name, again).await.expect("none")), (head.generation, vec![]));
}

pub async fn a_load_in_an_earlier_term_writes_nothing(views: &dyn Generations) {
    let spec = conformance_spec!("fenced");
    lead(views, spec).await;
    let begun = views.build(spec, &at(7), 1, false).await.expect("begun");
    let again = views.build(spec, &at(7), 1, false).await.expect("begun again");
    let part = Part { finished: true, ..Part::default() };
    let late = Load { spec, generation: 2, term: begun.head.term, part: &part, rows: &[row("late", 1)], parking: &[] };
    let refused = views.load(&late).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let refused = views.complete(spec, 2, begun.head.term).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    views.load(&Load { term: again.head.term, rows: &[], ..late }).await.expect("loaded");
    views.complete(spec, 2, again.head.term).await.expect("complete");
    assert!(views.rows(spec, 2, &["late".into()]).await.expect("rows").is_empty());
}

pub async fn an_unfinished_generation_is_never_live(views: &dyn Generations) {
    let spec = conformance_spec!("unfinished");
    lead(views, spec).await;
    let begun = views.build(spec, &at(7), 2, false).await.expect("begun");
    let part = Part { finished: true, ..Part::default() };
    views
        .load(&Load { spec, generation: 2, term: begun.head.term, part: &part, rows: &[], parking: &[] })
        .await
        .expect("loaded");
    for refused in [views.complete(spec, 2, begun.head.term).await, views.switch(spec, 2).await.map(drop)] {
        assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    }
    let unknown = views.switch(spec, 9).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
}

pub async fn a_row_of_two_streams_is_refused(views: &dyn Generations) {
    let spec = conformance_spec!("doubled");
    lead(views, spec).await;
    let begun = views.build(spec, &at(7), 2, false).await.expect("begun");
    let mut refused = None;
    for number in 0..2 {
        let part = Part { number, finished: true, ..Part::default() };
        let load = Load { spec, generation: 2, term: begun.head.term, part: &part, rows: &[row("same", 1)], parking: &[] };
        refused = views.load(&load).await.err().or(refused);
    }
    if refused.is_none() {
        refused = views.complete(spec, 2, begun.head.term).await.err();
    }
    assert!(matches!(refused, Some(Error::Rejected { .. })), "{refused:?}");
}

pub async fn a_switch_never_goes_back(views: &dyn Generations) {
    let spec = conformance_spec!("forward");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    views.apply(&step(spec, &claim, 1, vec![put("a", 2, None, None)])).await.expect("applied");
    let built = built(views, spec, 1, &[row("a", 1)]).await;
    let back = views.switch(spec, 2).await;
    assert!(matches!(back, Err(Error::Conflict(_))), "{back:?}");
    // The leader was not disturbed.
    views.apply(&step(spec, &claim, 2, vec![])).await.expect("applied");
    let claim = crate::Claim { generation: 2, term: built.head.term, revision: 0, checkpoint: at(1) };
    views.apply(&step(spec, &claim, 1, vec![put("a", 2, None, None)])).await.expect("folded on");
    views.apply(&step(spec, &claim, 2, vec![])).await.expect("folded on");
    let head = views.switch(spec, 2).await.expect("switched");
    assert_eq!((head.checkpoint.position, head.revision), (3, 1));
    let changes = views.changes("forward", 2, 0, 10).await.expect("changes");
    assert_eq!((changes.len(), changes[0].revision), (1, 1));
}

pub async fn a_switch_to_another_life_of_the_log_may_go_back(views: &dyn Generations) {
    let spec = conformance_spec!("reborn");
    let claim = lead(views, spec).await;
    for position in 0..3 {
        views.apply(&step(spec, &claim, position, vec![])).await.expect("applied");
    }
    let other = crate::Checkpoint { incarnation: uuid::Uuid::from_u128(8), ..at(1) };
    let begun = views.build(spec, &other, 0, false).await.expect("begun");
    views.complete(spec, 2, begun.head.term).await.expect("complete");
    assert_eq!(views.switch(spec, 2).await.expect("switched").checkpoint, other);
}

pub async fn a_switch_deposes_the_leader_and_a_rollback_lands_on_what_was_folded_on(views: &dyn Generations) {
    let spec = conformance_spec!("rolled");
    let old = lead(views, spec).await;
    views.apply(&step(spec, &old, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    built(views, spec, 1, &[row("a", 9)]).await;
    let switched = views.switch(spec, 2).await.expect("switched");
    let deposed = views.apply(&step(spec, &old, 1, vec![put("a", 2, None, None)])).await;
    assert!(matches!(deposed, Err(Error::Conflict(_))), "{deposed:?}");
    let new = views.claim(spec).await.expect("claimed").expect("free");
    assert!(new.generation == 2 && new.term > switched.term && switched.term > old.term);
    views.apply(&step(spec, &new, 1, vec![put("b", 2, None, None)])).await.expect("applied");

    let back = views.switch(spec, 1).await;
    assert!(matches!(back, Err(Error::Conflict(_))), "{back:?}");
    let side = views.claim_generation(spec, 1).await.expect("claimed").expect("free");
    assert_eq!((side.checkpoint.position, side.revision), (1, 1));
    views.apply(&step(spec, &side, 1, vec![put("b", 2, None, None)])).await.expect("folded on");
    let back = views.switch(spec, 1).await.expect("switched back");
    assert!(back.generation == 1 && back.term > new.term, "{back:?}");
    assert_eq!(seen(views, "rolled").await, ["a", "b"]);
    assert_eq!(number(views, spec, Standing::Standby).await, Some(2));
    let live = views.claim_generation(spec, 1).await;
    assert!(matches!(live, Err(Error::NotFound(_))), "{live:?}");
}

pub async fn only_the_last_live_generation_stays_on_standby(views: &dyn Generations) {
    let spec = conformance_spec!("stood_by");
    lead(views, spec).await;
    for expected in 2..=4 {
        let built = built(views, spec, 1, &[row("a", 1)]).await;
        assert_eq!(built.head.generation, expected);
        views.switch(spec, expected).await.expect("switched");
        assert_eq!(number(views, spec, Standing::Standby).await, Some(expected - 1));
    }
    assert_eq!(generations(views, spec).await.len(), 2);
}

pub async fn a_dropped_generation_leaves_nothing_and_the_live_one_cannot_be(views: &dyn Generations) {
    let spec = conformance_spec!("dropped");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    let live = views.drop_generation("dropped", 1).await;
    assert!(matches!(live, Err(Error::Conflict(_))), "{live:?}");
    built(views, spec, 1, &[row("a", 1)]).await;
    views.switch(spec, 2).await.expect("switched");
    views.drop_generation("dropped", 1).await.expect("dropped");
    let gone = views.drop_generation("dropped", 1).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    assert!(views.changes("dropped", 1, 0, 10).await.expect("changes").is_empty());
    assert_eq!(number(views, spec, Standing::Standby).await, None);

    let begun = views.build(spec, &at(1), 1, false).await.expect("begun");
    views.drop_generation("dropped", begun.head.generation).await.expect("aborted");
    let part = Part { finished: true, ..Part::default() };
    let load = Load {
        spec,
        generation: begun.head.generation,
        term: begun.head.term,
        part: &part,
        rows: &[row("a", 1)],
        parking: &[],
    };
    let aborted = views.load(&load).await;
    assert!(matches!(aborted, Err(Error::Conflict(_))), "{aborted:?}");
}

pub async fn a_paused_model_is_led_by_nobody(views: &dyn Generations) {
    let spec = conformance_spec!("paused");
    let claim = lead(views, spec).await;
    assert!(views.set_paused("paused", true).await.expect("paused"));
    assert!(!views.set_paused("paused", true).await.expect("paused already"));
    assert_eq!(views.paused().await.expect("asked"), ["paused"]);
    let stopped = views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await;
    assert!(matches!(stopped, Err(Error::Conflict(_))), "{stopped:?}");
    let refused = views.claim(spec).await;
    assert!(matches!(refused, Err(Error::Rejected { .. })), "{refused:?}");
    assert!(views.set_paused("paused", false).await.expect("resumed"));
    assert!(views.paused().await.expect("asked").is_empty());
    let again = views.claim(spec).await.expect("claimed").expect("free");
    views.apply(&step(spec, &again, 0, vec![put("a", 1, None, None)])).await.expect("applied");
}

pub async fn a_still_picture_does_not_move(views: &dyn Generations) {
    let spec = conformance_spec!("still");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("b", 1, Some("Rome"), Some(5))])).await.expect("applied");
    built(views, spec, 1, &[row("a", 1), row("b", 2), row("c", 3)]).await;
    let mut still = views.still().await.expect("a picture");
    views.apply(&step(spec, &claim, 1, vec![put("z", 1, None, None)])).await.expect("applied");
    assert_eq!(still.head(spec, 1).await.expect("a head").checkpoint, at(1));
    let rows = still.rows(spec, 1, "", 10).await.expect("rows");
    let fields = vec![FieldValue::from("Rome"), FieldValue::Int(5)];
    assert_eq!((rows.len(), rows[0].key.as_str(), &rows[0].fields), (1, "b", &fields));
    assert_eq!(still.rows(spec, 2, "", 2).await.expect("rows"), [row("a", 1), row("b", 2)]);
    assert_eq!(still.rows(spec, 2, "b", 2).await.expect("rows"), [row("c", 3)]);
    let absent = still.head(spec, 9).await;
    assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");
}

pub async fn a_generation_of_another_shape_shows_no_fields(views: &dyn Generations) {
    static OLD: ModelSpec = spec("reshaped", 1, FIELDS);
    static NEW: ModelSpec = spec("reshaped", 2, &[]);
    lead(views, &OLD).await;
    built(views, &OLD, 1, &[row("a", 1)]).await;
    let all = generations(views, &NEW).await;
    assert!(all.len() == 2 && all.iter().all(|found| !found.fits && found.head.fold_version == 1), "{all:?}");
    let mut still = views.still().await.expect("a picture");
    assert_eq!(still.rows(&NEW, 2, "", 9).await.expect("rows"), [StoredRow { fields: vec![], ..row("a", 1) }]);
}
