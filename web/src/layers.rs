//! What every request passes: request id, body limit, deadline, panic guard, log line, metrics, answer headers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Ready, ready};
use metrics::Histogram;
use tower::{Layer, Service};
use uuid::Uuid;

use crate::Problem;
use crate::position::patience;

/// The largest body but for documents.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The longest a request may take in all. Commands have less of their own; an upload may come slowly.
const DEADLINE: Duration = Duration::from_secs(15);
/// The longest that a GET may take before its answer begins, whatever it waits for. R14 of reliability-security.md gives it two
/// seconds; Nginx needs the rest, to find out that a replica stands still and to ask another (nginx/README.md).
const READ_DEADLINE: Duration = Duration::from_millis(1_400);
/// Series of the duration histogram that a thread keeps handles of; the others are looked up each time.
const SERIES_KEPT: usize = 512;

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

tokio::task_local! {
    static REQUEST_ID: HeaderValue;
}

/// The id of the request that the current task answers.
pub(crate) fn current_request_id() -> Option<String> {
    REQUEST_ID.try_with(|id| id.to_str().ok().map(Into::into)).ok().flatten()
}

/// Names the process in `X-Served-By`.
#[derive(Clone, Debug)]
pub struct Served(pub String);

/// Wraps a finished router.
pub fn layer(router: Router, served: Served) -> Router {
    let marks = Arc::new(Marks::new(&served));
    router.method_not_allowed_fallback(wrong_method).layer((AroundLayer(marks), DefaultBodyLimit::max(BODY_MAX_BYTES)))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "this path does not take that method")
}

/// The fallback of a router.
pub async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such path; /docs lists them")
}

/// Answers some requests at once, before they are routed; what it leaves goes to the routes. It must not wait, and must
/// answer as the route would.
pub trait Shortcut: Send + Sync + 'static {
    /// The answer and the route it stands for.
    fn answer(&self, request: &Request) -> Option<(Response, &'static str)>;
}

/// A wrapped router with a shortcut in front.
#[derive(Clone)]
pub struct Front {
    router: Router,
    shortcut: Option<Arc<(Marks, Arc<dyn Shortcut>)>>,
}

impl Front {
    pub fn new(router: Router, served: Served, shortcut: Option<Arc<dyn Shortcut>>) -> Self {
        let marks = Marks::new(&served);
        Self { router: layer(router, served), shortcut: shortcut.map(|shortcut| Arc::new((marks, shortcut))) }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let Some(shortcut) = &self.shortcut {
            let (marks, shortcut) = &**shortcut;
            let started = Instant::now();
            // A panic is the routes' to answer.
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| shortcut.answer(&request)));
            if let Ok(Some((mut response, route))) = answer {
                let begun = Begun { started, method: request.method().clone(), id: request_id(&request) };
                begun.finish(&mut response, route, marks);
                return Either::Left(ready(Ok(response)));
            }
        }
        Either::Right(self.router.call(request))
    }
}

/// What the process puts on every answer.
struct Marks {
    served_by: Option<HeaderValue>,
}

impl Marks {
    fn new(served: &Served) -> Self {
        Self { served_by: HeaderValue::from_str(&served.0).ok() }
    }
}

#[derive(Clone)]
struct AroundLayer(Arc<Marks>);

impl<S> Layer<S> for AroundLayer {
    type Service = Around<S>;

    fn layer(&self, inner: S) -> Around<S> {
        Around { inner, marks: self.0.clone() }
    }
}

#[derive(Clone)]
struct Around<S> {
    inner: S,
    marks: Arc<Marks>,
}

impl<S> Service<Request> for Around<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let begun = Begun { started: Instant::now(), method: request.method().clone(), id: request_id(&request) };
        let route = request.extensions().get::<MatchedPath>().cloned();
        let marks = self.marks.clone();
        let deadline = deadline(&request);
        let answered = REQUEST_ID.scope(begun.id.clone(), guarded(deadline, self.inner.call(request)));
        Box::pin(async move {
            let mut response = answered.await;
            begun.finish(&mut response, route.as_ref().map_or("unmatched", MatchedPath::as_str), &marks);
            Ok(response)
        })
    }
}

