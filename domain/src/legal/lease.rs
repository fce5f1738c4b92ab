//! The lease, from draft to terminated.
//!
//! `draft -> sending -> sent -> signed -> active -> terminated`; `sending -> draft` when the unit is not available,
//! `sent -> draft` when a signer declines, `draft | sent | signed -> voided`.
//!
//! `sending` is the wait for the units context: the move-in process reserves the unit and then says
//! [`LeaseCommand::ConfirmSent`] or [`LeaseCommand::RefuseSend`].

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::terms::{Deposit, LeasePlace, LeaseTerms, TermsFault};
use crate::events::event_names;
use crate::fault::{at_most, cut, not_in_the_future, optional_text, sane_date, text};
use crate::{
    Aggregate, AggregateKind, Currency, Decide, DocumentId, Fact, Fault, LeaseId, Moment, PartyId, PropertyId, Refusal,
    RefusalClass, Refused, Sha256, UnitId, bridge, today_in,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    Draft,
    Sending,
    Sent,
    Signed,
    Active,
    Terminated,
    Voided,
}

impl LeaseState {
    pub const ALL: [Self; 7] =
        [Self::Draft, Self::Sending, Self::Sent, Self::Signed, Self::Active, Self::Terminated, Self::Voided];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Signed => "signed",
            Self::Active => "active",
            Self::Terminated => "terminated",
            Self::Voided => "voided",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureMethod {
    /// In our own pages.
    Electronic,
    /// With a qualified certificate.
    Qualified,
    /// By hand, on paper.
    WetInk,
}

/// What a follower of the lease needs to act without reading another stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOutline {
    pub lease_id: LeaseId,
    pub unit_id: UnitId,
    pub property_id: PropertyId,
    pub time_zone: String,
    pub currency: Currency,
    /// First day in the unit.
    pub from: Date,
    /// The day after the last, unless open-ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Date>,
    pub tenants: Vec<PartyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<Deposit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_fee_policy: Option<crate::finances::LateFeePolicy>,
}

/// Why a signed lease did not become ready or active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActivationFailure {
    /// The code of the refusal, e.g. `DEPOSIT_UNPAID`.
    pub code: String,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LeaseCommand {
    DraftLease {
        lease_id: LeaseId,
        terms: LeaseTerms,
        place: LeasePlace,
    },
    EditDraft {
        terms: LeaseTerms,
        place: LeasePlace,
    },
    SendForSignature {
        document_id: DocumentId,
        /// Of the stored document; a fact.
        document_sha256: Sha256,
        signers: Vec<PartyId>,
    },
    /// The unit is reserved: by the move-in process only.
    ConfirmSent,
    /// The unit is not to be had: by the move-in process only.
    RefuseSend {
        refusal: Refusal,
    },
    Sign {
        party_id: PartyId,
        document_sha256: Sha256,
        method: SignatureMethod,
        on: Date,
    },
    Decline {
        party_id: PartyId,
        reason: Option<String>,
    },
    VoidLease {
        reason: String,
    },
    ActivateLease {
        on: Date,
        /// Whether every deposit charge is paid; a fact, `None` when it was not looked up.
        deposit_paid: Option<bool>,
    },
    /// The way to `active`, or back from a voided lease, failed at a step that only a person can put right: by processes and
    /// timers only.
    FlagActivationFailed {
        failure: ActivationFailure,
    },
    TerminateLease {
        vacated_on: Date,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names, reason = "the names are the stored event types")]
