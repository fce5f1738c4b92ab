//! One job from its message to its end.

use std::time::Duration;

use commands::{CommandError, Done, Handler, Issue, Loaded, step};
use domain::reports::{Report, ReportCommand, ReportState};
use domain::{Aggregate, Context, Decide, Moment, Sha256, StreamId};
use ports::Error;
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::{CrashPoint, WorkerConfig, WorkerPorts};
use crate::order::{Case, Origin};
use crate::pins::{Pinned, Seen};
use crate::places::Begun;
use crate::reports::Rendered;
use crate::streams::Streams;
use crate::{Order, pins};

/// Pause after an outage of something we depend on; it is nobody's failure and uses up no try.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of the message.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing is left to do: ack.
    Done(&'static str),
    /// Never again: to the dead letters.
    Dead(&'static str),
    /// Later, with the attempt that is still ours, if one is under way.
    Again { pause: Duration, attempt: Option<u32> },
}

/// Why an attempt did not end with a document.
enum Stop {
    /// Something we depend on is away.
    Outage(Error),
    /// It is this report's fault, or may be.
    Failure { reason: String, retryable: bool },
}

impl From<CommandError> for Stop {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Port(error) if error.is_transient() => Self::Outage(error),
            other => Self::Failure { reason: other.to_string(), retryable: true },
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error.is_transient() {
            true => Self::Outage(error),
            false => Self::Failure { reason: error.chain(), retryable: true },
        }
    }
}

/// What the jobs of one worker share.
#[derive(Default)]
pub(crate) struct Desk {
    streams: Streams,
    seen: Seen,
}

pub(crate) struct Job<'a> {
    config: &'a WorkerConfig,
    ports: &'a WorkerPorts,
    desk: &'a Desk,
    report_id: Uuid,
    /// The request, as soon as it is known: what this job appends belongs to its conversation.
    origin: Origin,
}

impl<'a> Job<'a> {
    pub(crate) fn new(config: &'a WorkerConfig, ports: &'a WorkerPorts, desk: &'a Desk, report_id: Uuid) -> Self {
        Self { config, ports, desk, report_id, origin: None }
    }

    /// Works on the report; `attempt` is the one that this worker started earlier and could not end.
    pub(crate) async fn work(mut self, attempt: Option<u32>, begun: Begun) -> Verdict {
        match self.begin(attempt).await {
            Ok(Start::Over(verdict)) => verdict,
            Ok(Start::Attempt { order, attempt }) => match self.attempt(&order, begun).await {
                Ok(outcome) => Verdict::Done(outcome),
                Err(Stop::Outage(error)) => self.later(error, Some(attempt)),
                Err(Stop::Failure { reason, retryable }) => self.fail(attempt, reason, retryable).await,
            },
            Err(Stop::Outage(error)) => self.later(error, attempt),
            Err(Stop::Failure { reason, .. }) => self.refuse(reason).await,
        }
    }

    /// Ends a report that cannot even be begun: recorded if it can be, so that its owner sees why and nobody sends it again.
    async fn refuse(&self, reason: String) -> Verdict {
        tracing::error!(report.id = %self.report_id, reason, "a report cannot be worked on");
        let attempt = match self.execute(self.start()).await {
            Ok(_) => self.report().await.map(|report| report.attempt()),
            Err(error) => Err(error),
        };
        match attempt {
            Ok(attempt) => self.fail(attempt, reason, false).await,
            Err(CommandError::Port(error)) if error.is_transient() => self.later(error, None),
            Err(_) => Verdict::Dead("unreadable"),
        }
    }

