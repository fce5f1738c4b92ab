//! The seeded scheduler: every call of every port waits here until its turn.
//!
//! One call (with its twins, if there are any) is carried out a (virtual) millisecond, chosen by the seed among those that
//! arrived before that millisecond, in an order that does not depend on who woke first. What becomes of it is drawn at that moment: carried out, refused, lost before,
//! lost after, carried out after its caller was told that it was lost, or put off. So a seed is a whole history.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use ports::{Error, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// More than the longest chain of tasks that wake one another without a call of a port in between.
const TURNS: usize = 8;

/// Lines of history kept to be printed with a failure.
const LINES_KEPT: usize = 400;

/// One life of one process. A dead one waits for ever at its next call.
pub struct Proc {
    pub id: u32,
    pub name: String,
    pub died: CancellationToken,
}

impl Proc {
    pub fn is_dead(&self) -> bool {
        self.died.is_cancelled()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Log(domain::Context),
    Views,
    Cache,
    Queue,
    Shelf,
    Hints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    /// Nobody waits for it; it may be lost, late or doubled.
    Hint,
}

/// How bad it gets: chances per call.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub unavailable: f64,
    pub lost_before: f64,
    pub lost_after: f64,
    /// The caller hears that the connection was lost; the server carries the call out later.
    pub late: f64,
    pub slow: f64,
    pub slow_max_ms: u64,
    pub reply_delay: f64,
    pub hint_lost: f64,
}

impl Weather {
    pub const CALM: Self = Self {
        unavailable: 0.0,
        lost_before: 0.0,
        lost_after: 0.0,
        late: 0.0,
        slow: 0.0,
        slow_max_ms: 1,
        reply_delay: 0.0,
        hint_lost: 0.0,
    };

    /// Some seeds are fine days, some are storms.
    pub fn of(rng: &mut StdRng) -> Self {
        let force = [0.2, 1.0, 1.0, 3.0][rng.random_range(0..4)];
        Self {
            unavailable: 0.02 * force,
            lost_before: 0.015 * force,
            lost_after: 0.02 * force,
            late: 0.015 * force,
            slow: 0.04 * force,
            slow_max_ms: [60, 400, 2_500][rng.random_range(0..3)],
            reply_delay: 0.1 * force,
            hint_lost: [0.05, 0.3, 1.0][rng.random_range(0..3)],
        }
    }
}

/// What a whole server does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    Refuses,
    Hangs,
}

#[derive(Clone, Copy)]
enum Verdict {
    Run { delay_ms: u64 },
    RunTwice,
    Fail(&'static str, fn(Target) -> Error),
    RunAndLose,
    FailAndRunLater { due_ms: u64 },
    PutOff { due_ms: u64 },
    Drop(&'static str),
}

trait Job: Send {
    /// Carries it out; how the outcome reads in the history. Without a listener the outcome is lost.
    fn run(&mut self, delay_ms: u64) -> BoxFuture<'_, String>;
    fn fail(&mut self, error: Error);
}

struct Call<T, F> {
    work: Option<F>,
    reply: Option<oneshot::Sender<(u64, Result<T>)>>,
    show: fn(&T) -> String,
}

impl<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static> Job for Call<T, F> {
    fn run(&mut self, delay_ms: u64) -> BoxFuture<'_, String> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return "done before".to_owned() };
            let outcome = work.await;
            let shown = match &outcome {
                Ok(value) => (self.show)(value),
                Err(error) => name_of(error).to_owned(),
            };
            if let Some(reply) = self.reply.take() {
                let _ = reply.send((delay_ms, outcome));
            }
            shown
        })
    }

    fn fail(&mut self, error: Error) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send((0, Err(error)));
        }
    }
}

struct Hinting<F: Fn() + Send>(F);

impl<F: Fn() + Send> Job for Hinting<F> {
    fn run(&mut self, _: u64) -> BoxFuture<'_, String> {
        (self.0)();
        Box::pin(async { "sent".to_owned() })
    }
    fn fail(&mut self, _: Error) {}
}

