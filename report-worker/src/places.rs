//! Where renderings take place: so many at once, whatever the number of slots, and high jobs first.
//!
//! A slot is cheap: most of a small job is waiting for durable appends. A place is not: a rendering uses a core, memory and a
//! connection to the views. Jobs begin ahead of the places, so that an attempt is durable when a place is free for it, but only as
//! many as the renderings will take up within [`AHEAD`]: where renderings take long, a slot is as good as a place.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ports::Priority;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long a job that has begun should wait for its place at most.
const AHEAD: Duration = Duration::from_millis(100);
/// The usual time is moved by this part of the difference to the last one.
const WEIGHT: u32 = 8;

#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

struct Shared {
    count: usize,
    low_wait_max: Duration,
    state: Mutex<State>,
    /// Whether another job may begin has to be asked again.
    changed: Notify,
}

struct State {
    /// Not above 0 while somebody waits.
    free: usize,
    /// In the order of [`Priority::ALL`].
    waiting: [VecDeque<Waiting>; 2],
    /// Jobs from their beginning to the end of their rendering.
    begun: usize,
    /// How long a rendering usually takes.
    usual: Duration,
}

struct Waiting {
    since: Instant,
    grant: oneshot::Sender<Hold>,
}

impl Places {
    pub(crate) fn new(count: usize, low_wait_max: Duration) -> Self {
        let count = count.max(1);
        // Nothing is known of the renderings yet: as many ahead as there are places.
        let state = State { free: count, waiting: Default::default(), begun: 0, usual: AHEAD };
        Self(Arc::new(Shared { count, low_wait_max, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Whether another job may begin now. While it may not, [`Places::changed`] tells when to ask again.
    pub(crate) fn may_begin(&self) -> bool {
        let state = self.0.state();
        let ahead = self.0.count as u128 * AHEAD.as_nanos() / state.usual.as_nanos().max(1);
        (state.begun as u128) < self.0.count as u128 + ahead
    }

    /// For one listener.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// `since`: when the job came in hand.
    pub(crate) fn begin(&self, priority: Priority, since: Instant) -> Begun {
        self.0.state().begun += 1;
        Begun { shared: self.0.clone(), priority, since }
    }
}

/// A job from its beginning to the end of its rendering.
pub(crate) struct Begun {
    shared: Arc<Shared>,
    priority: Priority,
    since: Instant,
}

impl Begun {
    /// Waits for a place: behind the high jobs that wait, unless this is a low one that has waited too long.
    pub(crate) async fn place(self) -> Place {
        let granted = {
            let mut state = self.shared.state();
            if state.free > 0 {
                state.free -= 1;
                None
            } else {
                let (grant, granted) = oneshot::channel();
                state.waiting[self.priority as usize].push_back(Waiting { since: self.since, grant });
                Some(granted)
            }
        };
        let hold = match granted {
            None => Hold::of(&self.shared),
            Some(granted) => match granted.await {
                Ok(hold) => hold,
                // Cannot be: who waits is dropped only with everything here, which we hold.
                Err(_) => pending().await,
            },
        };
        Place { _hold: hold, _begun: self }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shared.state().begun -= 1;
        self.shared.changed.notify_one();
    }
}

/// The right to render, until dropped.
pub(crate) struct Place {
    _hold: Hold,
    _begun: Begun,
}

/// A place that is taken, also while it is on its way to who waits for it.
struct Hold {
    /// `None` when it was given on.
    shared: Option<Arc<Shared>>,
    taken_at: Instant,
}

impl Hold {
    fn of(shared: &Arc<Shared>) -> Self {
        Self { shared: Some(shared.clone()), taken_at: Instant::now() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.state().rendered(self.taken_at.elapsed());
            shared.give_on();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// To whom is next and still there, or to nobody.
    fn give_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.next(self.low_wait_max);
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.grant.send(Hold::of(self)) {
                Ok(()) => return,
                // Gone meanwhile: not dropped as a place that was used.
                Err(mut hold) => hold.shared = None,
            }
        }
    }
}

impl State {
    fn next(&mut self, low_wait_max: Duration) -> Option<Waiting> {
        let [high, low] = &mut self.waiting;
        let overdue = low.front().is_some_and(|first| first.since.elapsed() >= low_wait_max);
        match overdue {
            true => low.pop_front(),
            false => high.pop_front().or_else(|| low.pop_front()),
        }
    }

    fn rendered(&mut self, took: Duration) {
        self.usual = (self.usual * (WEIGHT - 1) + took) / WEIGHT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_WAIT_MAX: Duration = Duration::from_secs(30);

    fn begin(places: &Places, priority: Priority) -> Begun {
        places.begin(priority, Instant::now())
    }

    /// How many may begin beside each other.
    fn room(places: &Places) -> usize {
        let mut begun = Vec::new();
        while places.may_begin() && begun.len() < 1_000 {
            begun.push(begin(places, Priority::High));
        }
        begun.len()
    }

    async fn render(places: &Places, takes: Duration) {
        let place = begin(places, Priority::High).place().await;
        tokio::time::sleep(takes).await;
        drop(place);
    }

    #[tokio::test(start_paused = true)]
    async fn a_high_job_gets_the_next_place_and_an_overdue_low_one_goes_before_it() {
        let places = Places::new(1, LOW_WAIT_MAX);
        let mut held = begin(&places, Priority::High).place().await;
        let long_ago = Instant::now();
        tokio::time::advance(LOW_WAIT_MAX).await;
        let (order, mut granted) = tokio::sync::mpsc::unbounded_channel();
        let now = Instant::now();
        let waits = [("overdue", Priority::Low, long_ago), ("low", Priority::Low, now), ("high", Priority::High, now)];
        for (name, priority, since) in waits {
            let begun = places.begin(priority, since);
            let order = order.clone();
            tokio::spawn(async move { order.send((name, begun.place().await)).ok() });
            tokio::task::yield_now().await;
        }
        let mut names = Vec::new();
        for _ in 0..3 {
            drop(held);
            let (name, place) = granted.recv().await.expect("a place");
            names.push(name);
            held = place;
        }
        assert_eq!(names, ["overdue", "high", "low"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_takes_no_place_along() {
        let places = Places::new(1, LOW_WAIT_MAX);
        let held = begin(&places, Priority::High).place().await;
        let mut gone = Box::pin(begin(&places, Priority::High).place());
        assert!(futures::poll!(&mut gone).is_pending());
        let mut granted = Box::pin(begin(&places, Priority::High).place());
        assert!(futures::poll!(&mut granted).is_pending());
        drop(gone);
        drop(held);
        // Granted and never looked at: given on.
        drop(granted);
        let place = tokio::time::timeout(Duration::from_secs(1), begin(&places, Priority::Low).place()).await;
        assert!(place.is_ok(), "the place is lost");
        drop(place);
        assert_eq!(places.0.state().begun, 0);
        assert_eq!(places.0.state().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_begin_ahead_of_quick_renderings_and_none_ahead_of_long_ones() {
        let places = Places::new(8, LOW_WAIT_MAX);
        assert_eq!(room(&places), 16, "as many ahead as there are places");
        for _ in 0..50 {
            render(&places, Duration::from_micros(100)).await;
        }
        assert!(room(&places) > 200, "{}", room(&places));
        for _ in 0..50 {
            render(&places, Duration::from_secs(2)).await;
        }
        assert_eq!(room(&places), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_begin_is_told_when_to_ask_again() {
        let places = Places::new(1, LOW_WAIT_MAX);
        let first = begin(&places, Priority::High);
        let second = begin(&places, Priority::High);
        assert!(!places.may_begin());
        drop(second);
        let told = tokio::time::timeout(Duration::from_secs(1), places.changed()).await;
        assert!(told.is_ok() && places.may_begin());
        drop(first);
    }
}