    /// Everything before the rendering: one load and one append, both shared with the other slots.
    async fn begin(&mut self, attempt: Option<u32>) -> Result<Start, Stop> {
        let log = self.handler().logs().get(Context::Reports)?;
        let stream = self.desk.streams.load(&**log, StreamId::of::<Report>(self.report_id)).await?;
        self.origin = stream.origin.clone();
        let Some(Case { order, mut report, version }) = Case::of(self.report_id, stream)? else {
            tracing::error!(report.id = %self.report_id, "a message names a report that does not exist");
            return Ok(Start::Over(Verdict::Dead("unknown")));
        };
        if let Some(verdict) = verdict_of(report.state()) {
            return Ok(Start::Over(verdict));
        }
        // So that what is decided next needs no load of its own.
        self.handler().keep::<Report>(self.report_id.to_string(), Loaded { state: report.clone(), version });
        let Some(renderer) = self.ports.registry.get(order.kind) else {
            return Err(Stop::Failure { reason: format!("no renderer for {}", order.kind.as_str()), retryable: false });
        };
        let WorkerPorts { views, hints, .. } = self.ports;
        let (models, patience) = (renderer.models(), self.config.positions_wait_max);
        // Before the attempt is started: waiting for others is no attempt.
        if !pins::reached(&order, models, &self.desk.seen, &**views, &**hints, patience).await? {
            return Err(Stop::Outage(Error::Unavailable { what: "the views at the pinned positions".into(), source: None }));
        }
        if let Some(attempt) =
            attempt.filter(|&attempt| report.attempt() == attempt && report.state() == Some(ReportState::Running))
        {
            return Ok(Start::Attempt { order, attempt });
        }
        let started = match self.execute(self.start()).await {
            Ok(done) => self.started(&mut report, version, &done),
            // Ended meanwhile, by another worker or by its owner: the state read next says how.
            Err(CommandError::Refused(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !started {
            report = self.report().await?;
        }
        match verdict_of(report.state()) {
            Some(verdict) => Ok(Start::Over(verdict)),
            None => Ok(Start::Attempt { order, attempt: report.attempt() }),
        }
    }

    fn start(&self) -> ReportCommand {
        ReportCommand::StartAttempt { worker: self.config.name.clone() }
    }

    /// Folds what starting an attempt has appended, where that is known without asking: at exactly the version that the start
    /// of this state leads to, it was this state that was decided on.
    fn started(&self, report: &mut Report, version: u64, done: &Done) -> bool {
        let Ok(events) = report.decide(&self.start(), &Moment { now: self.handler().clock().now() }) else { return false };
        if done.no_op || done.version != version + events.len() as u64 {
            return false;
        }
        events.into_iter().for_each(|event| report.apply(event));
        true
    }

    /// Renders, stores, records, in this order: what the log calls completed is there to be downloaded.
    async fn attempt(&self, order: &Order, begun: Begun) -> Result<&'static str, Stop> {
        let place = begun.place().await;
        let rendered = self.render(order).await?;
        drop(place);
        self.pass(CrashPoint::BetweenRenderAndStore);
        let Rendered { bytes, media_type } = rendered;
        let size = bytes.len() as u64;
        let sha256: Sha256 = self
            .ports
            .artifacts
            .put(bytes)
            .await?
            .parse()
            .map_err(|error| Stop::Failure { reason: format!("the artifact's name: {error}"), retryable: true })?;
        self.pass(CrashPoint::BetweenStoreAndAppend);
        let completed = ReportCommand::CompleteReport { sha256, size, media_type: media_type.to_owned() };
        let outcome = match self.execute(completed).await {
            Ok(_) => "succeeded",
            // Cancelled, or given up by another worker, while we rendered: the document is not wanted any more.
            Err(CommandError::Refused(_)) => "superseded",
            Err(error) => return Err(error.into()),
        };
        self.pass(CrashPoint::BetweenAppendAndAck);
        Ok(outcome)
    }

    /// In a task of its own, so that a panic ends the attempt and not the worker.
    async fn render(&self, order: &Order) -> Result<Rendered, Stop> {
        let Some(renderer) = self.ports.registry.get(order.kind).cloned() else {
            return Err(Stop::Failure { reason: format!("no renderer for {}", order.kind.as_str()), retryable: false });
        };
        let mut views = Pinned::new(order.clone(), renderer.models(), self.desk.seen.clone(), self.ports.views.clone());
        let (order, delay) = (order.clone(), self.config.render_delay);
        let mut rendering = AbortOnDrop(tokio::spawn(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            renderer.render(&order, &mut views).await
        }));
        match timeout(self.config.render_max, &mut rendering.0).await {
            Ok(Ok(rendered)) => Ok(rendered?),
            Ok(Err(ended)) => Err(Stop::Failure { reason: panic_text(ended), retryable: true }),
            Err(_) => {
                let reason = format!("rendering took longer than {} s", self.config.render_max.as_secs());
                Err(Stop::Failure { reason, retryable: true })
            }
        }
    }

    async fn fail(&self, attempt: u32, reason: String, retryable: bool) -> Verdict {
        tracing::error!(report.id = %self.report_id, attempt, reason, retryable, "an attempt at a report failed");
        let recorded = self.execute(ReportCommand::FailAttempt { attempt, reason, retryable }).await;
        let report = match recorded {
            Ok(_) | Err(CommandError::Refused(_)) => self.report().await,
            Err(error) => Err(error),
        };
        match report {
            Ok(report) => verdict_of(report.state()).unwrap_or_else(|| {
                // 1, 4 pauses after the first and the second failure.
                let pause = self.config.retry_pause * 4_u32.saturating_pow(report.failures().saturating_sub(1).min(5));
                Verdict::Again { pause, attempt: None }
            }),
            Err(error) => self.later(Error::unavailable("the reports log", error.to_string()), Some(attempt)),
        }
    }

    fn later(&self, error: Error, attempt: Option<u32>) -> Verdict {
        tracing::warn!(report.id = %self.report_id, error = error.chain(), "a report has to wait");
        metrics::counter!("casitas_job_outages_total").increment(1);
        Verdict::Again { pause: OUTAGE_PAUSE.min(self.config.retry_pause), attempt }
    }

    async fn report(&self) -> Result<Report, CommandError> {
        Ok(self.handler().load::<Report>(self.report_id.to_string()).await?.state.clone())
    }

    async fn execute(&self, command: ReportCommand) -> Result<Done, CommandError> {
        let mut issue = Issue::by(format!("worker:{}", self.config.name));
        if let Some((event_id, request)) = &self.origin {
            issue.metadata.causation_id = Some(*event_id);
            issue.metadata.correlation_id = request.correlation_id;
            issue.metadata.traceparent.clone_from(&request.traceparent);
        }
        self.handler().execute(&issue, &[step::<Report>(self.report_id.to_string(), command)]).await
    }

    fn handler(&self) -> &Handler {
        &self.ports.handler
    }

    fn pass(&self, point: CrashPoint) {
        if let Some(crash_at) = &self.config.crash_at {
            crash_at.pass(point);
        }
    }
}

enum Start {
    Over(Verdict),
    Attempt { order: Order, attempt: u32 },
}

/// What to do with the message of a report that is not open; `None` for an open one.
fn verdict_of(state: Option<ReportState>) -> Option<Verdict> {
    match state {
        None => Some(Verdict::Dead("unknown")),
        Some(ReportState::Queued | ReportState::Running) => None,
        Some(ReportState::Succeeded) => Some(Verdict::Done("duplicate")),
        Some(ReportState::Cancelled) => Some(Verdict::Done("cancelled")),
        Some(ReportState::Failed) => Some(Verdict::Dead("failed")),
        Some(ReportState::Dead) => Some(Verdict::Dead("dead")),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn panic_text(ended: tokio::task::JoinError) -> String {
    let Ok(panic) = ended.try_into_panic() else { return "the rendering was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("the renderer panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}
