//! Ports that fail on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::{Context, StreamId};
use ports::{
    AppendOutcome, AppendRequest, Ask, ChainHead, Checkpoint, Claim, Error, EventLog, FollowerCheckpoints, HashChain,
    JobConsumer, JobQueue, KeyRecord, KeyUse, Link, LogHead, ModelHead, ModelSpec, ParkedStream, ParkedStreams, Position,
    Priority, QueueDepth, Recorded, Result, StoredEvent, SubjectKeys, Transfer, ViewBatch, ViewChange, ViewSnapshot,
    ViewStore,
};
use serde_json::Value;
use uuid::Uuid;

fn down<T>(what: &str) -> Result<T> {
    Err(Error::unavailable(what, "switched off by the test"))
}

/// Before or after the write took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// Counts writes over several logs and holds the n-th for ever: there the process is killed.
#[derive(Default)]
pub struct Hang {
    pub writes_left: AtomicI64,
    pub moment: Mutex<Option<Moment>>,
    pub hung: AtomicBool,
}

impl Hang {
    async fn at(&self, moment: Moment, mine: bool) {
        if mine && *self.moment.lock().expect("unpoisoned") == Some(moment) {
            self.hung.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
    fn count(&self) -> bool {
        self.moment.lock().expect("unpoisoned").is_some() && self.writes_left.fetch_sub(1, Ordering::SeqCst) == 0
    }
}

type Edit = Box<dyn Fn(&mut Recorded) + Send + Sync>;

pub struct FaultyLog {
    pub inner: Arc<dyn EventLog>,
    pub down: AtomicBool,
    pub hang: Mutex<Arc<Hang>>,
    /// What somebody did to the events where they are stored.
    pub edit: Mutex<Option<Edit>>,
}

impl FaultyLog {
    pub fn new(inner: Arc<dyn EventLog>) -> Self {
        Self { inner, down: AtomicBool::new(false), hang: Mutex::default(), edit: Mutex::default() }
    }
    pub fn set_down(&self, is_down: bool) {
        self.down.store(is_down, Ordering::SeqCst);
    }
    fn check(&self) -> Result<()> {
        if self.down.load(Ordering::SeqCst) { down("the log") } else { Ok(()) }
    }
    fn hang(&self) -> Arc<Hang> {
        self.hang.lock().expect("unpoisoned").clone()
    }
}

impl Transfer for FaultyLog {}

#[async_trait]
impl EventLog for FaultyLog {
    fn context(&self) -> Context {
        self.inner.context()
    }
    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>> {
        self.check()?;
        self.inner.load(stream, after_sequence).await
    }
    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        self.check()?;
        let hang = self.hang();
        let mine = hang.count();
        hang.at(Moment::Before, mine).await;
        let outcomes = self.inner.append(batch).await;
        hang.at(Moment::After, mine).await;
        outcomes
    }
    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        self.check()?;
        let mut events = self.inner.read(after, limit).await?;
        if let Some(edit) = &*self.edit.lock().expect("unpoisoned") {
            events.iter_mut().for_each(edit);
        }
        Ok(events)
    }
    async fn head(&self) -> Result<LogHead> {
        self.check()?;
        self.inner.head().await
    }
    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        self.check()?;
        self.inner.find_key(scope, key).await
    }
    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        self.check()?;
        self.inner.keep_key(key).await
    }
}

#[async_trait]
impl SubjectKeys for FaultyLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        self.inner.subject_key(subject).await
    }
    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        self.inner.destroy_subject_key(subject).await
    }
}

#[async_trait]
impl FollowerCheckpoints for FaultyLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        self.check()?;
        self.inner.follower_checkpoint(name).await
    }
    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        self.inner.follower_checkpoints().await
    }
    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        self.check()?;
        self.inner.claim_follower(name).await
    }
    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        self.check()?;
        let hang = self.hang();
        let mine = hang.count();
        hang.at(Moment::Before, mine).await;
        let advanced = self.inner.advance_follower(name, term, from, to).await;
        hang.at(Moment::After, mine).await;
        advanced
    }
}

