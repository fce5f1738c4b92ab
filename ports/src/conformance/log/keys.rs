//! Idempotency keys.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::{append, commit, events, fresh_stream, head, request, to};
use crate::{AppendOutcome, AppendRequest, EventLog, Keep, KeyRecord, KeyUse};

/// A key nobody used yet.
pub fn fresh_key(keep: Keep) -> KeyUse {
    KeyUse {
        scope: "user:0192 POST /units".into(),
        key: Uuid::now_v7().to_string(),
        request_hash: "5e88".into(),
        keep,
        outcome: json!({"id": "0192", "version": 1}),
    }
}

pub fn keyed(log: &dyn EventLog, key: &KeyUse) -> AppendRequest {
    AppendRequest { key: Some(key.clone()), ..request(vec![to(&fresh_stream(log), 0, events(2))]) }
}

pub async fn the_same_request_with_its_key_is_replayed(log: &dyn EventLog) {
    for keep in [Keep::Days30, Keep::Forever] {
        let key = fresh_key(keep);
        assert_eq!(log.find_key(&key.scope, &key.key).await.expect("found"), None);
        let (_, last) = commit(log, &keyed(log, &key)).await;
        let before = head(log).await;
        let record = KeyRecord { request_hash: key.request_hash.clone(), outcome: key.outcome.clone(), position: last };
        // A repetition may have decided anew, on another stream and with another outcome: the first one counts.
        let again = KeyUse { outcome: json!({"id": "other"}), ..key.clone() };
        assert_eq!(append(log, &keyed(log, &again)).await, AppendOutcome::Replayed(record.clone()));
        assert_eq!(log.find_key(&key.scope, &key.key).await.expect("found"), Some(record));
        assert_eq!(head(log).await, before);
    }
}

pub async fn another_request_with_a_used_key_is_refused(log: &dyn EventLog) {
    let key = fresh_key(Keep::Days30);
    commit(log, &keyed(log, &key)).await;
    let before = head(log).await;
    let other = KeyUse { request_hash: "other".into(), ..key.clone() };
    assert_eq!(append(log, &keyed(log, &other)).await, AppendOutcome::KeyReused);
    assert_eq!(head(log).await, before);
    let elsewhere = KeyUse { scope: "user:0192 POST /leases".into(), ..other };
    commit(log, &keyed(log, &elsewhere)).await;
}

pub async fn a_refused_command_leaves_its_key_free(log: &dyn EventLog) {
    let key = fresh_key(Keep::Days30);
    let mut refused = keyed(log, &key);
    refused.streams[0].expected_version = 4;
    assert!(matches!(append(log, &refused).await, AppendOutcome::VersionConflict { .. }));
    assert_eq!(log.find_key(&key.scope, &key.key).await.expect("found"), None);
    commit(log, &keyed(log, &key)).await;
}

pub async fn a_key_twice_in_one_batch_counts_once(log: &dyn EventLog) {
    let key = fresh_key(Keep::Days30);
    let other = KeyUse { request_hash: "other".into(), ..key.clone() };
    let mut refused = keyed(log, &key);
    refused.streams[0].expected_version = 4;
    let before = head(log).await;
    let batch = [refused, keyed(log, &key), keyed(log, &key), keyed(log, &other)];
    let outcomes = log.append(&batch).await.expect("appended");
    assert!(matches!(outcomes[0], AppendOutcome::VersionConflict { .. }));
    assert!(matches!(outcomes[1], AppendOutcome::Committed { last, .. } if last == before + 2));
    let record = KeyRecord { request_hash: key.request_hash.clone(), outcome: key.outcome.clone(), position: before + 2 };
    assert_eq!(outcomes[2], AppendOutcome::Replayed(record));
    assert_eq!(outcomes[3], AppendOutcome::KeyReused);
    assert_eq!(head(log).await, before + 2);
}

pub async fn a_resent_command_with_a_key_is_committed_not_replayed(log: &dyn EventLog) {
    let command = keyed(log, &fresh_key(Keep::Forever));
    let outcome = append(log, &command).await;
    assert_eq!(append(log, &command).await, outcome);
}

pub async fn racing_duplicates_of_one_key_commit_once(log: Arc<dyn EventLog>) {
    let key = fresh_key(Keep::Days30);
    let before = head(log.as_ref()).await;
    let racers = (0..16).map(|_| {
        let (log, command) = (log.clone(), keyed(log.as_ref(), &key));
        tokio::spawn(async move { append(log.as_ref(), &command).await })
    });
    let racers: Vec<_> = racers.collect();
    let (mut committed, mut replayed) = (0, 0);
    for racer in racers {
        match racer.await.expect("no panic") {
            AppendOutcome::Committed { .. } => committed += 1,
            AppendOutcome::Replayed(record) => {
                assert_eq!(record.position, before + 2);
                replayed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((committed, replayed), (1, 15));
}
