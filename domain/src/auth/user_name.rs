//! User names are unique: each is a stream of its own (its id is the name), claimed in the append that registers the user.

use jiff::{civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::event_names;
use crate::fault::Fault;
use crate::{Aggregate, AggregateKind, Decide, Fact, Moment, RefusalClass, Refused, UserId, bridge};

/// The stored form of a user name: lower case, 3 to 64 of `a-z 0-9 . _ -`.
pub fn user_name(text: &str) -> Result<String, Fault> {
    let name = text.to_ascii_lowercase();
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    match (3..=64).contains(&name.len()) && name.bytes().all(is_allowed) {
        true => Ok(name),
        false => Err(Fault::new("/username", "must be 3 to 64 letters a-z, digits, dots, underscores or hyphens")),
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum UserNameClaimCommand {
    ClaimUserName { user_id: UserId },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNameClaimEvent {
    UserNameClaimed { user_id: UserId },
}

event_names!(UserNameClaimEvent: UserNameClaimed);

impl Fact for UserNameClaimEvent {}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UserNameClaimError {
    /// Says no more than that: whose name it is, is nobody's business.
    #[error("the user name is taken")]
    Taken,
}

impl Refused for UserNameClaimError {
    fn code(&self) -> &'static str {
        match self {
            Self::Taken => "USERNAME_TAKEN",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Taken => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        Value::Null
    }

    fn pointer(&self) -> Option<&'static str> {
        Some("/username")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserNameClaim {
    user_id: Option<UserId>,
}

impl UserNameClaim {
    /// Whose name it is.
    pub fn user_id(&self) -> Option<UserId> {
        self.user_id
    }
}

impl Aggregate for UserNameClaim {
    const TYPE: &'static str = "user_name";
    type Command = UserNameClaimCommand;
    type Event = UserNameClaimEvent;
    type Error = UserNameClaimError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: UserNameClaimEvent) {
        match event {
            UserNameClaimEvent::UserNameClaimed { user_id } => self.user_id = Some(user_id),
        }
    }
}

impl Decide for UserNameClaim {
    const KIND: AggregateKind = AggregateKind::UserNameClaim;

    fn decide(&self, command: &UserNameClaimCommand, _: &Moment) -> Result<Vec<UserNameClaimEvent>, UserNameClaimError> {
        let UserNameClaimCommand::ClaimUserName { user_id } = *command;
        match self.user_id {
            None => Ok(vec![UserNameClaimEvent::UserNameClaimed { user_id }]),
            Some(owner) if owner == user_id => Ok(vec![]),
            Some(_) => Err(UserNameClaimError::Taken),
        }
    }

    fn effective_on(&self, _: &UserNameClaimEvent, at: &Moment) -> Date {
        at.now.to_zoned(TimeZone::UTC).date()
    }
}