pub enum LeaseEvent {
    LeaseDrafted {
        lease_id: LeaseId,
        terms: LeaseTerms,
        place: LeasePlace,
    },
    LeaseDraftEdited {
        terms: LeaseTerms,
        place: LeasePlace,
    },
    LeaseSendRequested {
        document_id: DocumentId,
        document_sha256: Sha256,
        signers: Vec<PartyId>,
        outline: LeaseOutline,
    },
    LeaseSent {
        terms_hash: Sha256,
        document_sha256: Sha256,
    },
    LeaseSendRefused {
        code: String,
        refusal: Refusal,
    },
    LeaseSignatureAdded {
        party_id: PartyId,
        document_sha256: Sha256,
        method: SignatureMethod,
        on: Date,
    },
    LeaseSigned {
        version: u32,
        terms_hash: Sha256,
        signed_on: Date,
        outline: LeaseOutline,
    },
    LeaseDeclined {
        party_id: PartyId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        outline: LeaseOutline,
    },
    LeaseVoided {
        reason: String,
        /// The state it was in: from `draft` nothing has to be undone elsewhere.
        was: LeaseState,
        outline: LeaseOutline,
    },
    LeaseActivated {
        on: Date,
        outline: LeaseOutline,
    },
    LeaseActivationFailed {
        failure: ActivationFailure,
    },
    LeaseTerminated {
        vacated_on: Date,
        outline: LeaseOutline,
    },
}

event_names!(LeaseEvent:
    LeaseDrafted,
    LeaseDraftEdited,
    LeaseSendRequested,
    LeaseSent,
    LeaseSendRefused,
    LeaseSignatureAdded,
    LeaseSigned,
    LeaseDeclined,
    LeaseVoided,
    LeaseActivated,
    LeaseActivationFailed,
    LeaseTerminated,
);

impl Fact for LeaseEvent {}

impl LeaseEvent {
    /// The state of the lease after this event; `None` when the event leaves it as it is.
    pub fn leads_to(&self) -> Option<LeaseState> {
        match self {
            Self::LeaseDrafted { .. } | Self::LeaseSendRefused { .. } | Self::LeaseDeclined { .. } => {
                Some(LeaseState::Draft)
            }
            Self::LeaseSendRequested { .. } => Some(LeaseState::Sending),
            Self::LeaseSent { .. } => Some(LeaseState::Sent),
            Self::LeaseSigned { .. } => Some(LeaseState::Signed),
            Self::LeaseActivated { .. } => Some(LeaseState::Active),
            Self::LeaseTerminated { .. } => Some(LeaseState::Terminated),
            Self::LeaseVoided { .. } => Some(LeaseState::Voided),
            Self::LeaseDraftEdited { .. } | Self::LeaseSignatureAdded { .. } | Self::LeaseActivationFailed { .. } => None,
        }
    }

