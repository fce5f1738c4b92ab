//! Consuming: one channel a priority, each with its own prefetch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, Consumer};
use ports::{Delivery, Error, JobConsumer, Priority, Result};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::link::{CALL_TIMEOUT, Stop, open_channel, unavailable, within};
use super::settling::Settling;

/// Tells deliveries of one consumer from those of its predecessors in this process.
static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

pub(super) struct RabbitConsumer {
    incarnation: u64,
    /// In the order of [`Priority::ALL`].
    lanes: [Lane; 2],
    dead: watch::Receiver<bool>,
    /// Forward deliveries; they end with this value.
    _forwarders: JoinSet<()>,
    /// Closes when dropped: the broker then hands unsettled messages to others.
    _connection: Connection,
}

struct Lane {
    settling: Arc<Settling>,
    deliveries: Mutex<mpsc::Receiver<Delivery>>,
}

impl RabbitConsumer {
    pub(super) async fn start(connection: Connection, high_prefetch: u16, low_prefetch: u16) -> Result<Self, Stop> {
        let incarnation = INCARNATIONS.fetch_add(1, Ordering::Relaxed);
        let (death, dead) = watch::channel(false);
        let mut forwarders = JoinSet::new();
        let high = open_lane(&connection, Priority::High, high_prefetch, incarnation, &death, &mut forwarders).await?;
        let low = open_lane(&connection, Priority::Low, low_prefetch, incarnation, &death, &mut forwarders).await?;
        Ok(Self { incarnation, lanes: [high, low], dead, _forwarders: forwarders, _connection: connection })
    }

    /// Where a delivery must be settled; `None` for one of an earlier consumer, which the broker delivers again.
    fn settling_of(&self, delivery: &Delivery) -> Option<&Settling> {
        (delivery.tag.1 == self.incarnation).then(|| &*self.lanes[delivery.priority as usize].settling)
    }

    fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }
}

async fn open_lane(
    connection: &Connection,
    priority: Priority,
    prefetch: u16,
    incarnation: u64,
    death: &watch::Sender<bool>,
    forwarders: &mut JoinSet<()>,
) -> Result<Lane, Stop> {
    // Prefetch 0 would mean "without a limit" to the broker.
    let prefetch = prefetch.max(1);
    let channel = open_channel(connection).await?;
    within(CALL_TIMEOUT, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let tag = format!("{}-{}", priority.queue(), Uuid::now_v7());
    let consume = channel.basic_consume(
        priority.queue().into(),
        tag.as_str().into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let consumer = within(CALL_TIMEOUT, consume).await?;
    let (sender, deliveries) = mpsc::channel(prefetch.into());
    let settling = Arc::new(Settling::of(channel));
    forwarders.spawn(forward(consumer, settling.clone(), priority, incarnation, sender, death.clone()));
    Ok(Lane { settling, deliveries: Mutex::new(deliveries) })
}

/// Moves deliveries until the channel dies, then declares the whole consumer dead: half a consumer would starve one queue.
async fn forward(
    mut consumer: Consumer,
    settling: Arc<Settling>,
    priority: Priority,
    incarnation: u64,
    deliveries: mpsc::Sender<Delivery>,
    death: watch::Sender<bool>,
) {
    while let Some(Ok(message)) = consumer.next().await {
        settling.delivered(message.delivery_tag);
        let Some(report_id) = std::str::from_utf8(&message.data).ok().and_then(|text| Uuid::parse_str(text).ok()) else {
            tracing::error!(
                queue = priority.queue(),
                bytes = message.data.len(),
                "a message that is no report id goes to the dead letters"
            );
            metrics::counter!("casitas_bad_messages_total", "queue" => priority.queue()).increment(1);
            if within(CALL_TIMEOUT, settling.reject(message.delivery_tag)).await.is_err() {
                break;
            }
            continue;
        };
        let tag = (message.delivery_tag, incarnation);
        let delivery = Delivery { report_id, priority, redelivered: message.redelivered, tag };
        if deliveries.send(delivery).await.is_err() {
            break;
        }
    }
    // Nobody may be looking any more.
    let _ = death.send(true);
}

fn gone() -> Error {
    Error::Unavailable { what: "this consumer of RabbitMQ (its channel is gone)".into(), source: None }
}

#[async_trait]
impl JobConsumer for RabbitConsumer {
    async fn receive(&self, priority: Priority) -> Result<Delivery> {
        let mut dead = self.dead.clone();
        let mut deliveries = self.lanes[priority as usize].deliveries.lock().await;
        // What is buffered in a dead consumer belongs to the broker again.
        tokio::select! {
            biased;
            _ = dead.wait_for(|dead| *dead) => Err(gone()),
            delivery = deliveries.recv() => delivery.ok_or_else(gone),
        }
    }

    async fn ack(&self, delivery: Delivery) -> Result<()> {
        let Some(settling) = self.settling_of(&delivery) else { return Ok(()) };
        if self.is_dead() {
            return Err(gone());
        }
        within(CALL_TIMEOUT, settling.ack(delivery.tag.0)).await.map_err(unavailable)
    }

    async fn requeue(&self, delivery: Delivery) -> Result<()> {
        let Some(settling) = self.settling_of(&delivery) else { return Ok(()) };
        if self.is_dead() {
            return Err(gone());
        }
        within(CALL_TIMEOUT, settling.requeue(delivery.tag.0)).await.map_err(unavailable)
    }

    async fn reject(&self, delivery: Delivery) -> Result<()> {
        let Some(settling) = self.settling_of(&delivery) else { return Ok(()) };
        if self.is_dead() {
            return Err(gone());
        }
        within(CALL_TIMEOUT, settling.reject(delivery.tag.0)).await.map_err(unavailable)
    }
}
