//! Steps of a projection: compare-and-set on term and checkpoint, rows and change in the same transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::{at, lead, put, spec, step};
use crate::{Checkpoint, Error, FieldValue, ModelSpec, RowChange, ViewStore, conformance_spec};

pub async fn a_prepared_model_is_empty_and_preparing_again_changes_nothing(views: &dyn ViewStore) {
    let spec = conformance_spec!("prepared");
    let absent = views.claim(spec).await;
    assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");
    let absent = views.snapshot().await.expect("a snapshot").head("prepared").await;
    assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");

    let claim = lead(views, spec).await;
    assert_eq!((claim.generation, claim.revision, claim.checkpoint.position), (1, 0, 0));
    assert_eq!(claim.checkpoint, Checkpoint { incarnation: uuid::Uuid::nil(), position: 0, event_id: None });
    views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    views.prepare(&[spec]).await.expect("prepared again");
    let heads = views.heads().await.expect("heads");
    let head = heads.iter().find(|head| head.model == "prepared").expect("a head");
    assert_eq!((head.revision, head.fold_version, head.oldest_change), (1, 1, 1));
    assert_eq!(head.checkpoint, at(1));
}

pub async fn every_claim_starts_a_higher_term(views: &dyn ViewStore) {
    let spec = conformance_spec!("claimed");
    let first = lead(views, spec).await;
    let second = views.claim(spec).await.expect("claimed").expect("ours already");
    assert!(second.term > first.term);
    let deposed = views.apply(&step(spec, &first, 0, vec![put("a", 1, None, None)])).await;
    assert!(matches!(deposed, Err(Error::Conflict(_))), "{deposed:?}");
    views.apply(&step(spec, &second, 0, vec![put("a", 2, None, None)])).await.expect("applied");
}

pub async fn a_generation_of_another_fold_is_not_claimed(views: &dyn ViewStore) {
    static OLD: ModelSpec = spec("folded", 1, super::FIELDS);
    static NEW: ModelSpec = spec("folded", 2, super::FIELDS);
    lead(views, &OLD).await;
    views.prepare(&[&NEW]).await.expect("prepared");
    let answer = views.claim(&NEW).await;
    assert!(matches!(answer, Err(Error::Rejected { .. })), "{answer:?}");
}

pub async fn rows_checkpoint_and_change_move_together(views: &dyn ViewStore) {
    let spec = conformance_spec!("stepped");
    let claim = lead(views, spec).await;
    let changes = vec![put("a", 1, Some("Łódź"), Some(5)), put("b", 1, None, None)];
    assert_eq!(views.apply(&step(spec, &claim, 0, changes)).await.expect("applied"), 1);
    let changes = vec![RowChange::Delete { key: "a".into() }, put("b", 2, None, Some(-1)), put("c", 2, None, None)];
    assert_eq!(views.apply(&step(spec, &claim, 1, changes)).await.expect("applied"), 2);

    let asked: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
    let rows = views.rows(spec, claim.generation, &asked).await.expect("rows");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows["b"], json!({"key": "b", "number": 2, "city": null, "rent": -1}));
    let mut snapshot = views.snapshot().await.expect("a snapshot");
    let head = snapshot.head("stepped").await.expect("a head");
    assert_eq!((head.revision, head.term, head.checkpoint), (2, claim.term, at(2)));
    assert_eq!(snapshot.get("stepped", "a").await.expect("read"), None);
    assert_eq!(snapshot.get("stepped", "c").await.expect("read"), Some(rows["c"].to_string()));
    assert!(views.rows(spec, claim.generation, &[]).await.expect("rows").is_empty());
}

