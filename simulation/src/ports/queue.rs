//! The job queue: consumers that die, deliveries that come again, a broker that loses everything.

use std::sync::{Arc, Mutex, MutexGuard};

use adapters::inprocess::InProcessQueue;
use async_trait::async_trait;
use ports::{Delivery, Error, JobConsumer, JobQueue, Priority, QueueDepth, Result};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Sabotage;
use crate::fate::{Gate, Kind};

pub struct QueueStore {
    state: Mutex<(InProcessQueue, Vec<CancellationToken>)>,
    pub sabotage: Option<Sabotage>,
}

impl QueueStore {
    pub fn new(sabotage: Option<Sabotage>) -> Self {
        Self { state: Mutex::new((InProcessQueue::new(), Vec::new())), sabotage }
    }

    /// The broker comes back empty; every consumer is dead.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.0 = InProcessQueue::new();
        state.1.drain(..).for_each(|consumer| consumer.cancel());
    }

    fn state(&self) -> MutexGuard<'_, (InProcessQueue, Vec<CancellationToken>)> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn queue(&self) -> InProcessQueue {
        self.state().0.clone()
    }
}

pub struct SimQueue {
    pub gate: Gate,
    pub store: Arc<QueueStore>,
}

struct SimConsumer {
    gate: Gate,
    inner: Arc<dyn JobConsumer>,
    dead: CancellationToken,
    acks_at_once: bool,
}

#[async_trait]
impl JobQueue for SimQueue {
    async fn publish(&self, priority: Priority, report_ids: &[Uuid]) -> Result<()> {
        let operation = format!("publish {} {report_ids:?}", priority.queue());
        let (store, ids) = (self.store.clone(), report_ids.to_vec());
        let work = async move { store.queue().publish(priority, &ids).await };
        self.gate.call(Kind::Write, operation, |()| "confirmed".into(), work).await
    }

    async fn consumer(&self, high_prefetch: u16, low_prefetch: u16) -> Result<Box<dyn JobConsumer>> {
        let (store, gate) = (self.store.clone(), self.gate.clone());
        let work = async move {
            let inner = Arc::from(store.queue().consumer(high_prefetch, low_prefetch).await?);
            let dead = CancellationToken::new();
            store.state().1.push(dead.clone());
            let acks_at_once = store.sabotage == Some(Sabotage::AckBeforeWork);
            Ok(Box::new(SimConsumer { gate, inner, dead, acks_at_once }) as Box<dyn JobConsumer>)
        };
        self.gate.call(Kind::Read, "consumer".into(), |_| "made".into(), work).await
    }

    async fn depth(&self, priority: Priority) -> Result<QueueDepth> {
        let store = self.store.clone();
        let work = async move {
            let depth = store.queue().depth(priority).await?;
            Ok(match store.sabotage {
                Some(Sabotage::AckBeforeWork) => QueueDepth { ready: 1_000, ..depth },
                _ => depth,
            })
        };
        let show = |depth: &QueueDepth| format!("{} ready, {} consumers", depth.ready, depth.consumers);
        self.gate.call(Kind::Read, format!("depth of {}", priority.queue()), show, work).await
    }
}

fn lost() -> Error {
    Error::Unavailable { what: "the consumer".into(), source: None }
}

impl SimConsumer {
    /// A settlement that fails means that the channel is gone, and with it all that is unsettled.
    async fn settle(&self, what: &str, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
        if self.dead.is_cancelled() {
            return Err(lost());
        }
        let settled = self.gate.call(Kind::Write, what.to_owned(), |()| "settled".into(), work).await;
        if settled.is_err() {
            self.dead.cancel();
        }
        settled
    }
}

#[async_trait]
impl JobConsumer for SimConsumer {
    async fn receive(&self, priority: Priority) -> Result<Delivery> {
        let delivery = tokio::select! {
            biased;
            () = self.dead.cancelled() => return Err(lost()),
            () = self.gate.proc.died.cancelled() => return std::future::pending().await,
            delivery = self.inner.receive(priority) => delivery?,
        };
        // The message is in the consumer's hand: it comes again when the consumer goes.
        if self.gate.fate.chance_of(("receive", delivery.tag), 0.05) {
            self.gate.fate.count("consumer died with a delivery");
            self.dead.cancel();
            return Err(lost());
        }
        self.gate.fate.note(&format!("{} received {}", self.gate.proc.name, delivery.report_id));
        if self.acks_at_once {
            let Delivery { report_id, priority, redelivered, tag } = delivery;
            self.inner.ack(Delivery { report_id, priority, redelivered, tag }).await?;
        }
        Ok(delivery)
    }

    async fn ack(&self, delivery: Delivery) -> Result<()> {
        let (inner, what) = (self.inner.clone(), format!("ack {}", delivery.report_id));
        self.settle(&what, async move { inner.ack(delivery).await }).await
    }

    async fn requeue(&self, delivery: Delivery) -> Result<()> {
        let (inner, what) = (self.inner.clone(), format!("requeue {}", delivery.report_id));
        self.settle(&what, async move { inner.requeue(delivery).await }).await
    }

    async fn reject(&self, delivery: Delivery) -> Result<()> {
        let (inner, what) = (self.inner.clone(), format!("reject {}", delivery.report_id));
        self.settle(&what, async move { inner.reject(delivery).await }).await
    }
}