struct Enlisted {
    target: Target,
    kind: Kind,
    arrived_ms: u64,
    due_ms: u64,
    put_off: bool,
    proc: Arc<Proc>,
    job: Box<dyn Job>,
}

impl Enlisted {
    fn ready_ms(&self) -> u64 {
        self.due_ms.max(self.arrived_ms + 1)
    }
}

/// Process, operation, arrival: nothing in it depends on made-up ids or on who woke first.
type Place = (u32, String, u64);

struct State {
    rng: StdRng,
    weather: Weather,
    waiting: BTreeMap<Place, Enlisted>,
    arrivals: u64,
    outages: BTreeMap<Target, (Outage, u64)>,
    hash: DefaultHasher,
    lines: VecDeque<String>,
    prints: bool,
    counts: BTreeMap<String, u64>,
}

pub struct Fate {
    state: Mutex<State>,
    arrived: Notify,
    start: Instant,
    seed: u64,
}

impl Fate {
    pub fn new(seed: u64, prints: bool) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let weather = Weather::of(&mut rng);
        let state = State {
            rng,
            weather,
            waiting: BTreeMap::new(),
            arrivals: 0,
            outages: BTreeMap::new(),
            hash: DefaultHasher::new(),
            lines: VecDeque::new(),
            prints,
            counts: BTreeMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), arrived: Notify::new(), start: Instant::now(), seed })
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A source of its own for a client or the chaos, so that it does not depend on the order of calls.
    pub fn rng_for(&self, who: &str) -> StdRng {
        let mut hasher = DefaultHasher::new();
        (self.seed, who).hash(&mut hasher);
        StdRng::seed_from_u64(hasher.finish())
    }

    /// Drawn while a call is carried out: those follow one another.
    pub fn chance(&self, chance: f64) -> bool {
        self.state().rng.random_bool(chance)
    }

    /// A draw that depends on what it is for alone, for moments outside of a call.
    pub fn chance_of(&self, what: impl Hash, chance: f64) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        !self.is_calm() && (hasher.finish() % 1_000_000) as f64 / 1e6 < chance
    }

    pub fn is_calm(&self) -> bool {
        self.state().weather.slow == 0.0
    }

    /// The end of all faults. What was put off happens now.
    pub fn calm(&self) {
        let mut state = self.state();
        state.weather = Weather::CALM;
        state.outages.clear();
        state.waiting.values_mut().for_each(|enlisted| enlisted.due_ms = 0);
        drop(state);
        self.arrived.notify_one();
    }

    /// The same weather as the seed's from now on.
    pub fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    pub fn current_weather(&self) -> Weather {
        self.state().weather
    }

    pub fn outage(&self, target: Target, outage: Outage, lasts_ms: u64) {
        let until = self.now_ms() + lasts_ms;
        self.note(&format!("outage of {target:?}: {outage:?} for {lasts_ms} ms"));
        self.count(&format!("outage {outage:?}"));
        self.state().outages.insert(target, (outage, until));
    }

    /// Puts a line into the history.
    pub fn note(&self, text: &str) {
        let now = self.now_ms();
        self.state().line(now, text);
    }

    pub fn count(&self, what: &str) {
        *self.state().counts.entry(what.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.state().counts.clone()
    }

    pub fn trace(&self) -> u64 {
        self.state().hash.finish()
    }

    pub fn lines(&self) -> Vec<String> {
        self.state().lines.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    fn enlist(&self, gate: &Gate, kind: Kind, operation: String, job: Box<dyn Job>) {
        let now = self.now_ms();
        {
            let mut state = self.state();
            state.arrivals += 1;
            let place = (gate.proc.id, operation, state.arrivals);
            let enlisted = Enlisted {
                target: gate.target,
                kind,
                arrived_ms: now,
                due_ms: 0,
                put_off: false,
                proc: gate.proc.clone(),
                job,
            };
            state.waiting.insert(place, enlisted);
        }
        self.arrived.notify_one();
    }

    /// Carries calls out for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let now = self.now_ms();
            let next = self.state().waiting.values().map(Enlisted::ready_ms).min();
            let at = |ms: u64| self.start + Duration::from_millis(ms);
            match next {
                None => self.arrived.notified().await,
                Some(ms) if ms > now => {
                    tokio::select! {
                        biased;
                        () = self.arrived.notified() => {}
                        () = sleep_until(at(ms)) => {}
                    }
                }
                Some(_) => {
                    settle().await;
                    self.step(now).await;
                    sleep_until(at(now + 1)).await;
                }
            }
        }
    }

    async fn step(&self, now: u64) {
        let (turn, verdict) = {
            let mut state = self.state();
            let ready: Vec<Place> =
                state.waiting.iter().filter(|(_, call)| call.ready_ms() <= now).map(|(place, _)| place.clone()).collect();
            let chosen = state.rng.random_range(0..ready.len());
            let turn = state.take_with_twins(&ready[chosen]);
            let Some((_, first)) = turn.first() else { return };
            let verdict = state.verdict(first, now);
            (turn, verdict)
        };
        for (place, enlisted) in turn {
            self.carry_out(now, place, enlisted, verdict).await;
        }
    }

    async fn carry_out(&self, now: u64, place: Place, mut enlisted: Enlisted, verdict: Verdict) {
        let (said, counted) = match verdict {
            Verdict::Run { delay_ms } => (enlisted.job.run(delay_ms).await, None),
            Verdict::RunTwice => {
                enlisted.job.run(0).await;
                (enlisted.job.run(0).await, Some("doubled"))
            }
            Verdict::Fail(why, error) => {
                enlisted.job.fail(error(enlisted.target));
                (why.to_owned(), Some(why))
            }
            Verdict::RunAndLose => {
                enlisted.job.fail(unknown(enlisted.target));
                let outcome = enlisted.job.run(0).await;
                (format!("{outcome}, and the reply is lost"), Some("reply lost"))
            }
            Verdict::FailAndRunLater { due_ms } => {
                enlisted.job.fail(unknown(enlisted.target));
                enlisted.due_ms = due_ms;
                enlisted.put_off = true;
                self.state().waiting.insert(place.clone(), enlisted);
                (format!("given up, but carried out at {due_ms}"), Some("carried out late"))
            }
            Verdict::PutOff { due_ms } => {
                enlisted.due_ms = due_ms;
                enlisted.put_off = true;
                self.state().waiting.insert(place, enlisted);
                self.count("slow");
                return;
            }
            Verdict::Drop(why) => (why.to_owned(), Some(why)),
        };
        let mut state = self.state();
        if let Some(counted) = counted {
            *state.counts.entry(counted.to_owned()).or_default() += 1;
        }
        let (proc, operation, _) = &place;
        state.line(now, &format!("{proc} {operation}: {said}"));
    }
}

