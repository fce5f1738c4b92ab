//! Waiting: back-off after failures, and pauses that a shutdown ends.
//!
//! Every `select!` of the followers is biased, shutdown first, so that a simulated history can be played again.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// 20 ms, doubled with every failure in a row, up to a cap of 1 s.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(20);
    const CAP: Duration = Duration::from_secs(1);

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(Self::CAP);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// Whether the pause was waited out (`false`: shutdown).
pub(crate) async fn pause(shutdown: &CancellationToken, duration: Duration) -> bool {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        () = sleep(duration) => true,
    }
}