pub async fn a_step_from_another_term_or_checkpoint_writes_nothing(views: &dyn ViewStore) {
    let spec = conformance_spec!("compared");
    let claim = lead(views, spec).await;
    views.apply(&step(spec, &claim, 0, vec![put("a", 1, None, None)])).await.expect("applied");
    let good = || step(spec, &claim, 1, vec![put("a", 9, None, None), put("z", 9, None, None)]);
    let mut wrong = [good(), good(), good(), good()];
    wrong[0].from = 0;
    (wrong[1].from, wrong[1].to) = (2, at(3));
    wrong[2].term += 1;
    wrong[3].generation += 1;
    for (batch, why) in wrong.iter().zip(["behind", "ahead", "term", "generation"]) {
        let answer = views.apply(batch).await;
        // A generation that does not exist may also be refused as such.
        assert!(answer.is_err() && (why == "generation" || matches!(answer, Err(Error::Conflict(_)))), "{why}: {answer:?}");
    }
    let rows = views.rows(spec, claim.generation, &["a".into(), "z".into()]).await.expect("rows");
    assert_eq!((rows.len(), &rows["a"]["number"]), (1, &json!(1)));
    assert_eq!(views.changes(spec.name, claim.generation, 0, 10).await.expect("changes").len(), 1);
}

pub async fn a_step_without_changes_uses_up_no_revision(views: &dyn ViewStore) {
    let spec = conformance_spec!("unchanged");
    let claim = lead(views, spec).await;
    assert_eq!(views.apply(&step(spec, &claim, 0, vec![])).await.expect("applied"), 0);
    assert_eq!(views.apply(&step(spec, &claim, 1, vec![put("a", 1, None, None)])).await.expect("applied"), 1);
    assert_eq!(views.apply(&step(spec, &claim, 2, vec![])).await.expect("applied"), 1);
    let head = views.snapshot().await.expect("a snapshot").head("unchanged").await.expect("a head");
    assert_eq!((head.revision, head.checkpoint.position), (1, 3));
}

pub async fn a_malformed_step_is_rejected(views: &dyn ViewStore) {
    let spec = conformance_spec!("malformed");
    let claim = lead(views, spec).await;
    let row = |fields| RowChange::Put { key: "a".into(), doc: json!({}), fields };
    let mut untagged = step(spec, &claim, 0, vec![put("a", 1, None, None)]);
    untagged.tags = BTreeSet::new();
    let mut backwards = step(spec, &claim, 5, vec![]);
    backwards.to = at(4);
    let malformed = [
        step(spec, &claim, 0, vec![put("a", 1, None, None), put("a", 2, None, None)]),
        step(spec, &claim, 0, vec![row(vec![])]),
        step(spec, &claim, 0, vec![row(vec![FieldValue::Int(1), FieldValue::Int(1)])]),
        untagged,
        backwards,
    ];
    for batch in malformed {
        let answer = views.apply(&batch).await;
        assert!(matches!(answer, Err(Error::Rejected { .. })), "{answer:?}");
    }
}

pub async fn racing_steps_from_one_checkpoint_have_one_winner(views: Arc<dyn ViewStore>) {
    let spec = conformance_spec!("raced");
    let claim = lead(views.as_ref(), spec).await;
    let racers = (0..8).map(|number| {
        let (views, claim) = (views.clone(), claim.clone());
        tokio::spawn(async move {
            let key = format!("racer-{number}");
            views.apply(&step(spec, &claim, 0, vec![put(&key, number, None, None)])).await
        })
    });
    let mut won = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.expect("no panic") {
            Ok(revision) => won += revision,
            Err(Error::Conflict(_)) => {}
            Err(other) => panic!("{}", other.chain()),
        }
    }
    assert_eq!(won, 1);
    let keys: Vec<String> = (0..8).map(|number| format!("racer-{number}")).collect();
    assert_eq!(views.rows(spec, claim.generation, &keys).await.expect("rows").len(), 1);
}

pub async fn a_large_step_arrives_whole(views: &dyn ViewStore) {
    let spec = conformance_spec!("large");
    let claim = lead(views, spec).await;
    let keys: Vec<String> = (0..2_000).map(|number| format!("row-{number:05}")).collect();
    let changes = keys.iter().map(|key| put(key, 1, Some("Łódź"), Some(1))).collect();
    views.apply(&step(spec, &claim, 0, changes)).await.expect("applied");
    assert_eq!(views.rows(spec, claim.generation, &keys).await.expect("rows").len(), 2_000);
    let changes = keys.iter().map(|key| RowChange::Delete { key: key.clone() }).collect();
    views.apply(&step(spec, &claim, 1, changes)).await.expect("applied");
    assert!(views.rows(spec, claim.generation, &keys).await.expect("rows").is_empty());
}
