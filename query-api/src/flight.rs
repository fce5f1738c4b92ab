//! Single flight: a missing answer is computed once, however many ask for it at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// Flights by key. A flight goes on when the request that started it goes away.
pub struct Flights<T> {
    under_way: Arc<Mutex<HashMap<Arc<str>, Flight<T>>>>,
    next: AtomicU64,
}

/// One computation under way.
pub struct Flight<T> {
    /// Counts flights: one with a higher number began later.
    pub number: u64,
    outcome: watch::Receiver<Option<T>>,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self { number: self.number, outcome: self.outcome.clone() }
    }
}

impl<T: Clone + Send + Sync + 'static> Default for Flights<T> {
    fn default() -> Self {
        Self { under_way: Arc::default(), next: AtomicU64::new(1) }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The number that the next flight will have: what begins from now on has this one or a higher.
    pub fn next_number(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Joins the flight of a key, or starts one.
    pub fn join_or_start<F>(&self, key: &Arc<str>, work: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(key) {
            return flight.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Flight { number: self.next.fetch_add(1, Ordering::SeqCst), outcome };
        under_way.insert(key.clone(), flight.clone());
        drop(under_way);
        let landing = Landing { under_way: self.under_way.clone(), key: key.clone() };
        let work = work();
        tokio::spawn(async move {
            let outcome = work.await;
            // Nobody may join a flight whose outcome is already out: it would be older than they are.
            drop(landing);
            sender.send_replace(Some(outcome));
        });
        flight
    }
}

impl<T: Clone> Flight<T> {
    /// `None` when the computation panicked.
    pub async fn outcome(mut self) -> Option<T> {
        self.outcome.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Takes the flight off the list, also when it panics.
struct Landing<T> {
    under_way: Arc<Mutex<HashMap<Arc<str>, Flight<T>>>>,
    key: Arc<str>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.key);
    }
}

fn lock<T>(flights: &Mutex<HashMap<Arc<str>, Flight<T>>>) -> MutexGuard<'_, HashMap<Arc<str>, Flight<T>>> {
    flights.lock().expect("the flights' lock is never poisoned: nothing under it panics")
}
