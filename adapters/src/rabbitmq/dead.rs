//! The dead letters, for operators: looked at without taking them, or taken out for good.
//!
//! A message that was got and not settled goes back to its place when its channel ends. So a look costs nothing but the broker's
//! time; two looks at once see fewer messages each.

use async_trait::async_trait;
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use ports::{DeadLetter, DeadLetters, Priority, Result};
use uuid::Uuid;

use super::link::{CALL_TIMEOUT, Stop, is_missing, open_channel, unavailable, within};
use super::queue::RabbitQueue;
use super::topology::DEAD_QUEUE;

/// Looked through at most when letters are removed.
const LOOKED_THROUGH_MAX: usize = 10_000;

#[async_trait]
impl DeadLetters for RabbitQueue {
    async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let connection = self.config.connect("dead letters").await?;
        let channel = open_channel(&connection).await.map_err(unavailable)?;
        let mut letters = Vec::new();
        while letters.len() < limit
            && let Some(message) = get(&channel).await?
        {
            letters.push(letter(&message));
        }
        Ok(letters)
    }

    async fn remove(&self, report_ids: &[Option<Uuid>]) -> Result<usize> {
        let connection = self.config.connect("dead letters").await?;
        let channel = open_channel(&connection).await.map_err(unavailable)?;
        let mut removed = 0;
        for _ in 0..LOOKED_THROUGH_MAX {
            let Some(message) = get(&channel).await? else { break };
            if report_ids.contains(&letter(&message).report_id) {
                let ack = message.acker.ack(BasicAckOptions::default());
                within(CALL_TIMEOUT, ack).await.map_err(unavailable)?;
                removed += 1;
            }
        }
        // Acks are one way: the broker has them all once it has answered this.
        within(CALL_TIMEOUT, channel.close(200, "done".into())).await.map_err(unavailable)?;
        Ok(removed)
    }
}

async fn get(channel: &Channel) -> Result<Option<BasicGetMessage>> {
    let got = channel.basic_get(DEAD_QUEUE.into(), BasicGetOptions::default());
    match within(CALL_TIMEOUT, got).await {
        Ok(message) => Ok(message),
        // A broker that was wiped has lost its dead letters too.
        Err(stop) if is_missing(&stop) => Ok(None),
        Err(stop @ (Stop::Late | Stop::Amqp(_))) => Err(unavailable(stop)),
    }
}

fn letter(message: &BasicGetMessage) -> DeadLetter {
    let headers = message.properties.headers().as_ref();
    let text = |name: &str| headers.and_then(|headers| text_of(headers, name));
    let queue = text("x-first-death-queue");
    DeadLetter {
        report_id: std::str::from_utf8(&message.data).ok().and_then(|text| Uuid::parse_str(text).ok()),
        priority: Priority::ALL.into_iter().find(|priority| queue.as_deref() == Some(priority.queue())),
        reason: text("x-first-death-reason").unwrap_or_else(|| "unknown".to_owned()),
    }
}

fn text_of(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}
