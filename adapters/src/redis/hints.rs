//! Wake-up hints over Redis pub/sub.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::Context;
use futures::StreamExt;
use ports::{Error, HintStream, Hints, Result, Topic};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::HINTS_CHANNEL;
use super::connection::{Connection, RedisConfig};
use crate::inprocess::InProcessHints;

/// Hints waiting to be published; more are dropped, which the contract allows.
const OUTGOING_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// A subscription that does not answer a ping within this is dead (its peer may have vanished without a word).
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Publishes and hears hints. Followers of this process hear its own hints at once, with or without Redis.
pub struct RedisHints {
    local: InProcessHints,
    outgoing: mpsc::Sender<Topic>,
    /// Publisher and subscriber; they end with this value.
    _tasks: JoinSet<()>,
}

impl RedisHints {
    /// Starts the publisher and the subscriber; must be called inside a tokio runtime. Connects in the background.
    pub fn start(config: &RedisConfig) -> Result<Self> {
        let local = InProcessHints::new();
        let (outgoing, waiting) = mpsc::channel(OUTGOING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(Connection::new(config)?, waiting));
        tasks.spawn(listen(config.client()?, local.sender()));
        Ok(Self { local, outgoing, _tasks: tasks })
    }
}

impl Hints for RedisHints {
    fn notify(&self, topic: Topic) {
        self.local.notify(topic);
        // Full means that Redis is slow or away: whoever misses the hint polls.
        let _ = self.outgoing.try_send(topic);
    }

    fn subscribe(&self) -> Box<dyn HintStream> {
        self.local.subscribe()
    }
}

/// Sends what has gathered, each topic once.
async fn publish(connection: Arc<Connection>, mut waiting: mpsc::Receiver<Topic>) {
    let mut gathered = Vec::new();
    while waiting.recv_many(&mut gathered, OUTGOING_MAX).await > 0 {
        let topics: HashSet<Topic> = gathered.drain(..).collect();
        let mut pipe = ::redis::pipe();
        for topic in topics {
            pipe.publish(HINTS_CHANNEL, encode(topic)).ignore();
        }
        // An error was logged by the breaker; the hint is lost and the pollers do without.
        let _ = connection.request(|mut redis| async move { pipe.query_async::<()>(&mut redis).await }).await;
    }
}

async fn listen(client: ::redis::Client, heard: broadcast::Sender<Topic>) {
    loop {
        if let Err(error) = listen_once(&client, &heard).await {
            tracing::debug!(error = error.chain(), "the subscription to hints was lost");
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Hears hints until the subscription dies.
async fn listen_once(client: &::redis::Client, heard: &broadcast::Sender<Topic>) -> Result<()> {
    let lost = |source: Box<dyn std::error::Error + Send + Sync>| Error::unavailable("Redis", source);
    let subscription = timeout(CONNECT_TIMEOUT, async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(HINTS_CHANNEL).await?;
        Ok::<_, ::redis::RedisError>(subscription)
    });
    let (mut sink, mut messages) =
        subscription.await.map_err(|elapsed| lost(elapsed.into()))?.map_err(|error| lost(error.into()))?.split();
    // Whatever was said while nobody listened: everything may have changed.
    for topic in every_topic() {
        let _ = heard.send(topic);
    }
    let mut pings = tokio::time::interval(PING_INTERVAL);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                if let Some(topic) = std::str::from_utf8(message.get_payload_bytes()).ok().and_then(decode) {
                    // Nobody may be listening just now.
                    let _ = heard.send(topic);
                }
            }
            _ = pings.tick() => {
                timeout(CONNECT_TIMEOUT, sink.ping::<::redis::Value>())
                    .await
                    .map_err(|elapsed| lost(elapsed.into()))?
                    .map_err(|error| lost(error.into()))?;
            }
        }
    }
}

fn every_topic() -> impl Iterator<Item = Topic> {
    Context::ALL.into_iter().map(Topic::Log).chain([Topic::Views])
}

fn encode(topic: Topic) -> &'static str {
    match topic {
        Topic::Log(context) => context.as_str(),
        Topic::Views => "views",
    }
}

fn decode(text: &str) -> Option<Topic> {
    every_topic().find(|topic| encode(*topic) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_survives_the_wire_and_noise_does_not() {
        assert!(every_topic().all(|topic| decode(encode(topic)) == Some(topic)));
        assert_eq!(decode("rent"), None);
    }
}
