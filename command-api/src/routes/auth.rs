//! Logging in.

use axum::extract::State;
use axum::http::StatusCode;
use commands::{Issue, Loaded, step};
use domain::Refusal;
use domain::auth::{LoginRefusal, PasswordHash, User, UserCommand, UserNameClaim, check_password, user_name};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Json, Problem, PublicProblems, SignedIn};

use crate::Api;
use crate::api::problem;
use crate::command::Command;
use crate::reply::{CommandOut, Reply};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginIn {
    #[schema(example = "test_admin")]
    pub username: String,
    #[schema(format = Password)]
    pub password: String,
}

#[derive(Serialize, ToSchema)]
pub struct TokenOut {
    /// The same as `access_token`.
    pub token: String,
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: i64,
}

/// Log in: an access token for 15 minutes.
#[utoipa::path(post, path = "/login", tag = "auth", request_body = LoginIn, security(()),
    responses((status = 200, body = TokenOut), PublicProblems))]
pub async fn login(State(api): State<Api>, Json(body): Json<LoginIn>) -> Result<Json<TokenOut>, Problem> {
    log_in(&api, body).await
}

/// The same as `POST /login`.
#[utoipa::path(post, path = "/auth/login", tag = "auth", request_body = LoginIn, security(()),
    responses((status = 200, body = TokenOut), PublicProblems))]
pub async fn login_alias(State(api): State<Api>, Json(body): Json<LoginIn>) -> Result<Json<TokenOut>, Problem> {
    log_in(&api, body).await
}

/// The answer tells neither whether the user exists nor which half was wrong, and costs the same work either way.
async fn log_in(api: &Api, body: LoginIn) -> Result<Json<TokenOut>, Problem> {
    if body.username.len() > 200 || body.password.len() > 1_024 {
        return Err(Problem::validation("", "user name or password is too long"));
    }
    let found = find(api, &body.username).await?;
    let usable = found.as_ref().filter(|(_, user)| api.demo() || !user.state.is_demo());
    let hash = usable.and_then(|(_, user)| user.state.password_hash()).map(|hash| hash.expose().to_owned());
    let matches = api.hasher().verify(body.password, hash).await?;
    let Some((user_id, user)) = usable else { return Err(wrong()) };
    let issue = Issue::by(format!("user:{user_id}"));
    if let Err(LoginRefusal::Locked { until }) = user.state.can_log_in(api.now()) {
        let mut locked = Problem::new(
            StatusCode::UNAUTHORIZED,
            "ACCOUNT_LOCKED",
            "too many failed logins: the account is locked for 15 minutes, or until an administrator unlocks it",
        );
        locked.facts.insert("until".into(), until.to_string().into());
        return Err(locked);
    }
    let judged = if matches && user.state.can_log_in(api.now()).is_ok() {
        UserCommand::RecordLoginSuccess
    } else {
        UserCommand::RecordLoginFailure
    };
    let success = matches!(judged, UserCommand::RecordLoginSuccess);
    match api.execute(&issue, vec![step::<User>(user_id.to_string(), judged)]).await {
        Ok(_) => {}
        // Refused because it was locked or deactivated in between: as if the password were wrong.
        Err(refused) if refused.status != StatusCode::SERVICE_UNAVAILABLE => return Err(wrong()),
        Err(unavailable) => return Err(unavailable),
    }
    if !success {
        metrics::counter!("casitas_logins_total", "outcome" => "failure").increment(1);
        return Err(wrong());
    }
    metrics::counter!("casitas_logins_total", "outcome" => "success").increment(1);
    let (token, expires_in) = api.signer().issue(*user_id, user.state.epoch(), api.now()).map_err(|error| {
        tracing::error!(error, "a token could not be issued");
        Problem::internal()
    })?;
    Ok(Json(TokenOut { access_token: token.clone(), token, token_type: "Bearer", expires_in }))
}

async fn find(api: &Api, username: &str) -> Result<Option<(Uuid, Arc<Loaded<User>>)>, Problem> {
    let Ok(name) = user_name(username) else { return Ok(None) };
    let claim = api.handler().load::<UserNameClaim>(&name).await.map_err(problem)?;
    let Some(user_id) = claim.state.user_id() else { return Ok(None) };
    let user = api.handler().load::<User>(user_id.to_string()).await.map_err(problem)?;
    Ok(Some((user_id.0, user)))
}

fn wrong() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "INVALID_CREDENTIALS", "the user name or the password is wrong")
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordIn {
    #[schema(format = Password)]
    pub current_password: String,
    /// At least 12 characters.
    #[schema(format = Password, min_length = 12, max_length = 256)]
    pub new_password: String,
}

/// Change one's own password; every token issued before ends.
#[utoipa::path(post, path = "/auth/password", tag = "auth", request_body = PasswordIn, security(("token" = [])),
    responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn change_password(State(api): State<Api>, command: Command<SignedIn, PasswordIn>) -> Result<Reply, Problem> {
    check_password(&command.body.new_password, false).map_err(|fault| Problem::from(Refusal::of(&fault)))?;
    let user_id = command.caller.principal.user_id;
    let user = api.handler().load::<User>(user_id.to_string()).await.map_err(problem)?;
    let hash = user.state.password_hash().map(|hash| hash.expose().to_owned());
    if !api.hasher().verify(command.body.current_password, hash).await? {
        return Err(wrong());
    }
    let password_hash = PasswordHash::new(api.hasher().hash(command.body.new_password).await?);
    let change = UserCommand::ChangePassword { password_hash };
    let executed = api.execute(&command.issue, vec![step::<User>(user_id.to_string(), change)]).await?;
    Ok(Reply::changed(user_id, executed))
}
