//! The move-in and move-out process as a table: which steps follow from which event of a lease, which command each step
//! is, and what a refusal leads to. Pure; the `projector` crate executes it, records each outcome in the lease's
//! [`LeaseProcess`](super::LeaseProcess) stream before the next step, and retries an unknown outcome for ever.

use uuid::Uuid;

use super::process::ProcessStep;
use super::{ActivationFailure, LeaseCommand, LeaseEvent, LeaseOutline, LeaseState};
use crate::finances::{AllocationPolicy, ChargeType, LedgerCommand};
use crate::units::UnitCommand;
use crate::{ChargeId, LeaseId, Refusal, UnitId};

/// The steps that follow from an event, in order.
pub fn steps(event: &LeaseEvent) -> &'static [ProcessStep] {
    match event {
        LeaseEvent::LeaseSendRequested { .. } => &[ProcessStep::ReserveUnit, ProcessStep::ConfirmSent],
        LeaseEvent::LeaseSigned { outline, .. } if outline.deposit.is_some() => {
            &[ProcessStep::OpenLedger, ProcessStep::ChargeDeposit]
        }
        LeaseEvent::LeaseSigned { .. } => &[ProcessStep::OpenLedger],
        LeaseEvent::LeaseDeclined { .. } => &[ProcessStep::ReleaseReservation],
        LeaseEvent::LeaseVoided { was, .. } => match was {
            LeaseState::Sent => &[ProcessStep::ReleaseReservation],
            LeaseState::Signed => &[ProcessStep::ReleaseReservation, ProcessStep::ReverseCharges, ProcessStep::CloseLedger],
            LeaseState::Draft | LeaseState::Sending | LeaseState::Active | LeaseState::Terminated | LeaseState::Voided => {
                &[]
            }
        },
        LeaseEvent::LeaseActivated { .. } => &[ProcessStep::StartOccupancy],
        LeaseEvent::LeaseTerminated { .. } => &[ProcessStep::EndOccupancy],
        LeaseEvent::LeaseDrafted { .. }
        | LeaseEvent::LeaseDraftEdited { .. }
        | LeaseEvent::LeaseSent { .. }
        | LeaseEvent::LeaseSendRefused { .. }
        | LeaseEvent::LeaseSignatureAdded { .. }
        | LeaseEvent::LeaseActivationFailed { .. } => &[],
    }
}

/// What a refused step leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRefusal {
    /// The fact the step is for holds already: recorded as `NotNeeded`, and on to the next step.
    Continue,
    /// The refusal is recorded; these steps replace the remaining ones.
    Instead(&'static [ProcessStep]),
}

/// What a domain refusal of a step means. Only domain refusals come here: an outcome that is not known is retried.
pub fn after_refusal(step: ProcessStep, code: &str) -> AfterRefusal {
    use AfterRefusal::{Continue, Instead};
    match (step, code) {
        (ProcessStep::ReserveUnit, _) => Instead(&[ProcessStep::RefuseSend]),
        // Each of these says that an earlier attempt went through, or that there is nothing to undo.
        (ProcessStep::OpenLedger, "LEDGER_EXISTS")
        | (ProcessStep::ChargeDeposit, "DUPLICATE_CHARGE")
        | (ProcessStep::ReleaseReservation, "NO_RESERVATION" | "NOT_FOUND")
        | (ProcessStep::ReverseCharges | ProcessStep::CloseLedger, "NOT_FOUND" | "LEDGER_CLOSED")
        | (ProcessStep::EndOccupancy, "NOT_OCCUPIED") => Continue,
        (ProcessStep::OpenLedger, _) => Instead(&[ProcessStep::FlagActivationFailed]),
        (ProcessStep::ChargeDeposit, _) => {
            Instead(&[ProcessStep::ReverseCharges, ProcessStep::CloseLedger, ProcessStep::FlagActivationFailed])
        }
        (ProcessStep::StartOccupancy, _) => Instead(&[ProcessStep::FlagActivationFailed]),
        // A ledger that holds the tenant's money cannot be closed until it is paid back: a task, shown on the lease.
        (ProcessStep::CloseLedger | ProcessStep::ReverseCharges, _) => Instead(&[ProcessStep::FlagActivationFailed]),
        // The lease moved on meanwhile, or is gone; there is nobody left to tell.
        (
            ProcessStep::ConfirmSent
            | ProcessStep::RefuseSend
            | ProcessStep::ReleaseReservation
            | ProcessStep::EndOccupancy
            | ProcessStep::FlagActivationFailed,
            _,
        ) => Instead(&[]),
    }
}

