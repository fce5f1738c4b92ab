//! The log of a context.

use std::sync::Arc;

use adapters::memory::MemoryLog;
use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::{Context, StreamId};
use ports::{
    AppendOutcome, AppendRequest, ChainHead, Checkpoint, Clock, EventLog, FollowerCheckpoints, HashChain, KeyRecord, KeyUse,
    Link, LogHead, Position, Recorded, Result, StoredEvent, StreamEvents, SubjectKeys, Transfer,
};
use uuid::Uuid;

use super::{Claims, Sabotage};
use crate::fate::{Fate, Gate, Kind};

/// What the processes share.
pub struct LogStore {
    pub inner: MemoryLog,
    pub claims: Claims,
    pub sabotage: Option<Sabotage>,
    pub clock: Arc<dyn Clock>,
}

impl LogStore {
    async fn append(&self, fate: &Fate, mut batch: Vec<AppendRequest>) -> Result<Vec<AppendOutcome>> {
        match self.sabotage {
            Some(Sabotage::AckBeforeStore) if !fate.is_calm() && fate.chance(0.1) => return self.only_say(&batch).await,
            Some(Sabotage::NoVersionCheck) => {
                for append in batch.iter_mut().flat_map(|request| &mut request.streams) {
                    append.expected_version = self.inner.load(&append.stream, 0).await?.len() as u64;
                }
            }
            Some(Sabotage::NoKeys) => batch.iter_mut().for_each(|request| request.key = None),
            _ => {}
        }
        let outcomes = self.inner.append(&batch).await?;
        if self.sabotage == Some(Sabotage::StoreTwice) && !fate.is_calm() && fate.chance(0.1) {
            for (request, outcome) in batch.into_iter().zip(&outcomes) {
                if matches!(outcome, AppendOutcome::Committed { .. }) {
                    self.inner.append(&[again(request)]).await?;
                }
            }
        }
        Ok(outcomes)
    }

    async fn only_say(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        let mut last = self.inner.head().await?.position;
        let committed = batch.iter().map(|request| {
            let first = last + 1;
            last += request.streams.iter().map(|append| append.events.len() as u64).sum::<u64>();
            AppendOutcome::Committed { first, last, recorded_at: self.clock.now() }
        });
        Ok(committed.collect())
    }
}

/// The same command once more, as if it were another.
fn again(mut request: AppendRequest) -> AppendRequest {
    request.key = None;
    request.subject_keys.clear();
    for append in &mut request.streams {
        append.expected_version += append.events.len() as u64;
        append.events.iter_mut().for_each(|event| event.event_id = Uuid::now_v7());
    }
    request
}

pub struct SimLog {
    pub gate: Gate,
    pub store: Arc<LogStore>,
}

fn outcomes(outcomes: &Vec<AppendOutcome>) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        match outcome {
            AppendOutcome::Committed { first, last, .. } => text.push_str(&format!("[{first}-{last}]")),
            AppendOutcome::VersionConflict { actual, .. } => text.push_str(&format!("[at {actual}]")),
            AppendOutcome::Replayed(record) => text.push_str(&format!("[replayed {}]", record.position)),
            AppendOutcome::KeyReused => text.push_str("[key reused]"),
        }
    }
    text
}

fn ok(_: &()) -> String {
    "ok".into()
}

impl SimLog {
    fn operation(&self, what: &str) -> String {
        format!("{} {what}", self.store.inner.context())
    }
}

impl Transfer for SimLog {}

#[async_trait]
impl EventLog for SimLog {
    fn context(&self) -> Context {
        self.store.inner.context()
    }

    async fn load(&self, stream: &StreamId, after_sequence: u64) -> Result<Vec<SerializedEvent>> {
        let operation = format!("load {stream} after {after_sequence}");
        let (store, stream) = (self.store.clone(), stream.clone());
        let work = async move { store.inner.load(&stream, after_sequence).await };
        self.gate.call(Kind::Read, operation, |events| format!("{} events", events.len()), work).await
    }

