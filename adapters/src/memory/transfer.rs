//! Export and import of the log in memory.

use async_trait::async_trait;
use ports::{Error, FollowerAt, Held, Import, Incarnation, KeptKey, KeyRecord, Result, Transfer, WrappedKey};
use serde_json::value::to_raw_value;
use uuid::Uuid;

use super::log::{MemoryLog, StoredKey};
use crate::stored::{check_import, check_place, check_start};

#[async_trait]
impl Transfer for MemoryLog {
    async fn kept_keys(&self, after: Option<(&str, &str)>, limit: usize) -> Result<Vec<KeptKey>> {
        let now = self.clock.now();
        let state = self.state();
        let mut keys: Vec<_> = state.keys.iter().filter(|(_, stored)| stored.is_kept(now)).collect();
        keys.sort_by_key(|(name, _)| *name);
        let behind = keys.into_iter().filter(|((scope, key), _)| after.is_none_or(|after| (&**scope, &**key) > after));
        let kept = behind.take(limit).map(|((scope, key), stored)| {
            Ok(KeptKey {
                scope: scope.clone(),
                key: key.clone(),
                keep: stored.keep,
                request_hash: stored.record.request_hash.clone(),
                outcome: to_raw_value(&stored.record.outcome).map_err(|error| Error::corrupt(error.to_string()))?,
                position: stored.record.position,
                created_at: stored.created_at,
            })
        });
        kept.collect()
    }

    async fn followers(&self) -> Result<Vec<FollowerAt>> {
        let state = self.state();
        let at = |(name, follower): (&String, &super::log::Follower)| {
            Some(FollowerAt { name: name.clone(), checkpoint: follower.checkpoint.clone()? })
        };
        let mut followers: Vec<_> = state.followers.iter().filter_map(at).collect();
        followers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(followers)
    }

    async fn wrapped_keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<WrappedKey>> {
        let state = self.state();
        let mut keys: Vec<_> =
            state.subjects.values().filter(|key| after.is_none_or(|after| &*key.subject > after)).collect();
        keys.sort_by(|a, b| a.subject.cmp(&b.subject));
        Ok(keys.into_iter().take(limit).cloned().collect())
    }

    async fn hold(&self) -> Result<Held> {
        Ok(Box::new(self.turn.clone().lock_owned().await))
    }

    async fn import(&self, import: &Import) -> Result<()> {
        let starts = check_import(self.context, import)?;
        let mut state = self.state();
        check_place(self.context, import, state.incarnation, state.events.len() as u64)?;
        for (stream, start) in starts {
            check_start(self.context, import, stream, start, state.version(stream))?;
        }
        if let Some(taken) = import.events.iter().find(|event| state.ids.contains_key(&event.event_id)) {
            return Err(Error::rejected("the log", format!("event id {} is taken", taken.event_id)));
        }
        state.incarnation = import.incarnation;
        for event in &import.events {
            let index = state.events.len();
            state.ids.insert(event.event_id, index);
            state.streams.entry(event.stream.clone()).or_default().push(index);
            state.events.push(event.clone());
        }
        for key in &import.keys {
            let outcome = serde_json::from_str(key.outcome.get()).map_err(|error| Error::corrupt(error.to_string()))?;
            let record = KeyRecord { request_hash: key.request_hash.clone(), outcome, position: key.position };
            let stored = StoredKey { record, keep: key.keep, created_at: key.created_at };
            state.keys.entry((key.scope.clone(), key.key.clone())).or_insert(stored);
        }
        for follower in &import.followers {
            let stored = state.followers.entry(follower.name.clone()).or_default();
            stored.term += 1;
            stored.checkpoint = Some(follower.checkpoint.clone());
        }
        for key in &import.subjects {
            state.subjects.entry(key.subject.clone()).or_insert_with(|| key.clone());
        }
        Ok(())
    }

    async fn renew_incarnation(&self) -> Result<Incarnation> {
        let mut state = self.state();
        let (old, new) = (state.incarnation, Uuid::new_v4());
        state.incarnation = new;
        let checkpoints = state.followers.values_mut().filter_map(|follower| follower.checkpoint.as_mut());
        checkpoints.filter(|checkpoint| checkpoint.incarnation == old).for_each(|checkpoint| checkpoint.incarnation = new);
        Ok(new)
    }
}
