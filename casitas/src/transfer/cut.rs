//! One moment at which to copy the logs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use ports::{EventLog, LogHead};

use super::format::{ContextHead, EVENTS, FollowerLine, Header, VERSION};
use crate::operator::chained;

const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Where the logs stood.
pub struct Cut {
    pub header: Header,
    /// Whether all logs stood there at one moment. Otherwise they were written to without a pause, and an event may be in the cut
    /// whose cause in another log is not.
    pub steady: bool,
}

/// Finds a moment at which every log stood where the answer says: two rounds of asking that agree. Followers are asked first: what
/// they did up to their checkpoints is then in the logs.
pub async fn cut(logs: &[Arc<dyn EventLog>]) -> Result<Cut> {
    let mut asked = vec![];
    for log in logs {
        asked.push(log.followers());
    }
    let followers = try_join_all(asked).await.map_err(chained)?;
    let mut before = heads(logs).await?;
    let mut steady = false;
    for _ in 0..TRIES {
        let now = heads(logs).await?;
        steady = now == before;
        before = now;
        if steady {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let mut contexts = vec![];
    for ((log, head), followers) in logs.iter().zip(before).zip(followers) {
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
    Ok(Cut { header: Header { format: EVENTS.into(), version: VERSION, contexts }, steady })
}

async fn heads(logs: &[Arc<dyn EventLog>]) -> Result<Vec<LogHead>> {
    let mut asked = vec![];
    for log in logs {
        asked.push(log.head());
    }
    try_join_all(asked).await.map_err(chained)
}
