//! RFC 9457 problems: every answer that is not a success.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::{Refusal, RefusalClass};
use serde_json::{Map, Value, json};

/// A field at fault: a JSON pointer into the body (or `/query/<name>`, `/path/<name>`).
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable; what a program acts on.
    pub code: String,
    /// What a person reads: what happened, why, what next.
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub facts: Map<String, Value>,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), errors: vec![], facts: Map::new(), retry_after: None }
    }

    pub fn validation(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", detail.clone());
        problem.errors.push(FieldError { pointer: pointer.into(), detail });
        problem
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", detail)
    }

    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", "your roles do not allow this")
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no such {what}, or it is not yours to see"))
    }

    /// 503: come back in a second.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", detail);
        problem.retry_after = Some(1);
        problem
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "something went wrong on our side; the trace id finds it in the logs",
        )
    }

    /// What a failed port means to a caller; the cause goes to the log, never to the caller.
    pub fn of_port(error: &ports::Error) -> Self {
        use ports::Error as E;
        match error {
            E::Unavailable { what, .. } => {
                tracing::warn!(
                    error = error.chain(),
                    trace_id = crate::layers::current_request_id(),
                    "a dependency is unavailable"
                );
                Self::unavailable(format!("{what} cannot be reached at the moment; nothing was written"))
            }
            E::UnknownOutcome { .. } => {
                tracing::warn!(
                    error = error.chain(),
                    trace_id = crate::layers::current_request_id(),
                    "the outcome of a write is unknown"
                );
                let mut problem = Self::unavailable(
                    "the connection was lost while the command was being stored: it may or may not have been done; repeat it \
                     with the same Idempotency-Key to be sure",
                );
                problem.code = "OUTCOME_UNKNOWN".into();
                problem
            }
            E::Full(_) => {
                let mut problem = Self::unavailable("too many requests are waiting; nothing was written");
                problem.code = "OVERLOADED".into();
                problem
            }
            E::Conflict(_) => {
                let mut problem = Self::unavailable("others are changing the same thing; nothing was written");
                problem.code = "CONTENDED".into();
                problem
            }
            E::NotFound(_) | E::Rejected { .. } | E::Corrupt(_) => {
                tracing::error!(
                    error = error.chain(),
                    trace_id = crate::layers::current_request_id(),
                    "a request failed on our side"
                );
                Self::internal()
            }
        }
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.class {
            RefusalClass::Invalid => StatusCode::BAD_REQUEST,
            RefusalClass::Forbidden => StatusCode::FORBIDDEN,
            RefusalClass::NotFound => StatusCode::NOT_FOUND,
            RefusalClass::Conflict => StatusCode::CONFLICT,
            RefusalClass::Policy => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let errors =
            refusal.pointer.map(|pointer| FieldError { pointer, detail: refusal.message.clone() }).into_iter().collect();
        Self { status, code: refusal.code, detail: refusal.message, errors, facts: refusal.facts, retry_after: None }
    }
}

impl From<ports::Error> for Problem {
    fn from(error: ports::Error) -> Self {
        Self::of_port(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("/problems/{}", self.code.to_lowercase().replace('_', "-"))));
        body.insert("title".into(), json!(self.title()));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("detail".into(), json!(self.detail));
        body.insert("code".into(), json!(self.code));
        if let Some(trace_id) = crate::layers::current_request_id() {
            body.insert("trace_id".into(), json!(trace_id));
        }
        if !self.errors.is_empty() {
            let errors: Vec<Value> = self.errors.iter().map(|e| json!({"pointer": e.pointer, "detail": e.detail})).collect();
            body.insert("errors".into(), json!(errors));
        }
        for (name, fact) in self.facts {
            body.entry(name).or_insert(fact);
        }
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"casitas\""));
        }
        response
    }
}
