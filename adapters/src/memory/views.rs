//! The view store in memory. A snapshot is a shared, immutable state; a write makes a new one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use domain::StreamId;
use ports::{
    Ask, Checkpoint, Claim, ModelHead, ModelSpec, ParkedStream, ParkedStreams, Parking, Part, Position, Result, Row,
    RowChange, Select, Standing, ViewBatch, ViewChange, ViewSnapshot, ViewStore,
};
use serde_json::Value;
use uuid::Uuid;

use super::select::{Rows, StoredRow, select};
use crate::views::{CHANGES_KEPT, absent_live as absent, another_fold, check_batch, moved, not_parked, paused};

#[derive(Default)]
pub struct MemoryViews(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    pub generations: BTreeMap<&'static str, BTreeMap<u64, Arc<Model>>>,
    pub paused: BTreeSet<String>,
    /// Who rebuilds is this process, or nobody.
    pub rebuilding: BTreeSet<String>,
}

/// One generation of a model.
#[derive(Clone)]
pub(super) struct Model {
    pub head: ModelHead,
    pub standing: Standing,
    pub trial: bool,
    pub parts: Vec<Part>,
    pub fields: Vec<&'static str>,
    pub rows: Rows,
    changes: VecDeque<ViewChange>,
    parked: Vec<ParkedStream>,
}

impl MemoryViews {
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the views' lock is never poisoned: nothing under it panics")
    }
}

impl State {
    pub(super) fn find(&self, model: &str, standing: Standing) -> Option<&Arc<Model>> {
        self.generations.get(model)?.values().find(|generation| generation.standing == standing)
    }

    pub(super) fn live(&self, model: &str) -> Result<&Arc<Model>> {
        self.find(model, Standing::Live).ok_or_else(|| absent(model))
    }

    pub(super) fn generation(&mut self, model: &str, generation: u64) -> Option<&mut Model> {
        self.generations.get_mut(model)?.get_mut(&generation).map(Arc::make_mut)
    }

    /// The highest term of any generation of a model.
    pub(super) fn term(&self, model: &str) -> u64 {
        let generations = self.generations.get(model).into_iter().flat_map(BTreeMap::values);
        generations.map(|generation| generation.head.term).max().unwrap_or(0)
    }

    /// The latest number of a model's generations.
    pub(super) fn number(&self, model: &str) -> u64 {
        self.generations.get(model).and_then(|all| all.keys().next_back().copied()).unwrap_or(0)
    }

    pub(super) fn insert(&mut self, spec: &'static ModelSpec, model: Model) {
        self.generations.entry(spec.name).or_default().insert(model.head.generation, Arc::new(model));
    }

    pub(super) fn claim(&mut self, spec: &ModelSpec, generation: u64) -> Result<Claim> {
        if self.paused.contains(spec.name) {
            return Err(paused(spec));
        }
        let model = self.generation(spec.name, generation).ok_or_else(|| absent(spec.name))?;
        if model.head.fold_version != spec.fold_version {
            return Err(another_fold(spec, model.head.fold_version));
        }
        model.head.term += 1;
        let head = &model.head;
        let (term, revision, checkpoint) = (head.term, head.revision, head.checkpoint.clone());
        Ok(Claim { generation, term, revision, checkpoint })
    }
}

impl Model {
    pub(super) fn new(spec: &'static ModelSpec, generation: u64, standing: Standing) -> Self {
        let head = ModelHead {
            model: spec.name.to_owned(),
            generation,
            fold_version: spec.fold_version,
            term: 0,
            revision: 0,
            oldest_change: 1,
            checkpoint: Checkpoint { incarnation: Uuid::nil(), position: 0, event_id: None },
        };
        let fields = spec.fields.iter().map(|field| field.name).collect();
        Self {
            head,
            standing,
            trial: false,
            parts: Vec::new(),
            fields,
            rows: Rows::new(),
            changes: VecDeque::new(),
            parked: Vec::new(),
        }
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

    pub(super) fn park(&mut self, parking: &Parking) {
        let stream = parking.stream();
        self.parked.retain(|parked| parked.stream != *stream);
        if let Parking::Park(parked) = parking {
            self.parked.push(parked.clone());
            self.parked.sort_by_key(|parked| parked.position);
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

#[async_trait]
impl ParkedStreams for MemoryViews {
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>> {
        let mut state = self.state();
        Ok(state.generation(model, generation).map(|model| model.parked.clone()).unwrap_or_default())
    }

    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()> {
        let mut state = self.state();
        let parked = state.generation(model, generation).and_then(|model| {
            model.parked.iter_mut().find(|parked| parked.stream == *stream && parked.position == position)
        });
        parked.ok_or_else(|| not_parked(model, stream, position))?.asked = Some(ask);
        Ok(())
    }
}

#[async_trait]
impl ViewStore for MemoryViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        let mut state = self.state();
        for spec in specs {
            if state.live(spec.name).is_err() {
                state.insert(spec, Model::new(spec, 1, Standing::Live));
            }
        }
        Ok(())
    }

    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        let mut state = self.state();
        let generation = state.live(spec.name)?.head.generation;
        state.claim(spec, generation).map(Some)
    }

    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        let mut state = self.state();
        let model = state.generation(spec.name, generation).ok_or_else(|| absent(spec.name))?;
        Ok(keys.iter().filter_map(|key| Some((key.clone(), model.rows.get(key)?.doc.clone()))).collect())
    }

    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        check_batch(batch)?;
        let mut state = self.state();
        let model = state.generation(batch.spec.name, batch.generation).ok_or_else(|| moved(batch))?;
        if (model.head.term, model.head.checkpoint.position) != (batch.term, batch.from) {
            return Err(moved(batch));
        }
        batch.changes.iter().for_each(|change| model.put(change));
        batch.parking.iter().for_each(|parking| model.park(parking));
        model.head.checkpoint = batch.to.clone();
        if !batch.tags.is_empty() {
            model.record(batch.tags.iter().cloned().collect());
        }
        Ok(model.head.revision)
    }

    async fn heads(&self) -> Result<Vec<ModelHead>> {
        let state = self.state();
        let live = state.generations.keys().filter_map(|model| state.find(model, Standing::Live));
        Ok(live.map(|model| model.head.clone()).collect())
    }

    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        let mut state = self.state();
        let Some(model) = state.generation(model, generation) else { return Ok(Vec::new()) };
        Ok(model.changes.iter().filter(|change| change.revision > after).take(limit).cloned().collect())
    }

    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        let state = self.state();
        let live = |model: &&'static str| Some((*model, state.find(model, Standing::Live)?.clone()));
        Ok(Box::new(Snapshot(state.generations.keys().filter_map(live).collect())))
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

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        Ok(self.model(model)?.rows.get(key).map(|row| row.doc.to_string()))
    }

    async fn select(&mut self, query: &Select) -> Result<Vec<Row>> {
        let model = self.model(query.model)?;
        select(&model.rows, &model.fields, query)
    }
}