/// A step as the command it is.
#[derive(Clone, Debug, PartialEq)]
pub enum StepCommand {
    Units(UnitId, UnitCommand),
    Legal(LeaseId, LeaseCommand),
    Finances(LeaseId, LedgerCommand),
}

/// The command of a step. `event` is the one that [`steps`] was asked about; `refusal` is the recorded refusal of an
/// earlier step of the same event, which [`ProcessStep::RefuseSend`] and [`ProcessStep::FlagActivationFailed`] report.
/// `None` when the step does not belong to the event.
pub fn command_for(step: ProcessStep, event: &LeaseEvent, refusal: Option<&Refusal>) -> Option<StepCommand> {
    let outline = event.outline()?;
    let lease_id = outline.lease_id;
    let units = |command| Some(StepCommand::Units(outline.unit_id, command));
    let legal = |command| Some(StepCommand::Legal(lease_id, command));
    let finances = |command| Some(StepCommand::Finances(lease_id, command));
    match step {
        ProcessStep::ReserveUnit => units(UnitCommand::ReserveUnit {
            lease_id,
            from: outline.from,
            to: outline.to,
            parties: outline.tenants.clone(),
        }),
        ProcessStep::ReleaseReservation => units(UnitCommand::ReleaseReservation { lease_id }),
        ProcessStep::StartOccupancy => match event {
            LeaseEvent::LeaseActivated { on, .. } => units(UnitCommand::StartOccupancy { lease_id, on: *on }),
            _ => None,
        },
        ProcessStep::EndOccupancy => match event {
            LeaseEvent::LeaseTerminated { vacated_on, .. } => units(UnitCommand::EndOccupancy { lease_id, on: *vacated_on }),
            _ => None,
        },
        ProcessStep::ConfirmSent => legal(LeaseCommand::ConfirmSent),
        ProcessStep::RefuseSend => legal(LeaseCommand::RefuseSend { refusal: refusal?.clone() }),
        ProcessStep::FlagActivationFailed => {
            let Refusal { code, message, .. } = refusal?.clone();
            legal(LeaseCommand::FlagActivationFailed { failure: ActivationFailure { code, detail: message } })
        }
        ProcessStep::OpenLedger => finances(open_ledger(outline)),
        ProcessStep::ChargeDeposit => finances(charge_deposit(outline)?),
        ProcessStep::ReverseCharges => {
            finances(LedgerCommand::ReverseCharges { reason: "the lease did not come about".to_owned() })
        }
        ProcessStep::CloseLedger => finances(LedgerCommand::CloseLedger),
    }
}

fn open_ledger(outline: &LeaseOutline) -> LedgerCommand {
    LedgerCommand::OpenLedger {
        lease_id: outline.lease_id,
        property_id: outline.property_id,
        unit_id: outline.unit_id,
        tenants: outline.tenants.clone(),
        currency: outline.currency,
        time_zone: outline.time_zone.clone(),
        late_fee_policy: outline.late_fee_policy.clone(),
        allocation_policy: AllocationPolicy::default(),
    }
}

fn charge_deposit(outline: &LeaseOutline) -> Option<LedgerCommand> {
    let deposit = outline.deposit?;
    Some(LedgerCommand::PostCharge {
        charge_id: deposit_charge(outline.lease_id),
        kind: ChargeType::Deposit,
        money: deposit.money,
        due_on: deposit.due_on,
        period: None,
        key: "deposit".to_owned(),
        memo: None,
    })
}

