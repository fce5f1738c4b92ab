//! The claim of an external payment reference: its own stream, so that one reference names one payment in the whole
//! context, whichever ledger it went to. Appended together with the ledger's events.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::events::event_names;
use crate::fault::text;
use crate::{
    Aggregate, AggregateKind, Decide, Fact, Fault, LeaseId, Moment, PaymentId, RefusalClass, Refused, Sha256, StreamId,
    bridge, today_in,
};

/// A payment's name in another system (a bank's or a card processor's).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalRef {
    /// Lower-case letters, digits, `_` and `-`; at most 32.
    pub source: String,
    /// At most 100 characters.
    pub id: String,
}

impl ExternalRef {
    pub fn check(&self) -> Result<(), Fault> {
        text("/external_ref/source", &self.source, 32)?;
        if !self.source.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-') {
            return Err(Fault::new("/external_ref/source", "may have lower-case letters, digits, _ and - only"));
        }
        text("/external_ref/id", &self.id, 100)?;
        match self.id.chars().any(char::is_control) {
            true => Err(Fault::new("/external_ref/id", "must not contain control characters")),
            false => Ok(()),
        }
    }

    /// The stream of the claim, `{source}:{id}`; unambiguous because a source has no colon.
    pub fn stream(&self) -> StreamId {
        StreamId::new(AggregateKind::PaymentReference, format!("{}:{}", self.source, self.id))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReferenceCommand {
    ClaimReference { lease_id: LeaseId, payment_id: PaymentId, content_hash: Sha256 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReferenceEvent {
    ReferenceClaimed { lease_id: LeaseId, payment_id: PaymentId, content_hash: Sha256 },
}

event_names!(ReferenceEvent: ReferenceClaimed);

impl Fact for ReferenceEvent {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("this payment reference was already recorded with other content")]
    Conflict { lease_id: LeaseId, payment_id: PaymentId },
}

impl Refused for ReferenceError {
    fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "PAYMENT_REFERENCE_CONFLICT",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Conflict { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Conflict { lease_id, payment_id } => json!({ "lease_id": lease_id, "payment_id": payment_id }),
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Conflict { .. } => Some("/external_ref"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Claim {
    lease_id: LeaseId,
    payment_id: PaymentId,
    content_hash: Sha256,
}

/// Who claimed a reference, if anybody did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PaymentReference {
    claim: Option<Claim>,
}

impl PaymentReference {
    /// The payment recorded under this reference: what a repeated request is answered with.
    pub fn payment(&self) -> Option<(LeaseId, PaymentId)> {
        self.claim.as_ref().map(|claim| (claim.lease_id, claim.payment_id))
    }
}

impl Decide for PaymentReference {
    const KIND: AggregateKind = AggregateKind::PaymentReference;

    fn decide(&self, command: &ReferenceCommand, _: &Moment) -> Result<Vec<ReferenceEvent>, ReferenceError> {
        let ReferenceCommand::ClaimReference { lease_id, payment_id, content_hash } = *command;
        match &self.claim {
            None => Ok(vec![ReferenceEvent::ReferenceClaimed { lease_id, payment_id, content_hash }]),
            // The ids of a repeated request may be new; its content says whether it is the same payment.
            Some(claim) if claim.lease_id == lease_id && claim.content_hash == content_hash => Ok(Vec::new()),
            Some(claim) => Err(ReferenceError::Conflict { lease_id: claim.lease_id, payment_id: claim.payment_id }),
        }
    }

    fn effective_on(&self, _: &ReferenceEvent, at: &Moment) -> Date {
        today_in("UTC", at.now)
    }
}

impl Aggregate for PaymentReference {
    const TYPE: &'static str = "payment_reference";
    type Command = ReferenceCommand;
    type Event = ReferenceEvent;
    type Error = ReferenceError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: ReferenceEvent) {
        let ReferenceEvent::ReferenceClaimed { lease_id, payment_id, content_hash } = event;
        self.claim = Some(Claim { lease_id, payment_id, content_hash });
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::given;

    fn claim(payment: u128, content: &str) -> ReferenceCommand {
        ReferenceCommand::ClaimReference {
            lease_id: LeaseId(Uuid::from_u128(1)),
            payment_id: PaymentId(Uuid::from_u128(payment)),
            content_hash: Sha256::of(content.as_bytes()),
        }
    }

    #[test]
    fn a_reference_with_other_content_is_refused_even_on_another_lease() {
        let claimed = || given::<PaymentReference>([]).when(claim(1, "100")).accepted();
        claimed().when(claim(2, "101")).then_refused("PAYMENT_REFERENCE_CONFLICT");
        let elsewhere = ReferenceCommand::ClaimReference {
            lease_id: LeaseId(Uuid::from_u128(9)),
            payment_id: PaymentId(Uuid::from_u128(1)),
            content_hash: Sha256::of(b"100"),
        };
        claimed().when(elsewhere).then_refused("PAYMENT_REFERENCE_CONFLICT");
    }

    #[test]
    fn a_reference_with_the_same_content_is_nothing_new_whatever_its_payment_id() {
        given::<PaymentReference>([]).when(claim(1, "100")).accepted().when(claim(2, "100")).then_nothing();
    }

    #[test]
    fn references_name_their_stream() {
        let good = ExternalRef { source: "bank-1".into(), id: "a:b".into() };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.stream().id, "bank-1:a:b");
        for source in ["", "Bank", "a:b", &"x".repeat(33)] {
            assert!(ExternalRef { source: source.into(), id: "1".into() }.check().is_err(), "{source}");
        }
        assert!(ExternalRef { source: "bank".into(), id: "a\nb".into() }.check().is_err());
    }
}
