//! Publishing, and looking at the queues.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{FuturesOrdered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use ports::{Error, JobConsumer, JobQueue, Priority, QueueDepth, Result};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::consumer::RabbitConsumer;
use super::link::{CALL_TIMEOUT, RabbitConfig, Stop, is_missing, open_channel, unavailable, within};
use super::topology::{self, EXCHANGE};

/// Messages published before their confirms are awaited.
const PIPELINE_MAX: usize = 256;
/// Longest wait for the confirms of one pipeline; quorum queues sync to disk.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
const PERSISTENT: u8 = 2;

/// The job queue in RabbitMQ. Connects at first use and again after each loss.
pub struct RabbitQueue {
    pub(super) config: RabbitConfig,
    /// One a queue, in the order of [`Priority::ALL`], so that neither waits for the other's confirms. Alarms of the broker
    /// block connections that publish, so nothing else uses these. Locked for a whole publish: a returned message is told
    /// apart only by what is in flight.
    publishers: [Mutex<Option<Link>>; 2],
    observer: Mutex<Option<Link>>,
}

struct Link {
    channel: Channel,
    /// Closes when dropped.
    connection: Connection,
}

impl RabbitQueue {
    pub fn new(config: RabbitConfig) -> Self {
        Self { config, publishers: Default::default(), observer: Mutex::default() }
    }

    /// Makes exchanges, queues and bindings that are missing; for tests and for a broker that lost them. Needs a user with the
    /// right to configure them.
    pub async fn declare(&self) -> Result<()> {
        let connection = self.config.connect("declare").await?;
        topology::declare(&connection).await.map_err(unavailable)
    }

    /// Whether the broker lets us in and the queues exist; for readiness and `doctor`.
    pub async fn ping(&self) -> Result<()> {
        self.depth(Priority::High).await.map(drop)
    }

    async fn publish_once(&self, priority: Priority, report_ids: &[Uuid]) -> Result<Published> {
        let mut publisher = self.publishers[priority as usize].lock().await;
        // Taken out, and put back only when all went well: a link in an unknown state is not used again.
        let link = match publisher.take().filter(Link::is_usable) {
            Some(link) => link,
            None => self.publishing_link().await?,
        };
        let published = publish(&link.channel, priority, report_ids).await;
        if published.is_ok() {
            *publisher = Some(link);
        }
        published
    }

    async fn publishing_link(&self) -> Result<Link> {
        let link = Link::open(&self.config, "publish").await?;
        within(CALL_TIMEOUT, link.channel.confirm_select(ConfirmSelectOptions::default())).await.map_err(unavailable)?;
        Ok(link)
    }
}

impl Link {
    async fn open(config: &RabbitConfig, purpose: &str) -> Result<Self> {
        let connection = config.connect(purpose).await?;
        let channel = open_channel(&connection).await.map_err(unavailable)?;
        Ok(Self { channel, connection })
    }

    fn is_usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

enum Published {
    All,
    /// Exchange, binding or queue is missing.
    Unroutable,
}

async fn publish(channel: &Channel, priority: Priority, report_ids: &[Uuid]) -> Result<Published> {
    for ids in report_ids.chunks(PIPELINE_MAX) {
        match within(CONFIRM_TIMEOUT, publish_pipeline(channel, priority, ids)).await {
            Ok(Confirmed::All) => {}
            Ok(Confirmed::Returned) => return Ok(Published::Unroutable),
            Ok(Confirmed::Refused) => return Err(Error::Full(format!("the queue {}", priority.queue()))),
            Err(stop) if is_missing(&stop) => return Ok(Published::Unroutable),
            Err(stop) => return Err(Error::unknown_outcome("RabbitMQ", stop)),
        }
    }
    Ok(Published::All)
}

enum Confirmed {
    All,
    Returned,
    Refused,
}

async fn publish_one(channel: &Channel, priority: Priority, report_id: &Uuid) -> lapin::Result<PublisherConfirm> {
    // An unroutable message is acked like any other; only `mandatory` makes the broker return it.
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let body = report_id.to_string();
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("text/plain".into())
        .with_message_id(body.as_str().into());
    channel.basic_publish(EXCHANGE.into(), priority.queue().into(), options, body.as_bytes(), properties).await
}

async fn publish_pipeline(channel: &Channel, priority: Priority, report_ids: &[Uuid]) -> lapin::Result<Confirmed> {
    // Each ends when its frames are on the socket: one after the other would be a turn of lapin's thread for each.
    let mut sending: FuturesOrdered<_> = report_ids.iter().map(|id| publish_one(channel, priority, id)).collect();
    let mut confirms = Vec::with_capacity(report_ids.len());
    while let Some(sent) = sending.next().await {
        confirms.push(sent?);
    }
    let mut confirmed = Confirmed::All;
    for confirm in confirms {
        match confirm.await? {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => confirmed = Confirmed::Returned,
            Confirmation::Nack(None) | Confirmation::NotRequested if matches!(confirmed, Confirmed::All) => {
                confirmed = Confirmed::Refused;
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => {}
        }
    }
    Ok(confirmed)
}

#[async_trait]
impl JobQueue for RabbitQueue {
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()> {
        if let Published::All = self.publish_once(priority, report_ids).await? {
            return Ok(());
        }
        // The broker was wiped: users and virtual host come from its definitions, the rest from here.
        tracing::warn!(queue = priority.queue(), "RabbitMQ has no route for reports: declaring exchanges and queues again");
        metrics::counter!("casitas_queue_redeclared_total").increment(1);
        self.declare().await?;
        match self.publish_once(priority, report_ids).await? {
            Published::All => Ok(()),
            Published::Unroutable => {
                Err(Error::Unavailable { what: format!("the queue {} (unroutable)", priority.queue()), source: None })
            }
        }
    }

    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>> {
        let connection = self.config.connect("consume").await?;
        let consumer = match RabbitConsumer::start(connection, high_prefetch, low_prefetch).await {
            Err(stop) if is_missing(&stop) => {
                self.declare().await?;
                RabbitConsumer::start(self.config.connect("consume").await?, high_prefetch, low_prefetch).await
            }
            other => other,
        };
        Ok(Box::new(consumer.map_err(unavailable)?))
    }

    async fn depth(&self, priority: Priority) -> Result<QueueDepth> {
        let mut observer = self.observer.lock().await;
        let link = match observer.take().filter(Link::is_usable) {
            Some(link) => link,
            None => Link::open(&self.config, "observe").await?,
        };
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = link.channel.queue_declare(priority.queue().into(), passive, FieldTable::default());
        match within(CALL_TIMEOUT, declared).await {
            Ok(queue) => {
                let depth = QueueDepth { ready: queue.message_count().into(), consumers: queue.consumer_count().into() };
                *observer = Some(link);
                Ok(depth)
            }
            Err(stop @ Stop::Late) => Err(unavailable(stop)),
            Err(stop) if is_missing(&stop) => Err(Error::NotFound(format!("the queue {}", priority.queue()))),
            Err(stop) => Err(unavailable(stop)),
        }
    }
}
