//! A log that moves to an empty one, and one that is held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::{Date, StreamId};
use serde_json::value::to_raw_value;
use tokio::time::timeout;
use uuid::Uuid;

use super::{append, commit, events, fresh_key, fresh_stream, head, keyed, read_all, request, sealed, to};
use crate::{AppendOutcome, Checkpoint, Error, EventLog, FollowerAt, Import, Keep, KeptKey, WrappedKey};

/// Shorter than a writer waits before it gives up.
const HELD: Duration = Duration::from_millis(200);
/// Longest wait for something that must happen.
const BOUND: Duration = Duration::from_secs(60);

/// Fills `from`, moves it to `empty` in stretches and back into nothing but the same answers. The two may be of different kinds.
pub async fn a_log_moves_to_an_empty_one_as_it_was(from: &dyn EventLog, empty: &dyn EventLog) {
    let erased = fill(from).await;
    assert_eq!(head(empty).await, 0, "the target must be empty");
    let mut steps = stretches(from).await;
    let last = steps.pop().expect("stretches");

    // What does not fit is refused whole.
    let ahead = empty.import(&last).await;
    assert!(matches!(ahead, Err(Error::Conflict(_))), "{ahead:?}");
    let mut holey = steps[0].clone();
    holey.events.remove(1);
    assert!(matches!(empty.import(&holey).await, Err(Error::Corrupt(_))));
    let mut skipping = steps[0].clone();
    skipping.events[0].sequence += 1;
    assert!(matches!(empty.import(&skipping).await, Err(Error::Corrupt(_))));
    assert_eq!(head(empty).await, 0);

    let mut refused = 0;
    for step in &steps {
        refused += what_does_not_go_on_is_refused(empty, step).await;
        empty.import(step).await.expect("imported");
    }
    assert!(refused > 0, "no stream goes on from one stretch to another");
    let again = empty.import(&steps[0]).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let foreign = empty.import(&Import { incarnation: Uuid::now_v7(), ..last.clone() }).await;
    assert!(matches!(foreign, Err(Error::Conflict(_))), "{foreign:?}");
    empty.import(&last).await.expect("imported");
    same(from, empty).await;
    let again = empty.append(&[sealed(empty, &erased, b"again")]).await;
    assert!(matches!(again, Err(Error::Rejected { .. })), "an erased subject stays erased");

    // The log goes on from there.
    let stream = last.events[0].stream.clone();
    let wrong = append(empty, &request(vec![to(&stream, 0, events(1))])).await;
    assert!(matches!(wrong, AppendOutcome::VersionConflict { .. }), "{wrong:?}");
    let key = &last.keys[0];
    let found = empty.find_key(&key.scope, &key.key).await.expect("found").expect("kept");
    assert_eq!((found.request_hash, found.position), (key.request_hash.clone(), key.position));
    commit(empty, &request(vec![to(&fresh_stream(empty), 0, events(1))])).await;
    assert_eq!(head(empty).await, head(from).await + 1);
}

/// A stream that goes on must stand where it is gone on with; how many do.
async fn what_does_not_go_on_is_refused(log: &dyn EventLog, step: &Import) -> usize {
    let first_of = |stream: &StreamId| step.events.iter().find(|event| event.stream == *stream).map(|event| event.sequence);
    let streams: BTreeSet<&StreamId> = step.events.iter().map(|event| &event.stream).collect();
    let gone_on: Vec<_> = streams.into_iter().filter(|stream| first_of(stream) > Some(1)).collect();
    for stream in &gone_on {
        for (moved, what) in [(1, "skips one"), (-1, "comes twice")] {
            let mut other = step.clone();
            for event in other.events.iter_mut().filter(|event| event.stream == **stream) {
                event.sequence = event.sequence.checked_add_signed(moved).expect("a sequence");
            }
            let refused = log.import(&other).await;
            assert!(matches!(refused, Err(Error::Corrupt(_))), "a sequence that {what}: {refused:?}");
        }
    }
    gone_on.len()
}

pub async fn a_renewed_log_takes_its_followers_along(log: &dyn EventLog) {
    let old = log.head().await.expect("a head").incarnation;
    let name = format!("policy-{}", Uuid::now_v7());
    let term = log.claim_follower(&name).await.expect("claimed").expect("free");
    let here = Checkpoint { incarnation: old, position: 1, event_id: Some(Uuid::now_v7()) };
    log.advance_follower(&name, term, None, &here).await.expect("advanced");
    let new = log.renew_incarnation().await.expect("renewed");
    assert_ne!(new, old);
    assert_eq!(log.head().await.expect("a head").incarnation, new);
    let moved = log.follower_checkpoint(&name).await.expect("read").expect("a checkpoint");
    assert_eq!(moved, Checkpoint { incarnation: new, ..here });
}

