//! The view store, with the history of the model that GETs are judged by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use adapters::memory::MemoryViews;
use async_trait::async_trait;
use domain::StreamId;
use ports::{
    Ask, Claim, ModelHead, ModelSpec, ParkedStream, ParkedStreams, Position, Result, Row, Select, ViewBatch, ViewChange,
    ViewSnapshot, ViewStore,
};
use serde_json::Value;

use super::{Claims, Sabotage};
use crate::fate::{Fate, Gate, Kind};

pub type SharedSnapshot = Arc<tokio::sync::Mutex<Box<dyn ViewSnapshot>>>;

/// What the view store held from a moment on.
#[derive(Clone)]
pub struct Moment {
    pub from_ms: u64,
    pub position: Position,
    pub snapshot: SharedSnapshot,
}

pub struct ViewsStore {
    pub inner: MemoryViews,
    pub claims: Claims,
    pub sabotage: Option<Sabotage>,
    /// The model whose history is kept.
    pub watched: &'static str,
    history: Mutex<Vec<Moment>>,
    frozen: Mutex<Option<Vec<ModelHead>>>,
}

impl ViewsStore {
    pub fn new(watched: &'static str, sabotage: Option<Sabotage>) -> Self {
        Self {
            inner: MemoryViews::new(),
            claims: Claims::default(),
            sabotage,
            watched,
            history: Mutex::default(),
            frozen: Mutex::default(),
        }
    }

    pub fn history(&self) -> Vec<Moment> {
        self.history.lock().expect("nothing panics under this lock").clone()
    }

    async fn apply(&self, fate: &Fate, mut batch: Batch) -> Result<u64> {
        if self.sabotage == Some(Sabotage::CheckpointWithoutRows) && !fate.is_calm() && fate.chance(0.1) {
            batch.0.changes.clear();
        }
        let revision = self.inner.apply(&batch.0).await?;
        if batch.0.spec.name == self.watched {
            let snapshot = Arc::new(tokio::sync::Mutex::new(self.inner.snapshot().await?));
            let moment = Moment { from_ms: fate.now_ms(), position: batch.0.to.position, snapshot };
            self.history.lock().expect("nothing panics under this lock").push(moment);
        }
        Ok(revision)
    }

    /// In order of their names: the inner store's order is anybody's guess.
    async fn heads(&self, fate: &Fate) -> Result<Vec<ModelHead>> {
        let mut heads = self.inner.heads().await?;
        heads.sort_by(|left, right| left.model.cmp(&right.model));
        if self.sabotage == Some(Sabotage::FrozenHeads) && fate.now_ms() > 500 {
            return Ok(self.frozen.lock().expect("nothing panics under this lock").get_or_insert(heads).clone());
        }
        Ok(heads)
    }
}

/// A batch that outlives its caller.
struct Batch(ViewBatch<'static>);

impl Batch {
    fn of(batch: &ViewBatch<'_>) -> Result<Self> {
        let known = read_models::all().into_iter().find(|model| model.spec().name == batch.spec.name);
        let spec = known.ok_or_else(|| ports::Error::NotFound(batch.spec.name.to_owned()))?.spec();
        Ok(Self(ViewBatch {
            spec,
            generation: batch.generation,
            term: batch.term,
            from: batch.from,
            to: batch.to.clone(),
            changes: batch.changes.clone(),
            tags: batch.tags.clone(),
            parking: batch.parking.clone(),
        }))
    }
}

pub struct SimViews {
    pub gate: Gate,
    pub store: Arc<ViewsStore>,
}

#[async_trait]
impl ParkedStreams for SimViews {
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>> {
        let (store, name) = (self.store.clone(), model.to_owned());
        let work = async move { store.inner.parked(&name, generation).await };
        self.gate.call(Kind::Read, format!("parked of {model}"), |parked| format!("{} streams", parked.len()), work).await
    }

    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()> {
        let (store, name, wanted) = (self.store.clone(), model.to_owned(), stream.clone());
        let work = async move { store.inner.ask(&name, generation, &wanted, position, ask).await };
        self.gate.call(Kind::Write, format!("{ask} {stream} of {model}"), |()| "ok".into(), work).await
    }
}

#[async_trait]
impl ViewStore for SimViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        let (store, specs) = (self.store.clone(), specs.to_vec());
        let work = async move { store.inner.prepare(&specs).await };
        self.gate.call(Kind::Write, "prepare".into(), |()| "ok".into(), work).await
    }

    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        let (store, fate, proc) = (self.store.clone(), self.gate.fate.clone(), self.gate.proc.clone());
        let work = async move {
            match store.claims.take(&fate, spec.name, &proc) {
                true => store.inner.claim(spec).await,
                false => Ok(None),
            }
        };
        let show = |claim: &Option<Claim>| claim.as_ref().map_or("held".into(), |claim| format!("term {}", claim.term));
        self.gate.call(Kind::Write, format!("claim {}", spec.name), show, work).await
    }

    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        let operation = format!("rows of {} ({})", spec.name, keys.len());
        let (store, spec, keys) = (self.store.clone(), *spec, keys.to_vec());
        let work = async move { store.inner.rows(&spec, generation, &keys).await };
        self.gate.call(Kind::Read, operation, |rows| format!("{} rows", rows.len()), work).await
    }

    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        let operation =
            format!("apply {} in term {} from {} to {}", batch.spec.name, batch.term, batch.from, batch.to.position);
        let (store, fate, batch) = (self.store.clone(), self.gate.fate.clone(), Batch::of(batch)?);
        let work = async move { store.apply(&fate, batch).await };
        self.gate.call(Kind::Write, operation, |revision| format!("revision {revision}"), work).await
    }

    async fn heads(&self) -> Result<Vec<ModelHead>> {
        let (store, fate) = (self.store.clone(), self.gate.fate.clone());
        let work = async move { store.heads(&fate).await };
        self.gate.call(Kind::Read, "heads".into(), |heads| format!("{} heads", heads.len()), work).await
    }

    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        let operation = format!("changes of {model} after {after}");
        let (store, model) = (self.store.clone(), model.to_owned());
        let work = async move { store.inner.changes(&model, generation, after, limit).await };
        self.gate.call(Kind::Read, operation, |changes| format!("{} changes", changes.len()), work).await
    }

    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        let (store, gate) = (self.store.clone(), self.gate.clone());
        let work = async move {
            let inner = Arc::new(tokio::sync::Mutex::new(store.inner.snapshot().await?));
            Ok(Box::new(SimSnapshot { gate, inner }) as Box<dyn ViewSnapshot>)
        };
        self.gate.call(Kind::Read, "snapshot".into(), |_| "taken".into(), work).await
    }
}

struct SimSnapshot {
    gate: Gate,
    inner: SharedSnapshot,
}

#[async_trait]
impl ViewSnapshot for SimSnapshot {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        // Comes with the snapshot: no call of its own.
        self.inner.lock().await.head(model).await
    }

    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        let (inner, wanted) = (self.inner.clone(), key.to_owned());
        let work = async move { inner.lock().await.get(model, &wanted).await };
        let show = |found: &Option<String>| if found.is_some() { "found".into() } else { "absent".into() };
        self.gate.call(Kind::Read, format!("get {model} {key}"), show, work).await
    }

    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        let (inner, select) = (self.inner.clone(), select.clone());
        let operation = format!("select {}", select.model);
        let work = async move { inner.lock().await.select(&select).await };
        self.gate.call(Kind::Read, operation, |rows| format!("{} rows", rows.len()), work).await
    }
}
