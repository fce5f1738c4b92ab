//! What a replica knows of the view store's changes: per model the live generation and term, the checkpoint it has applied,
//! and when each tag last changed. It decides which cached bytes may still be served.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use domain::{Context, Timestamp};
use futures::FutureExt;
use ports::{Checkpoint, Error, HintStream, Hints, ModelHead, Result, Seen, Topic, ViewChange, ViewStore};
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, timeout};

use crate::entry::Dep;
use crate::token::{MinPosition, Reached};

/// The promised staleness bound: with no successful poll for this long, caches are bypassed.
pub const STALE_AFTER: Duration = Duration::from_secs(1);
/// Without a hint the feed asks this often.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Hints of many batches in a row are answered by one poll.
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// A poll that takes longer is given up and tried again.
const POLL_DEADLINE: Duration = Duration::from_secs(2);
/// Rows of the change feed read in one statement.
const CHANGES_CHUNK: usize = 1_000;
/// Changes read when a model is met for the first time; entries older than these are misses.
const HISTORY_MAX: u64 = 10_000;
/// Tags remembered per model; the older half is forgotten when there are more.
const TAGS_MAX: usize = 100_000;

/// Which life of a model's rows: a cached answer of another one is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub generation: u64,
    pub term: u64,
}

/// What the feed knew at some moment; a moment later it may know more, never less.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge {
    /// What a verdict of [`Feed::judge`] that is asked for now may be remembered under.
    pub version: u64,
    /// Start of the last successful poll, in microseconds since the feed began.
    pub polled_us: u64,
    /// How long ago that was.
    pub age: Duration,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the view store would answer, as far as is known here.
    Current,
    /// Something of it has changed since, in the same life of its models.
    Outdated,
    /// Of another life, or of a model that is not known.
    Dead,
}

/// How far a model was known to be at some moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub model: &'static str,
    pub life: Life,
    pub revision: u64,
}

struct ModelState {
    life: Life,
    revision: u64,
    checkpoint: Checkpoint,
    changed_at: HashMap<Box<str>, u64>,
    /// A tag that is not in `changed_at` counts as changed at this revision.
    floor: u64,
}

impl ModelState {
    /// Nothing known but the head: every answer older than it is a miss.
    fn at(head: &ModelHead) -> Self {
        Self {
            life: Life { generation: head.generation, term: head.term },
            revision: head.revision,
            checkpoint: head.checkpoint.clone(),
            changed_at: HashMap::new(),
            floor: head.revision,
        }
    }

    fn changed_at(&self, tag: &str) -> u64 {
        self.changed_at.get(tag).copied().unwrap_or(self.floor)
    }

    fn apply(&mut self, changes: Vec<ViewChange>) {
        for change in changes {
            self.revision = change.revision;
            for tag in change.tags {
                self.changed_at.insert(tag.into(), change.revision);
            }
            if self.changed_at.len() > TAGS_MAX {
                self.forget_older_half();
            }
        }
    }

    /// Forgotten tags count as changed at the newest forgotten revision: too late at worst, never too early.
    fn forget_older_half(&mut self) {
        let mut revisions: Vec<u64> = self.changed_at.values().copied().collect();
        let middle = revisions.len() / 2;
        let (_, median, _) = revisions.select_nth_unstable(middle);
        let cut = *median;
        self.changed_at.retain(|_, revision| *revision > cut);
        self.floor = self.floor.max(cut);
    }
}

/// What a poll found out about one model.
enum Step {
    Advance(Vec<ViewChange>),
    Restart(ModelState),
}

pub struct Feed {
    views: Arc<dyn ViewStore>,
    models: RwLock<HashMap<String, ModelState>>,
    /// Start of the last successful poll: what the feed knows is at least as new as this.
    polled: watch::Sender<Option<Instant>>,
    /// Polls are taken one at a time, so that an older one never overwrites a newer one.
    polling: Mutex<()>,
    /// Raised whenever a model's memory was cleared; what was kept in process before is dead.
    clears: AtomicU64,
    /// Raised whenever anything of what is known changed.
    version: AtomicU64,
    began: Instant,
    /// `polled` in microseconds since `began`, for those who ask for every request; [`NEVER`] before the first poll.
    polled_us: AtomicU64,
    /// Somebody needs newer knowledge than there is.
    asked: Notify,
}

impl Feed {
    pub fn new(views: Arc<dyn ViewStore>) -> Self {
        Self {
            views,
            models: RwLock::default(),
            polled: watch::Sender::new(None),
            polling: Mutex::new(()),
            clears: AtomicU64::new(0),
            version: AtomicU64::new(1),
            began: Instant::now(),
            polled_us: AtomicU64::new(NEVER),
            asked: Notify::new(),
        }
    }

