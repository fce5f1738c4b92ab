//! The aggregate `User`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PasswordHash, Role, UserDetails, UserError, UserEvent, user_name};
use crate::fault::{Fault, text};
use crate::{Aggregate, AggregateKind, Decide, Moment, PartyId, Personal, PropertyId, UserId, bridge};

/// This many failures in a row lock the account (domain.md 2.4).
pub const FAILURES_BEFORE_LOCK: u32 = 10;
pub const LOCK_MINUTES: i64 = 15;
const PROPERTIES_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub enum UserCommand {
    RegisterUser(RegisterUser),
    ActivateUser {
        password_hash: PasswordHash,
    },
    /// By the user or for them; every token issued before stops working.
    ChangePassword {
        password_hash: PasswordHash,
    },
    RecordLoginSuccess,
    /// While the account is locked, attempts are not counted: nobody is kept out for ever by somebody else's guessing.
    RecordLoginFailure,
    UnlockUser,
    GrantRole {
        role: Role,
        property_ids: Option<BTreeSet<PropertyId>>,
        /// Who asks; `None` for the operator's CLI.
        by: Option<UserId>,
    },
    RevokeRole {
        role: Role,
        by: Option<UserId>,
        /// Active administrators besides this user, counted outside.
        other_admins: u32,
    },
    DeactivateUser {
        other_admins: u32,
    },
    ReactivateUser,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RegisterUser {
    pub user_id: UserId,
    /// As [`user_name`] returns it; its claim stands in the same append.
    pub username: String,
    pub roles: BTreeSet<Role>,
    /// The party a tenant acts as.
    pub party_id: Option<PartyId>,
    pub personal: UserDetails,
    pub password_hash: Option<PasswordHash>,
    pub demo: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    /// Registered, no password yet.
    Invited,
    Active,
    Deactivated,
}

impl UserStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }
}

/// Why a user with the right password may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// Unknown, invited or deactivated: told as wrong credentials.
    InvalidCredentials,
    Locked {
        until: Timestamp,
    },
}

impl LoginRefusal {
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::Locked { .. } => "ACCOUNT_LOCKED",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Absent until the user is registered.
    account: Option<Account>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Account {
    user_id: UserId,
    username: String,
    /// `None` as value: the role holds for every property.
    roles: BTreeMap<Role, Option<BTreeSet<PropertyId>>>,
    party_id: Option<PartyId>,
    password_hash: Option<PasswordHash>,
    demo: bool,
    deactivated: bool,
    /// In a row.
    failures: u32,
    locked_until: Option<Timestamp>,
    /// Grows whenever tokens issued before must stop working.
    epoch: u64,
}

impl Account {
    fn status(&self) -> UserStatus {
        match (self.deactivated, &self.password_hash) {
            (true, _) => UserStatus::Deactivated,
            (false, None) => UserStatus::Invited,
            (false, Some(_)) => UserStatus::Active,
        }
    }

    fn locked(&self, now: Timestamp) -> Option<Timestamp> {
        self.locked_until.filter(|until| now < *until)
    }

    fn is_active_admin(&self) -> bool {
        self.status() == UserStatus::Active && self.roles.contains_key(&Role::Admin)
    }

    fn in_state(&self, allowed: UserStatus, names: &'static [&'static str]) -> Result<(), UserError> {
        match self.status() {
            status if status == allowed => Ok(()),
            status => Err(UserError::InvalidState { current: status.as_str(), allowed: names }),
        }
    }
}

impl Aggregate for User {
    const TYPE: &'static str = "user";
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: UserEvent) {
        match (event, &mut self.account) {
            (
                UserEvent::UserRegistered { user_id, username, roles, party_id, personal: _, password_hash, demo },
                account,
            ) => {
                *account = Some(Account {
                    user_id,
                    username,
                    roles: roles.into_iter().map(|role| (role, None)).collect(),
                    party_id,
                    password_hash,
                    demo,
                    deactivated: false,
                    failures: 0,
                    locked_until: None,
                    epoch: 0,
                });
            }
            (event, Some(account)) => account.apply(event),
            // A log begins with the registration.
            (_, None) => {}
        }
    }
}

