//! Test only (feature `seeded-bugs`, never in the product build): a worker that acknowledges what it has not done yet, which
//! `cargo xtask chaos --bugs` must find.

use std::sync::Arc;

use async_trait::async_trait;
use ports::{Delivery, JobConsumer, Priority, Result};

pub(crate) struct AckFirst(pub(crate) Arc<dyn JobConsumer>);

#[async_trait]
impl JobConsumer for AckFirst {
    async fn receive(&self, priority: Priority) -> Result<Delivery> {
        let delivery = self.0.receive(priority).await?;
        let Delivery { report_id, priority, redelivered, tag } = delivery;
        self.0.ack(Delivery { report_id, priority, redelivered, tag }).await?;
        Ok(Delivery { report_id, priority, redelivered, tag })
    }

    async fn ack(&self, _: Delivery) -> Result<()> {
        Ok(())
    }

    async fn requeue(&self, _: Delivery) -> Result<()> {
        Ok(())
    }

    async fn reject(&self, _: Delivery) -> Result<()> {
        Ok(())
    }
}