#[async_trait]
impl HashChain for FaultyLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        self.check()?;
        self.inner.scan(after, limit).await
    }
    async fn last_link(&self) -> Result<Option<Link>> {
        self.inner.last_link().await
    }
    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        self.inner.links(after, limit).await
    }
    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        self.check()?;
        self.inner.add_link(after, head, marks).await
    }
}

/// A view store whose every n-th commit fails, half of them after it took effect.
pub struct FaultyViews {
    pub inner: Arc<dyn ViewStore>,
    /// 0: never.
    pub fail_every: AtomicU64,
    pub commits: AtomicU64,
}

impl FaultyViews {
    pub fn new(inner: Arc<dyn ViewStore>) -> Self {
        Self { inner, fail_every: AtomicU64::new(0), commits: AtomicU64::new(0) }
    }
}

#[async_trait]
impl ParkedStreams for FaultyViews {
    async fn parked(&self, model: &str, generation: u64) -> Result<Vec<ParkedStream>> {
        self.inner.parked(model, generation).await
    }
    async fn ask(&self, model: &str, generation: u64, stream: &StreamId, position: Position, ask: Ask) -> Result<()> {
        self.inner.ask(model, generation, stream, position, ask).await
    }
}

#[async_trait]
impl ViewStore for FaultyViews {
    async fn prepare(&self, specs: &[&'static ModelSpec]) -> Result<()> {
        self.inner.prepare(specs).await
    }
    async fn claim(&self, spec: &'static ModelSpec) -> Result<Option<Claim>> {
        self.inner.claim(spec).await
    }
    async fn rows(&self, spec: &ModelSpec, generation: u64, keys: &[String]) -> Result<HashMap<String, Value>> {
        self.inner.rows(spec, generation, keys).await
    }
    async fn apply(&self, batch: &ViewBatch<'_>) -> Result<u64> {
        let (count, every) = (self.commits.fetch_add(1, Ordering::SeqCst), self.fail_every.load(Ordering::SeqCst));
        if every == 0 || count % every != every - 1 {
            return self.inner.apply(batch).await;
        }
        if count / every % 2 == 0 {
            return down("the view store");
        }
        self.inner.apply(batch).await?;
        Err(Error::unknown_outcome("the view store", "cut off by the test"))
    }
    async fn heads(&self) -> Result<Vec<ModelHead>> {
        self.inner.heads().await
    }
    async fn changes(&self, model: &str, generation: u64, after: u64, limit: usize) -> Result<Vec<ViewChange>> {
        self.inner.changes(model, generation, after, limit).await
    }
    async fn snapshot(&self) -> Result<Box<dyn ViewSnapshot>> {
        self.inner.snapshot().await
    }
}

pub struct FaultyQueue {
    inner: Mutex<Arc<dyn JobQueue>>,
    pub down: AtomicBool,
}

impl FaultyQueue {
    pub fn new(inner: Arc<dyn JobQueue>) -> Self {
        Self { inner: Mutex::new(inner), down: AtomicBool::new(false) }
    }
    /// The broker comes back with nothing in it.
    pub fn wipe(&self, fresh: Arc<dyn JobQueue>) {
        *self.inner.lock().expect("unpoisoned") = fresh;
    }
    fn get(&self) -> Result<Arc<dyn JobQueue>> {
        if self.down.load(Ordering::SeqCst) {
            return down("the broker");
        }
        Ok(self.inner.lock().expect("unpoisoned").clone())
    }
}

#[async_trait]
impl JobQueue for FaultyQueue {
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()> {
        self.get()?.publish(priority, report_ids).await
    }
    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>> {
        self.get()?.consumer(high_prefetch, low_prefetch).await
    }
    async fn depth(&self, priority: Priority) -> Result<QueueDepth> {
        self.get()?.depth(priority).await
    }
}
