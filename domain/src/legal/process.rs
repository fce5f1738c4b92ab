//! The stream of a lease's way between contexts: which step was done for which event, with what outcome, and where it is
//! stuck. It is written before the next step is taken, so a process that was killed goes on where it stood.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::events::event_names;
use crate::fault::cut;
use crate::{Aggregate, AggregateKind, Decide, Fact, LeaseId, Moment, Refusal, RefusalClass, Refused, bridge, today_in};

/// One command into some context, taken because of one event of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessStep {
    ReserveUnit,
    ConfirmSent,
    RefuseSend,
    OpenLedger,
    ChargeDeposit,
    ReleaseReservation,
    ReverseCharges,
    CloseLedger,
    StartOccupancy,
    EndOccupancy,
    /// Tells the lease that a step failed for good.
    FlagActivationFailed,
}

impl ProcessStep {
    pub const ALL: [Self; 11] = [
        Self::ReserveUnit,
        Self::ConfirmSent,
        Self::RefuseSend,
        Self::OpenLedger,
        Self::ChargeDeposit,
        Self::ReleaseReservation,
        Self::ReverseCharges,
        Self::CloseLedger,
        Self::StartOccupancy,
        Self::EndOccupancy,
        Self::FlagActivationFailed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReserveUnit => "reserve_unit",
            Self::ConfirmSent => "confirm_sent",
            Self::RefuseSend => "refuse_send",
            Self::OpenLedger => "open_ledger",
            Self::ChargeDeposit => "charge_deposit",
            Self::ReleaseReservation => "release_reservation",
            Self::ReverseCharges => "reverse_charges",
            Self::CloseLedger => "close_ledger",
            Self::StartOccupancy => "start_occupancy",
            Self::EndOccupancy => "end_occupancy",
            Self::FlagActivationFailed => "flag_activation_failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    Done,
    Refused(Refusal),
    /// The fact held already, or there was nothing to do.
    NotNeeded,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ProcessCommand {
    RecordStep {
        lease_id: LeaseId,
        /// Id of the event that the step follows from.
        trigger: Uuid,
        step: ProcessStep,
        outcome: StepOutcome,
    },
    /// The outcome of a step stays unknown after this many attempts; it is retried for ever all the same.
    MarkStuck { lease_id: LeaseId, trigger: Uuid, step: ProcessStep, reason: String, attempts: u32 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProcessEvent {
    StepRecorded { lease_id: LeaseId, trigger: Uuid, step: ProcessStep, outcome: StepOutcome },
    StepStuck { lease_id: LeaseId, trigger: Uuid, step: ProcessStep, reason: String, attempts: u32 },
}

event_names!(ProcessEvent: StepRecorded, StepStuck);

impl Fact for ProcessEvent {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    #[error("step {} of event {trigger} was recorded with another outcome", step.as_str())]
    OutcomeConflict { trigger: Uuid, step: ProcessStep },
}

impl Refused for ProcessError {
    fn code(&self) -> &'static str {
        match self {
            Self::OutcomeConflict { .. } => "STEP_OUTCOME_CONFLICT",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::OutcomeConflict { .. } => RefusalClass::Conflict,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Recorded {
    trigger: Uuid,
    step: ProcessStep,
    outcome: StepOutcome,
}

/// Where a process waits for an outcome it cannot learn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stuck {
    pub trigger: Uuid,
    pub step: ProcessStep,
    pub reason: String,
    pub attempts: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseProcess {
    recorded: Vec<Recorded>,
    stuck: Option<Stuck>,
}

impl LeaseProcess {
    pub fn recorded(&self, trigger: Uuid, step: ProcessStep) -> Option<&StepOutcome> {
        let found = self.recorded.iter().find(|recorded| (recorded.trigger, recorded.step) == (trigger, step));
        found.map(|recorded| &recorded.outcome)
    }

    pub fn stuck(&self) -> Option<&Stuck> {
        self.stuck.as_ref()
    }
}

impl Decide for LeaseProcess {
    const KIND: AggregateKind = AggregateKind::LeaseProcess;

    fn decide(&self, command: &ProcessCommand, _: &Moment) -> Result<Vec<ProcessEvent>, ProcessError> {
        match command {
            ProcessCommand::RecordStep { lease_id, trigger, step, outcome } => match self.recorded(*trigger, *step) {
                Some(known) if known == outcome => Ok(Vec::new()),
                Some(_) => Err(ProcessError::OutcomeConflict { trigger: *trigger, step: *step }),
                None => Ok(vec![ProcessEvent::StepRecorded {
                    lease_id: *lease_id,
                    trigger: *trigger,
                    step: *step,
                    outcome: outcome.clone(),
                }]),
            },
            ProcessCommand::MarkStuck { lease_id, trigger, step, reason, attempts } => {
                let here = self.stuck.as_ref().is_some_and(|stuck| (stuck.trigger, stuck.step) == (*trigger, *step));
                if here || self.recorded(*trigger, *step).is_some() {
                    return Ok(Vec::new());
                }
                Ok(vec![ProcessEvent::StepStuck {
                    lease_id: *lease_id,
                    trigger: *trigger,
                    step: *step,
                    reason: cut(reason, 500),
                    attempts: *attempts,
                }])
            }
        }
    }

    fn effective_on(&self, _: &ProcessEvent, at: &Moment) -> Date {
        today_in("UTC", at.now)
    }
}

impl Aggregate for LeaseProcess {
    const TYPE: &'static str = "lease_process";
    type Command = ProcessCommand;
    type Event = ProcessEvent;
    type Error = ProcessError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::StepRecorded { trigger, step, outcome, .. } => {
                self.recorded.push(Recorded { trigger, step, outcome });
                self.stuck = None;
            }
            ProcessEvent::StepStuck { trigger, step, reason, attempts, .. } => {
                self.stuck = Some(Stuck { trigger, step, reason, attempts });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn record(trigger: u128, outcome: StepOutcome) -> ProcessCommand {
        ProcessCommand::RecordStep {
            lease_id: LeaseId(Uuid::from_u128(1)),
            trigger: Uuid::from_u128(trigger),
            step: ProcessStep::ReserveUnit,
            outcome,
        }
    }

    fn stuck(attempts: u32) -> ProcessCommand {
        ProcessCommand::MarkStuck {
            lease_id: LeaseId(Uuid::from_u128(1)),
            trigger: Uuid::from_u128(7),
            step: ProcessStep::ReserveUnit,
            reason: "units is not reachable".into(),
            attempts,
        }
    }

    #[test]
    fn a_step_has_one_outcome_for_each_event() {
        let done = || given::<LeaseProcess>([]).when(record(7, StepOutcome::Done)).accepted();
        done().when(record(7, StepOutcome::NotNeeded)).then_refused("STEP_OUTCOME_CONFLICT");
        done().when(record(7, StepOutcome::Done)).then_nothing();
        done().when(record(8, StepOutcome::NotNeeded)).accepted();
    }

    #[test]
    fn a_stuck_step_is_told_once_and_its_outcome_unsticks_it() {
        let waiting = || given::<LeaseProcess>([]).when(stuck(5)).accepted();
        waiting().when(stuck(6)).then_nothing();
        waiting().when(record(7, StepOutcome::Done)).accepted().when(stuck(7)).then_nothing();
        let mut state = LeaseProcess::default();
        let at = Moment { now: crate::testing::instant("2025-01-01T00:00:00Z") };
        for command in [stuck(5), record(7, StepOutcome::Done)] {
            let events = state.decide(&command, &at).expect("accepted");
            events.into_iter().for_each(|event| state.apply(event));
            assert_eq!(state.stuck().is_some(), matches!(command, ProcessCommand::MarkStuck { .. }));
        }
        assert_eq!(state.recorded(Uuid::from_u128(7), ProcessStep::ReserveUnit), Some(&StepOutcome::Done));
        assert_eq!(state.recorded(Uuid::from_u128(8), ProcessStep::ReserveUnit), None);
    }
}
