//! The runner of process managers: move-in and move-out, described by [`domain::legal::move_in`].
//!
//! Each lease has a lane: its events are worked off in order, leases beside each other, so that a stuck lease holds up nobody
//! else. Every outcome is recorded in the lease's process stream before the next step; commands carry a key made of event and
//! step. So a crash anywhere loses no step and repeats none: the checkpoint stays before the oldest event that is not done, and
//! what is seen again finds its steps recorded or its keys used. The keys of refused steps are kept, too, where the step would
//! have had its effect: a deposed leader that comes late with the same step is refused as the new one was, and does not do what
//! the process has long gone on without.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use commands::{CommandError, Handler, Issue, Step, step};
use domain::finances::Ledger;
use domain::legal::move_in::{AfterRefusal, StepCommand, after_refusal, command_for, steps};
use domain::legal::{Lease, LeaseEvent, LeaseProcess, ProcessCommand, ProcessStep, StepOutcome};
use domain::units::Unit;
use domain::{AggregateKind, LeaseId, Refusal};
use futures::FutureExt;
use ports::{Error, EventLog, Position, Recorded, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::known;
use crate::lead::Lead;
use crate::pace::{Backoff, pause};
use crate::projection::{BATCH_EVENTS_MAX, ROUND_PERIOD, another_life};
use crate::status::Reporter;
use crate::tailer::Tailer;
use crate::working::panic_text;

pub(crate) const NAME: &str = "policy:move-in";
/// Leases worked on at the same time.
const LANES_MAX: usize = 32;
/// Events that wait in lanes; no more is read while so many wait.
const WAITING_MAX: usize = 2_000;
/// Events read ahead of the checkpoint.
const AHEAD_MAX: usize = 50_000;
/// Attempts after which a step is called stuck. It is retried for ever all the same.
const STUCK_ATTEMPTS: u32 = 5;

#[derive(Clone)]
pub(crate) struct Policy {
    pub tailer: Arc<Tailer>,
    pub handler: Handler,
    pub reporter: Reporter,
    pub shutdown: CancellationToken,
    stuck: Arc<Mutex<BTreeMap<Uuid, String>>>,
}

/// One event of a lease and what it is.
#[derive(Clone)]
struct Trigger {
    event: Arc<Recorded>,
    lease_id: LeaseId,
    fact: Arc<LeaseEvent>,
}

/// What was read and is not done yet.
#[derive(Default)]
struct Lanes {
    /// Every event after the checkpoint, and whether it is done.
    ahead: BTreeMap<Position, (Uuid, bool)>,
    /// Waiting triggers by lease; a lease is in here while its lane works.
    by_lease: HashMap<LeaseId, VecDeque<Trigger>>,
    ready: VecDeque<LeaseId>,
    waiting: usize,
}

impl Lanes {
    fn take(&mut self, event: &Arc<Recorded>, trigger: Option<Trigger>) {
        self.ahead.insert(event.position, (event.event_id, trigger.is_none()));
        let Some(trigger) = trigger else { return };
        self.waiting += 1;
        let lease_id = trigger.lease_id;
        let lane = self.by_lease.entry(lease_id).or_insert_with(|| {
            self.ready.push_back(lease_id);
            VecDeque::new()
        });
        lane.push_back(trigger);
    }

    /// The next lane that may work, with its first event.
    fn start(&mut self) -> Option<Trigger> {
        let lease_id = self.ready.pop_front()?;
        self.by_lease.get(&lease_id)?.front().cloned()
    }

    fn done(&mut self, trigger: &Trigger) {
        if let Some((_, done)) = self.ahead.get_mut(&trigger.event.position) {
            *done = true;
        }
        let Some(lane) = self.by_lease.get_mut(&trigger.lease_id) else { return };
        lane.pop_front();
        self.waiting -= 1;
        match lane.is_empty() {
            true => {
                self.by_lease.remove(&trigger.lease_id);
            }
            false => self.ready.push_back(trigger.lease_id),
        }
    }

    /// Everything up to here is done.
    fn settle(&mut self) -> Option<(Position, Uuid)> {
        let mut settled = None;
        while let Some(entry) = self.ahead.first_entry()
            && entry.get().1
        {
            settled = Some((*entry.key(), entry.get().0));
            entry.remove();
        }
        settled
    }

    fn has_room(&self) -> bool {
        self.waiting < WAITING_MAX && self.ahead.len() < AHEAD_MAX
    }
}

impl Policy {
    pub(crate) fn new(tailer: Arc<Tailer>, handler: Handler, reporter: Reporter, shutdown: CancellationToken) -> Self {
        Self { tailer, handler, reporter, shutdown, stuck: Arc::default() }
    }

    fn log(&self) -> &dyn EventLog {
        &**self.tailer.log()
    }

    /// Follows until shutdown.
    pub async fn run(&self) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let led = match Lead::claim(self.log(), NAME, &self.reporter).await {
                Ok(Some(lead)) => self.follow(lead, &mut backoff).await,
                Ok(None) => {
                    pause(&self.shutdown, ROUND_PERIOD).await;
                    continue;
                }
                Err(error) => Err(error),
            };
            match led {
                Ok(()) => {}
                Err(Error::Conflict(reason)) => tracing::info!(follower = NAME, reason, "leadership moved; claiming again"),
                Err(error) => self.reporter.stalled(error.chain()),
            }
            pause(&self.shutdown, backoff.next()).await;
        }
    }

    async fn follow(&self, mut lead: Lead, backoff: &mut Backoff) -> Result<()> {
        self.stuck.lock().expect("nothing panics under this lock").clear();
        let mut tail = self.tailer.watch();
        let mut lanes = Lanes::default();
        let mut working: JoinSet<Option<Trigger>> = JoinSet::new();
        let mut read_to = lead.checkpoint.position;
        while !self.shutdown.is_cancelled() {
            if another_life(&tail.borrow_and_update(), &lead.checkpoint) {
                return Err(Error::Conflict("the log is another one".into()));
            }
            let read = match lanes.has_room() {
                true => self.read(&mut lanes, &mut read_to).await,
                false => Ok(0),
            };
            while working.len() < LANES_MAX
                && let Some(trigger) = lanes.start()
            {
                let policy = self.clone();
                working.spawn(async move { policy.work(trigger).await });
            }
            if let Some((position, event_id)) = lanes.settle() {
                lead.advance(self.log(), position, Some(event_id)).await?;
                self.reporter.at(position);
            }
            self.report(&read, &lanes);
            let wait = match read {
                Ok(0) => ROUND_PERIOD,
                Ok(_) => {
                    backoff.reset();
                    continue;
                }
                Err(_) => backoff.next(),
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                Some(worked) = working.join_next() => finished(&mut lanes, worked)?,
                _ = tail.changed(), if lanes.has_room() && read.is_ok() => {}
                () = sleep(wait) => {}
            }
            while let Some(worked) = working.try_join_next() {
                finished(&mut lanes, worked)?;
            }
        }
        // The lanes end at their next step by themselves; each command is bounded by its timeout.
        while let Some(worked) = working.join_next().await {
            finished(&mut lanes, worked)?;
        }
        if let Some((position, event_id)) = lanes.settle() {
            lead.advance(self.log(), position, Some(event_id)).await?;
        }
        Ok(())
    }

    /// Takes the next events into the lanes; how many. An event that cannot be read stops the reading before it.
    async fn read(&self, lanes: &mut Lanes, read_to: &mut Position) -> Result<usize, String> {
        let events = self.tailer.after(*read_to, BATCH_EVENTS_MAX).await.map_err(|error| error.chain())?;
        for event in &events {
            let trigger = trigger(event).map_err(|reason| {
                format!("{NAME} cannot take event {} (legal:{}): {reason}", event.event_id, event.position)
            })?;
            lanes.take(event, trigger);
            *read_to = event.position;
        }
        Ok(events.len())
    }

    fn report(&self, read: &Result<usize, String>, lanes: &Lanes) {
        let stuck = self.stuck.lock().expect("nothing panics under this lock");
        metrics::gauge!("casitas_process_stuck", "process" => NAME).set(stuck.len() as f64);
        let oldest = lanes.ahead.first_key_value().map(|(position, _)| *position);
        let since = lanes
            .by_lease
            .values()
            .filter_map(VecDeque::front)
            .find(|trigger| Some(trigger.event.position) == oldest)
            .map(|trigger| trigger.event.recorded_at);
        self.reporter.pending_since(since);
        match (read, stuck.values().next()) {
            (Err(reason), _) => self.reporter.stalled(reason.clone()),
            (Ok(_), Some(reason)) => self.reporter.stalled(reason.clone()),
            (Ok(_), None) => self.reporter.running(),
        }
    }

    /// Does an event's steps, however long it takes; `None` at shutdown.
    async fn work(&self, trigger: Trigger) -> Option<Trigger> {
        let mut plan: &'static [ProcessStep] = steps(&trigger.fact);
        let mut refusal: Option<Refusal> = None;
        while let Some((step, rest)) = plan.split_first() {
            let outcome = self.outcome(&trigger, *step, refusal.as_ref()).await?;
            plan = rest;
            if let StepOutcome::Refused(refused) = outcome {
                if let AfterRefusal::Instead(instead) = after_refusal(*step, &refused.code) {
                    plan = instead;
                }
                refusal = Some(refused);
            }
        }
        Some(trigger)
    }

    /// The recorded outcome of a step, after as many attempts as it takes.
    async fn outcome(&self, trigger: &Trigger, step: ProcessStep, refusal: Option<&Refusal>) -> Option<StepOutcome> {
        let mut backoff = Backoff::default();
        let mut attempts = 0;
        let mut marked = false;
        loop {
            if self.shutdown.is_cancelled() {
                return None;
            }
            let attempt = AssertUnwindSafe(self.attempt(trigger, step, refusal)).catch_unwind().await;
            let failure = match attempt {
                Ok(Ok(outcome)) => {
                    self.unstuck(trigger);
                    return Some(outcome);
                }
                Ok(Err(CommandError::Port(error))) => error.chain(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {}", panic_text(&*panic)),
            };
            attempts += 1;
            metrics::counter!("casitas_process_retries_total", "process" => NAME, "step" => step.as_str()).increment(1);
            tracing::warn!(
                lease.id = %trigger.lease_id, step = step.as_str(), event.id = %trigger.event.event_id, attempts, error = failure,
                "the outcome of a step is not known; trying again"
            );
            if attempts >= STUCK_ATTEMPTS && !marked {
                marked = self.mark_stuck(trigger, step, &failure, attempts).await;
            }
            if !pause(&self.shutdown, backoff.next()).await {
                return None;
            }
        }
    }

    async fn attempt(
        &self,
        trigger: &Trigger,
        step: ProcessStep,
        refusal: Option<&Refusal>,
    ) -> Result<StepOutcome, CommandError> {
        let process = self.handler.load::<LeaseProcess>(trigger.lease_id.to_string()).await?;
        if let Some(outcome) = process.state.recorded(trigger.event.event_id, step) {
            return Ok(outcome.clone());
        }
        let outcome = match command_for(step, &trigger.fact, refusal) {
            None => StepOutcome::NotNeeded,
            Some(command) => self.execute(trigger, step, command).await?,
        };
        let record = ProcessCommand::RecordStep {
            lease_id: trigger.lease_id,
            trigger: trigger.event.event_id,
            step,
            outcome: outcome.clone(),
        };
        self.to_process(trigger, record).await?;
        metrics::counter!("casitas_process_steps_total", "process" => NAME, "step" => step.as_str()).increment(1);
        Ok(outcome)
    }

    /// The outcome of the step's command; an error means that it is not known.
    async fn execute(
        &self,
        trigger: &Trigger,
        step: ProcessStep,
        command: StepCommand,
    ) -> Result<StepOutcome, CommandError> {
        let cause = (trigger.event.event_id, trigger.event.metadata.correlation_id);
        let key = format!("{}:{}", trigger.event.event_id, step.as_str());
        let issue = Issue::step(NAME, key, cause);
        match self.handler.execute(&issue, &[command_step(command)]).await {
            Ok(done) if done.no_op => Ok(StepOutcome::NotNeeded),
            Ok(_) => Ok(StepOutcome::Done),
            Err(CommandError::Refused(refusal)) => Ok(match after_refusal(step, &refusal.code) {
                AfterRefusal::Continue => StepOutcome::NotNeeded,
                AfterRefusal::Instead(_) => StepOutcome::Refused(refusal),
            }),
            Err(unknown) => Err(unknown),
        }
    }

    async fn to_process(&self, trigger: &Trigger, command: ProcessCommand) -> Result<(), CommandError> {
        let mut issue = Issue::by(NAME);
        issue.metadata.causation_id = Some(trigger.event.event_id);
        issue.metadata.correlation_id = trigger.event.metadata.correlation_id;
        self.handler.execute(&issue, &[step::<LeaseProcess>(trigger.lease_id.to_string(), command)]).await.map(drop)
    }

    /// Shows the step as stuck here and in the process's stream; whether the latter was possible.
    async fn mark_stuck(&self, trigger: &Trigger, step: ProcessStep, failure: &str, attempts: u32) -> bool {
        let event_id = trigger.event.event_id;
        let reason = format!("lease {} is stuck at {} of event {event_id}: {failure}", trigger.lease_id, step.as_str());
        self.stuck.lock().expect("nothing panics under this lock").insert(event_id, reason);
        let command = ProcessCommand::MarkStuck {
            lease_id: trigger.lease_id,
            trigger: event_id,
            step,
            reason: failure.to_owned(),
            attempts,
        };
        self.to_process(trigger, command).await.is_ok()
    }

    fn unstuck(&self, trigger: &Trigger) {
        self.stuck.lock().expect("nothing panics under this lock").remove(&trigger.event.event_id);
    }
}