impl Account {
    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::UserRegistered { .. } => {}
            UserEvent::UserActivated { password_hash } => self.password_hash = Some(password_hash),
            UserEvent::PasswordChanged { password_hash } => {
                self.password_hash = Some(password_hash);
                self.epoch += 1;
            }
            UserEvent::LoginSucceeded {} => self.failures = 0,
            UserEvent::LoginFailed { failures } => self.failures = failures,
            // The count starts anew: after the lock another ten failures lock again.
            UserEvent::UserLocked { until } => {
                self.failures = 0;
                self.locked_until = Some(until);
            }
            UserEvent::UserUnlocked {} => {
                self.failures = 0;
                self.locked_until = None;
            }
            UserEvent::RoleGranted { role, property_ids } => {
                self.roles.insert(role, property_ids);
            }
            UserEvent::RoleRevoked { role } => {
                self.roles.remove(&role);
            }
            UserEvent::UserDeactivated {} => {
                self.deactivated = true;
                self.epoch += 1;
            }
            UserEvent::UserReactivated {} => {
                self.deactivated = false;
                self.epoch += 1;
            }
        }
    }
}

type Decision = Result<Vec<UserEvent>, UserError>;

impl Decide for User {
    const KIND: AggregateKind = AggregateKind::User;

    fn decide(&self, command: &UserCommand, at: &Moment) -> Decision {
        match (command, &self.account) {
            (UserCommand::RegisterUser(register), account) => decide_registration(account.as_ref(), register),
            (_, None) => Err(UserError::NotFound),
            (UserCommand::ActivateUser { password_hash }, Some(account)) => {
                account.in_state(UserStatus::Invited, &["invited"])?;
                Ok(vec![UserEvent::UserActivated { password_hash: password_hash.clone() }])
            }
            (UserCommand::ChangePassword { password_hash }, Some(account)) => {
                account.in_state(UserStatus::Active, &["active"])?;
                Ok(vec![UserEvent::PasswordChanged { password_hash: password_hash.clone() }])
            }
            (UserCommand::RecordLoginSuccess, Some(account)) => account.login_succeeded(at.now),
            (UserCommand::RecordLoginFailure, Some(account)) => Ok(account.login_failed(at.now)),
            (UserCommand::UnlockUser, Some(account)) => Ok(account.unlock(at.now)),
            (UserCommand::GrantRole { role, property_ids, by }, Some(account)) => {
                account.grant(*role, property_ids.as_ref(), *by)
            }
            (UserCommand::RevokeRole { role, by, other_admins }, Some(account)) => account.revoke(*role, *by, *other_admins),
            (UserCommand::DeactivateUser { other_admins }, Some(account)) => account.deactivate(*other_admins),
            (UserCommand::ReactivateUser, Some(account)) => Ok(match account.deactivated {
                true => vec![UserEvent::UserReactivated {}],
                false => vec![],
            }),
        }
    }

    /// Users belong to no property: their dates are UTC's.
    fn effective_on(&self, _: &UserEvent, at: &Moment) -> Date {
        at.now.to_zoned(TimeZone::UTC).date()
    }
}

fn decide_registration(account: Option<&Account>, register: &RegisterUser) -> Decision {
    let RegisterUser { user_id, username, roles, party_id, personal, password_hash, demo } = register;
    if user_name(username)? != *username {
        return Err(Fault::new("/username", "must be lower case").into());
    }
    if roles.is_empty() {
        return Err(Fault::new("/roles", "must name at least one role").into());
    }
    text("/name", &personal.name, 200)?;
    check_email(&personal.email)?;
    let registered = UserEvent::UserRegistered {
        user_id: *user_id,
        username: username.clone(),
        roles: roles.clone(),
        party_id: *party_id,
        personal: Personal::from(personal.clone()),
        password_hash: password_hash.clone(),
        demo: *demo,
    };
    // A hash is salted, so a repeated registration never has the same one: the names tell a repetition.
    match account {
        None => Ok(vec![registered]),
        Some(account) if account.user_id == *user_id && account.username == *username => Ok(vec![]),
        Some(_) => Err(UserError::AlreadyExists),
    }
}

/// Only what every address has; the rest is proved by mail that arrives.
fn check_email(email: &str) -> Result<(), Fault> {
    text("/email", email, 254)?;
    let is_plausible = email.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && !host.is_empty() && !host.contains('@') && !email.contains(char::is_whitespace)
    });
    if is_plausible { Ok(()) } else { Err(Fault::new("/email", "must be an e-mail address")) }
}

impl Account {
    fn login_succeeded(&self, now: Timestamp) -> Decision {
        self.in_state(UserStatus::Active, &["active"])?;
        match self.locked(now) {
            Some(until) => Err(UserError::Locked { until }),
            None => Ok(vec![UserEvent::LoginSucceeded {}]),
        }
    }

