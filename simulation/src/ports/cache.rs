//! A shared cache that may lose, and may answer with what it once kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ports::{CacheVersion, Result, SharedCache};
use query_api::Entry;

use super::Sabotage;
use crate::fate::{Fate, Gate, Kind};

#[derive(Default)]
pub struct CacheStore {
    kept: Mutex<BTreeMap<String, Kept>>,
}

struct Kept {
    version: CacheVersion,
    value: Bytes,
    /// What it had before: a failover that lost writes brings it back.
    before: Option<Bytes>,
}

impl CacheStore {
    pub fn flush(&self) {
        self.kept.lock().expect("nothing panics under this lock").clear();
    }

    fn get(&self, fate: &Fate, key: &str, sabotage: Option<Sabotage>) -> Option<Bytes> {
        let mut kept = self.kept.lock().expect("nothing panics under this lock");
        let forged = sabotage == Some(Sabotage::ForgedRevision);
        if !fate.is_calm() && fate.chance(0.03) {
            kept.remove(key);
            fate.count("cache entry lost");
        }
        let found = kept.get(key)?;
        let older = !fate.is_calm() && fate.chance(if forged { 0.3 } else { 0.05 });
        let value = match &found.before {
            Some(before) if older => {
                fate.count("cache answered with an older entry");
                before.clone()
            }
            _ => found.value.clone(),
        };
        if forged && let Some(mut entry) = Entry::decode(value.clone()) {
            entry.deps.iter_mut().for_each(|dep| dep.revision = u64::MAX / 4);
            return Some(entry.encode());
        }
        Some(value)
    }

    fn put(&self, key: String, version: CacheVersion, value: Bytes) {
        let mut kept = self.kept.lock().expect("nothing panics under this lock");
        match kept.get_mut(&key) {
            None => {
                kept.insert(key, Kept { version, value, before: None });
            }
            Some(kept) if kept.version <= version => {
                kept.before = Some(std::mem::replace(&mut kept.value, value));
                kept.version = version;
            }
            Some(_) => {}
        }
    }
}

pub struct SimCache {
    pub gate: Gate,
    pub store: Arc<CacheStore>,
    pub sabotage: Option<Sabotage>,
}

#[async_trait]
impl SharedCache for SimCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let (store, fate, sabotage, wanted) = (self.store.clone(), self.gate.fate.clone(), self.sabotage, key.to_owned());
        let work = async move { Ok(store.get(&fate, &wanted, sabotage)) };
        let show = |found: &Option<Bytes>| if found.is_some() { "hit".into() } else { "miss".into() };
        self.gate.call(Kind::Read, format!("cache get {key}"), show, work).await
    }

    async fn put(&self, key: &str, version: CacheVersion, value: Bytes, _: Duration) -> Result<()> {
        let (store, stored) = (self.store.clone(), key.to_owned());
        let work = async move {
            store.put(stored, version, value);
            Ok(())
        };
        let operation = format!("cache put {key} {}.{}", version.term, version.revision);
        self.gate.call(Kind::Write, operation, |()| "put".into(), work).await
    }
}