/// Lets everybody go first whom a timer woke in this millisecond: in which order is the runtime's affair.
async fn settle() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}

impl State {
    /// A call and those that cannot be told from it: which of them arrived first depends on how the runtime woke their callers,
    /// so they share their turn and their fate.
    fn take_with_twins(&mut self, place: &Place) -> Vec<(Place, Enlisted)> {
        let Some(first) = self.waiting.get(place) else { return Vec::new() };
        let moments = (first.arrived_ms, first.due_ms, first.put_off);
        let same = (place.0, place.1.clone(), 0)..=(place.0, place.1.clone(), u64::MAX);
        let twins = self.waiting.range(same);
        let twins = twins.filter(|(_, twin)| (twin.arrived_ms, twin.due_ms, twin.put_off) == moments);
        let places: Vec<Place> = twins.map(|(place, _)| place.clone()).collect();
        places.into_iter().filter_map(|place| self.waiting.remove_entry(&place)).collect()
    }

    fn line(&mut self, now: u64, text: &str) {
        let mut line = String::with_capacity(text.len() + 8);
        let _ = write!(line, "{now:>6} {text}");
        line.hash(&mut self.hash);
        if self.prints {
            println!("{line}");
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn verdict(&mut self, enlisted: &Enlisted, now: u64) -> Verdict {
        if enlisted.proc.is_dead() {
            // A statement on its way when its client dies may still be carried out.
            return match enlisted.kind == Kind::Write && self.rng.random_bool(0.5) {
                true => Verdict::Run { delay_ms: 0 },
                false => Verdict::Drop("died with its process"),
            };
        }
        let weather = self.weather;
        match self.outages.get(&enlisted.target) {
            Some((Outage::Refuses, until)) if now < *until => {
                return match enlisted.kind {
                    Kind::Hint => Verdict::Drop("hint lost"),
                    Kind::Read | Kind::Write => Verdict::Fail("refused in an outage", unavailable),
                };
            }
            Some((Outage::Hangs, until)) if now < *until => return Verdict::PutOff { due_ms: *until },
            Some(_) => {
                self.outages.remove(&enlisted.target);
            }
            None => {}
        }
        if weather.slow == 0.0 {
            return Verdict::Run { delay_ms: 0 };
        }
        let slow_ms = self.rng.random_range(2..=weather.slow_max_ms.max(3));
        if !enlisted.put_off && self.rng.random_bool(weather.slow) {
            return Verdict::PutOff { due_ms: now + slow_ms };
        }
        let mut roll: f64 = self.rng.random();
        let mut happens = |chance: f64| {
            roll -= chance;
            roll < 0.0
        };
        match enlisted.kind {
            Kind::Hint if happens(weather.hint_lost * 0.8) => Verdict::Drop("hint lost"),
            Kind::Hint if happens(0.05) => Verdict::RunTwice,
            Kind::Read | Kind::Write if happens(weather.unavailable) => Verdict::Fail("unavailable", unavailable),
            Kind::Write if happens(weather.lost_before) => Verdict::Fail("lost on the way", unknown),
            Kind::Write if happens(weather.lost_after) => Verdict::RunAndLose,
            Kind::Write if !enlisted.put_off && happens(weather.late) => Verdict::FailAndRunLater { due_ms: now + slow_ms },
            Kind::Read | Kind::Write if happens(weather.reply_delay) => {
                Verdict::Run { delay_ms: self.rng.random_range(1..=40) }
            }
            Kind::Read | Kind::Write | Kind::Hint => Verdict::Run { delay_ms: 0 },
        }
    }
}

fn unavailable(target: Target) -> Error {
    Error::Unavailable { what: format!("{target:?}"), source: None }
}

fn unknown(target: Target) -> Error {
    Error::UnknownOutcome { what: format!("{target:?}"), source: None }
}

fn name_of(error: &Error) -> &'static str {
    match error {
        Error::Conflict(_) => "conflict",
        Error::NotFound(_) => "not found",
        Error::Unavailable { .. } => "unavailable",
        Error::UnknownOutcome { .. } => "unknown outcome",
        Error::Rejected { .. } => "rejected",
        Error::Corrupt(_) => "corrupt",
        Error::Full(_) => "full",
    }
}

/// The way of one process to one server.
#[derive(Clone)]
pub struct Gate {
    pub fate: Arc<Fate>,
    pub proc: Arc<Proc>,
    pub target: Target,
}

impl Gate {
    /// A call: it waits for its turn and for its reply. A caller that goes away does not take the call with it.
    pub async fn call<T, F>(&self, kind: Kind, operation: String, show: fn(&T) -> String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if self.proc.is_dead() {
            return std::future::pending().await;
        }
        let (reply, answer) = oneshot::channel();
        self.fate.enlist(self, kind, operation, Box::new(Call { work: Some(work), reply: Some(reply), show }));
        let (delay_ms, outcome) = match answer.await {
            Ok(answered) => answered,
            Err(_) => return std::future::pending().await,
        };
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms)).await;
        }
        match self.proc.is_dead() {
            true => std::future::pending().await,
            false => outcome,
        }
    }

    pub fn hint(&self, operation: String, send: impl Fn() + Send + 'static) {
        if !self.proc.is_dead() {
            self.fate.enlist(self, Kind::Hint, operation, Box::new(Hinting(send)));
        }
    }
}
