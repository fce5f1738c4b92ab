//! Leadership of followers whose checkpoint lies beside the log they follow.

use ports::{Checkpoint, EventLog, Position, Result};

use crate::checkpoints;
use crate::status::Reporter;

/// A follower's leadership and checkpoint.
pub(crate) struct Lead {
    name: &'static str,
    term: u64,
    pub checkpoint: Checkpoint,
}

impl Lead {
    /// `None` while another process leads, or while the checkpoint does not belong to the log (shown as stalled). A follower that
    /// never ran here starts at 0, and that is stored at once: ours follow their logs from the first event.
    pub(crate) async fn claim(log: &dyn EventLog, name: &'static str, reporter: &Reporter) -> Result<Option<Self>> {
        let Some(term) = log.claim_follower(name).await? else {
            reporter.waiting();
            return Ok(None);
        };
        let checkpoint = match log.follower_checkpoint(name).await? {
            Some(checkpoint) => checkpoint,
            None => {
                let start = Checkpoint { incarnation: log.head().await?.incarnation, position: 0, event_id: None };
                log.advance_follower(name, term, None, &start).await?;
                start
            }
        };
        match checkpoints::verify(log, &checkpoint).await? {
            Ok(checkpoint) => {
                reporter.at(checkpoint.position);
                reporter.running();
                tracing::info!(follower = name, term, event.position = checkpoint.position, "following");
                Ok(Some(Self { name, term, checkpoint }))
            }
            Err(why) => {
                reporter.stalled(format!("{why}: restore the log that {name} has followed"));
                Ok(None)
            }
        }
    }

    /// Stores a later checkpoint; `Conflict` when another process leads now.
    pub(crate) async fn advance(
        &mut self,
        log: &dyn EventLog,
        position: Position,
        event_id: Option<uuid::Uuid>,
    ) -> Result<()> {
        let to = Checkpoint { incarnation: self.checkpoint.incarnation, position, event_id };
        log.advance_follower(self.name, self.term, Some(self.checkpoint.position), &to).await?;
        self.checkpoint = to;
        Ok(())
    }
}
