//! A view store and a shared cache whose failures and slowness a test decides, and queries over them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::{Context, StreamId, Timestamp};
use ports::{
    Ask, CacheVersion, Checkpoint, Claim, Error, ManualClock, ModelHead, ModelSpec, ParkedStream, ParkedStreams, Result,
    Row, Select, SharedCache, ViewBatch, ViewChange, ViewSnapshot, ViewStore,
};
use read_models::{Answer, Tag};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use uuid::Uuid;

use crate::feed::Feed;
use crate::query::{Body, Query, Sharing};
use crate::reader::{ReadError, Reader, ReaderConfig, Served, Wish};

pub static UNITS: ModelSpec = ModelSpec { name: "test_units", fold_version: 1, context: Context::Units, fields: &[] };
pub static LEASES: ModelSpec = ModelSpec { name: "test_leases", fold_version: 1, context: Context::Legal, fields: &[] };

#[derive(Clone)]
struct Model {
    head: ModelHead,
    rows: BTreeMap<String, Value>,
    changes: Vec<ViewChange>,
}

/// The gate stands between a snapshot and its reads: a closed one makes computations slow.
#[derive(Default)]
pub struct TestViews {
    models: Mutex<BTreeMap<&'static str, Model>>,
    pub down: AtomicBool,
    pub gate: Arc<RwLock<()>>,
    pub snapshots: AtomicUsize,
    pub polls: AtomicUsize,
    /// How long each read of a snapshot takes.
    pub slowness_ms: AtomicU64,
}

impl TestViews {
    pub fn new() -> Arc<Self> {
        let views = Self::default();
        for spec in [&UNITS, &LEASES] {
            let head = ModelHead {
                model: spec.name.into(),
                generation: 1,
                fold_version: 1,
                term: 1,
                revision: 0,
                oldest_change: 1,
                checkpoint: Checkpoint { incarnation: Uuid::from_u128(1), position: 0, event_id: None },
            };
            views.models().insert(spec.name, Model { head, rows: BTreeMap::new(), changes: Vec::new() });
        }
        Arc::new(views)
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<&'static str, Model>> {
        self.models.lock().expect("not poisoned")
    }

    fn up(&self) -> Result<()> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::Unavailable { what: "views".into(), source: None }),
            false => Ok(()),
        }
    }

    /// Writes a row as the projection of the next event; answers the event's position.
    pub fn write(&self, spec: &ModelSpec, key: &str, doc: Value) -> u64 {
        let mut models = self.models();
        let model = models.get_mut(spec.name).expect("a model");
        model.rows.insert(key.into(), doc);
        model.head.revision += 1;
        model.head.checkpoint.position += 1;
        model.changes.push(ViewChange { revision: model.head.revision, tags: vec![key.into(), "*".into()] });
        model.head.checkpoint.position
    }

    pub fn edit(&self, spec: &ModelSpec, edit: impl FnOnce(&mut ModelHead)) {
        edit(&mut self.models().get_mut(spec.name).expect("a model").head);
    }

    pub fn forget_changes_before(&self, spec: &ModelSpec, revision: u64) {
        let mut models = self.models();
        let model = models.get_mut(spec.name).expect("a model");
        model.changes.retain(|change| change.revision >= revision);
        model.head.oldest_change = revision;
    }

    pub fn position(&self, spec: &ModelSpec) -> u64 {
        self.models()[spec.name].head.checkpoint.position
    }

    pub fn row(&self, spec: &ModelSpec, key: &str) -> Value {
        self.models()[spec.name].rows.get(key).cloned().unwrap_or(Value::Null)
    }

    pub fn rows_now(&self, spec: &ModelSpec) -> BTreeMap<String, Value> {
        self.models()[spec.name].rows.clone()
    }
}

#[async_trait]
impl ParkedStreams for TestViews {
    async fn parked(&self, _: &str, _: u64) -> Result<Vec<ParkedStream>> {
        Ok(vec![])
    }
    async fn ask(&self, _: &str, _: u64, stream: &StreamId, _: u64, _: Ask) -> Result<()> {
        Err(Error::NotFound(stream.to_string()))
    }
}

