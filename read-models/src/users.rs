//! `users`: who may do what. No personal fields: e-mail and name stay sealed in the log.

use std::collections::{BTreeMap, BTreeSet};

use domain::auth::{Role, UserEvent, UserStatus};
use domain::{AggregateKind, Context, PartyId, PropertyId, Timestamp, UserId};
use ports::{Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "users",
    fold_version: 1,
    context: Context::Auth,
    fields: &[Field { name: "username", kind: FieldKind::Text }, Field { name: "status", kind: FieldKind::Text }],
};

pub struct Users;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    user_id: UserId,
    username: String,
    roles: BTreeMap<Role, Option<BTreeSet<PropertyId>>>,
    party_id: Option<PartyId>,
    has_password: bool,
    deactivated: bool,
    demo: bool,
    epoch: u64,
    locked_until: Option<Timestamp>,
}

impl Row {
    fn status(&self) -> UserStatus {
        match (self.deactivated, self.has_password) {
            (true, _) => UserStatus::Deactivated,
            (false, false) => UserStatus::Invited,
            (false, true) => UserStatus::Active,
        }
    }

    fn apply(&mut self, event: UserEvent) {
        match event {
            UserEvent::UserRegistered { .. } | UserEvent::LoginSucceeded {} | UserEvent::LoginFailed { .. } => {}
            UserEvent::UserActivated { .. } => self.has_password = true,
            UserEvent::PasswordChanged { .. } => {
                self.has_password = true;
                self.epoch += 1;
            }
            UserEvent::UserLocked { until } => self.locked_until = Some(until),
            UserEvent::UserUnlocked {} => self.locked_until = None,
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

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.username.clone().into(), self.status().as_str().into()]
    }
}

impl ReadModel for Users {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::User)
    }

    /// Logins change nothing here, so that they do not empty the caches either.
    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match concerns(event) {
            true => vec![event.stream.id.clone()],
            false => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if !concerns(event) {
            return Ok(());
        }
        let key = &event.stream.id;
        let row = match (rows.get::<Row>(key)?, event.decode()?) {
            (Some(mut row), event) => {
                row.apply(event);
                row
            }
            (None, UserEvent::UserRegistered { user_id, username, roles, party_id, personal: _, password_hash, demo }) => {
                Row {
                    user_id,
                    username,
                    roles: roles.into_iter().map(|role| (role, None)).collect(),
                    party_id,
                    has_password: password_hash.is_some(),
                    deactivated: false,
                    demo,
                    epoch: 0,
                    locked_until: None,
                }
            }
            (None, _) => return Err(Error::corrupt(format!("user {key} does not begin with the registration"))),
        };
        rows.put(key, row)
    }
}

fn concerns(event: &Recorded) -> bool {
    event.stream.kind == AggregateKind::User && !matches!(event.event_type.as_str(), "LoginSucceeded" | "LoginFailed")
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UsersFilter {
    pub status: Option<UserStatus>,
    pub role: Option<Role>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserOut {
    pub user_id: UserId,
    pub username: String,
    pub roles: Vec<RoleOut>,
    pub status: UserStatus,
    /// Tokens of another epoch are void.
    pub epoch: u64,
    /// The party a tenant acts as.
    pub party_id: Option<PartyId>,
    /// Present while the account is locked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub locked_until: Option<Timestamp>,
    /// Belongs to the demo data.
    pub demo: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoleOut {
    pub role: Role,
    /// The properties the role is limited to; absent when it holds for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property_ids: Option<BTreeSet<PropertyId>>,
}

/// By user name.
pub async fn users(
    snapshot: &mut dyn ViewSnapshot,
    filter: &UsersFilter,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Page<UserOut>>> {
    let filters = filter.status.map(|status| Filter::Eq("status", status.as_str().into())).into_iter().collect();
    let order = OrderBy { field: Some("username"), direction: ports::Direction::Ascending };
    let place = |row: &Row| FieldValue::from(row.username.clone());
    let (value, valid_until) = scan(snapshot, &SPEC, filters, order, page, place, |row: &Row| {
        match filter.role.is_none_or(|role| row.roles.contains_key(&role)) {
            true => look(row, now),
            false => Look { shown: None, valid_until: None },
        }
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One user; `None` when there is no such user.
pub async fn user(snapshot: &mut dyn ViewSnapshot, user_id: UserId, now: Timestamp) -> Result<Answer<Option<UserOut>>> {
    let key = user_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    let seen = row.map(|row| look(&row, now)).unwrap_or(Look { shown: None, valid_until: None });
    Ok(Answer { value: seen.shown, tags: vec![Tag::row(SPEC.name, key)], valid_until: seen.valid_until })
}

fn look(row: &Row, now: Timestamp) -> Look<UserOut> {
    let locked_until = row.locked_until.filter(|until| now < *until);
    let roles = row.roles.iter().map(|(role, property_ids)| RoleOut { role: *role, property_ids: property_ids.clone() });
    let shown = UserOut {
        user_id: row.user_id,
        username: row.username.clone(),
        roles: roles.collect(),
        status: row.status(),
        epoch: row.epoch,
        party_id: row.party_id,
        locked_until,
        demo: row.demo,
    };
    Look { shown: Some(shown), valid_until: locked_until }
}

#[cfg(test)]
mod tests;
