//! One moment at which to copy the logs.
//!
//! What is in one log may rest on what is in another: a step of the move-in process on the event that it follows, a lease on the
//! unit that its client was told of, a report on the positions that it pins. Only the first of these says so in its metadata, so
//! nothing less than one moment of all logs is sure to have the cause of everything that it has.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use ports::{Error, EventLog, LogHead};
use tokio::time::{Instant, sleep, timeout};

use super::format::{ContextHead, EVENTS, FollowerLine, Header, VERSION};
use crate::operator::chained;

/// Rounds of asking before writers are kept waiting.
const ROUNDS: usize = 3;
/// Writers wait no longer, mostly some milliseconds. Half of what they wait for their lock before they give up.
const HELD_MAX: Duration = Duration::from_millis(500);
/// Whoever held a log for so long may be done by then.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: usize = 10;

/// Where every log stood at one moment, however much is written. Followers are asked first: what they did up to their checkpoints
/// is then in the logs.
pub async fn cut(logs: &[Arc<dyn EventLog>]) -> Result<Header> {
    let mut asked = vec![];
    for log in logs {
        asked.push(log.followers());
    }
    let followers = try_join_all(asked).await.map_err(chained)?;
    let heads = at_one_moment(logs).await.map_err(chained)?;
    let mut contexts = vec![];
    for ((log, head), followers) in logs.iter().zip(heads).zip(followers) {
        let context = log.context();
        let mut lines = vec![];
        // At 0 a follower has read nothing, and begins there anyway.
        for follower in followers.into_iter().filter(|follower| follower.checkpoint.position > 0) {
            let checkpoint = follower.checkpoint;
            ensure!(
                checkpoint.incarnation == head.incarnation && checkpoint.position <= head.position,
                "the follower {} of the {context} log stands at {} of another life of it: see `casitas events verify`",
                follower.name,
                checkpoint.position
            );
            lines.push(FollowerLine { name: follower.name, position: checkpoint.position, event_id: checkpoint.event_id });
        }
        let LogHead { incarnation, position, .. } = head;
        contexts.push(ContextHead { context, incarnation, position, followers: lines });
    }
    Ok(Header { format: EVENTS.into(), version: VERSION, contexts })
}

async fn at_one_moment(logs: &[Arc<dyn EventLog>]) -> ports::Result<Vec<LogHead>> {
    // Two rounds that agree: between them all logs stood there. Nobody has to wait for it, and a log that somebody else holds is
    // no hindrance.
    let mut before = heads(logs).await?;
    for _ in 0..ROUNDS {
        let now = heads(logs).await?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
    let mut tried = 1;
    loop {
        match while_held(logs).await {
            Err(error) if tried < TRIES && error.is_transient() => tried += 1,
            found => return found,
        }
        sleep(PAUSE).await;
    }
}

/// Asks while nothing is appended to any log. Who took too long may have lost its hold.
async fn while_held(logs: &[Arc<dyn EventLog>]) -> ports::Result<Vec<LogHead>> {
    let began = Instant::now();
    let ask = async {
        // In one order: two who hold all logs wait for each other at the first.
        let mut held = vec![];
        for log in logs {
            held.push(log.hold().await?);
        }
        heads(logs).await
    };
    match timeout(HELD_MAX, ask).await {
        Ok(found) if began.elapsed() < HELD_MAX => found,
        Ok(_) | Err(_) => Err(Error::Unavailable { what: "a moment at which no log is written to".into(), source: None }),
    }
}

async fn heads(logs: &[Arc<dyn EventLog>]) -> ports::Result<Vec<LogHead>> {
    let mut asked = vec![];
    for log in logs {
        asked.push(log.head());
    }
    try_join_all(asked).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use adapters::memory::MemoryLog;
    use adapters::sqlite::DataFolder;
    use domain::{AggregateKind, Context, Date, StreamId};
    use ports::{AppendOutcome, AppendRequest, Metadata, NewEvent, StreamAppend, SystemClock};
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;

    fn next(log: &dyn EventLog, version: u64) -> AppendRequest {
        let kind = AggregateKind::ALL.iter().find(|kind| kind.context() == log.context()).expect("a kind");
        let event = NewEvent {
            event_id: Uuid::now_v7(),
            event_type: "Happened".into(),
            event_version: "1".into(),
            payload: RawValue::from_string(r#"{"Happened":{}}"#.into()).expect("JSON"),
            effective_on: Date::constant(2026, 11, 26),
        };
        let metadata =
            Metadata { actor: "cli".into(), correlation_id: Uuid::now_v7(), causation_id: None, traceparent: None };
        let append = StreamAppend { stream: StreamId::new(*kind, "1"), expected_version: version, events: vec![event] };
        AppendRequest { key: None, metadata, subject_keys: vec![], streams: vec![append] }
    }

    /// Appends to one log after the other, without a pause.
    async fn write(logs: Vec<Arc<dyn EventLog>>, stop: Arc<AtomicBool>) {
        for version in 0.. {
            for log in &logs {
                let outcomes = log.append(&[next(&**log, version)]).await.expect("appended");
                assert!(matches!(outcomes[..], [AppendOutcome::Committed { .. }]), "{outcomes:?}");
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// At every moment each log is as long as the one behind it, or one event longer; the first is not two longer than the last.
    fn is_one_moment(heads: &[u64]) {
        let (first, last) = (heads[0], heads[heads.len() - 1]);
        assert!(heads.is_sorted_by(|left, right| left >= right) && first <= last + 1, "{heads:?}");
    }

    async fn cuts(logs: Vec<Arc<dyn EventLog>>, count: usize) {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write(logs.clone(), stop.clone()));
        let mut seen = 0;
        for _ in 0..count {
            let cut = cut(&logs).await.expect("a cut");
            is_one_moment(&cut.contexts.iter().map(|head| head.position).collect::<Vec<_>>());
            // Rounds may agree by chance, and a slow machine may not be done in time.
            if let Ok(held) = while_held(&logs).await {
                is_one_moment(&held.iter().map(|head| head.position).collect::<Vec<_>>());
                seen += 1;
            }
        }
        assert!(seen > 0, "no log could be held");
        stop.store(true, Ordering::Relaxed);
        writer.await.expect("no append failed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn logs_in_memory_that_are_written_to_without_a_pause_are_seen_at_one_moment() {
        let log = |context| Arc::new(MemoryLog::new(context, Arc::new(SystemClock))) as Arc<dyn EventLog>;
        cuts(Context::ALL.map(log).to_vec(), 500).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_are_written_to_without_a_pause_are_seen_at_one_moment() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = DataFolder::open(root.path().join("data")).expect("opened");
        let mut logs: Vec<Arc<dyn EventLog>> = vec![];
        for context in Context::ALL {
            logs.push(Arc::new(folder.log(context, Arc::new(SystemClock)).await.expect("a log")));
        }
        cuts(logs, 20).await;
    }
}
