//! What a command answers.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;
use web::position_header;

use crate::api::Executed;

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandOut {
    /// The thing the command made or changed.
    pub id: Uuid,
    /// The version of its stream now: hand it back as `If-Match`.
    pub version: u64,
    /// The position of its last event in the context's log; absent when nothing changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
}

/// An answer with its headers: `Casitas-Position`, `ETag`, `Location`, `Idempotent-Replayed`.
pub struct Reply {
    status: StatusCode,
    location: Option<String>,
    executed: Executed,
    id: Uuid,
    retry_after: bool,
}

impl Reply {
    /// 200 for a change to `id`.
    pub(crate) fn changed(id: Uuid, executed: Executed) -> Self {
        Self { status: StatusCode::OK, location: None, executed, id, retry_after: false }
    }

    /// 201 for a new thing; a repetition answers the id of the first time.
    pub(crate) fn created(fresh: Uuid, executed: Executed, location: impl FnOnce(Uuid) -> String) -> Self {
        let id = remembered_id(&executed).unwrap_or(fresh);
        Self { status: StatusCode::CREATED, location: Some(location(id)), executed, id, retry_after: false }
    }

    /// 202 for work that goes on elsewhere.
    pub(crate) fn accepted(fresh: Uuid, executed: Executed, location: impl FnOnce(Uuid) -> String) -> Self {
        let mut reply = Self::created(fresh, executed, location);
        reply.status = StatusCode::ACCEPTED;
        reply.retry_after = true;
        reply
    }
}

fn remembered_id(executed: &Executed) -> Option<Uuid> {
    executed.done.remembered.get("id").and_then(Value::as_str)?.parse().ok()
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let done = &self.executed.done;
        let body = CommandOut { id: self.id, version: done.version, position: (done.position > 0).then_some(done.position) };
        let mut response = (self.status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(position) = position_header(&self.executed.tokens) {
            headers.insert("casitas-position", position);
        }
        if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", done.version)) {
            headers.insert(header::ETAG, etag);
        }
        if let Some(location) = self.location.and_then(|location| HeaderValue::from_str(&location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if done.replayed {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        if self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