    fn login_failed(&self, now: Timestamp) -> Vec<UserEvent> {
        if self.status() != UserStatus::Active || self.locked(now).is_some() {
            return vec![];
        }
        let failures = self.failures + 1;
        let mut events = vec![UserEvent::LoginFailed { failures }];
        if failures >= FAILURES_BEFORE_LOCK {
            let until = now.saturating_add(SignedDuration::from_mins(LOCK_MINUTES)).unwrap_or(Timestamp::MAX);
            events.push(UserEvent::UserLocked { until });
        }
        events
    }

    fn unlock(&self, now: Timestamp) -> Vec<UserEvent> {
        match self.locked(now).is_some() || self.failures > 0 {
            true => vec![UserEvent::UserUnlocked {}],
            false => vec![],
        }
    }

    fn grant(&self, role: Role, property_ids: Option<&BTreeSet<PropertyId>>, by: Option<UserId>) -> Decision {
        if by == Some(self.user_id) {
            return Err(UserError::SelfRoleChange);
        }
        if property_ids.is_some_and(|ids| ids.is_empty() || ids.len() > PROPERTIES_MAX) {
            return Err(Fault::new("/property_ids", format!("must have 1 to {PROPERTIES_MAX} entries")).into());
        }
        // Whoever administers only some properties could not be the last administrator of all.
        if role == Role::Admin && property_ids.is_some() {
            return Err(Fault::new("/property_ids", "an administrator is one of every property").into());
        }
        let property_ids = property_ids.cloned();
        Ok(match self.roles.get(&role) == Some(&property_ids) {
            true => vec![],
            false => vec![UserEvent::RoleGranted { role, property_ids }],
        })
    }

    fn revoke(&self, role: Role, by: Option<UserId>, other_admins: u32) -> Decision {
        if by == Some(self.user_id) {
            return Err(UserError::SelfRoleChange);
        }
        if role == Role::Admin && self.is_active_admin() && other_admins == 0 {
            return Err(UserError::LastAdmin);
        }
        Ok(match self.roles.contains_key(&role) {
            true => vec![UserEvent::RoleRevoked { role }],
            false => vec![],
        })
    }

    fn deactivate(&self, other_admins: u32) -> Decision {
        if self.is_active_admin() && other_admins == 0 {
            return Err(UserError::LastAdmin);
        }
        Ok(if self.deactivated { vec![] } else { vec![UserEvent::UserDeactivated {}] })
    }
}

impl User {
    pub fn user_id(&self) -> Option<UserId> {
        self.account.as_ref().map(|account| account.user_id)
    }

    /// Empty for a user who was never registered.
    pub fn username(&self) -> &str {
        self.account.as_ref().map_or("", |account| account.username.as_str())
    }

    /// To be asked before and after the password is verified, so that a lock is not told to who does not know it.
    pub fn can_log_in(&self, now: Timestamp) -> Result<(), LoginRefusal> {
        let active = self.account.as_ref().filter(|account| account.status() == UserStatus::Active);
        match active.map(|account| account.locked(now)) {
            None => Err(LoginRefusal::InvalidCredentials),
            Some(Some(until)) => Err(LoginRefusal::Locked { until }),
            Some(None) => Ok(()),
        }
    }

    pub fn password_hash(&self) -> Option<&PasswordHash> {
        self.account.as_ref()?.password_hash.as_ref()
    }

    /// A token carries the epoch it was issued in; another epoch makes it void.
    pub fn epoch(&self) -> u64 {
        self.account.as_ref().map_or(0, |account| account.epoch)
    }

    pub fn roles(&self) -> BTreeSet<Role> {
        self.account.iter().flat_map(|account| account.roles.keys().copied()).collect()
    }

    /// The properties a role is limited to; `None` when it is not limited (or not held: see [`User::roles`]).
    pub fn properties_of(&self, role: Role) -> Option<&BTreeSet<PropertyId>> {
        self.account.as_ref()?.roles.get(&role)?.as_ref()
    }

    pub fn party_id(&self) -> Option<PartyId> {
        self.account.as_ref()?.party_id
    }

    /// `None` for a user who was never registered.
    pub fn status(&self) -> Option<UserStatus> {
        self.account.as_ref().map(Account::status)
    }

    pub fn is_active(&self) -> bool {
        self.status() == Some(UserStatus::Active)
    }

    /// Belongs to the demo data: such a user may log in only where the demo was asked for.
    pub fn is_demo(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.demo)
    }
}