    pub fn outline(&self) -> Option<&LeaseOutline> {
        match self {
            Self::LeaseSendRequested { outline, .. }
            | Self::LeaseSigned { outline, .. }
            | Self::LeaseDeclined { outline, .. }
            | Self::LeaseVoided { outline, .. }
            | Self::LeaseActivated { outline, .. }
            | Self::LeaseTerminated { outline, .. } => Some(outline),
            Self::LeaseDrafted { .. }
            | Self::LeaseDraftEdited { .. }
            | Self::LeaseSent { .. }
            | Self::LeaseSendRefused { .. }
            | Self::LeaseSignatureAdded { .. }
            | Self::LeaseActivationFailed { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
    #[error("there is no such lease")]
    NotFound,
    #[error("this lease exists already")]
    LeaseExists,
    #[error("the lease is {}, which does not allow it", current.as_str())]
    InvalidState { current: LeaseState, allowed: &'static [LeaseState] },
    #[error("the unit's currency is {unit}, not {given}")]
    CurrencyMismatch { pointer: &'static str, unit: Currency, given: Currency },
    #[error("the amount is too large")]
    AmountTooLarge { pointer: &'static str },
    #[error("this party is not a signer of the lease")]
    NotASigner { party_id: PartyId },
    #[error("this party has signed already")]
    AlreadySigned { party_id: PartyId },
    #[error("what was signed is not the document that was sent")]
    SignedTermsMismatch { sent: Sha256, given: Sha256 },
    #[error("the lease starts on {start_date}; today is {today} there")]
    NotStarted { start_date: Date, today: Date },
    #[error("the deposit is not paid")]
    DepositUnpaid,
}

impl From<Fault> for LeaseError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl From<TermsFault> for LeaseError {
    fn from(fault: TermsFault) -> Self {
        match fault {
            TermsFault::Malformed(fault) => fault.into(),
            TermsFault::CurrencyMismatch { pointer, unit, given } => Self::CurrencyMismatch { pointer, unit, given },
            TermsFault::AmountTooLarge { pointer } => Self::AmountTooLarge { pointer },
        }
    }
}

impl Refused for LeaseError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
            Self::NotFound => "NOT_FOUND",
            Self::LeaseExists => "LEASE_EXISTS",
            Self::InvalidState { .. } => "INVALID_STATE",
            Self::CurrencyMismatch { .. } => "CURRENCY_MISMATCH",
            Self::AmountTooLarge { .. } => "AMOUNT_TOO_LARGE",
            Self::NotASigner { .. } => "NOT_A_SIGNER",
            Self::AlreadySigned { .. } => "ALREADY_SIGNED",
            Self::SignedTermsMismatch { .. } => "SIGNED_TERMS_MISMATCH",
            Self::NotStarted { .. } => "NOT_STARTED",
            Self::DepositUnpaid => "DEPOSIT_UNPAID",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
            Self::NotFound => RefusalClass::NotFound,
            Self::CurrencyMismatch { .. } | Self::AmountTooLarge { .. } => RefusalClass::Policy,
            Self::LeaseExists
            | Self::InvalidState { .. }
            | Self::NotASigner { .. }
            | Self::AlreadySigned { .. }
            | Self::SignedTermsMismatch { .. }
            | Self::NotStarted { .. }
            | Self::DepositUnpaid => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::InvalidState { current, allowed } => json!({ "current": current, "allowed": allowed }),
            Self::CurrencyMismatch { unit, given, .. } => json!({ "unit": unit, "given": given }),
            Self::NotASigner { party_id } | Self::AlreadySigned { party_id } => json!({ "party_id": party_id }),
            Self::SignedTermsMismatch { sent, given } => json!({ "sent": sent, "given": given }),
            Self::NotStarted { start_date, today } => json!({ "start_date": start_date, "today": today }),
            Self::Invalid { .. }
            | Self::NotFound
            | Self::LeaseExists
            | Self::AmountTooLarge { .. }
            | Self::DepositUnpaid => Value::Null,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } | Self::CurrencyMismatch { pointer, .. } | Self::AmountTooLarge { pointer } => {
                Some(pointer)
            }
            Self::SignedTermsMismatch { .. } => Some("/document_sha256"),
            Self::NotFound
            | Self::LeaseExists
            | Self::InvalidState { .. }
            | Self::NotASigner { .. }
            | Self::AlreadySigned { .. }
            | Self::NotStarted { .. }
            | Self::DepositUnpaid => None,
        }
    }
}

/// What was sent, and who has signed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sent {
    document_sha256: Sha256,
    signers: Vec<PartyId>,
    signed: Vec<PartyId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Drafted {
    lease_id: LeaseId,
    terms: LeaseTerms,
    place: LeasePlace,
    state: LeaseState,
    sent: Option<Sent>,
    /// Why the last send was refused, until it is sent again.
    send_refusal: Option<Refusal>,
    /// Signed term versions so far.
    version: u32,
    failure: Option<ActivationFailure>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    drafted: Option<Drafted>,
}

impl Drafted {
    fn outline(&self) -> LeaseOutline {
        let occupies = self.terms.occupies();
        LeaseOutline {
            lease_id: self.lease_id,
            unit_id: self.terms.unit_id,
            property_id: self.place.property_id,
            time_zone: self.place.time_zone.clone(),
            currency: self.place.currency,
            from: occupies.from,
            to: occupies.to,
            tenants: self.terms.tenant_ids(),
            deposit: self.terms.deposit,
            late_fee_policy: self.terms.late_fee_policy.clone(),
        }
    }

    fn require(&self, allowed: &'static [LeaseState]) -> Result<(), LeaseError> {
        match allowed.contains(&self.state) {
            true => Ok(()),
            false => Err(LeaseError::InvalidState { current: self.state, allowed }),
        }
    }

    /// The outcome of a send when the lease is not `sending`: nothing to do when it has the wanted state already.
    fn unless_already(&self, wanted: &[LeaseState]) -> Result<Vec<LeaseEvent>, LeaseError> {
        match wanted.contains(&self.state) {
            true => Ok(Vec::new()),
            false => Err(LeaseError::InvalidState { current: self.state, allowed: &[LeaseState::Sending] }),
        }
    }

    fn today(&self, at: &Moment) -> Date {
        today_in(&self.place.time_zone, at.now)
    }

    fn send(
        &self,
        document_id: DocumentId,
        document_sha256: Sha256,
        signers: &[PartyId],
    ) -> Result<Vec<LeaseEvent>, LeaseError> {
        self.require(&[LeaseState::Draft])?;
        at_most("/signers", signers, 100)?;
        if signers.iter().enumerate().any(|(index, signer)| signers[..index].contains(signer)) {
            return Err(Fault::new("/signers", "must name each signer once").into());
        }
        // A tenant who has not signed is not bound, so a lease cannot become signed without one.
        if !self.terms.tenants.iter().all(|tenant| signers.contains(&tenant.party_id)) {
            return Err(Fault::new("/signers", "must name every tenant").into());
        }
        let (signers, outline) = (signers.to_vec(), self.outline());
        Ok(vec![LeaseEvent::LeaseSendRequested { document_id, document_sha256, signers, outline }])
    }

    /// What was sent to this signer, who has not signed yet.
    fn awaiting(&self, party_id: PartyId) -> Result<&Sent, LeaseError> {
        let sent = match (&self.sent, self.state) {
            (Some(sent), LeaseState::Sent | LeaseState::Signed) => sent,
            (Some(_) | None, current) => {
                return Err(LeaseError::InvalidState { current, allowed: &[LeaseState::Sent] });
            }
        };
        match (sent.signers.contains(&party_id), sent.signed.contains(&party_id)) {
            (false, _) => Err(LeaseError::NotASigner { party_id }),
            (true, true) => Err(LeaseError::AlreadySigned { party_id }),
            (true, false) => Ok(sent),
        }
    }

    fn sign(
        &self,
        party_id: PartyId,
        document_sha256: Sha256,
        method: SignatureMethod,
        on: Date,
        at: &Moment,
    ) -> Result<Vec<LeaseEvent>, LeaseError> {
        let sent = self.awaiting(party_id)?;
        self.require(&[LeaseState::Sent])?;
        sane_date("/on", on)?;
        not_in_the_future("/on", on, self.today(at))?;
        if sent.document_sha256 != document_sha256 {
            return Err(LeaseError::SignedTermsMismatch { sent: sent.document_sha256, given: document_sha256 });
        }
        let mut events = vec![LeaseEvent::LeaseSignatureAdded { party_id, document_sha256, method, on }];
        if sent.signers.iter().all(|signer| *signer == party_id || sent.signed.contains(signer)) {
            events.push(LeaseEvent::LeaseSigned {
                version: self.version + 1,
                terms_hash: self.terms.hash(),
                signed_on: on,
                outline: self.outline(),
            });
        }
        Ok(events)
    }

    fn decline(&self, party_id: PartyId, reason: Option<&str>) -> Result<Vec<LeaseEvent>, LeaseError> {
        self.awaiting(party_id)?;
        self.require(&[LeaseState::Sent])?;
        optional_text("/reason", reason, 1_000)?;
        Ok(vec![LeaseEvent::LeaseDeclined { party_id, reason: reason.map(Into::into), outline: self.outline() }])
    }

    fn activate(&self, on: Date, deposit_paid: Option<bool>, at: &Moment) -> Result<Vec<LeaseEvent>, LeaseError> {
        self.require(&[LeaseState::Signed])?;
        let (start_date, today) = (self.terms.start_date, self.today(at));
        if today < start_date {
            return Err(LeaseError::NotStarted { start_date, today });
        }
        if on < start_date {
            return Err(Fault::new("/on", "must not be before the start date").into());
        }
        not_in_the_future("/on", on, today)?;
        if self.terms.require_deposit_before_start && self.terms.deposit.is_some() && deposit_paid != Some(true) {
            return Err(LeaseError::DepositUnpaid);
        }
        Ok(vec![LeaseEvent::LeaseActivated { on, outline: self.outline() }])
    }

    fn terminate(&self, vacated_on: Date, at: &Moment) -> Result<Vec<LeaseEvent>, LeaseError> {
        self.require(&[LeaseState::Active])?;
        if vacated_on < self.terms.start_date {
            return Err(Fault::new("/vacated_on", "must not be before the start date").into());
        }
        not_in_the_future("/vacated_on", vacated_on, self.today(at))?;
        Ok(vec![LeaseEvent::LeaseTerminated { vacated_on, outline: self.outline() }])
    }
}

impl Lease {
    pub fn state(&self) -> Option<LeaseState> {
        self.drafted.as_ref().map(|drafted| drafted.state)
    }

    pub fn terms(&self) -> Option<&LeaseTerms> {
        self.drafted.as_ref().map(|drafted| &drafted.terms)
    }

    pub fn place(&self) -> Option<&LeasePlace> {
        self.drafted.as_ref().map(|drafted| &drafted.place)
    }

    pub fn outline(&self) -> Option<LeaseOutline> {
        self.drafted.as_ref().map(Drafted::outline)
    }

    /// Why the last send for signature was refused; `None` once it is sent again.
    pub fn send_refusal(&self) -> Option<&Refusal> {
        self.drafted.as_ref()?.send_refusal.as_ref()
    }

    /// Whether this party is asked to sign; `tenant: own` and `named signer` are judged by it.
    pub fn is_signer(&self, party_id: PartyId) -> bool {
        let sent = self.drafted.as_ref().and_then(|drafted| drafted.sent.as_ref());
        sent.is_some_and(|sent| sent.signers.contains(&party_id))
    }
}

impl Decide for Lease {
    const KIND: AggregateKind = AggregateKind::Lease;

    fn decide(&self, command: &LeaseCommand, at: &Moment) -> Result<Vec<LeaseEvent>, LeaseError> {
        if let LeaseCommand::DraftLease { lease_id, terms, place } = command {
            if self.drafted.is_some() {
                return Err(LeaseError::LeaseExists);
            }
            terms.check(place)?;
            let (lease_id, terms, place) = (*lease_id, terms.clone(), place.clone());
            return Ok(vec![LeaseEvent::LeaseDrafted { lease_id, terms, place }]);
        }
        let lease = self.drafted.as_ref().ok_or(LeaseError::NotFound)?;
        match command {
            LeaseCommand::DraftLease { .. } => Err(LeaseError::LeaseExists),
            LeaseCommand::EditDraft { terms, place } => {
                lease.require(&[LeaseState::Draft])?;
                terms.check(place)?;
                if *terms == lease.terms && *place == lease.place {
                    return Ok(Vec::new());
                }
                Ok(vec![LeaseEvent::LeaseDraftEdited { terms: terms.clone(), place: place.clone() }])
            }
            LeaseCommand::SendForSignature { document_id, document_sha256, signers } => {
                lease.send(*document_id, *document_sha256, signers)
            }
            LeaseCommand::ConfirmSent => match (&lease.sent, lease.state) {
                (Some(sent), LeaseState::Sending) => {
                    Ok(vec![LeaseEvent::LeaseSent { terms_hash: lease.terms.hash(), document_sha256: sent.document_sha256 }])
                }
                (Some(_) | None, _) => lease.unless_already(&[LeaseState::Sent, LeaseState::Signed, LeaseState::Active]),
            },
            LeaseCommand::RefuseSend { refusal } => match lease.state {
                LeaseState::Sending => {
                    Ok(vec![LeaseEvent::LeaseSendRefused { code: refusal.code.clone(), refusal: refusal.clone() }])
                }
                LeaseState::Draft
                | LeaseState::Sent
                | LeaseState::Signed
                | LeaseState::Active
                | LeaseState::Terminated
                | LeaseState::Voided => lease.unless_already(&[LeaseState::Draft]),
            },
            LeaseCommand::Sign { party_id, document_sha256, method, on } => {
                lease.sign(*party_id, *document_sha256, *method, *on, at)
            }
            LeaseCommand::Decline { party_id, reason } => lease.decline(*party_id, reason.as_deref()),
            LeaseCommand::VoidLease { reason } => {
                lease.require(&[LeaseState::Draft, LeaseState::Sent, LeaseState::Signed])?;
                text("/reason", reason, 1_000)?;
                let (reason, was, outline) = (reason.clone(), lease.state, lease.outline());
                Ok(vec![LeaseEvent::LeaseVoided { reason, was, outline }])
            }
            LeaseCommand::ActivateLease { on, deposit_paid } => lease.activate(*on, *deposit_paid, at),
            LeaseCommand::FlagActivationFailed { failure } => {
                lease.require(&[LeaseState::Signed, LeaseState::Active, LeaseState::Voided])?;
                let failure = ActivationFailure { code: cut(&failure.code, 100), detail: cut(&failure.detail, 1_000) };
                match lease.failure.as_ref() == Some(&failure) {
                    true => Ok(Vec::new()),
                    false => Ok(vec![LeaseEvent::LeaseActivationFailed { failure }]),
                }
            }
            LeaseCommand::TerminateLease { vacated_on } => lease.terminate(*vacated_on, at),
        }
    }

    fn effective_on(&self, event: &LeaseEvent, at: &Moment) -> Date {
        let today = || match (&self.drafted, event) {
            (None, LeaseEvent::LeaseDrafted { place, .. }) => today_in(&place.time_zone, at.now),
            (drafted, _) => today_in(drafted.as_ref().map_or("UTC", |drafted| &drafted.place.time_zone), at.now),
        };
        match event {
            LeaseEvent::LeaseSignatureAdded { on, .. } | LeaseEvent::LeaseActivated { on, .. } => *on,
            LeaseEvent::LeaseSigned { signed_on, .. } => *signed_on,
            LeaseEvent::LeaseTerminated { vacated_on, .. } => *vacated_on,
            LeaseEvent::LeaseDrafted { .. }
            | LeaseEvent::LeaseDraftEdited { .. }
            | LeaseEvent::LeaseSendRequested { .. }
            | LeaseEvent::LeaseSent { .. }
            | LeaseEvent::LeaseSendRefused { .. }
            | LeaseEvent::LeaseDeclined { .. }
            | LeaseEvent::LeaseVoided { .. }
            | LeaseEvent::LeaseActivationFailed { .. } => today(),
        }
    }
}

impl Aggregate for Lease {
    const TYPE: &'static str = "lease";
    type Command = LeaseCommand;
    type Event = LeaseEvent;
    type Error = LeaseError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: LeaseEvent) {
        if let LeaseEvent::LeaseDrafted { lease_id, terms, place } = event {
            let state = LeaseState::Draft;
            self.drafted =
                Some(Drafted { lease_id, terms, place, state, sent: None, send_refusal: None, version: 0, failure: None });
            return;
        }
        let Some(lease) = self.drafted.as_mut() else { return };
        if let Some(state) = event.leads_to() {
            lease.state = state;
        }
        match event {
            LeaseEvent::LeaseDrafted { .. } | LeaseEvent::LeaseSent { .. } => {}
            LeaseEvent::LeaseDraftEdited { terms, place } => {
                lease.terms = terms;
                lease.place = place;
            }
            LeaseEvent::LeaseSendRequested { document_sha256, signers, .. } => {
                lease.sent = Some(Sent { document_sha256, signers, signed: Vec::new() });
                lease.send_refusal = None;
            }
            LeaseEvent::LeaseSendRefused { refusal, .. } => {
                lease.sent = None;
                lease.send_refusal = Some(refusal);
            }
            LeaseEvent::LeaseDeclined { .. } => lease.sent = None,
            LeaseEvent::LeaseSignatureAdded { party_id, .. } => {
                if let Some(sent) = lease.sent.as_mut() {
                    sent.signed.push(party_id);
                }
            }
            LeaseEvent::LeaseSigned { version, .. } => lease.version = version,
            LeaseEvent::LeaseActivationFailed { failure } => lease.failure = Some(failure),
            LeaseEvent::LeaseActivated { .. } => lease.failure = None,
            LeaseEvent::LeaseVoided { .. } | LeaseEvent::LeaseTerminated { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
