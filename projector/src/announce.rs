//! Telling of view batches: the models of a context commit within a moment of each other, and who is told of the first alone
//! would look once too early for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ports::{Hints, Topic};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A committed batch waits at most so long for those that are under way.
const GATHER_MAX: Duration = Duration::from_millis(1);

/// Gathers the batches of this process' projections into hints.
#[derive(Clone, Default)]
pub(crate) struct Announcer(Arc<State>);

#[derive(Default)]
struct State {
    under_way: AtomicUsize,
    /// Something was committed that was not told yet.
    committed: AtomicBool,
    stirred: Notify,
}

/// A batch between its beginning and its end, whatever that is.
pub(crate) struct UnderWay(Arc<State>);

impl UnderWay {
    pub(crate) fn committed(self) {
        self.0.committed.store(true, Ordering::SeqCst);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.stirred.notify_one();
    }
}

impl Announcer {
    pub(crate) fn begin(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.0.clone())
    }

    /// Announces until shutdown.
    pub(crate) async fn run(&self, hints: Arc<dyn Hints>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.0.stirred.notified() => {}
            }
            if !self.0.committed.load(Ordering::SeqCst) {
                continue;
            }
            // Whether all of them ended or the time did makes no difference.
            let _ = timeout(GATHER_MAX, self.all_ended()).await;
            // Before the hint: what is committed from here on gets one of its own.
            self.0.committed.store(false, Ordering::SeqCst);
            hints.notify(Topic::Views);
        }
    }

    async fn all_ended(&self) {
        while self.0.under_way.load(Ordering::SeqCst) > 0 {
            self.0.stirred.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ports::HintStream;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// When each hint was given.
    #[derive(Default)]
    struct Heard(Mutex<Vec<Instant>>);

    impl Hints for Heard {
        fn notify(&self, topic: Topic) {
            assert_eq!(topic, Topic::Views);
            self.0.lock().expect("unpoisoned").push(Instant::now());
        }
        fn subscribe(&self) -> Box<dyn HintStream> {
            unreachable!("nobody listens here")
        }
    }

    fn announcing() -> (Announcer, Arc<Heard>) {
        let (announcer, heard) = (Announcer::default(), Arc::new(Heard::default()));
        let (running, hints) = (announcer.clone(), heard.clone());
        tokio::spawn(async move { running.run(hints, CancellationToken::new()).await });
        (announcer, heard)
    }

    async fn settled() {
        sleep(Duration::from_millis(20)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn batches_that_end_together_are_told_once_and_at_once() {
        let (announcer, heard) = announcing();
        let batches: Vec<_> = (0..5).map(|_| announcer.begin()).collect();
        settled().await;
        let ended = Instant::now();
        for batch in batches {
            batch.committed();
            tokio::task::yield_now().await;
        }
        settled().await;
        assert_eq!(*heard.0.lock().expect("unpoisoned"), [ended]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_stays_under_way_holds_the_others_back_for_a_moment_only() {
        let (announcer, heard) = announcing();
        let slow = announcer.begin();
        announcer.begin().committed();
        settled().await;
        assert_eq!(heard.0.lock().expect("unpoisoned").len(), 1);
        slow.committed();
        settled().await;
        assert_eq!(heard.0.lock().expect("unpoisoned").len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_failed_is_not_told() {
        let (announcer, heard) = announcing();
        drop(announcer.begin());
        settled().await;
        assert!(heard.0.lock().expect("unpoisoned").is_empty());
    }
}
