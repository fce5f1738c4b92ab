//! Settling the deliveries of one channel. An ack is an entry in the quorum queue's log: those that come together go as one where
//! nothing open stands before them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use futures::future::join_all;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use lapin::{Channel, Result};
use tokio::sync::Mutex as Turn;
use tokio::task::yield_now;

pub(super) struct Settling {
    channel: Channel,
    tags: Mutex<Tags>,
    /// Whoever has it sends. So no ack of many runs into what is being given back.
    turn: Turn<()>,
}

/// Delivery tags: 1, 2, 3 … in the order of delivery.
#[derive(Default)]
struct Tags {
    /// Delivered, and the broker was not told what became of it.
    open: BTreeSet<u64>,
    /// Among these, what is to be acked.
    done: BTreeSet<u64>,
}

impl Tags {
    /// The acks to be sent for all that is done, and whether each is meant for everything open up to it.
    fn acks(&mut self) -> Vec<(u64, bool)> {
        let first: Vec<u64> = self.open.iter().copied().take_while(|tag| self.done.contains(tag)).collect();
        let mut acks = Vec::new();
        if let [_, .., last] = first[..] {
            self.done.retain(|tag| *tag > last);
            acks.push((last, true));
        }
        acks.extend(std::mem::take(&mut self.done).into_iter().map(|tag| (tag, false)));
        for (tag, multiple) in &acks {
            match multiple {
                true => self.open.retain(|open| open > tag),
                false => drop(self.open.remove(tag)),
            }
        }
        acks
    }
}

impl Settling {
    pub(super) fn of(channel: Channel) -> Self {
        Self { channel, tags: Mutex::default(), turn: Turn::default() }
    }

    pub(super) fn delivered(&self, tag: u64) {
        self.tags().open.insert(tag);
    }

    pub(super) async fn ack(&self, tag: u64) -> Result<()> {
        self.tags().done.insert(tag);
        // Jobs end in groups, with a commit: those that are about to ack come along. Nobody waits longer for company.
        yield_now().await;
        let _turn = self.turn.lock().await;
        // Empty when another has sent ours. All are handed over before the first is awaited.
        let acks = self.tags().acks();
        let sent = acks.into_iter().map(|(tag, multiple)| self.channel.basic_ack(tag, BasicAckOptions { multiple }));
        join_all(sent).await.into_iter().collect()
    }

    pub(super) async fn requeue(&self, tag: u64) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
        self.tags().open.remove(&tag);
        Ok(())
    }

    pub(super) async fn reject(&self, tag: u64) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await?;
        self.tags().open.remove(&tag);
        Ok(())
    }

    fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(open: impl IntoIterator<Item = u64>, done: impl IntoIterator<Item = u64>) -> Tags {
        Tags { open: open.into_iter().collect(), done: done.into_iter().collect() }
    }

    #[test]
    fn an_ack_of_many_ends_before_the_first_that_is_open() {
        let mut tags = tags(1..=9, [1, 2, 3, 5, 7]);
        assert_eq!(tags.acks(), [(3, true), (5, false), (7, false)]);
        assert_eq!(tags.open, BTreeSet::from([4, 6, 8, 9]));
        assert_eq!(tags.acks(), []);
        tags.done.extend([4, 6]);
        assert_eq!(tags.acks(), [(6, true)]);
        assert_eq!(tags.open, BTreeSet::from([8, 9]));
    }

    #[test]
    fn one_alone_is_acked_by_its_own_name() {
        let mut first = tags(4..=6, [4]);
        assert_eq!(first.acks(), [(4, false)]);
        let mut last = tags(4..=6, [6]);
        assert_eq!(last.acks(), [(6, false)]);
        assert_eq!(last.open, BTreeSet::from([4, 5]));
    }
}
