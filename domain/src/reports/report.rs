//! One report: `queued -> running -> succeeded | failed | cancelled | dead`; an operator may send what failed or died to the queue
//! again.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{ReportFormat, ReportKind, ReportParams, ReportQueue};
use crate::events::event_names;
use crate::fault::{cut, text};
use crate::{
    Aggregate, AggregateKind, Context, Decide, Fact, Fault, Moment, RefusalClass, Refused, ReportId, Sha256, UserId, bridge,
    today_in,
};

/// Attempts that may fail before a report is dead.
pub const FAILURES_MAX: u32 = 3;
/// Attempts that may end without a word (the worker was killed) before a report is dead. More than failures, because a
/// crash is rarely the report's fault; bounded, because a report that kills its workers must not do so for ever.
pub const CRASHES_MAX: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    /// Waiting for a worker, for the first time or again.
    Queued,
    Running,
    Succeeded,
    /// Not worth another try.
    Failed,
    Cancelled,
    /// Every try was used up.
    Dead,
}

impl ReportState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// Whether work on it is still to be done.
    pub fn is_open(self) -> bool {
        match self {
            Self::Queued | Self::Running => true,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Dead => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct NewReport {
    pub report_id: ReportId,
    pub kind: ReportKind,
    pub params: ReportParams,
    pub format: ReportFormat,
    /// The positions it is computed at, a fact; one for each context it reads.
    pub positions: BTreeMap<Context, u64>,
    /// The resolved business date: `ReportParams::resolve_as_of`.
    pub as_of: Date,
    pub requested_by: UserId,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReportCommand {
    RequestReport(NewReport),
    StartAttempt {
        worker: String,
    },
    CompleteReport {
        sha256: Sha256,
        size: u64,
        media_type: String,
    },
    /// `attempt` is the one that failed: a word from an attempt that was given up meanwhile changes nothing.
    FailAttempt {
        attempt: u32,
        reason: String,
        retryable: bool,
    },
    CancelReport,
    /// An operator's: what failed or is dead waits for a worker again, with all its tries.
    RetryReport,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReportEvent {
    ReportRequested {
        report_id: ReportId,
        kind: ReportKind,
        queue: ReportQueue,
        params: ReportParams,
        format: ReportFormat,
        positions: BTreeMap<Context, u64>,
        as_of: Date,
        requested_by: UserId,
    },
    ReportAttemptStarted {
        attempt: u32,
        worker: String,
    },
    ReportCompleted {
        attempt: u32,
        sha256: Sha256,
        size: u64,
        media_type: String,
    },
    ReportAttemptFailed {
        attempt: u32,
        reason: String,
        retryable: bool,
    },
    ReportDead {
        attempts: u32,
        reason: String,
    },
    ReportCancelled {
        attempts: u32,
    },
    ReportRetried {
        queue: ReportQueue,
        /// Started so far; counted on from here.
        attempts: u32,
    },
}

event_names!(ReportEvent:
    ReportRequested,
    ReportAttemptStarted,
    ReportCompleted,
    ReportAttemptFailed,
    ReportDead,
    ReportCancelled,
    ReportRetried,
);

impl Fact for ReportEvent {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
    #[error("there is no such report")]
    NotFound,
    #[error("this report exists already")]
    ReportExists,
    #[error("the report is {}, which does not allow it", current.as_str())]
    InvalidState { current: ReportState, allowed: &'static [ReportState] },
}

impl From<Fault> for ReportError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl Refused for ReportError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
            Self::NotFound => "NOT_FOUND",
            Self::ReportExists => "REPORT_EXISTS",
            Self::InvalidState { .. } => "INVALID_STATE",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
            Self::NotFound => RefusalClass::NotFound,
            Self::ReportExists | Self::InvalidState { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::InvalidState { current, allowed } => json!({ "current": current, "allowed": allowed }),
            Self::Invalid { .. } | Self::NotFound | Self::ReportExists => Value::Null,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } => Some(pointer),
            Self::NotFound | Self::ReportExists | Self::InvalidState { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Requested {
    request: RequestFacts,
    state: ReportState,
    /// Attempts started so far; also the number of the current one.
    attempt: u32,
    failures: u32,
    crashes: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RequestFacts {
    requested_by: UserId,
    kind: ReportKind,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    requested: Option<Requested>,
}

const OPEN: &[ReportState] = &[ReportState::Queued, ReportState::Running];
const GIVEN_UP: &[ReportState] = &[ReportState::Failed, ReportState::Dead];

impl Requested {
    fn require_open(&self) -> Result<(), ReportError> {
        match self.state.is_open() {
            true => Ok(()),
            false => Err(ReportError::InvalidState { current: self.state, allowed: OPEN }),
        }
    }

    fn start(&self, worker: &str) -> Result<Vec<ReportEvent>, ReportError> {
        self.require_open()?;
        text("/worker", worker, 100)?;
        let crashed = self.state == ReportState::Running;
        if crashed && self.crashes >= CRASHES_MAX {
            let reason = "its workers ended without a result".to_owned();
            return Ok(vec![ReportEvent::ReportDead { attempts: self.attempt, reason }]);
        }
        Ok(vec![ReportEvent::ReportAttemptStarted { attempt: self.attempt + 1, worker: worker.to_owned() }])
    }

    fn fail(&self, attempt: u32, reason: &str, retryable: bool) -> Result<Vec<ReportEvent>, ReportError> {
        if self.state != ReportState::Running || attempt != self.attempt {
            return Ok(Vec::new());
        }
        let reason = cut(reason, 1_000);
        let mut events = vec![ReportEvent::ReportAttemptFailed { attempt, reason: reason.clone(), retryable }];
        if retryable && self.failures + 1 >= FAILURES_MAX {
            events.push(ReportEvent::ReportDead { attempts: self.attempt, reason });
        }
        Ok(events)
    }
}

impl Report {
    pub fn state(&self) -> Option<ReportState> {
        self.requested.as_ref().map(|requested| requested.state)
    }

    /// The number of the attempt that was started last; 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.requested.as_ref().map_or(0, |requested| requested.attempt)
    }

    /// Failed attempts so far: what the back-off before the next one grows with.
    pub fn failures(&self) -> u32 {
        self.requested.as_ref().map_or(0, |requested| requested.failures)
    }

    pub fn requested_by(&self) -> Option<UserId> {
        self.requested.as_ref().map(|requested| requested.request.requested_by)
    }

    pub fn kind(&self) -> Option<ReportKind> {
        self.requested.as_ref().map(|requested| requested.request.kind)
    }
}

impl Decide for Report {
    const KIND: AggregateKind = AggregateKind::Report;

    fn decide(&self, command: &ReportCommand, _: &Moment) -> Result<Vec<ReportEvent>, ReportError> {
        if let ReportCommand::RequestReport(new) = command {
            return match self.requested {
                Some(_) => Err(ReportError::ReportExists),
                None => Ok(vec![ReportEvent::ReportRequested {
                    report_id: new.report_id,
                    kind: new.kind,
                    queue: new.kind.queue(),
                    as_of: new.params.resolve_as_of(new.as_of)?,
                    params: new.params.clone(),
                    format: new.format,
                    positions: new.positions.clone(),
                    requested_by: new.requested_by,
                }]),
            };
        }
        let report = self.requested.as_ref().ok_or(ReportError::NotFound)?;
        match command {
            ReportCommand::RequestReport(_) => Err(ReportError::ReportExists),
            ReportCommand::StartAttempt { worker } => report.start(worker),
            ReportCommand::CompleteReport { sha256, size, media_type } => {
                if report.state == ReportState::Succeeded {
                    return Ok(Vec::new());
                }
                report.require_open()?;
                // A worker that was thought dead may still deliver: the same bytes, since parameters and positions are fixed.
                let (attempt, media_type) = (report.attempt, cut(media_type, 100));
                Ok(vec![ReportEvent::ReportCompleted { attempt, sha256: *sha256, size: *size, media_type }])
            }
            ReportCommand::FailAttempt { attempt, reason, retryable } => report.fail(*attempt, reason, *retryable),
            ReportCommand::CancelReport => {
                if report.state == ReportState::Cancelled {
                    return Ok(Vec::new());
                }
                report.require_open()?;
                Ok(vec![ReportEvent::ReportCancelled { attempts: report.attempt }])
            }
            ReportCommand::RetryReport => match report.state {
                ReportState::Failed | ReportState::Dead => {
                    Ok(vec![ReportEvent::ReportRetried { queue: report.request.kind.queue(), attempts: report.attempt }])
                }
                ReportState::Queued | ReportState::Running | ReportState::Succeeded | ReportState::Cancelled => {
                    Err(ReportError::InvalidState { current: report.state, allowed: GIVEN_UP })
                }
            },
        }
    }

    fn effective_on(&self, event: &ReportEvent, at: &Moment) -> Date {
        match event {
            ReportEvent::ReportRequested { as_of, .. } => *as_of,
            ReportEvent::ReportAttemptStarted { .. }
            | ReportEvent::ReportCompleted { .. }
            | ReportEvent::ReportAttemptFailed { .. }
            | ReportEvent::ReportDead { .. }
            | ReportEvent::ReportCancelled { .. }
            | ReportEvent::ReportRetried { .. } => today_in("UTC", at.now),
        }
    }
}

impl Aggregate for Report {
    const TYPE: &'static str = "report";
    type Command = ReportCommand;
    type Event = ReportEvent;
    type Error = ReportError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: ReportEvent) {
        if let ReportEvent::ReportRequested { requested_by, kind, .. } = event {
            let request = RequestFacts { requested_by, kind };
            self.requested = Some(Requested { request, state: ReportState::Queued, attempt: 0, failures: 0, crashes: 0 });
            return;
        }
        let Some(report) = self.requested.as_mut() else { return };
        match event {
            ReportEvent::ReportRequested { .. } => {}
            ReportEvent::ReportAttemptStarted { attempt, .. } => {
                report.crashes += u32::from(report.state == ReportState::Running);
                report.attempt = attempt;
                report.state = ReportState::Running;
            }
            ReportEvent::ReportCompleted { .. } => report.state = ReportState::Succeeded,
            ReportEvent::ReportAttemptFailed { retryable, .. } => {
                report.failures += 1;
                report.state = if retryable { ReportState::Queued } else { ReportState::Failed };
            }
            ReportEvent::ReportDead { .. } => report.state = ReportState::Dead,
            ReportEvent::ReportCancelled { .. } => report.state = ReportState::Cancelled,
            ReportEvent::ReportRetried { .. } => {
                report.state = ReportState::Queued;
                (report.failures, report.crashes) = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
