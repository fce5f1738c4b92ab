//! What happened to a user. Stored shapes never change; they gain upcasters.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{PasswordHash, Role};
use crate::events::event_names;
use crate::{Fact, PartyId, Personal, PropertyId, UserId};

/// The personal data of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDetails {
    pub email: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserEvent {
    UserRegistered {
        user_id: UserId,
        username: String,
        roles: BTreeSet<Role>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        party_id: Option<PartyId>,
        personal: Personal<UserDetails>,
        /// Without one the user is invited and cannot log in yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password_hash: Option<PasswordHash>,
        /// Belongs to the demo data.
        demo: bool,
    },
    UserActivated {
        password_hash: PasswordHash,
    },
    PasswordChanged {
        password_hash: PasswordHash,
    },
    LoginSucceeded {},
    LoginFailed {
        /// In a row, this one included.
        failures: u32,
    },
    UserLocked {
        /// Exclusive: at this instant the user may log in again.
        until: Timestamp,
    },
    UserUnlocked {},
    RoleGranted {
        role: Role,
        /// Without it the role holds for every property.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        property_ids: Option<BTreeSet<PropertyId>>,
    },
    RoleRevoked {
        role: Role,
    },
    UserDeactivated {},
    UserReactivated {},
}

event_names!(
    UserEvent: UserRegistered,
    UserActivated,
    PasswordChanged,
    LoginSucceeded,
    LoginFailed,
    UserLocked,
    UserUnlocked,
    RoleGranted,
    RoleRevoked,
    UserDeactivated,
    UserReactivated,
);

impl Fact for UserEvent {
    fn subject(&self) -> Option<String> {
        match self {
            Self::UserRegistered { user_id, .. } => Some(format!("user:{user_id}")),
            Self::UserActivated { .. }
            | Self::PasswordChanged { .. }
            | Self::LoginSucceeded {}
            | Self::LoginFailed { .. }
            | Self::UserLocked { .. }
            | Self::UserUnlocked {}
            | Self::RoleGranted { .. }
            | Self::RoleRevoked { .. }
            | Self::UserDeactivated {}
            | Self::UserReactivated {} => None,
        }
    }
}