    /// Follows the change feed until the process ends: woken by hints, and every 100 ms regardless.
    pub async fn run(self: Arc<Self>, hints: Arc<dyn Hints>) {
        let mut hints = Some(hints.subscribe());
        let mut failing = false;
        loop {
            let failure = match timeout(POLL_DEADLINE, self.poll()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.chain()),
                Err(_) => Some("the view store did not answer in time".to_owned()),
            };
            let failed = failure.is_some();
            match failure {
                Some(error) if !failing => {
                    tracing::warn!(error, "the change feed cannot be read: after one second caches are bypassed");
                }
                None if failing => tracing::info!("the change feed is read again"),
                _ => {}
            }
            failing = failed;
            metrics::gauge!("casitas_view_feed_age_seconds").set(self.age().map_or(f64::INFINITY, |age| age.as_secs_f64()));
            match failed {
                true => tokio::time::sleep(POLL_EVERY).await,
                false => {
                    tokio::time::sleep(POLL_PAUSE).await;
                    tokio::select! {
                        biased;
                        () = self.asked.notified() => {}
                        () = wait_for_views(&mut hints) => {}
                    }
                }
            }
        }
    }

    /// Lets the next poll be soon. What is asked for many times before it is asked for once.
    pub fn look_again(&self) {
        self.asked.notify_one();
    }

    /// Whether somebody asked since this was last asked for.
    #[cfg(test)]
    pub fn is_asked(&self) -> bool {
        self.asked.notified().now_or_never().is_some()
    }

    /// Reads what changed since the last poll; one statement when nothing did.
    pub async fn poll(&self) -> Result<()> {
        let _one_at_a_time = self.polling.lock().await;
        let started = Instant::now();
        let news = self.views.news(&self.seen()).await?;
        let (mut heads, mut steps) = (Vec::with_capacity(news.len()), Vec::new());
        for (head, changes) in news {
            if let Some(step) = self.step(&head, changes).await? {
                steps.push((heads.len(), step));
            }
            heads.push(head);
        }
        self.apply(&heads, steps);
        self.polled_us.store(self.micros(started), Ordering::SeqCst);
        self.polled.send_replace(Some(started));
        Ok(())
    }

    fn seen(&self) -> Vec<Seen> {
        let models = self.models.read().expect(UNPOISONED);
        let seen = |(model, state): (&String, &ModelState)| Seen {
            model: model.clone(),
            generation: state.life.generation,
            revision: state.revision,
        };
        models.iter().map(seen).collect()
    }

    /// `None` when neither rows nor checkpoint of the model moved.
    async fn step(&self, head: &ModelHead, news: Vec<ViewChange>) -> Result<Option<Step>> {
        let life = Life { generation: head.generation, term: head.term };
        let known = {
            let models = self.models.read().expect(UNPOISONED);
            models.get(&head.model).map(|state| (state.life, state.revision, state.checkpoint == head.checkpoint))
        };
        match known {
            Some((known, revision, _)) if known == life && revision < head.revision => {
                let changes = match up_to(head, revision, news) {
                    Some(changes) => Some(changes),
                    None => self.changes(head, revision).await?,
                };
                Ok(Some(match changes {
                    Some(changes) => Step::Advance(changes),
                    None => Step::Restart(ModelState::at(head)),
                }))
            }
            Some((known, revision, same_checkpoint)) if known == life && revision == head.revision => {
                Ok((!same_checkpoint).then(|| Step::Advance(Vec::new())))
            }
            _ => self.start(head).await.map(|state| Some(Step::Restart(state))),
        }
    }

    /// A model in a life that was not known before, with as much of its recent history as is kept.
    async fn start(&self, head: &ModelHead) -> Result<ModelState> {
        let mut state = ModelState::at(head);
        let after = head.oldest_change.saturating_sub(1).max(head.revision.saturating_sub(HISTORY_MAX));
        if after < head.revision
            && let Some(changes) = self.changes(head, after).await?
        {
            // The change at `after` itself is not known, so an unseen tag may have changed then, but not later.
            state.floor = after;
            state.apply(changes);
        }
        Ok(state)
    }

    /// The changes after a revision up to the head's, or `None` when some are missing.
    async fn changes(&self, head: &ModelHead, mut after: u64) -> Result<Option<Vec<ViewChange>>> {
        let mut all = Vec::new();
        while after < head.revision {
            let chunk = match self.views.changes(&head.model, head.generation, after, CHANGES_CHUNK).await {
                Ok(chunk) => chunk,
                // The generation was dropped between the two statements; the next poll sees the new one.
                Err(Error::NotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            for change in chunk {
                if change.revision != after + 1 {
                    return Ok(None);
                }
                after = change.revision;
                // Later changes belong to a checkpoint that was not read: they wait for the next poll.
                if change.revision <= head.revision {
                    all.push(change);
                }
            }
        }
        Ok(Some(all))
    }

    /// `steps` by their head's place.
    fn apply(&self, heads: &[ModelHead], steps: Vec<(usize, Step)>) {
        let mut models = self.models.write().expect(UNPOISONED);
        let mut cleared = false;
        if models.len() > heads.len() || models.keys().any(|model| heads.iter().all(|head| head.model != *model)) {
            models.retain(|model, _| heads.iter().any(|head| head.model == *model));
            cleared = true;
        }
        let changed = cleared || !steps.is_empty();
        for (place, step) in steps {
            let head = &heads[place];
            match step {
                Step::Advance(changes) => {
                    if let Some(state) = models.get_mut(&head.model) {
                        state.apply(changes);
                        if state.checkpoint != head.checkpoint {
                            state.checkpoint = head.checkpoint.clone();
                        }
                    }
                }
                Step::Restart(state) => {
                    cleared |= models.insert(head.model.clone(), state).is_some();
                }
            }
        }
        if cleared {
            self.clears.fetch_add(1, Ordering::SeqCst);
        }
        if changed {
            // Still under the lock: who sees the new number sees what it stands for.
            self.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How old the feed's knowledge is; `None` before the first poll.
    pub fn age(&self) -> Option<Duration> {
        match self.polled_us.load(Ordering::SeqCst) {
            NEVER => None,
            polled_us => Some(Duration::from_micros(self.now_us().saturating_sub(polled_us))),
        }
    }

    /// Whether cached bytes cannot be judged any more.
    pub fn is_stale(&self) -> bool {
        self.age().is_none_or(|age| age >= STALE_AFTER)
    }

    pub fn clears(&self) -> u64 {
        self.clears.load(Ordering::SeqCst)
    }

    /// Microseconds since the feed began.
    pub(crate) fn now_us(&self) -> u64 {
        self.micros(Instant::now())
    }

    pub(crate) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    /// `None` when it is too old to judge by. To be asked for before a judgement: what is learnt meanwhile only makes that
    /// stricter.
    pub fn knowledge(&self) -> Option<Knowledge> {
        let polled_us = self.polled_us.load(Ordering::SeqCst);
        if polled_us == NEVER {
            return None;
        }
        // After the poll's time: a poll is known by its time only when what it found is.
        let version = self.version.load(Ordering::SeqCst);
        let age = Duration::from_micros(self.now_us().saturating_sub(polled_us));
        (age < STALE_AFTER).then_some(Knowledge { version, polled_us, age })
    }

    /// The moment that the feed's knowledge is of; `None` when it is too old to judge by.
    pub fn known_at(&self, now: Timestamp) -> Option<Timestamp> {
        now.checked_sub(self.knowledge()?.age).ok()
    }

    /// Whether an answer with these dependencies is still what the view store would answer, as far as is known here.
    pub fn admits(&self, deps: &[Dep]) -> bool {
        !self.is_stale() && self.judge(deps) == Verdict::Current
    }

    /// Says nothing about how old the knowledge is. A verdict holds as long as the version is the one from before it was asked
    /// for, and the feed is not stale.
    pub fn judge(&self, deps: &[Dep]) -> Verdict {
        let models = self.models.read().expect(UNPOISONED);
        let mut verdict = Verdict::Current;
        for dep in deps {
            let Some(state) = models.get(dep.model.as_str()).filter(|state| state.life == dep.life) else {
                return Verdict::Dead;
            };
            if dep.tags.iter().any(|tag| dep.revision < state.changed_at(tag)) {
                verdict = Verdict::Outdated;
            }
        }
        verdict
    }

    /// What is known now of some models; a model that is not known is left out.
    pub fn marks(&self, names: impl Iterator<Item = &'static str>) -> Vec<Mark> {
        let models = self.models.read().expect(UNPOISONED);
        names
            .filter_map(|model| models.get(model).map(|state| Mark { model, life: state.life, revision: state.revision }))
            .collect()
    }

    /// Whether every model (with the context that feeds it) has reached the token.
    pub fn reached(&self, models: &[(&'static str, Context)], token: &MinPosition) -> Reached {
        let known = self.models.read().expect(UNPOISONED);
        models.iter().fold(Reached::Yes, |reached, (model, context)| {
            reached.and(match known.get(*model) {
                Some(state) => token.reached_by(*context, &state.checkpoint),
                None if token.concerns(*context) => Reached::NotYet,
                None => Reached::Yes,
            })
        })
    }

    /// Notified after every successful poll.
    pub fn polls(&self) -> watch::Receiver<Option<Instant>> {
        self.polled.subscribe()
    }
}

/// Until a hint about views came since the last poll, or the time for the next poll is there.
async fn wait_for_views(hints: &mut Option<Box<dyn HintStream>>) {
    let mut is_hinted = false;
    // A hint that came while the last poll was under way may be about what it did not see; all of them are one.
    while let Some(stream) = hints {
        match stream.next().now_or_never() {
            Some(Some(topic)) => is_hinted |= topic == Topic::Views,
            Some(None) => *hints = None,
            None => break,
        }
    }
    if is_hinted {
        return;
    }
    let _ = timeout(POLL_EVERY, async {
        while let Some(stream) = hints {
            match stream.next().await {
                Some(Topic::Views) => return,
                Some(Topic::Log(_)) => {}
                None => *hints = None,
            }
        }
        std::future::pending::<()>().await;
    })
    .await;
}

/// No poll was successful yet.
const NEVER: u64 = u64::MAX;

const UNPOISONED: &str = "the feed's lock is never poisoned: nothing under it panics";

/// The changes from a revision to the head's without a gap; later ones belong to a checkpoint that was not read. `None` when some
/// are missing.
fn up_to(head: &ModelHead, after: u64, mut changes: Vec<ViewChange>) -> Option<Vec<ViewChange>> {
    changes.retain(|change| change.revision <= head.revision);
    let dense = changes.iter().zip(after + 1..).all(|(change, revision)| change.revision == revision);
    (dense && changes.len() as u64 == head.revision - after).then_some(changes)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::json;
    use tokio::sync::broadcast;

    use super::*;
    use crate::testing::{TestViews, UNITS};

    struct TestHints(broadcast::Sender<Topic>);
    struct Listener(broadcast::Receiver<Topic>);

    impl Hints for TestHints {
        fn notify(&self, topic: Topic) {
            let _ = self.0.send(topic);
        }
        fn subscribe(&self) -> Box<dyn HintStream> {
            Box::new(Listener(self.0.subscribe()))
        }
    }

    #[async_trait]
    impl HintStream for Listener {
        async fn next(&mut self) -> Option<Topic> {
            self.0.recv().await.ok()
        }
    }

    fn running() -> (Arc<TestViews>, Arc<Feed>, Arc<TestHints>) {
        let views = TestViews::new();
        let feed = Arc::new(Feed::new(views.clone()));
        let hints = Arc::new(TestHints(broadcast::Sender::new(1_000)));
        tokio::spawn(feed.clone().run(hints.clone()));
        (views, feed, hints)
    }

    fn revision(feed: &Feed) -> u64 {
        feed.marks([UNITS.name].into_iter()).first().map_or(0, |mark| mark.revision)
    }

    #[tokio::test(start_paused = true)]
    async fn without_hints_a_change_is_known_within_a_tenth_of_a_second_or_so() {
        let (views, feed, hints) = running();
        drop(hints);
        tokio::time::sleep(Duration::from_millis(50)).await;
        views.write(&UNITS, "a", json!(1));
        tokio::time::sleep(POLL_EVERY + POLL_PAUSE).await;
        assert_eq!(revision(&feed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_is_asked_to_looks_at_once() {
        let (views, feed, _hints) = running();
        tokio::time::sleep(Duration::from_millis(20)).await;
        views.write(&UNITS, "a", json!(1));
        let before = views.polls.load(Ordering::SeqCst);
        for _ in 0..100 {
            feed.look_again();
        }
        tokio::time::sleep(POLL_PAUSE * 2).await;
        assert_eq!(revision(&feed), 1);
        assert!(views.polls.load(Ordering::SeqCst) - before <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_wakes_the_feed_and_many_hints_are_few_polls() {
        let (views, feed, hints) = running();
        tokio::time::sleep(Duration::from_millis(20)).await;
        views.write(&UNITS, "a", json!(1));
        let before = views.polls.load(Ordering::SeqCst);
        for _ in 0..100 {
            hints.notify(Topic::Log(Context::Units));
            hints.notify(Topic::Views);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(revision(&feed), 1);
        let polls = views.polls.load(Ordering::SeqCst) - before;
        // Not one for each; the runtime may hand out that many hints in a few rounds.
        assert!((1..=5).contains(&polls), "{polls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_store_that_comes_back_is_followed_again() {
        let (views, feed, _hints) = running();
        tokio::time::sleep(Duration::from_millis(20)).await;
        views.down.store(true, Ordering::SeqCst);
        tokio::time::sleep(STALE_AFTER * 2).await;
        assert!(feed.is_stale());
        views.write(&UNITS, "a", json!(1));
        views.down.store(false, Ordering::SeqCst);
        tokio::time::sleep(POLL_EVERY * 2).await;
        assert!(!feed.is_stale());
        assert_eq!(revision(&feed), 1);
    }
}
