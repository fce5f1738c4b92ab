//! An entry as it lies in process: what the feed has said of it since, and when the next one is due.
//!
//! What has changed may go on being served for a moment, so that a list that many ask for and that changes two hundred times a
//! second is not computed two hundred times a second with all of them waiting. It was current when the feed last proved it, and
//! is never served a second after that (`docs/decisions/0012`).

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::Timestamp;

use crate::entry::Entry;
use crate::feed::{Feed, Knowledge, STALE_AFTER, Verdict};
use crate::reader::{Served, Source};

/// The computation of an answer that many ask for begins at the earliest so many times the last one's duration after that one
/// began: all of them together take this part of one core at most.
const PACE: u32 = 8;
/// But never later than this, however slow the machine is.
const PACE_MAX: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Kept {
    entry: Entry,
    /// The feed's count of clears from before it was begun: a later clear ends it.
    clears: u64,
    /// The feed's version at which it was last found current.
    current_at: AtomicU64,
    /// The feed's version at which it was last found outdated.
    outdated_at: AtomicU64,
    /// The last moment, by the feed's count, of which it is known that the view store would have answered the same.
    proved_us: AtomicU64,
    /// From when on the next one may be computed.
    due_us: u64,
    is_replaced_now: AtomicBool,
    /// Somebody else asked while the next one was computed.
    is_asked_by_many: AtomicBool,
    /// The tier has another one in its place.
    is_superseded: AtomicBool,
}

impl Deref for Kept {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Kept {
    /// `proved_us`: the view store would have answered this then or later.
    pub fn new(entry: Entry, proved_us: u64, replacing: &Replacing, feed: &Feed) -> Self {
        let took = Duration::from_micros(feed.now_us().saturating_sub(replacing.began_us));
        let pause = if replacing.is_asked_by_many() { (took * PACE).min(PACE_MAX) } else { Duration::ZERO };
        Self {
            entry,
            clears: replacing.clears,
            current_at: AtomicU64::new(0),
            outdated_at: AtomicU64::new(0),
            proved_us: AtomicU64::new(proved_us),
            due_us: replacing.began_us + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX),
            is_replaced_now: AtomicBool::new(false),
            is_asked_by_many: AtomicBool::new(false),
            is_superseded: AtomicBool::new(false),
        }
    }

    pub fn clears(&self) -> u64 {
        self.clears
    }

    /// A hit, when there is one for this entry now. Whoever may not lag is served what is current only; so is who finds that the
    /// next one is due and nobody at it, for they are to compute it.
    pub fn serve(self: &Arc<Self>, feed: &Feed, now: Timestamp, may_lag: bool) -> Option<Served> {
        let known = feed.knowledge()?;
        if !self.holds_at(now) {
            return None;
        }
        match self.judge(feed, &known) {
            Verdict::Current => {
                let served = self.served(Source::Memory, now, known.age);
                // Nginx keeps what is known of the second that its clock shows, and would go on asking for every request.
                if may_lag && served.known_at.is_none_or(|at| at.as_second() < now.as_second()) {
                    feed.look_again();
                }
                Some(served)
            }
            Verdict::Outdated if may_lag && self.waits_for_the_next(feed) => self.outdated(feed, now),
            Verdict::Outdated | Verdict::Dead => None,
        }
    }

    /// For who has waited for it, and must not wait again because it changed meanwhile.
    pub fn serve_outdated(self: &Arc<Self>, feed: &Feed, now: Timestamp) -> Option<Served> {
        let known = feed.knowledge()?;
        let may_be = !self.absent && self.holds_at(now) && self.judge(feed, &known) == Verdict::Outdated;
        may_be.then(|| self.outdated(feed, now))?
    }

    fn judge(&self, feed: &Feed, known: &Knowledge) -> Verdict {
        // Asked for after the version: a clear that is not seen here has another version than this.
        if self.clears != feed.clears() {
            return Verdict::Dead;
        }
        if self.current_at.load(Ordering::Acquire) != known.version {
            if self.outdated_at.load(Ordering::Acquire) == known.version {
                return Verdict::Outdated;
            }
            let verdict = feed.judge(&self.deps);
            match verdict {
                Verdict::Current => self.current_at.store(known.version, Ordering::Release),
                Verdict::Outdated => self.outdated_at.store(known.version, Ordering::Release),
                Verdict::Dead => {}
            }
            if verdict != Verdict::Current {
                return verdict;
            }
        }
        if self.proved_us.load(Ordering::Relaxed) < known.polled_us {
            self.proved_us.fetch_max(known.polled_us, Ordering::Relaxed);
        }
        Verdict::Current
    }

    fn waits_for_the_next(&self, feed: &Feed) -> bool {
        if self.is_replaced_now.load(Ordering::Relaxed) {
            // Read first: while many ask, they do not all write to the same place.
            if !self.is_asked_by_many.load(Ordering::Relaxed) {
                self.is_asked_by_many.store(true, Ordering::Relaxed);
            }
            return true;
        }
        feed.now_us() < self.due_us
    }

    /// As what it was when it was last proved, unless that is too long ago. Who reads by one way a newer one is not shown this
    /// one by another.
    fn outdated(self: &Arc<Self>, feed: &Feed, now: Timestamp) -> Option<Served> {
        let age = Duration::from_micros(feed.now_us().saturating_sub(self.proved_us.load(Ordering::Relaxed)));
        let is_allowed = age < STALE_AFTER && !self.is_superseded();
        is_allowed.then(|| self.served(Source::Outdated, now, age))
    }

    fn served(self: &Arc<Self>, source: Source, now: Timestamp, age: Duration) -> Served {
        Served { entry: self.clone(), source, now, known_at: now.checked_sub(age).ok() }
    }

    pub fn is_superseded(&self) -> bool {
        self.is_superseded.load(Ordering::Relaxed)
    }

    pub fn supersede(&self) {
        self.is_superseded.store(true, Ordering::Relaxed);
    }
}

/// A computation under way. While it is, others may be served what it replaces.
pub struct Replacing {
    clears: u64,
    /// What is read from the view store from now on holds at this moment or later.
    pub began_us: u64,
    before: Option<Arc<Kept>>,
}

impl Replacing {
    pub fn begin(feed: &Feed, before: Option<Arc<Kept>>) -> Self {
        if let Some(before) = &before {
            before.is_replaced_now.store(true, Ordering::Relaxed);
        }
        Self { clears: feed.clears(), began_us: feed.now_us(), before }
    }

    fn is_asked_by_many(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.is_asked_by_many.load(Ordering::Relaxed))
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            before.is_replaced_now.store(false, Ordering::Relaxed);
        }
    }
}