/// What an event asks the process to do; `None` when nothing.
fn trigger(event: &Arc<Recorded>) -> Result<Option<Trigger>, String> {
    known::check(event)?;
    if event.stream.kind != AggregateKind::Lease {
        return Ok(None);
    }
    let fact: LeaseEvent = event.decode().map_err(|error| error.chain())?;
    if steps(&fact).is_empty() {
        return Ok(None);
    }
    let outline = fact.outline().ok_or("an event with steps has no outline")?;
    Ok(Some(Trigger { event: event.clone(), lease_id: outline.lease_id, fact: Arc::new(fact) }))
}

fn command_step(command: StepCommand) -> Box<dyn Step> {
    match command {
        StepCommand::Units(unit_id, command) => step::<Unit>(unit_id.to_string(), command),
        StepCommand::Legal(lease_id, command) => step::<Lease>(lease_id.to_string(), command),
        StepCommand::Finances(lease_id, command) => step::<Ledger>(lease_id.to_string(), command),
    }
}

/// A trigger that was not done (shutdown) stays in its lane, and is taken up again from the checkpoint.
fn finished(lanes: &mut Lanes, worked: Result<Option<Trigger>, tokio::task::JoinError>) -> Result<()> {
    match worked {
        Ok(Some(trigger)) => lanes.done(&trigger),
        Ok(None) => {}
        Err(error) => return Err(Error::unavailable("a lane of the process", error)),
    }
    Ok(())
}
