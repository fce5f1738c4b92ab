//! The view store in memory. A snapshot is a shared, immutable state; a write makes a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use ports::{
    Checkpoint, Claim, Error, ModelHead, ModelSpec, Result, Row, RowChange, Select, ViewBatch, ViewChange, ViewSnapshot,
    ViewStore,
};
use serde_json::Value;
use uuid::Uuid;

use super::select::{Rows, StoredRow, select};
use crate::views::{CHANGES_KEPT, another_fold, check_batch, moved};

#[derive(Default)]
pub struct MemoryViews(Mutex<HashMap<&'static str, Arc<Model>>>);

#[derive(Clone)]
struct Model {
    head: ModelHead,
    fields: Vec<&'static str>,
    rows: Rows,
    changes: VecDeque<ViewChange>,
}

impl MemoryViews {
    pub fn new() -> Self {
        Self::default()
    }

    fn models(&self) -> MutexGuard<'_, HashMap<&'static str, Arc<Model>>> {
        self.0.lock().expect("the views' lock is never poisoned: nothing under it panics")
    }
}

impl Model {
    fn new(spec: &'static ModelSpec) -> Self {
        let head = ModelHead {
            model: spec.name.to_owned(),
            generation: 1,
            fold_version: spec.fold_version,
            term: 0,
            revision: 0,
            oldest_change: 1,
            checkpoint: Checkpoint { incarnation: Uuid::nil(), position: 0, event_id: None },
        };
        let fields = spec.fields.iter().map(|field| field.name).collect();
        Self { head, fields, rows: Rows::new(), changes: VecDeque::new() }
    }

    fn put(&mut self, change: &RowChange) {
        match change {
            RowChange::Delete { key } => {
                self.rows.remove(key);
            }
            RowChange::Put { key, doc, fields } => {
                self.rows.insert(key.clone(), StoredRow { doc: doc.clone(), fields: fields.clone() });
            }
        }
    }

    fn record(&mut self, tags: Vec<String>) {
        self.head.revision += 1;
        self.changes.push_back(ViewChange { revision: self.head.revision, tags });
        if self.changes.len() as u64 > CHANGES_KEPT {
            self.changes.pop_front();
            self.head.oldest_change += 1;
        }
    }
}

fn absent(model: &str) -> Error {
    Error::NotFound(format!("a live generation of {model}"))
}

#[async_trait]
impl ViewStore for MemoryViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        let mut models = self.models();
        for spec in specs {
            models.entry(spec.name).or_insert_with(|| Arc::new(Model::new(spec)));
        }
        Ok(())
    }

    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        let mut models = self.models();
        let model = Arc::make_mut(models.get_mut(spec.name).ok_or_else(|| absent(spec.name))?);
        if model.head.fold_version != spec.fold_version {
            return Err(another_fold(spec, model.head.fold_version));
        }
        model.head.term += 1;
        let head = &model.head;
        Ok(Some(Claim {
            generation: head.generation,
            term: head.term,
            revision: head.revision,
            checkpoint: head.checkpoint.clone(),
        }))
    }

    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        let models = self.models();
        let model = models.get(spec.name).filter(|model| model.head.generation == generation);
        let model = model.ok_or_else(|| absent(spec.name))?;
        Ok(keys.iter().filter_map(|key| Some((key.clone(), model.rows.get(key)?.doc.clone()))).collect())
    }

    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        check_batch(batch)?;
        let mut models = self.models();
        let model = models.get_mut(batch.spec.name).ok_or_else(|| absent(batch.spec.name))?;
        let head = &model.head;
        if (head.generation, head.term, head.checkpoint.position) != (batch.generation, batch.term, batch.from) {
            return Err(moved(batch));
        }
        let model = Arc::make_mut(model);
        batch.changes.iter().for_each(|change| model.put(change));
        model.head.checkpoint = batch.to.clone();
        if !batch.tags.is_empty() {
            model.record(batch.tags.iter().cloned().collect());
        }
        Ok(model.head.revision)
    }

    async fn heads(&self) -> Result<Vec<ModelHead>> {
        Ok(self.models().values().map(|model| model.head.clone()).collect())
    }

    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        let models = self.models();
        let Some(model) = models.get(model).filter(|model| model.head.generation == generation) else {
            return Ok(Vec::new());
        };
        Ok(model.changes.iter().filter(|change| change.revision > after).take(limit).cloned().collect())
    }

    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        Ok(Box::new(Snapshot(self.models().clone())))
    }
}

struct Snapshot(HashMap<&'static str, Arc<Model>>);

impl Snapshot {
    fn model(&self, model: &str) -> Result<&Model> {
        self.0.get(model).map(Arc::as_ref).ok_or_else(|| absent(model))
    }
}

#[async_trait]
impl ViewSnapshot for Snapshot {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        Ok(self.model(model)?.head.clone())
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<Value>> {
        Ok(self.model(model)?.rows.get(key).map(|row| row.doc.clone()))
    }

    async fn select(&mut self, query: &Select) -> Result<Vec<Row>> {
        let model = self.model(query.model)?;
        select(&model.rows, &model.fields, query)
    }
}
