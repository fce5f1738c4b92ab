//! From an entry to an HTTP answer: conditional requests, compression, the cache headers.

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use web::{MinPosition, Problem};

use crate::entry::Entry;
use crate::reader::{ReadError, Served, Source, Wish};
use crate::tiers::lifetime;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What of a request matters to every read.
#[derive(Clone, Debug)]
pub struct Asked {
    pub headers: HeaderMap,
    pub uri: Uri,
    pub wish: Wish,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let MinPosition { tokens, wait } = MinPosition::from_request_parts(parts, state).await?;
        let uri = parts.extensions.get::<OriginalUri>().map_or_else(|| parts.uri.clone(), |original| original.0.clone());
        Ok(Self { headers: parts.headers.clone(), uri, wish: Wish { token: tokens.into(), wait } })
    }
}

/// Who may keep an answer outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Public,
    /// The caller alone.
    Private,
}

pub fn respond(served: &Served, asked: &Asked, audience: Audience) -> Response {
    let entry = &*served.entry;
    let gzip = entry.gzip.as_ref().filter(|_| accepts_gzip(&asked.headers));
    let etag = if gzip.is_some() { gzip_etag(&entry.etag) } else { entry.etag.clone() };
    let mut response = if none_match(&asked.headers, &entry.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = gzip.unwrap_or(&entry.plain).clone().into_response();
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, &entry.content_type);
        if gzip.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(cursor) = &entry.next_cursor {
            set(headers, header::LINK, &next_link(&asked.uri, cursor));
        }
        response
    };
    let headers = response.headers_mut();
    set(headers, header::ETAG, &etag);
    cache_headers(headers, served, asked, audience);
    response
}

fn cache_headers(headers: &mut HeaderMap, served: &Served, asked: &Asked, audience: Audience) {
    let ttl = lifetime(&served.entry, served.now);
    let age_s = served.now.duration_since(served.entry.computed_at).as_secs().max(0);
    let control = if !asked.wish.token.is_empty() {
        "no-store"
    } else if audience == Audience::Private {
        "private, no-cache"
    } else if ttl.as_secs() >= 1 {
        "public, max-age=1"
    } else {
        // It changes by itself within the second that others might keep it for.
        "public, no-cache"
    };
    let status = match served.source {
        Source::Memory | Source::Shared => format!("casitas; hit; ttl={}", ttl.as_secs()),
        Source::Computed => format!("casitas; fwd=miss; stored; ttl={}", ttl.as_secs()),
        Source::Bypassed => "casitas; fwd=bypass".to_owned(),
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding, authorization"));
    headers.insert(header::AGE, HeaderValue::from(age_s));
    headers.insert(X_CACHE, HeaderValue::from_static(if served.source.is_hit() { "HIT" } else { "MISS" }));
    set(headers, CACHE_STATUS, &status);
}

/// A strong ETag names one representation, so the compressed one has its own.
fn gzip_etag(etag: &str) -> String {
    format!("{}-gz\"", etag.trim_end_matches('"'))
}

/// `If-None-Match` by weak comparison (RFC 9110, 13.1.2); either representation counts, for both hold the same content.
pub(crate) fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    let gzip_etag = gzip_etag(etag);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag || tag == gzip_etag)
}

/// Whether `Accept-Encoding` allows gzip (RFC 9110, 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = None;
    for coding in
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','))
    {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            part.strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).is_some_and(|quality| quality <= 0.0)
        });
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return !refused;
        }
        if name == "*" {
            any = Some(!refused);
        }
    }
    any.unwrap_or(false)
}

/// The request's own path and parameters with the next cursor.
fn next_link(uri: &Uri, cursor: &str) -> String {
    let mut link = format!("<{}?", uri.path());
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor=")) {
        link.push_str(pair);
        link.push('&');
    }
    format!("{link}cursor={cursor}>; rel=\"next\"")
}

pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl Entry {
    /// The typed value of a JSON body, for rules that look into an answer.
    pub fn value<T: serde::de::DeserializeOwned>(&self) -> Result<T, ports::Error> {
        serde_json::from_slice(&self.plain)
            .map_err(|error| ports::Error::corrupt(format!("an answer cannot be read back: {error}")))
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::PositionNotReached => coded(
                Problem::unavailable("the position was not reached in time; ask again, or with a longer Prefer: wait"),
                "POSITION_NOT_REACHED",
            ),
            ReadError::LogRestored(context) => Problem::new(
                StatusCode::CONFLICT,
                "LOG_RESTORED",
                format!(
                    "the {context} log was restored to an earlier moment since the position was handed out; read without it"
                ),
            ),
            ReadError::Saturated => coded(Problem::unavailable("too many answers are being computed"), "OVERLOADED"),
            ReadError::TooSlow => Problem::unavailable("the read models did not answer in time"),
            ReadError::Failed(cause) => match &**cause {
                // A model without a live generation: the projector has not prepared it yet.
                ports::Error::NotFound(_) => Problem::unavailable("the read models are not ready yet"),
                ports::Error::Unavailable { .. } => {
                    tracing::warn!(error = cause.chain(), "the read models cannot be reached");
                    Problem::unavailable("the read models cannot be reached at the moment")
                }
                other => Problem::of_port(other),
            },
        }
    }
}

fn coded(problem: Problem, code: &str) -> Problem {
    Problem { code: code.into(), ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn if_none_match_compares_weakly_through_lists() {
        for (value, matches) in [
            ("\"u-1\"", true),
            ("W/\"u-1\"", true),
            ("\"u-1-gz\"", true),
            ("\"u-2\", W/\"u-1\"", true),
            ("*", true),
            ("\"u-2\"", false),
            ("u-1", false),
        ] {
            assert_eq!(none_match(&headers(header::IF_NONE_MATCH, value), "\"u-1\""), matches, "{value}");
        }
    }

    #[test]
    fn gzip_is_used_only_where_it_is_accepted() {
        for (value, accepted) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("*", true),
            ("identity", false),
            ("*;q=0", false),
        ] {
            assert_eq!(accepts_gzip(&headers(header::ACCEPT_ENCODING, value)), accepted, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_next_link_keeps_the_filters_and_replaces_the_cursor() {
        let uri: Uri = "/v1/units/available?limit=2&cursor=aa&city=Lima".parse().expect("a uri");
        assert_eq!(next_link(&uri, "bb"), "</v1/units/available?limit=2&city=Lima&cursor=bb>; rel=\"next\"");
    }
}
