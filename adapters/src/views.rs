//! What every adapter of the view store has in common.

use domain::StreamId;
use ports::{Checkpoint, Error, FieldKind, FieldValue, Load, ModelSpec, Position, Result, RowChange, Standing, ViewBatch};

/// Change rows kept for each generation; a replica that is further behind starts afresh.
pub(crate) const CHANGES_KEPT: u64 = 10_000;

/// Old change rows are trimmed once in so many revisions.
pub(crate) const TRIM_EVERY: u64 = 500;

pub(crate) fn another_fold(spec: &ModelSpec, live: u32) -> Error {
    Error::rejected(
        format!("the live generation of {}", spec.name),
        format!("it was folded by version {live}, this program folds version {}: it must be rebuilt", spec.fold_version),
    )
}

pub(crate) fn another_shape(spec: &ModelSpec, live: &str) -> Error {
    Error::rejected(
        format!("the live generation of {}", spec.name),
        format!("it has the fields {live:?}, this program declares others: raise the fold version and rebuild"),
    )
}

pub(crate) fn standing_of(text: &str) -> Result<Standing> {
    let found = Standing::ALL.into_iter().find(|standing| standing.as_str() == text);
    found.ok_or_else(|| Error::corrupt(format!("the view store has a generation that is {text:?}")))
}

pub(crate) fn paused(spec: &ModelSpec) -> Error {
    Error::rejected(spec.name, format!("an operator paused it; `casitas projections resume {}` lets it go on", spec.name))
}

pub(crate) fn absent_live(model: &str) -> Error {
    Error::NotFound(format!("a live generation of {model}"))
}

pub(crate) fn absent(model: &str, generation: u64) -> Error {
    Error::NotFound(format!("generation {generation} of {model}"))
}

pub(crate) fn is_live(model: &str, generation: u64) -> Error {
    Error::Conflict(format!("generation {generation} of {model} is live: it cannot be dropped"))
}

/// Whose rebuild it was has lost it: another one took over, or it was aborted.
pub(crate) fn lost(model: &str, generation: u64) -> Error {
    Error::Conflict(format!("generation {generation} of {model} is not built by this process any more"))
}

pub(crate) fn lost_load(load: &Load<'_>) -> Error {
    lost(load.spec.name, load.generation)
}

pub(crate) fn twice(model: &str) -> Error {
    Error::rejected(model, "a row is fed by more than one stream: its feed must be `Mixed`")
}

pub(crate) fn not_complete(model: &str, generation: u64) -> Error {
    Error::Conflict(format!("generation {generation} of {model} is not complete"))
}

/// Whether readers would see less than they have. Positions of two lives of a log cannot be compared.
pub(crate) fn goes_back(next: &Checkpoint, live: &Checkpoint) -> bool {
    next.position < live.position && next.incarnation == live.incarnation
}

pub(crate) fn behind(model: &str, at: u64, live: u64) -> Error {
    Error::Conflict(format!("the other generation of {model} is at {at}, readers are at {live} already"))
}

pub(crate) fn moved(batch: &ViewBatch<'_>) -> Error {
    Error::Conflict(format!(
        "{} is not at term {} and position {} any more: claim it again",
        batch.spec.name, batch.term, batch.from
    ))
}

pub(crate) fn not_parked(model: &str, stream: &StreamId, position: Position) -> Error {
    Error::NotFound(format!("{stream} is not parked at position {position} of {model}"))
}

/// Refuses a batch that breaks the port's preconditions, before anything is sent.
pub(crate) fn check_batch(batch: &ViewBatch<'_>) -> Result<()> {
    let refuse = |why: String| Err(Error::rejected(batch.spec.name, why));
    let mut keys = std::collections::HashSet::new();
    for change in &batch.changes {
        if !keys.insert(change.key()) {
            return refuse(format!("the key {:?} changes twice in a batch", change.key()));
        }
        let RowChange::Put { key, fields, .. } = change else { continue };
        let fits = |(field, value): (&ports::Field, &FieldValue)| {
            matches!(
                (field.kind, value),
                (_, FieldValue::Null) | (FieldKind::Int, FieldValue::Int(_)) | (FieldKind::Text, FieldValue::Text(_))
            )
        };
        if fields.len() != batch.spec.fields.len() || !batch.spec.fields.iter().zip(fields).all(fits) {
            return refuse(format!("the fields of {key:?} are not those of the model"));
        }
    }
    let mut streams = std::collections::HashSet::new();
    for parking in &batch.parking {
        let stream = parking.stream();
        if !streams.insert(stream) {
            return refuse(format!("{stream} is parked or unparked twice in a batch"));
        }
    }
    if batch.tags.is_empty() && !batch.changes.is_empty() {
        return refuse("rows changed without a tag".into());
    }
    if batch.to.position < batch.from {
        return refuse(format!("a checkpoint never goes back: from {} to {}", batch.from, batch.to.position));
    }
    Ok(())
}
