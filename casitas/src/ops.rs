//! Liveness, readiness, metrics, and what is served beside the API: OpenAPI, the docs page, the public keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use projector::Board;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::platform::Check;

/// One check may take this long: less than a GET has in all.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1_200);

#[derive(Clone)]
pub struct Ops(Arc<Shared>);

struct Shared {
    checks: Vec<Check>,
    board: Option<Board>,
    metrics: PrometheusHandle,
    /// Set by SIGTERM: unready, so that no new traffic comes while what is under way finishes.
    draining: AtomicBool,
}

impl Ops {
    pub fn new(checks: Vec<Check>, board: Option<Board>, metrics: PrometheusHandle) -> Self {
        Self(Arc::new(Shared { checks, board, metrics, draining: AtomicBool::new(false) }))
    }

    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Every check at once, each within its deadline.
    pub async fn report(&self) -> (bool, Value) {
        let results = futures::future::join_all(self.0.checks.iter().map(|check| async move {
            let outcome = match timeout(CHECK_TIMEOUT, check.run()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.chain()),
                Err(_) => Err("could not check (timeout 1.2 s)".to_owned()),
            };
            (check.name(), check.is_vital(), outcome)
        }))
        .await;
        let followers = self.0.board.as_ref().map(|board| board.snapshot()).unwrap_or_default();
        let stalled = followers.iter().any(|follower| !follower.is_healthy());
        let draining = self.0.draining.load(Ordering::SeqCst);
        let ready = !draining && !stalled && results.iter().all(|(_, vital, outcome)| !vital || outcome.is_ok());
        let checks: Vec<Value> = results
            .into_iter()
            .map(|(name, vital, outcome)| match outcome {
                Ok(()) => json!({"name": name, "vital": vital, "ok": true}),
                Err(error) => json!({"name": name, "vital": vital, "ok": false, "error": error}),
            })
            .collect();
        (ready, json!({"ready": ready, "draining": draining, "checks": checks, "followers": followers}))
    }

    /// /livez, /readyz, /metrics.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .with_state(self.clone())
    }
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(ops): State<Ops>, Query(query): Query<Verbose>) -> Response {
    let (ready, report) = ops.report().await;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match query.verbose {
        Some(_) => (status, axum::Json(report)).into_response(),
        None if ready => (status, "ok\n").into_response(),
        None => web::Problem::unavailable("not ready; /readyz?verbose says why").into_response(),
    }
}

async fn metrics_text(State(ops): State<Ops>) -> Response {
    if let Some(board) = &ops.0.board {
        board.export();
    }
    ops.0.checks.iter().for_each(Check::export);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], ops.0.metrics.render()).into_response()
}

/// The document, its page, the public keys.
pub fn documents(openapi: String, jwks: Value) -> Router {
    let openapi: Arc<str> = openapi.into();
    Router::new()
        .route(
            "/openapi.json",
            get(move || {
                let openapi = openapi.to_string();
                async move { ([(header::CONTENT_TYPE, "application/json")], openapi) }
            }),
        )
        .route(
            "/.well-known/jwks.json",
            get(move || {
                let jwks = jwks.clone();
                async move { axum::Json(jwks) }
            }),
        )
        .route("/problems/{code}", get(problem_page))
        // The page and its scripts are compiled in: it works without the internet.
        .merge(
            Router::from(
                utoipa_swagger_ui::SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json")),
            )
            .layer(axum::middleware::map_response(own_scripts_only)),
        )
}

/// The documentation page runs its own scripts; Nginx's default policy would forbid them.
async fn own_scripts_only(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// What `type` of a problem resolves to.
async fn problem_page(axum::extract::Path(code): axum::extract::Path<String>) -> Response {
    let known =
        code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !known {
        return web::not_found().await.into_response();
    }
    let name = code.to_uppercase().replace('-', "_");
    Html(format!(
        "<!doctype html><title>{name}</title><h1>{name}</h1><p>A problem of the Casitas API (RFC 9457). Its <code>detail</code> says what \
         happened and what to do; <a href=\"/docs\">the API's documentation</a> lists what each route answers.</p>"
    ))
    .into_response()
}