pub async fn a_log_that_is_held_takes_nothing_until_it_is_let_go(log: Arc<dyn EventLog>) {
    let before = head(&*log).await;
    for round in 1..=3 {
        let held = log.hold().await.expect("held");
        let shared = log.clone();
        let mut writer = tokio::spawn(async move {
            let stream = fresh_stream(&*shared);
            commit(&*shared, &request(vec![to(&stream, 0, events(1))])).await
        });
        let early = timeout(HELD, &mut writer).await;
        assert!(early.is_err(), "appended while it was held: {early:?}");
        assert_eq!(head(&*log).await, before + round - 1, "it is read meanwhile");
        drop(held);
        let written = timeout(BOUND, writer).await.expect("let go").expect("no panic");
        assert_eq!(written, (before + round, before + round));
    }
}

/// Answers a subject whose key was destroyed.
async fn fill(log: &dyn EventLog) -> String {
    let fresh = |what: &str| format!("{what}:{}", Uuid::now_v7());
    for _ in 0..3 {
        let stream = fresh_stream(log);
        commit(log, &request(vec![to(&stream, 0, events(2)), to(&fresh_stream(log), 0, events(3))])).await;
        commit(log, &request(vec![to(&stream, 2, events(1))])).await;
    }
    for keep in [Keep::Forever, Keep::Forever, Keep::Days30] {
        commit(log, &keyed(log, &fresh_key(keep))).await;
    }
    commit(log, &sealed(log, &fresh("party"), b"\0wrapped")).await;
    let erased = fresh("party");
    commit(log, &sealed(log, &erased, b"wrapped")).await;
    log.destroy_subject_key(&erased).await.expect("destroyed");
    // What is rare: nobody's child, no trace, long ago, and larger than what is sent at once.
    let stream = fresh_stream(log);
    let mut rare = request(vec![to(&stream, 0, events(1))]);
    (rare.metadata.causation_id, rare.metadata.traceparent) = (None, None);
    rare.streams[0].events[0].effective_on = Date::constant(1899, 12, 31);
    commit(log, &rare).await;
    let mut large = request(vec![to(&stream, 1, events(1))]);
    large.streams[0].events[0].payload = to_raw_value(&"ñ".repeat(200_000)).expect("JSON");
    commit(log, &large).await;
    commit(log, &request(vec![to(&stream, 2, events(1))])).await;
    let moved = fresh("moved");
    let term = log.claim_follower(&moved).await.expect("claimed").expect("free");
    let at = log.head().await.expect("a head");
    let checkpoint = Checkpoint { incarnation: at.incarnation, position: at.position, event_id: at.event_id };
    log.advance_follower(&moved, term, None, &checkpoint).await.expect("advanced");
    log.claim_follower(&fresh("without a checkpoint")).await.expect("claimed").expect("free");
    erased
}

/// Stretches of five events, the last with what stands beside the log.
async fn stretches(log: &dyn EventLog) -> Vec<Import> {
    let incarnation = log.head().await.expect("a head").incarnation;
    let mut steps: Vec<Import> = Vec::new();
    for chunk in read_all(log, 0).await.chunks(5) {
        let after = chunk[0].position - 1;
        steps.push(Import { incarnation, after, events: chunk.to_vec(), ..Import::default() });
    }
    let last = steps.last_mut().expect("events");
    (last.keys, last.followers, last.subjects) = beside(log).await;
    steps
}

async fn beside(log: &dyn EventLog) -> (Vec<KeptKey>, Vec<FollowerAt>, Vec<WrappedKey>) {
    let mut keys: Vec<KeptKey> = Vec::new();
    loop {
        let after = keys.last().map(|key| (key.scope.clone(), key.key.clone()));
        let after = after.as_ref().map(|(scope, key)| (scope.as_str(), key.as_str()));
        let page = log.kept_keys(after, 2).await.expect("keys");
        match page.is_empty() {
            true => break,
            false => keys.extend(page),
        }
    }
    let first = log.wrapped_keys(None, 1).await.expect("subjects");
    let mut subjects = first.clone();
    subjects.extend(log.wrapped_keys(Some(&first[0].subject), 100).await.expect("subjects"));
    (keys, log.followers().await.expect("followers"), subjects)
}

async fn same(from: &dyn EventLog, to: &dyn EventLog) {
    assert_eq!(from.head().await.expect("a head"), to.head().await.expect("a head"));
    let (left, right) = (read_all(from, 0).await, read_all(to, 0).await);
    assert_eq!(format!("{left:?}"), format!("{right:?}"), "every field of every event");
    let (left, right) = (beside(from).await, beside(to).await);
    assert!(left.0.len() >= 3);
    assert_eq!(format!("{:?}", left.0), format!("{:?}", right.0), "keys");
    assert_eq!((left.1, left.2), (right.1, right.2), "followers and subjects");
}
