//! What operators did past the rules of the business: who, when (the event's `recorded_at`) and why. One stream, [`Operations::ID`].

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::events::event_names;
use crate::fault::{at_most, optional_text, text};
use crate::{Aggregate, AggregateKind, Decide, Fact, Fault, Moment, RefusalClass, Refused, bridge, today_in};

/// Who acts and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationsCommand {
    /// The account on the operator's machine, e.g. `ana (1000)`.
    pub by: String,
    pub reason: Option<String>,
    pub action: OperatorAction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Shows the personal data of these events (`context:position`) with a verb of the command line.
    RevealPersonalData { verb: String, events: Vec<String> },
    /// Folds a parked stream again from where it was parked.
    RetryParked { model: String, stream: String, position: u64 },
    /// Gives up one event of a parked stream and goes on behind it. Rebuilds of the model leave it out, too, until a later
    /// [`Self::RetryParked`] of the same position.
    SkipParked { model: String, stream: String, position: u64, event_id: Uuid },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationsEvent {
    PersonalDataRevealed {
        by: String,
        reason: Option<String>,
        verb: String,
        events: Vec<String>,
    },
    ParkedStreamRetried {
        by: String,
        reason: Option<String>,
        model: String,
        stream: String,
        position: u64,
    },
    ParkedEventSkipped {
        by: String,
        reason: Option<String>,
        model: String,
        stream: String,
        position: u64,
        /// Once a log was put back to an earlier moment, another event may stand at the position. The first records lack it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event_id: Option<Uuid>,
    },
}

event_names!(OperationsEvent:
    PersonalDataRevealed,
    ParkedStreamRetried,
    ParkedEventSkipped,
);

impl Fact for OperationsEvent {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationsError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
}

impl From<Fault> for OperationsError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl Refused for OperationsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } => Some(pointer),
        }
    }
}

/// How much was done; nothing is decided on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    actions: u64,
}

impl Operations {
    /// The one stream.
    pub const ID: &'static str = "operators";
    /// Events named by one `PersonalDataRevealed`; who reveals more records more than once.
    pub const REVEALED_MAX: usize = 1_000;
}

impl Aggregate for Operations {
    const TYPE: &'static str = "operations";
    type Command = OperationsCommand;
    type Event = OperationsEvent;
    type Error = OperationsError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: OperationsEvent) {
        match event {
            OperationsEvent::PersonalDataRevealed { .. }
            | OperationsEvent::ParkedStreamRetried { .. }
            | OperationsEvent::ParkedEventSkipped { .. } => self.actions += 1,
        }
    }
}

impl Decide for Operations {
    const KIND: AggregateKind = AggregateKind::Operations;

    fn decide(&self, command: &OperationsCommand, _: &Moment) -> Result<Vec<OperationsEvent>, OperationsError> {
        let OperationsCommand { by, reason, action } = command.clone();
        text("/by", &by, 100)?;
        optional_text("/reason", reason.as_deref(), 500)?;
        Ok(vec![match action {
            OperatorAction::RevealPersonalData { verb, events } => {
                text("/verb", &verb, 100)?;
                at_most("/events", &events, Self::REVEALED_MAX)?;
                OperationsEvent::PersonalDataRevealed { by, reason, verb, events }
            }
            OperatorAction::RetryParked { model, stream, position } => {
                OperationsEvent::ParkedStreamRetried { by, reason, model, stream, position }
            }
            OperatorAction::SkipParked { model, stream, position, event_id } => {
                OperationsEvent::ParkedEventSkipped { by, reason, model, stream, position, event_id: Some(event_id) }
            }
        }])
    }

    fn effective_on(&self, _: &OperationsEvent, at: &Moment) -> crate::Date {
        today_in("UTC", at.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    fn reveal(by: &str, reason: Option<&str>) -> OperationsCommand {
        let action = OperatorAction::RevealPersonalData { verb: "events show".into(), events: vec!["legal:7".into()] };
        OperationsCommand { by: by.into(), reason: reason.map(Into::into), action }
    }

    #[test]
    fn each_action_is_recorded_each_time() {
        let revealed = |reason: Option<&str>| OperationsEvent::PersonalDataRevealed {
            by: "ana (1000)".into(),
            reason: reason.map(Into::into),
            verb: "events show".into(),
            events: vec!["legal:7".into()],
        };
        given::<Operations>([])
            .when(reveal("ana (1000)", Some("a question of the tenant")))
            .then([revealed(Some("a question of the tenant"))])
            .when(reveal("ana (1000)", None))
            .then([revealed(None)]);
    }

    #[test]
    fn a_skip_names_the_event_itself_and_not_only_its_place() {
        let (model, stream, event_id) = ("units".to_owned(), "unit:1".to_owned(), Uuid::from_u128(7));
        let action = OperatorAction::SkipParked { model: model.clone(), stream: stream.clone(), position: 9, event_id };
        let (by, event_id) = ("ana (1000)".to_owned(), Some(event_id));
        given::<Operations>([])
            .when(OperationsCommand { by: by.clone(), reason: None, action })
            .then([OperationsEvent::ParkedEventSkipped { by, reason: None, model, stream, position: 9, event_id }]);
    }

    #[test]
    fn nobody_acts_without_a_name_and_reasons_are_bounded() {
        given::<Operations>([]).when(reveal(" ", None)).then_refused("VALIDATION_FAILED");
        let error = given::<Operations>([]).when(reveal("ana", Some(&"x".repeat(501)))).then_refused("VALIDATION_FAILED");
        assert_eq!(error.pointer(), Some("/reason"));
    }
}