#[async_trait]
impl ViewStore for TestViews {
    async fn prepare(&self, _: &[&'static ModelSpec]) -> Result<()> {
        Ok(())
    }
    async fn claim(&self, _: &'static ModelSpec) -> Result<Option<Claim>> {
        Ok(None)
    }
    async fn rows(&self, _: &ModelSpec, _: u64, _: &[String]) -> Result<HashMap<String, Value>> {
        Ok(HashMap::new())
    }
    async fn apply(&self, _: &ViewBatch<'_>) -> Result<u64> {
        Err(Error::Conflict("tests write rows themselves".into()))
    }
    async fn heads(&self) -> Result<Vec<ModelHead>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.up()?;
        Ok(self.models().values().map(|model| model.head.clone()).collect())
    }
    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        self.up()?;
        let models = self.models();
        let Some(model) = models.get(model).filter(|model| model.head.generation == generation) else { return Ok(vec![]) };
        Ok(model.changes.iter().filter(|change| change.revision > after).take(limit).cloned().collect())
    }
    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        self.up()?;
        let slowness = Duration::from_millis(self.slowness_ms.load(Ordering::SeqCst));
        let snapshot = Snapshot { models: self.models().clone(), gate: self.gate.clone(), slowness };
        self.snapshots.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(snapshot))
    }
}

struct Snapshot {
    models: BTreeMap<&'static str, Model>,
    gate: Arc<RwLock<()>>,
    slowness: Duration,
}

impl Snapshot {
    async fn pass(&self) {
        drop(self.gate.read().await);
        if !self.slowness.is_zero() {
            tokio::time::sleep(self.slowness).await;
        }
    }
}

#[async_trait]
impl ViewSnapshot for Snapshot {
    async fn head(&mut self, model: &str) -> Result<ModelHead> {
        self.models.get(model).map(|model| model.head.clone()).ok_or_else(|| Error::NotFound(model.into()))
    }
    async fn get(&mut self, model: &'static str, key: &str) -> Result<Option<String>> {
        self.pass().await;
        Ok(self.models[model].rows.get(key).map(Value::to_string))
    }
    async fn select(&mut self, select: &Select) -> Result<Vec<Row>> {
        self.pass().await;
        let rows = self.models[select.model].rows.iter();
        Ok(rows.map(|(key, doc)| Row { key: key.clone(), doc: doc.to_string() }).collect())
    }
}

/// What a test's shared cache does when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Works,
    Fails,
    Hangs,
}

pub struct TestCache {
    pub stored: Mutex<HashMap<String, (CacheVersion, Bytes)>>,
    /// How long each was to be kept.
    pub lives: Mutex<HashMap<String, Duration>>,
    pub mood: Mutex<Mood>,
    pub gets: AtomicUsize,
    pub puts: tokio::sync::watch::Sender<usize>,
}

impl TestCache {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            stored: Mutex::default(),
            lives: Mutex::default(),
            mood: Mutex::new(Mood::Works),
            gets: AtomicUsize::new(0),
            puts: tokio::sync::watch::Sender::new(0),
        })
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().expect("not poisoned") = mood;
    }

    async fn answer(&self) -> Result<()> {
        let mood = *self.mood.lock().expect("not poisoned");
        match mood {
            Mood::Works => Ok(()),
            Mood::Fails => Err(Error::Unavailable { what: "cache".into(), source: None }),
            Mood::Hangs => std::future::pending().await,
        }
    }

    pub async fn put_count(&self, count: usize) {
        self.puts.subscribe().wait_for(|puts| *puts >= count).await.expect("the cache lives");
    }
}

#[async_trait]
impl SharedCache for TestCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.answer().await?;
        Ok(self.stored.lock().expect("not poisoned").get(key).map(|(_, bytes)| bytes.clone()))
    }
    async fn put(&self, key: &str, version: CacheVersion, value: Bytes, ttl: Duration) -> Result<()> {
        self.answer().await?;
        self.lives.lock().expect("not poisoned").insert(key.into(), ttl);
        let mut stored = self.stored.lock().expect("not poisoned");
        if stored.get(key).is_none_or(|(kept, _)| *kept <= version) {
            stored.insert(key.into(), (version, value));
        }
        drop(stored);
        self.puts.send_modify(|puts| *puts += 1);
        Ok(())
    }
}

