//! The contract of [`ViewStore`]. Each check has models of its own, so that they can share one fresh store.

mod feed;
pub(super) mod parked;
mod select;
mod snapshot;
mod step;

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::Context;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Checkpoint, Claim, Field, FieldKind, FieldValue, ModelSpec, Position, RowChange, ViewBatch, ViewStore};

pub use feed::*;
pub use parked::*;
pub use select::*;
pub use snapshot::*;
pub use step::*;

pub async fn all(views: Arc<dyn ViewStore>) {
    let shared = views.as_ref();
    a_prepared_model_is_empty_and_preparing_again_changes_nothing(shared).await;
    every_claim_starts_a_higher_term(shared).await;
    a_generation_of_another_fold_is_not_claimed(shared).await;
    rows_checkpoint_and_change_move_together(shared).await;
    a_step_from_another_term_or_checkpoint_writes_nothing(shared).await;
    a_step_without_changes_uses_up_no_revision(shared).await;
    a_malformed_step_is_rejected(shared).await;
    racing_steps_from_one_checkpoint_have_one_winner(views.clone()).await;
    a_large_step_arrives_whole(shared).await;

    a_parked_stream_moves_with_its_step_and_only_with_it(shared).await;
    what_is_asked_for_a_parked_stream_waits_for_the_leader(shared).await;

    the_feed_is_dense_and_read_in_chunks(shared).await;
    the_news_are_the_heads_with_the_changes_that_were_not_seen(shared).await;

    every_select_equals_the_naive_reference(shared).await;
    pages_put_together_are_the_whole(shared).await;
    an_unknown_field_or_model_is_refused(shared).await;

    a_snapshot_stays_at_its_moment(shared).await;
    a_snapshot_never_mixes_steps(views.clone()).await;
}

pub const FIELDS: &[Field] = &[Field { name: "city", kind: FieldKind::Text }, Field { name: "rent", kind: FieldKind::Int }];

/// A model with the fields `city` (text) and `rent` (int).
#[macro_export]
macro_rules! conformance_spec {
    ($name:literal) => {{
        static SPEC: $crate::ModelSpec = $crate::ModelSpec {
            name: $name,
            fold_version: 1,
            context: ::domain::Context::Units,
            fields: $crate::conformance::views::FIELDS,
        };
        &SPEC
    }};
}

pub const fn spec(name: &'static str, fold_version: u32, fields: &'static [Field]) -> ModelSpec {
    ModelSpec { name, fold_version, context: Context::Units, fields }
}

/// Prepares and claims a model.
pub async fn lead(views: &dyn ViewStore, spec: &'static ModelSpec) -> Claim {
    views.prepare(&[spec]).await.expect("prepared");
    views.claim(spec).await.expect("claimed").expect("free")
}

pub fn at(position: Position) -> Checkpoint {
    Checkpoint { incarnation: Uuid::from_u128(7), position, event_id: Some(Uuid::from_u128(position.into())) }
}

pub fn put(key: &str, number: i64, city: Option<&str>, rent: Option<i64>) -> RowChange {
    let doc: Value = json!({"key": key, "number": number, "city": city, "rent": rent});
    RowChange::Put { key: key.into(), doc, fields: vec![FieldValue::from(city), FieldValue::from(rent)] }
}

/// A step of a claimed projection by one position.
pub fn step<'a>(spec: &'a ModelSpec, claim: &Claim, from: Position, changes: Vec<RowChange>) -> ViewBatch<'a> {
    let tags: BTreeSet<String> = changes.iter().map(|change| format!("{}:{}", spec.name, change.key())).collect();
    ViewBatch {
        spec,
        generation: claim.generation,
        term: claim.term,
        from,
        to: at(from + 1),
        changes,
        tags,
        parking: vec![],
    }
}

/// The key, and a field of the document, of rows.
pub fn keys(rows: &[crate::Row]) -> Vec<&str> {
    rows.iter().map(|row| row.key.as_str()).collect()
}