/// How long its answer may take to begin. Who waits for a position has said how long that may take.
fn deadline(request: &Request) -> Duration {
    match *request.method() {
        Method::GET | Method::HEAD => READ_DEADLINE.max(patience(request.headers())),
        _ => DEADLINE,
    }
}

/// The answer within the deadline, and whatever a handler does.
async fn guarded(deadline: Duration, work: impl Future<Output = Result<Response, Infallible>>) -> Response {
    match tokio::time::timeout(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Err(_)) => {
            tracing::error!("a handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => Problem::unavailable("the request took too long and was given up").into_response(),
    }
}

struct Begun {
    started: Instant,
    method: Method,
    id: HeaderValue,
}

impl Begun {
    fn finish(self, response: &mut Response, route: &str, marks: &Marks) {
        let status = response.status();
        let headers = response.headers_mut();
        if let Some(name) = &marks.served_by {
            headers.insert(SERVED_BY, name.clone());
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        let elapsed = self.started.elapsed();
        record(method_label(&self.method), route, status, elapsed);
        let (method, id) = (&self.method, self.id.to_str().unwrap_or_default());
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(http.method = %method, http.route = route, http.status = status.as_u16(), request.id = id, duration_ms = elapsed.as_millis() as u64, "request failed");
        } else {
            tracing::debug!(http.method = %method, http.route = route, http.status = status.as_u16(), request.id = id, duration_ms = elapsed.as_millis() as u64, "request");
        }
        response.headers_mut().insert(REQUEST_ID_HEADER, self.id);
    }
}

/// The caller's, when it is a plain one, or a new one.
fn request_id(request: &Request) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        !id.is_empty() && id.len() <= 64 && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    request.headers().get(REQUEST_ID_HEADER).filter(plain).map_or_else(new_request_id, Clone::clone)
}

/// Random once for the process, then counted: an id must be unique, not secret, and the system is not asked for each.
fn new_request_id() -> HeaderValue {
    static FIRST: LazyLock<Uuid> = LazyLock::new(Uuid::now_v7);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (high, low) = FIRST.as_u64_pair();
    // The variant's two bits stay as they are.
    const COUNTED: u64 = u64::MAX >> 2;
    let counted = low.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) & COUNTED;
    let id = Uuid::from_u64_pair(high, (low & !COUNTED) | counted);
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).unwrap_or(HeaderValue::from_static("none"))
}

/// One of few: a client may send any word as a method, and a label is kept for ever.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

struct Series {
    method: &'static str,
    route: Box<str>,
    status: StatusCode,
    durations: Histogram,
}

thread_local! {
    static SERIES: RefCell<Vec<Series>> = const { RefCell::new(Vec::new()) };
}

/// Finding a series by its labels costs more than answering from memory does, so each thread keeps the handles it used.
fn record(method: &'static str, route: &str, status: StatusCode, elapsed: Duration) {
    SERIES.with_borrow_mut(|known| {
        let same = |series: &Series| series.status == status && series.method == method && *series.route == *route;
        if let Some(at) = known.iter().position(same) {
            known[at].durations.record(elapsed);
            // What is asked for often moves to the front.
            known.swap(at, at.saturating_sub(1));
            return;
        }
        let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.as_str().to_owned())];
        let durations = metrics::histogram!("casitas_http_request_duration_seconds", &labels);
        durations.record(elapsed);
        if known.len() < SERIES_KEPT {
            known.push(Series { method, route: route.into(), status, durations });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_of_one_kind_and_never_the_same() {
        let ids: std::collections::BTreeSet<_> =
            (0..10_000).map(|_| new_request_id().to_str().expect("text").parse::<Uuid>().expect("a UUID")).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }
}