/// One row; a number in `expires` ends the answer at that second.
pub struct OneRow(pub &'static str, pub Sharing);

#[async_trait]
impl Query for OneRow {
    fn models(&self) -> &'static [&'static ModelSpec] {
        static MODELS: &[&ModelSpec] = &[&UNITS];
        MODELS
    }
    fn key(&self) -> String {
        format!("id={}", self.0)
    }
    fn sharing(&self) -> Sharing {
        self.1
    }
    async fn run(&self, snapshot: &mut dyn ViewSnapshot, now: Timestamp) -> Result<Option<Body>> {
        let row: Option<Value> = read_models::find(snapshot, UNITS.name, self.0).await?;
        let expires = row
            .as_ref()
            .and_then(|row| row["expires"].as_i64())
            .map(|second| Timestamp::from_second(second).expect("an instant"));
        let value = row.map(|row| json!({ "row": row, "held": expires.is_some_and(|expires| now < expires) }));
        let valid_until = expires.filter(|expires| now < *expires);
        Body::found(Answer { value, tags: vec![Tag::row(UNITS.name, self.0)], valid_until })
    }
}

/// All units beside all leases: two models, two contexts.
pub struct Everything;

#[async_trait]
impl Query for Everything {
    fn models(&self) -> &'static [&'static ModelSpec] {
        static MODELS: &[&ModelSpec] = &[&UNITS, &LEASES];
        MODELS
    }
    fn key(&self) -> String {
        "all".into()
    }
    async fn run(&self, snapshot: &mut dyn ViewSnapshot, _: Timestamp) -> Result<Option<Body>> {
        let mut all = BTreeMap::new();
        for spec in [&UNITS, &LEASES] {
            let select =
                Select { model: spec.name, filters: vec![], order: ports::OrderBy::KEY, after: None, limit: usize::MAX };
            let rows = snapshot.select(&select).await?;
            all.insert(
                spec.name,
                rows.iter()
                    .map(|row| Ok((row.key.clone(), row.read::<Value>(spec.name)?)))
                    .collect::<Result<BTreeMap<_, _>>>()?,
            );
        }
        let tags = vec![Tag::collection(UNITS.name), Tag::collection(LEASES.name)];
        Body::json(Answer { value: all, tags, valid_until: None })
    }
}

pub struct Replica {
    pub views: Arc<TestViews>,
    pub cache: Arc<TestCache>,
    pub clock: Arc<ManualClock>,
    pub reader: Reader,
}

pub const START: i64 = 1_800_000_000;

pub fn second(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).expect("an instant")
}

impl Replica {
    pub fn new(views: &Arc<TestViews>, cache: &Arc<TestCache>, memory_bytes: Option<u64>) -> Self {
        let clock = Arc::new(ManualClock::at(second(0)));
        let feed = Arc::new(Feed::new(views.clone()));
        let config = ReaderConfig { memory_bytes };
        let reader = Reader::new(views.clone(), Some(cache.clone()), clock.clone(), feed, &config);
        Self { views: views.clone(), cache: cache.clone(), clock, reader }
    }

    /// One replica with both tiers whose feed has been polled once.
    pub async fn alone() -> Self {
        let replica = Self::new(&TestViews::new(), &TestCache::new(), Some(1_000_000));
        replica.poll().await;
        replica
    }

    pub async fn poll(&self) {
        self.reader.feed().poll().await.expect("a poll");
    }

    pub async fn read(&self, key: &'static str) -> Result<Option<Served>, ReadError> {
        self.reader.read(Arc::new(OneRow(key, Sharing::Shared)), &Wish::default()).await
    }

    pub async fn served(&self, key: &'static str) -> Served {
        self.read(key).await.expect("an answer").expect("a row")
    }
}

/// A wish to see a position of the units' log.
pub fn wish(position: u64, wait: Duration) -> Wish {
    let token: web::PositionToken = format!("units:{position}").parse().expect("a token");
    Wish { token: vec![token].into(), wait }
}

pub fn value(served: &Served) -> Value {
    serde_json::from_slice(&served.entry.plain).expect("JSON")
}

pub fn tags(tags: &[&str]) -> BTreeSet<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

/// Lets what was spawned run as far as it can.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