/// The id of a lease's deposit charge; made from the lease's, so that a repeated step posts the same charge.
pub fn deposit_charge(lease_id: LeaseId) -> ChargeId {
    ChargeId(Uuid::new_v5(&lease_id.0, b"deposit"))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::legal::{Deposit, DepositHolder};
    use crate::{Currency, DocumentId, Money, PartyId, PropertyId, RefusalClass, Sha256};

    fn outline(with_deposit: bool) -> LeaseOutline {
        let currency = Currency::new("USD").expect("a currency");
        let deposit = Deposit { money: Money::new(5, currency), due_on: date(2025, 1, 1), held_by: DepositHolder::Landlord };
        LeaseOutline {
            lease_id: LeaseId(Uuid::from_u128(1)),
            unit_id: UnitId(Uuid::from_u128(2)),
            property_id: PropertyId(Uuid::from_u128(3)),
            time_zone: "UTC".into(),
            currency,
            from: date(2025, 1, 15),
            to: None,
            tenants: vec![PartyId(Uuid::from_u128(4))],
            deposit: with_deposit.then_some(deposit),
            late_fee_policy: None,
        }
    }

    fn events(with_deposit: bool) -> Vec<LeaseEvent> {
        let outline = || outline(with_deposit);
        let sha = Sha256::of(b"x");
        let mut events = vec![
            LeaseEvent::LeaseSendRequested {
                document_id: DocumentId(Uuid::nil()),
                document_sha256: sha,
                signers: vec![],
                outline: outline(),
            },
            LeaseEvent::LeaseSigned { version: 1, terms_hash: sha, signed_on: date(2025, 1, 1), outline: outline() },
            LeaseEvent::LeaseDeclined { party_id: PartyId(Uuid::nil()), reason: None, outline: outline() },
            LeaseEvent::LeaseActivated { on: date(2025, 1, 15), outline: outline() },
            LeaseEvent::LeaseTerminated { vacated_on: date(2025, 6, 1), outline: outline() },
        ];
        let voided = |was| LeaseEvent::LeaseVoided { reason: "x".into(), was, outline: outline() };
        events.extend(LeaseState::ALL.map(voided));
        events
    }

    #[test]
    fn every_step_that_can_follow_has_a_command() {
        let refusal = Refusal::new(RefusalClass::Conflict, "UNIT_NOT_AVAILABLE", "taken");
        for event in events(true).into_iter().chain(events(false)) {
            let mut open: Vec<ProcessStep> = steps(&event).to_vec();
            let mut seen = Vec::new();
            while let Some(step) = open.pop() {
                assert!(command_for(step, &event, Some(&refusal)).is_some(), "{step:?} after {event:?}");
                seen.push(step);
                if let AfterRefusal::Instead(others) = after_refusal(step, &refusal.code) {
                    open.extend(others.iter().filter(|other| !seen.contains(other)));
                }
            }
        }
    }

    #[test]
    fn a_draft_that_is_voided_leaves_nothing_to_undo() {
        let voided = LeaseEvent::LeaseVoided { reason: "x".into(), was: LeaseState::Draft, outline: outline(true) };
        assert!(steps(&voided).is_empty());
    }

    #[test]
    fn a_unit_that_is_taken_refuses_the_send() {
        let event = &events(true)[0];
        let taken = Refusal::new(RefusalClass::Conflict, "UNIT_NOT_AVAILABLE", "taken");
        let AfterRefusal::Instead(&[step]) = after_refusal(ProcessStep::ReserveUnit, &taken.code) else {
            panic!("the send is refused")
        };
        let command = command_for(step, event, Some(&taken));
        let expected = LeaseCommand::RefuseSend { refusal: taken };
        assert_eq!(command, Some(StepCommand::Legal(LeaseId(Uuid::from_u128(1)), expected)));
    }

    #[test]
    fn a_ledger_that_holds_money_is_a_task_on_the_lease() {
        let flag = AfterRefusal::Instead(&[ProcessStep::FlagActivationFailed]);
        assert_eq!(after_refusal(ProcessStep::CloseLedger, "LEDGER_OPEN"), flag);
        assert_eq!(after_refusal(ProcessStep::CloseLedger, "NOT_FOUND"), AfterRefusal::Continue);
    }

    #[test]
    fn a_repeated_deposit_step_posts_the_same_charge() {
        let event = &events(true)[1];
        let command = command_for(ProcessStep::ChargeDeposit, event, None);
        assert_eq!(command, command_for(ProcessStep::ChargeDeposit, event, None));
        assert_eq!(after_refusal(ProcessStep::ChargeDeposit, "DUPLICATE_CHARGE"), AfterRefusal::Continue);
        assert_eq!(steps(&events(false)[1]), [ProcessStep::OpenLedger]);
    }
}