    async fn load_many(&self, streams: &[StreamId]) -> Result<Vec<StreamEvents>> {
        let names: Vec<String> = streams.iter().map(StreamId::to_string).collect();
        let operation = format!("load {}", names.join(" and "));
        let (store, streams) = (self.store.clone(), streams.to_vec());
        let work = async move { store.inner.load_many(&streams).await };
        self.gate.call(Kind::Read, operation, |loaded| format!("{} streams", loaded.len()), work).await
    }

    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        let mut operation = "append".to_owned();
        for append in batch.iter().flat_map(|request| &request.streams) {
            let events: Vec<&str> = append.events.iter().map(|event| event.event_type.as_str()).collect();
            operation.push_str(&format!(" {}@{} {}", append.stream, append.expected_version, events.join("+")));
        }
        let (store, fate, batch) = (self.store.clone(), self.gate.fate.clone(), batch.to_vec());
        let work = async move { store.append(&fate, batch).await };
        self.gate.call(Kind::Write, operation, outcomes, work).await
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        let store = self.store.clone();
        let work = async move { store.inner.read(after, limit).await };
        let show = |events: &Vec<Recorded>| format!("{} events", events.len());
        self.gate.call(Kind::Read, self.operation(&format!("read after {after}")), show, work).await
    }

    async fn head(&self) -> Result<LogHead> {
        let store = self.store.clone();
        let work = async move { store.inner.head().await };
        self.gate.call(Kind::Read, self.operation("head"), |head| head.position.to_string(), work).await
    }

    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        let (store, scope, key) = (self.store.clone(), scope.to_owned(), key.to_owned());
        let work = async move { store.inner.find_key(&scope, &key).await };
        let show = |found: &Option<KeyRecord>| if found.is_some() { "found".into() } else { "absent".into() };
        self.gate.call(Kind::Read, self.operation("find key"), show, work).await
    }

    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        if self.store.sabotage == Some(Sabotage::NoKeys) {
            return Ok(None);
        }
        let (store, key) = (self.store.clone(), key.clone());
        let work = async move { store.inner.keep_key(&key).await };
        let show = |found: &Option<KeyRecord>| if found.is_some() { "is kept".into() } else { "kept".into() };
        self.gate.call(Kind::Write, self.operation("keep key"), show, work).await
    }
}

#[async_trait]
impl SubjectKeys for SimLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        let (store, subject) = (self.store.clone(), subject.to_owned());
        let work = async move { store.inner.subject_key(&subject).await };
        self.gate.call(Kind::Read, self.operation("subject key"), |_| "ok".into(), work).await
    }

    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        let (store, subject) = (self.store.clone(), subject.to_owned());
        let work = async move { store.inner.destroy_subject_key(&subject).await };
        self.gate.call(Kind::Write, self.operation("destroy subject key"), ok, work).await
    }
}

#[async_trait]
impl FollowerCheckpoints for SimLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        let (store, follower) = (self.store.clone(), name.to_owned());
        let work = async move { store.inner.follower_checkpoint(&follower).await };
        self.gate.call(Kind::Read, self.operation(&format!("checkpoint of {name}")), at, work).await
    }

    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        let store = self.store.clone();
        let work = async move { store.inner.follower_checkpoints().await };
        let show = |all: &Vec<(String, Checkpoint)>| format!("{} checkpoints", all.len());
        self.gate.call(Kind::Read, self.operation("checkpoints"), show, work).await
    }

    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        let (store, fate, proc, follower) =
            (self.store.clone(), self.gate.fate.clone(), self.gate.proc.clone(), name.to_owned());
        let work = async move {
            match store.claims.take(&fate, &follower, &proc) {
                true => store.inner.claim_follower(&follower).await,
                false => Ok(None),
            }
        };
        self.gate.call(Kind::Write, self.operation(&format!("claim {name}")), |term| format!("{term:?}"), work).await
    }

    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        let operation = self.operation(&format!("advance {name} in term {term} from {from:?} to {}", to.position));
        let (store, follower, mut to) = (self.store.clone(), name.to_owned(), to.clone());
        let work = async move {
            if store.sabotage == Some(Sabotage::CheckpointAhead) && to.position > 0 {
                let ahead = store.inner.read(to.position, 3).await?;
                if let Some(event) = ahead.last() {
                    to =
                        Checkpoint { incarnation: to.incarnation, position: event.position, event_id: Some(event.event_id) };
                }
            }
            store.inner.advance_follower(&follower, term, from, &to).await
        };
        self.gate.call(Kind::Write, operation, ok, work).await
    }
}

#[async_trait]
impl HashChain for SimLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        let store = self.store.clone();
        let work = async move { store.inner.scan(after, limit).await };
        let show = |events: &Vec<StoredEvent>| format!("{} events", events.len());
        self.gate.call(Kind::Read, self.operation(&format!("scan after {after}")), show, work).await
    }

    async fn last_link(&self) -> Result<Option<Link>> {
        let store = self.store.clone();
        let work = async move { store.inner.last_link().await };
        let show =
            |link: &Option<Link>| link.as_ref().map_or_else(|| "absent".into(), |link| link.head.position.to_string());
        self.gate.call(Kind::Read, self.operation("last link"), show, work).await
    }

    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        let store = self.store.clone();
        let work = async move { store.inner.links(after, limit).await };
        let show = |links: &Vec<Link>| format!("{} links", links.len());
        self.gate.call(Kind::Read, self.operation(&format!("links after {after}")), show, work).await
    }

    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        let operation = self.operation(&format!("link {after}-{}", head.position));
        let (store, head, marks) = (self.store.clone(), head.clone(), marks.to_vec());
        let work = async move { store.inner.add_link(after, &head, &marks).await };
        self.gate.call(Kind::Write, operation, ok, work).await
    }
}

fn at(checkpoint: &Option<Checkpoint>) -> String {
    checkpoint.as_ref().map_or_else(|| "absent".into(), |checkpoint| checkpoint.position.to_string())
}
