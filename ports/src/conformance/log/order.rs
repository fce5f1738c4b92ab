//! Order: dense positions in commit order, nothing skipped, nothing twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{AggregateKind, StreamId};
use tokio::time::timeout;
use uuid::Uuid;

use super::{append, commit, events, fresh_stream, head, request, to};
use crate::{AppendOutcome, EventLog, Position, Recorded, Stretch};

/// Longest wait for something that must happen.
const BOUND: Duration = Duration::from_secs(60);
const WRITERS: usize = 32;
const COMMANDS: usize = 12;

pub async fn a_read_is_bounded_and_ends_at_the_head(log: &dyn EventLog) {
    let before = head(log).await;
    commit(log, &request(vec![to(&fresh_stream(log), 0, events(5))])).await;
    for (after, limit, expected) in [(0, 3, 3), (2, 100, 3), (5, 10, 0), (4, 1, 1), (0, 0, 0)] {
        assert_eq!(log.read(before + after, limit).await.expect("read").len(), expected, "{limit} after {after}");
    }
    assert!(log.read(before + 1_000, 10).await.expect("beyond the head").is_empty());
}

pub async fn a_stretch_has_the_events_of_its_streams_and_no_others(log: &dyn EventLog) {
    let before = head(log).await;
    let streams: Vec<StreamId> = (0..12).map(|_| fresh_stream(log)).collect();
    for version in 0..3 {
        for stream in &streams {
            commit(log, &request(vec![to(stream, version, events(1))])).await;
        }
    }
    let all = log.read(before, 100).await.expect("read");
    let mut ids: Vec<String> = streams.iter().map(|stream| stream.id.clone()).collect();
    ids.sort();
    let whole = Stretch {
        after: before,
        to: before + 36,
        kind: streams[0].kind,
        streams_after: String::new(),
        streams_to: None,
        share: (0, 1),
    };
    let other = AggregateKind::ALL.iter().find(|kind| **kind != streams[0].kind).expect("another kind");
    let mut shared = 0;
    for (stretch, least) in [
        (whole.clone(), 36),
        (Stretch { after: before + 5, to: before + 30, ..whole.clone() }, 25),
        (Stretch { streams_after: ids[3].clone(), ..whole.clone() }, 24),
        (Stretch { streams_to: Some(ids[3].clone()), ..whole.clone() }, 12),
        (Stretch { streams_after: ids[2].clone(), streams_to: Some(ids[4].clone()), ..whole.clone() }, 6),
        (Stretch { kind: *other, ..whole.clone() }, 0),
        (Stretch { share: (0, 3), ..whole.clone() }, 0),
        (Stretch { share: (1, 3), ..whole.clone() }, 0),
        (Stretch { share: (2, 3), ..whole.clone() }, 0),
    ] {
        let found = log.stretch(&stretch).await.expect("a stretch");
        let expected: Vec<&Recorded> = all.iter().filter(|event| stretch.has(event)).collect();
        let seen = |event: &Recorded| (event.position, event.event_id, event.stream.clone(), event.payload.get().to_owned());
        assert_eq!(
            found.iter().map(seen).collect::<Vec<_>>(),
            expected.into_iter().map(seen).collect::<Vec<_>>(),
            "{stretch:?}"
        );
        let told = |event: &Recorded| (event.sequence, event.event_type.clone(), event.effective_on, event.recorded_at);
        assert!(found.iter().all(|event| all.iter().any(|stored| told(stored) == told(event))), "{stretch:?}");
        assert!(found.len() >= least, "{} for {stretch:?}", found.len());
        shared += if stretch.share.1 == 3 { found.len() } else { 0 };
    }
    assert_eq!(shared, 36, "every stream is in one share");
}

