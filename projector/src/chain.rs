//! The sealer of a context: adds what was appended to the hash chain, a link a second while there is something, off the append
//! path (`ports::HashChain`). The last link is its checkpoint.

use std::sync::Arc;
use std::time::Duration;

use domain::Context;
use ports::{ChainHead, Error, LINK_EVENTS_MAX, Position, Result};
use tokio_util::sync::CancellationToken;

use crate::pace::{Backoff, pause};
use crate::projection::ROUND_PERIOD;
use crate::status::Reporter;
use crate::tailer::Tailer;

/// How old an event may become before it is sealed.
const SEAL_PERIOD: Duration = Duration::from_secs(1);

pub(crate) fn name(context: Context) -> String {
    format!("chain:{context}")
}

pub(crate) struct Chain {
    tailer: Arc<Tailer>,
    reporter: Reporter,
    shutdown: CancellationToken,
}

impl Chain {
    pub(crate) fn new(tailer: Arc<Tailer>, reporter: Reporter, shutdown: CancellationToken) -> Self {
        Self { tailer, reporter, shutdown }
    }

    /// Seals until shutdown.
    pub(crate) async fn run(&self) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let wait = match self.lead(&mut backoff).await {
                Ok(()) => ROUND_PERIOD,
                Err(Error::Conflict(_)) => {
                    self.reporter.waiting();
                    ROUND_PERIOD
                }
                Err(error) => {
                    self.reporter.stalled(error.chain());
                    backoff.next()
                }
            };
            pause(&self.shutdown, wait).await;
        }
    }

    /// Seals for as long as this process leads and nothing goes wrong. Two that believe to lead do no harm: each link has one
    /// successor, and whoever is second learns of the other.
    async fn lead(&self, backoff: &mut Backoff) -> Result<()> {
        let log = self.tailer.log();
        if log.claim_follower(self.reporter.name()).await?.is_none() {
            self.reporter.waiting();
            return Ok(());
        }
        let tail = self.tailer.watch();
        let mut sealed = self.seal().await?;
        self.reporter.running();
        backoff.reset();
        while pause(&self.shutdown, SEAL_PERIOD).await {
            let (read, known) = {
                let tail = tail.borrow();
                (tail.position, tail.incarnation.is_some())
            };
            if known && read != sealed {
                sealed = self.seal().await?;
            }
            self.reporter.beat();
        }
        // What this process has written itself shall not wait for the next one.
        self.seal().await.map(drop)
    }

    /// Adds links up to the log's end; the last position of the chain.
    async fn seal(&self) -> Result<Position> {
        let (log, context) = (self.tailer.log(), self.tailer.context());
        let mut head = log.last_link().await?.map_or_else(|| ChainHead::start(context), |link| link.head);
        loop {
            self.reporter.at(head.position);
            let after = head.position;
            let events = log.scan(after as i64, LINK_EVENTS_MAX).await?;
            if events.is_empty() {
                break;
            }
            let marks = head.extend(context, &events)?;
            log.add_link(after, &head, &marks).await?;
        }
        let end = log.head().await?.position;
        if end < head.position {
            return Err(Error::corrupt(format!(
                "the {context} log ends at {end} and was sealed up to {}: it was cut, see `casitas events verify`",
                head.position
            )));
        }
        Ok(head.position)
    }
}
