//! From an entry to an HTTP answer: conditional requests, compression, the cache headers.

use std::cell::RefCell;
use std::thread::LocalKey;

use axum::body::Body;
use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use domain::Timestamp;
use web::{MinPosition, Problem};

use crate::reader::{ReadError, Served, Source, Wish};
use crate::tiers::lifetime;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Until when Nginx may answer with it by itself.
const X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
/// More than an answer has, so that the map never grows.
const HEADERS: usize = 24;

/// What of a request matters to every read.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As the client sent it.
    pub uri: Uri,
    pub wish: Wish,
    accepts_gzip: bool,
    none_match: Vec<HeaderValue>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let MinPosition { tokens, wait } = MinPosition::from_request_parts(parts, state).await?;
        let uri = parts.extensions.get::<OriginalUri>().map_or_else(|| parts.uri.clone(), |original| original.0.clone());
        Ok(Self {
            uri,
            wish: Wish { token: tokens.into(), wait },
            accepts_gzip: accepts_gzip(&parts.headers),
            none_match: parts.headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
        })
    }
}

impl Asked {
    pub fn accepts_gzip(&self) -> bool {
        self.accepts_gzip
    }

    /// Whether the client has the representation with this tag already.
    pub fn has(&self, etag: &HeaderValue) -> bool {
        none_match(self.none_match.iter(), &[etag])
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
    let form = Form {
        gzip: asked.accepts_gzip,
        unchanged: none_match(asked.none_match.iter(), &[&entry.etag, &entry.gzip_etag]),
        control: if asked.wish.token.is_empty() { Control::of(served, audience) } else { Control::NoStore },
    };
    form.respond(served, &asked.uri)
}

/// The same for an answer that is asked for without a position token, straight from the request's head.
pub fn respond_at_once(served: &Served, headers: &HeaderMap, uri: &Uri, audience: Audience) -> Response {
    let entry = &*served.entry;
    let form = Form {
        gzip: accepts_gzip(headers),
        unchanged: none_match(headers.get_all(header::IF_NONE_MATCH).iter(), &[&entry.etag, &entry.gzip_etag]),
        control: Control::of(served, audience),
    };
    form.respond(served, uri)
}

/// Who may keep the answer, and for how long.
#[derive(Clone, Copy)]
enum Control {
    NoStore,
    Private,
    /// It changes by itself within the second that others might keep it for.
    PublicOnce,
    /// The epoch's second to whose end Nginx may keep it.
    Public(Option<i64>),
}

impl Control {
    fn of(served: &Served, audience: Audience) -> Self {
        match audience {
            Audience::Private => Self::Private,
            Audience::Public if lifetime(&served.entry, served.now).as_secs() < 1 => Self::PublicOnce,
            Audience::Public => Self::Public(kept_until(served)),
        }
    }
}

/// Nginx counts in whole seconds of the clock: what it may keep for the second `n` it serves until `n + 1` begins. The answer
/// is what the view store held at `known_at`, so with the second of that moment it is never served when it is older than one
/// second in all. `None`: it cannot be kept at all.
fn kept_until(served: &Served) -> Option<i64> {
    let second = |at: Timestamp| at.as_microsecond().div_euclid(1_000_000);
    let known = second(served.known_at?);
    // By itself it changes at `valid_until`: the second that it lies in must be asked for anew.
    let end = served.entry.valid_until.map_or(known, |until| known.min(second(until) - 1));
    (end >= second(served.now)).then_some(end)
}

struct Form {
    gzip: bool,
    unchanged: bool,
    control: Control,
}

impl Form {
    fn respond(&self, served: &Served, uri: &Uri) -> Response {
        let entry = &*served.entry;
        let gzip = self.gzip.then(|| entry.gzip()).flatten();
        let body = if self.unchanged { Body::empty() } else { Body::from(gzip.unwrap_or(&entry.plain).clone()) };
        let mut response = Response::new(body);
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
        if self.unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, entry.content_type.clone());
            if gzip.is_some() {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            if let Some(cursor) = &entry.next_cursor {
                set(headers, header::LINK, &next_link(uri, cursor));
            }
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, if gzip.is_some() { entry.gzip_etag.clone() } else { entry.etag.clone() });
        self.cache_headers(headers, served);
        response
    }

