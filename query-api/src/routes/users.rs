//! Users, and who the caller is.

use axum::extract::State;
use axum::response::Response;
use domain::UserId;
use domain::auth::{Role, UserStatus};
use read_models::Page;
use read_models::users::{self, UserOut, UsersFilter};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Path, Problem, Query, QueryProblems, ReadUsers, SignedIn};

use crate::QueryApi;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

query! {
    Users { filter: UsersFilter, page: Paging }
    as "list", Process, reads [users::SPEC],
    page(this, snapshot, now) users::users(snapshot, &this.filter, &this.page.request(), now)
}

query! {
    UserById { user_id: UserId }
    as "one", Process, reads [users::SPEC],
    found(this, snapshot, now) users::user(snapshot, this.user_id, now)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsersParams {
    #[param(value_type = Option<UserStatus>, inline)]
    status: Option<UserStatus>,
    #[param(value_type = Option<Role>, inline)]
    role: Option<Role>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// All users, by user name.
#[utoipa::path(get, path = "/users", tag = "auth", params(UsersParams), security(("token" = [])), responses(
    (status = 200, body = Page<UserOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_users(
    State(api): State<QueryApi>,
    _: Allowed<ReadUsers>,
    asked: Asked,
    Query(params): Query<UsersParams>,
) -> Result<Response, Problem> {
    let filter = UsersFilter { status: params.status, role: params.role };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    api.private(Users { filter, page }, &asked, "list").await
}

/// One user.
#[utoipa::path(get, path = "/users/{user_id}", tag = "auth", params(("user_id" = Uuid, Path)), security(("token" = [])),
    responses(
    (status = 200, body = UserOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_user(
    State(api): State<QueryApi>,
    _: Allowed<ReadUsers>,
    asked: Asked,
    Path(user_id): Path<Uuid>,
) -> Result<Response, Problem> {
    api.private(UserById { user_id: UserId(user_id) }, &asked, "user").await
}

/// The caller.
#[utoipa::path(get, path = "/auth/me", tag = "auth", security(("token" = [])), responses(
    (status = 200, body = UserOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn me(State(api): State<QueryApi>, caller: Allowed<SignedIn>, asked: Asked) -> Result<Response, Problem> {
    api.private(UserById { user_id: UserId(caller.principal.user_id) }, &asked, "user").await
}
