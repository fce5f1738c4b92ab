//! Views against fresh folds.

use std::collections::{BTreeMap, HashMap};

use domain::Context;
use ports::{OrderBy, Recorded, RowChange, Select, ViewSnapshot, ViewStore};
use read_models::{ReadModel, Rows};
use serde_json::Value;

use crate::world::World;

type Docs = BTreeMap<String, Value>;

/// The models whose checkpoint is not at their log's head.
pub async fn behind(world: &World) -> Vec<String> {
    let heads = world.views.inner.heads().await.unwrap_or_default();
    let mut behind = Vec::new();
    for model in &world.plan.models {
        let spec = model.spec();
        let head = world.head(spec.context).await;
        let at = heads.iter().find(|known| known.model == spec.name).map(|known| known.checkpoint.position);
        if at != Some(head) {
            behind.push(format!("{} is at {at:?} of {head}", spec.name));
        }
    }
    behind
}

/// Folds one event into documents, without batches, terms and checkpoints.
fn fold(model: &dyn ReadModel, event: &Recorded, docs: &mut Docs) -> ports::Result<()> {
    let keys = model.keys(event)?;
    if keys.is_empty() {
        return Ok(());
    }
    let stored: HashMap<String, Value> = keys.iter().filter_map(|key| Some((key.clone(), docs.get(key)?.clone()))).collect();
    let mut rows = Rows::default();
    rows.load(&keys, stored);
    model.fold(event, &mut rows)?;
    for change in rows.take_changes()?.0 {
        match change {
            RowChange::Put { key, doc, .. } => drop(docs.insert(key, doc)),
            RowChange::Delete { key } => drop(docs.remove(&key)),
        }
    }
    Ok(())
}

async fn stored(snapshot: &mut dyn ViewSnapshot, model: &'static str) -> ports::Result<Docs> {
    let select = Select { model, filters: vec![], order: OrderBy::KEY, after: None, limit: 100_000 };
    snapshot.select(&select).await?.into_iter().map(|row| Ok((row.key.clone(), row.read(model)?))).collect()
}

fn difference(expected: &Docs, found: &Docs) -> Option<String> {
    let keys = expected.keys().chain(found.keys());
    let differing = keys.into_iter().find(|key| expected.get(*key) != found.get(*key))?;
    let side = |docs: &Docs| docs.get(differing).map_or_else(|| "no row".to_owned(), ToString::to_string);
    Some(format!("row {differing}: folded {:.300}, stored {:.300}", side(expected), side(found)))
}

/// Every model equals a fold of its whole log.
pub async fn fresh_folds(world: &World) {
    for context in Context::ALL {
        let models: Vec<_> = world.plan.models.iter().filter(|model| model.spec().context == context).collect();
        if models.is_empty() {
            continue;
        }
        let events = world.events(context).await;
        for model in models {
            let name = model.spec().name;
            let mut docs = Docs::new();
            if let Some(error) = events.iter().find_map(|event| fold(*model, event, &mut docs).err()) {
                world.violation(format!("{name} cannot be folded: {error}"));
            }
            let Ok(mut snapshot) = world.views.inner.snapshot().await else { continue };
            match stored(&mut *snapshot, name).await {
                Err(error) => world.violation(format!("{name} cannot be read: {error}")),
                Ok(found) => {
                    if let Some(difference) = difference(&docs, &found) {
                        world.violation(format!("{name} differs from a fresh fold: {difference}"));
                    }
                }
            }
        }
    }
}

/// Also every state in between was the fold of the log up to its checkpoint, and none went back.
pub async fn history(world: &World) {
    let watched = world.plan.models.iter().find(|model| model.spec().name == world.views.watched);
    let Some(model) = watched else { return };
    let events = world.events(model.spec().context).await;
    let (mut docs, mut folded) = (Docs::new(), 0);
    for moment in world.views.history() {
        if moment.position < folded {
            world.violation(format!("{} went back to {}", model.spec().name, moment.position));
            return;
        }
        for event in events.iter().skip(folded as usize).take((moment.position - folded) as usize) {
            if fold(*model, event, &mut docs).is_err() {
                return;
            }
        }
        folded = moment.position;
        let found = stored(&mut **moment.snapshot.lock().await, model.spec().name).await.unwrap_or_default();
        if let Some(difference) = difference(&docs, &found) {
            let name = model.spec().name;
            world.violation(format!("{name} at {folded} (from {} ms) is not its log: {difference}", moment.from_ms));
            return;
        }
    }
}
