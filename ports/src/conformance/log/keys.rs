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

pub async fn a_key_is_kept_without_events_and_decides_from_then_on(log: &dyn EventLog) {
    let before = head(log).await;
    let key = KeyUse { outcome: json!({"refused": {"code": "UNIT_NOT_AVAILABLE"}}), ..fresh_key(Keep::Forever) };
    assert_eq!(log.keep_key(&key).await.expect("kept"), None);
    let record = KeyRecord { request_hash: key.request_hash.clone(), outcome: key.outcome.clone(), position: before };
    assert_eq!(log.find_key(&key.scope, &key.key).await.expect("found"), Some(record.clone()));
    // Who decides otherwise later gets what the first one got, whether it has events or not.
    let again = KeyUse { outcome: json!({"id": "other"}), ..key.clone() };
    assert_eq!(log.keep_key(&again).await.expect("kept"), Some(record.clone()));
    assert_eq!(append(log, &keyed(log, &again)).await, AppendOutcome::Replayed(record));
    let other = KeyUse { request_hash: "other".into(), ..again };
    assert_eq!(append(log, &keyed(log, &other)).await, AppendOutcome::KeyReused);
    assert_eq!(head(log).await, before);
    // And the other way round.
    let key = fresh_key(Keep::Forever);
    let (_, last) = commit(log, &keyed(log, &key)).await;
    let record = KeyRecord { request_hash: key.request_hash.clone(), outcome: key.outcome.clone(), position: last };
    let refused = KeyUse { outcome: json!({"refused": {}}), ..key };
    assert_eq!(log.keep_key(&refused).await.expect("kept"), Some(record));
}

pub async fn a_key_that_is_kept_while_others_append_with_it_has_one_outcome(log: Arc<dyn EventLog>) {
    for _ in 0..20 {
        let key = fresh_key(Keep::Forever);
        let before = head(log.as_ref()).await;
        let refused = KeyUse { outcome: json!({"refused": {}}), ..key.clone() };
        let racers = (0..8).map(|racer| {
            let (log, command, refused) = (log.clone(), keyed(log.as_ref(), &key), refused.clone());
            tokio::spawn(async move {
                match racer % 2 {
                    0 => match append(log.as_ref(), &command).await {
                        AppendOutcome::Committed { .. } => command.key.expect("it has one").outcome,
                        AppendOutcome::Replayed(record) => record.outcome,
                        other => panic!("{other:?}"),
                    },
                    _ => log.keep_key(&refused).await.expect("kept").map_or(refused.outcome, |record| record.outcome),
                }
            })
        });
        let racers: Vec<_> = racers.collect();
        let kept = log.find_key(&key.scope, &key.key);
        let mut outcomes = Vec::new();
        for racer in racers {
            outcomes.push(racer.await.expect("no panic"));
        }
        let kept = kept.await.expect("found").expect("kept").outcome;
        assert!(outcomes.iter().all(|outcome| *outcome == kept), "{kept}: {outcomes:?}");
        let events = if kept == key.outcome { 2 } else { 0 };
        assert_eq!(head(log.as_ref()).await, before + events);
    }
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
