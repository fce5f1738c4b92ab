//! What every request passes: request id, body limit, deadline, panic guard, log line, metrics, answer headers.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use uuid::Uuid;

use crate::Problem;

/// The largest body but for documents.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The longest a request may take in all.
const DEADLINE: Duration = Duration::from_secs(15);

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that the current task answers.
pub(crate) fn current_request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Names the process in `X-Served-By`.
#[derive(Clone, Debug)]
pub struct Served(pub String);

/// Wraps a finished router.
pub fn layer(router: Router, served: Served) -> Router {
    router
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(middleware::from_fn_with_state(served, around))
}

/// The fallback of a router.
pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such path; /docs lists them")
}

async fn around(State(served): State<Served>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|text| !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        .map_or_else(|| Uuid::now_v7().to_string(), Into::into);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", |path| path.as_str()).to_owned();
    let answered = REQUEST_ID.scope(id.clone(), async move {
        let work = std::panic::AssertUnwindSafe(next.run(request)).catch_unwind();
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                tracing::error!("a handler panicked");
                Problem::internal().into_response()
            }
            Err(_) => Problem::unavailable("the request took too long and was given up").into_response(),
        }
    });
    let mut response = answered.await;
    let status = response.status();
    let headers = response.headers_mut();
    set(headers, "x-request-id", &id);
    set(headers, "x-served-by", &served.0);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let elapsed = started.elapsed();
    metrics::histogram!("casitas_http_request_duration_seconds", "method" => method.to_string(), "route" => route.clone(), "status" => status.as_u16().to_string())
        .record(elapsed.as_secs_f64());
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::error!(http.method = %method, http.route = route, http.status = status.as_u16(), request.id = id, duration_ms = elapsed.as_millis() as u64, "request failed");
    } else {
        tracing::debug!(http.method = %method, http.route = route, http.status = status.as_u16(), request.id = id, duration_ms = elapsed.as_millis() as u64, "request");
    }
    response
}

fn set(headers: &mut axum::http::HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