    fn cache_headers(&self, headers: &mut HeaderMap, served: &Served) {
        let control = match self.control {
            Control::NoStore => "no-store",
            Control::Private => "private, no-cache",
            Control::PublicOnce => "public, no-cache",
            Control::Public(_) => "public, max-age=1",
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding, authorization"));
        let age_s = served.now.duration_since(served.entry.computed_at).as_secs().max(0);
        headers.insert(header::AGE, number(&AGE, age_s, |age| age.to_string()));
        headers.insert(X_CACHE, HeaderValue::from_static(if served.source.is_hit() { "HIT" } else { "MISS" }));
        let ttl = i64::try_from(lifetime(&served.entry, served.now).as_secs()).unwrap_or(i64::MAX);
        let status = match served.source {
            // RFC 9211: no freshness is left; what is newer is being fetched.
            Source::Outdated => HeaderValue::from_static("casitas; hit; ttl=0; detail=updating"),
            Source::Memory | Source::Shared => number(&TTL, ttl, |ttl| format!("casitas; hit; ttl={ttl}")),
            Source::Computed => number(&TTL_STORED, ttl, |ttl| format!("casitas; fwd=miss; stored; ttl={ttl}")),
            Source::Bypassed => HeaderValue::from_static("casitas; fwd=bypass"),
        };
        headers.insert(CACHE_STATUS, status);
        if let Control::Public(Some(second)) = self.control {
            headers.insert(X_ACCEL_EXPIRES, number(&EXPIRES, second, |second| format!("@{second}")));
        }
    }
}

/// A number and its header: these change once a second, and are asked for many times in between.
type Memo = RefCell<(i64, HeaderValue)>;

thread_local! {
    static AGE: Memo = const { RefCell::new((-1, HeaderValue::from_static(""))) };
    static TTL: Memo = const { RefCell::new((-1, HeaderValue::from_static(""))) };
    static TTL_STORED: Memo = const { RefCell::new((-1, HeaderValue::from_static(""))) };
    static EXPIRES: Memo = const { RefCell::new((-1, HeaderValue::from_static(""))) };
}

fn number(memo: &'static LocalKey<Memo>, number: i64, text: impl FnOnce(i64) -> String) -> HeaderValue {
    memo.with_borrow_mut(|(known, header)| {
        if *known != number {
            *header = HeaderValue::from_maybe_shared(bytes::Bytes::from(text(number))).expect("letters and digits");
            *known = number;
        }
        header.clone()
    })
}

/// `If-None-Match` by weak comparison (RFC 9110, 13.1.2); any representation counts, for all hold the same content.
fn none_match<'a>(values: impl Iterator<Item = &'a HeaderValue>, etags: &[&HeaderValue]) -> bool {
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || etags.iter().any(|etag| *etag == tag))
}

/// Whether `Accept-Encoding` allows gzip (RFC 9110, 12.5.3).
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
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
    use std::sync::Arc;

    use super::*;
    use crate::entry::Entry;
    use crate::feed::Feed;
    use crate::kept::{Kept, Replacing};
    use crate::testing::TestViews;

    fn kept(entry: Entry) -> Kept {
        let feed = Feed::new(TestViews::new());
        Kept::new(entry, 0, &Replacing::begin(&feed, None), &feed)
    }

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
            let headers = headers(header::IF_NONE_MATCH, value);
            let etags = ["\"u-1\"", "\"u-1-gz\""].map(HeaderValue::from_static);
            let values = headers.get_all(header::IF_NONE_MATCH);
            assert_eq!(none_match(values.iter(), &[&etags[0], &etags[1]]), matches, "{value}");
        }
    }

    #[test]
    fn nginx_keeps_an_answer_for_the_second_in_which_it_was_known_to_be_true_and_no_longer() {
        let at = |text: &str| text.parse::<Timestamp>().expect("an instant");
        let kept_for = |known: &str, now: &str, until: Option<&str>| {
            let entry = Entry::new(vec![], at(known), until.map(at), "application/json", bytes::Bytes::new());
            let second = kept_until(&Served {
                entry: Arc::new(kept(entry)),
                source: Source::Memory,
                now: at(now),
                known_at: Some(at(known)),
            })?;
            // Nginx serves it while its clock shows that second or an earlier one.
            let end = Timestamp::from_second(second + 1).expect("an instant");
            assert!(end.duration_since(at(known)) <= jiff::SignedDuration::from_secs(1), "older than a second in all");
            assert!(until.is_none_or(|until| end <= at(until)), "served beyond its own end");
            Some(end)
        };
        let (early, late) = ("2026-03-10T12:00:00.010Z", "2026-03-10T12:00:00.950Z");
        let next = at("2026-03-10T12:00:01Z");
        assert_eq!(kept_for(early, late, None), Some(next));
        assert_eq!(kept_for(late, late, Some("2026-03-10T12:00:05.5Z")), Some(next));
        assert_eq!(kept_for(late, late, Some("2026-03-10T12:00:01Z")), Some(next));
        assert_eq!(kept_for(early, late, Some("2026-03-10T12:00:00.99Z")), None);
        // Known in a second that is over.
        assert_eq!(kept_for(late, "2026-03-10T12:00:01.001Z", None), None);
        assert_eq!(kept_for("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.6Z", None), Some(at("1970-01-01T00:00:00Z")));
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