pub async fn racing_writers_of_one_stream_lose_nothing_and_overwrite_nothing(log: Arc<dyn EventLog>) {
    let stream = fresh_stream(log.as_ref());
    let writers = (0..16).map(|_| {
        let (log, stream) = (log.clone(), stream.clone());
        tokio::spawn(async move {
            let mut version = 0;
            loop {
                match append(log.as_ref(), &request(vec![to(&stream, version, events(1))])).await {
                    AppendOutcome::Committed { .. } => return version + 1,
                    AppendOutcome::VersionConflict { actual, .. } => version = actual,
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let mut won = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        won.push(writer.await.expect("no panic"));
    }
    won.sort_unstable();
    assert_eq!(won, (1..=16).collect::<Vec<_>>(), "each sequence was won once");
    assert_eq!(log.load(&stream, 0).await.expect("loaded").len(), 16);
}

pub async fn a_follower_skips_nothing_while_many_write(log: Arc<dyn EventLog>) {
    let start = head(log.as_ref()).await;
    let contended = Arc::new((0..4).map(|_| fresh_stream(log.as_ref())).collect::<Vec<_>>());
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(write(log.clone(), contended.clone(), number))).collect();
    let follower = tokio::spawn(follow(log.clone(), start));

    let mut committed = Vec::new();
    for writer in writers {
        committed.extend(writer.await.expect("no panic"));
    }
    let end = head(log.as_ref()).await;
    assert_eq!(committed.len() as u64, end - start, "committed positions are dense");
    // The sentinel tells the follower that everything before it was committed.
    let (_, sentinel) = commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, vec![sentinel()])])).await;
    assert_eq!(sentinel, end + 1);

    let delivered = timeout(BOUND, follower).await.expect("the follower ends").expect("no panic");
    check_order(start, &delivered);
    let mut delivered: Vec<_> = delivered.iter().map(|event| (event.position, event.event_id)).collect();
    delivered.pop();
    committed.sort_unstable();
    assert_eq!(delivered, committed);
}

fn sentinel() -> crate::NewEvent {
    crate::NewEvent { event_type: "Sentinel".into(), ..super::event(0) }
}

/// Appends batches of a random shape: own streams and contended ones; answers what was committed.
async fn write(log: Arc<dyn EventLog>, contended: Arc<Vec<StreamId>>, number: usize) -> Vec<(Position, Uuid)> {
    let own = fresh_stream(log.as_ref());
    let (mut own_version, mut shared_version, mut committed) = (0, 0, Vec::new());
    for command in 0..COMMANDS {
        let shared = &contended[number % contended.len()];
        let size = rand::random_range(1..=3);
        let batch = [
            request(vec![to(&own, own_version, events(size))]),
            request(vec![to(shared, shared_version, events(1)), to(&fresh_stream(log.as_ref()), 0, events(1))]),
        ];
        // Every third command goes alone, so that batches of several sizes meet.
        let batch = if command % 3 == 0 { &batch[..1] } else { &batch[..] };
        for (request, outcome) in batch.iter().zip(log.append(batch).await.expect("appended")) {
            match outcome {
                AppendOutcome::Committed { first, .. } => {
                    let ids = request.streams.iter().flat_map(|append| &append.events).map(|event| event.event_id);
                    committed.extend((first..).zip(ids));
                }
                AppendOutcome::VersionConflict { actual, .. } => shared_version = actual,
                other => panic!("{other:?}"),
            }
        }
        own_version += size as u64;
    }
    committed
}

/// Reads behind the writers until the sentinel.
async fn follow(log: Arc<dyn EventLog>, start: Position) -> Vec<Recorded> {
    let mut delivered: Vec<Recorded> = Vec::new();
    loop {
        let after = delivered.last().map_or(start, |event| event.position);
        let chunk = log.read(after, rand::random_range(1..=50)).await.expect("read");
        delivered.extend(chunk);
        if delivered.last().is_some_and(|event| event.event_type == "Sentinel") {
            return delivered;
        }
        tokio::task::yield_now().await;
    }
}

fn check_order(start: Position, delivered: &[Recorded]) {
    let mut sequences: HashMap<&StreamId, u64> = HashMap::new();
    for (event, position) in delivered.iter().zip(start + 1..) {
        assert_eq!(event.position, position, "positions are dense");
        let sequence = sequences.entry(&event.stream).or_default();
        *sequence += 1;
        assert_eq!(event.sequence, *sequence, "{} is in order", event.stream);
    }
    assert!(delivered.is_sorted_by_key(|event| event.recorded_at));
}
