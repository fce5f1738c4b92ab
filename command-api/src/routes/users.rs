//! Users and their roles.

use std::collections::BTreeSet;

use axum::extract::State;
use commands::step;
use domain::auth::{
    PasswordHash, RegisterUser, Role, User, UserCommand, UserDetails, UserNameClaim, UserNameClaimCommand, check_password,
    user_name,
};
use domain::{PartyId, PropertyId, Refusal, RefusalClass, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, EditUsers, Path, Problem};

use crate::Api;
use crate::command::{Command, NoBody};
use crate::reply::{CommandOut, Reply};

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserIn {
    /// Unique; 3 to 64 of a-z, 0-9, dot, underscore, hyphen.
    #[schema(min_length = 3, max_length = 64)]
    pub username: String,
    pub email: String,
    pub name: String,
    pub roles: BTreeSet<Role>,
    /// The party that a tenant is.
    #[serde(default)]
    pub party_id: Option<Uuid>,
    /// At least 12 characters.
    #[schema(format = Password, min_length = 12, max_length = 256)]
    pub password: String,
}

/// Register a user.
#[utoipa::path(post, path = "/users", tag = "auth", request_body = UserIn, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn register_user(State(api): State<Api>, mut command: Command<EditUsers, UserIn>) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let username = user_name(&body.username).map_err(|fault| Problem::validation(fault.pointer, fault.detail))?;
    check_password(&body.password, false).map_err(|fault| Problem::from(Refusal::of(&fault)))?;
    let password_hash = PasswordHash::new(api.hasher().hash(body.password).await?);
    let register = UserCommand::RegisterUser(RegisterUser {
        user_id: UserId(id),
        username: username.clone(),
        roles: body.roles,
        party_id: body.party_id.map(PartyId),
        personal: UserDetails { email: body.email, name: body.name },
        password_hash: Some(password_hash),
        demo: false,
    });
    let claim = UserNameClaimCommand::ClaimUserName { user_id: UserId(id) };
    let steps = vec![step::<User>(id.to_string(), register), step::<UserNameClaim>(username, claim)];
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::created(id, executed, |id| format!("/users/{id}")))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleIn {
    pub role: Role,
    /// Only for these properties; absent: for all.
    #[serde(default)]
    pub property_ids: Option<BTreeSet<Uuid>>,
}

/// Grant a role.
#[utoipa::path(post, path = "/users/{user_id}/roles", tag = "auth", request_body = RoleIn, security(("token" = [])),
    params(("user_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn grant_role(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<EditUsers, RoleIn>,
) -> Result<Reply, Problem> {
    let grant = UserCommand::GrantRole {
        role: command.body.role,
        property_ids: command.body.property_ids.map(|ids| ids.into_iter().map(PropertyId).collect()),
        by: Some(UserId(command.caller.principal.user_id)),
    };
    let executed = api.execute(&command.issue, vec![step::<User>(id.to_string(), grant)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Revoke a role.
#[utoipa::path(delete, path = "/users/{user_id}/roles/{role}", tag = "auth", security(("token" = [])),
    params(("user_id" = Uuid, Path), ("role" = Role, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn revoke_role(
    State(api): State<Api>,
    Path((id, role)): Path<(Uuid, Role)>,
    command: Command<EditUsers, NoBody>,
) -> Result<Reply, Problem> {
    let revoke = UserCommand::RevokeRole {
        role,
        by: Some(UserId(command.caller.principal.user_id)),
        other_admins: other_admins(command.caller.principal.user_id, id),
    };
    let executed = api.execute(&command.issue, vec![step::<User>(id.to_string(), revoke)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Only an active administrator comes this far. Unless it is themselves they act on, there is another one.
fn other_admins(caller: Uuid, user: Uuid) -> u32 {
    u32::from(caller != user)
}

/// Let a locked user log in again.
#[utoipa::path(post, path = "/users/{user_id}/unlock", tag = "auth", security(("token" = [])),
    params(("user_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn unlock_user(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<EditUsers, NoBody>,
) -> Result<Reply, Problem> {
    let executed = api.execute(&command.issue, vec![step::<User>(id.to_string(), UserCommand::UnlockUser)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Shut a user out; takes effect at once.
#[utoipa::path(post, path = "/users/{user_id}/deactivation", tag = "auth", security(("token" = [])),
    params(("user_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn deactivate_user(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<EditUsers, NoBody>,
) -> Result<Reply, Problem> {
    let caller = command.caller.principal.user_id;
    if caller == id {
        let refusal = Refusal::new(
            RefusalClass::Conflict,
            "SELF_ROLE_CHANGE",
            "nobody deactivates themselves: ask another administrator",
        );
        return Err(refusal.into());
    }
    let deactivate = UserCommand::DeactivateUser { other_admins: other_admins(caller, id) };
    let executed = api.execute(&command.issue, vec![step::<User>(id.to_string(), deactivate)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Let a user in again.
#[utoipa::path(post, path = "/users/{user_id}/reactivation", tag = "auth", security(("token" = [])),
    params(("user_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn reactivate_user(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<EditUsers, NoBody>,
) -> Result<Reply, Problem> {
    let executed = api.execute(&command.issue, vec![step::<User>(id.to_string(), UserCommand::ReactivateUser)]).await?;
    Ok(Reply::changed(id, executed))
}
