//! Read-your-writes tokens: `Casitas-Position` on command answers, `Casitas-Min-Position` on reads.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use domain::Context;
use uuid::Uuid;

use crate::Problem;

/// `units:10423` or, with the log's incarnation, `units:10423@019…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionToken {
    pub context: Context,
    pub position: u64,
    pub incarnation: Option<Uuid>,
}

impl fmt::Display for PositionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.context, self.position)?;
        match self.incarnation {
            Some(incarnation) => write!(f, "@{incarnation}"),
            None => Ok(()),
        }
    }
}

impl FromStr for PositionToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (context, rest) = text.trim().split_once(':').ok_or(())?;
        let (position, incarnation) = match rest.split_once('@') {
            Some((position, incarnation)) => (position, Some(incarnation.parse().map_err(|_| ())?)),
            None => (rest, None),
        };
        Ok(Self { context: context.parse().map_err(|_| ())?, position: position.parse().map_err(|_| ())?, incarnation })
    }
}

/// The header value of a command's answer.
pub fn position_header(tokens: &[PositionToken]) -> Option<HeaderValue> {
    let text: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    (!text.is_empty()).then(|| HeaderValue::from_str(&text.join(", ")).ok()).flatten()
}

/// What a read must have seen at least, and how long it may wait for that: a little less than the client would wait for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinPosition {
    pub tokens: Vec<PositionToken>,
    pub wait: Duration,
}

const MIN_POSITION: &str = "casitas-min-position";
const WAIT_DEFAULT: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// What remains of the wait for making the answer, or for saying that there is none yet.
const TOLD_WITHIN: Duration = Duration::from_millis(100);

impl<S: Send + Sync> FromRequestParts<S> for MinPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut tokens = Vec::new();
        for value in parts.headers.get_all(MIN_POSITION) {
            for part in value.to_str().unwrap_or("?").split(',').filter(|part| !part.trim().is_empty()) {
                let token = part.parse().map_err(|()| {
                    Problem::validation("/header/casitas-min-position", "a position as commands answer it, e.g. units:10423")
                })?;
                tokens.push(token);
            }
        }
        Ok(Self { tokens, wait: preferred_wait(&parts.headers).saturating_sub(TOLD_WITHIN) })
    }
}

/// How long a client waits for an answer because of a position; not at all without one.
pub(crate) fn patience(headers: &HeaderMap) -> Duration {
    match headers.contains_key(MIN_POSITION) {
        true => preferred_wait(headers),
        false => Duration::ZERO,
    }
}

/// `Prefer: wait=N` (RFC 7240), seconds.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|part| part.trim().strip_prefix("wait=")?.parse().ok().map(Duration::from_secs))
        .map_or(WAIT_DEFAULT, |wait| wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_is_waited_for_and_no_longer_than_the_client_would() {
        for (position, prefer, seconds) in [
            (None, Some("wait=5"), 0),
            (Some("units:7"), None, 2),
            (Some("units:7"), Some("wait=0"), 0),
            (Some("units:7"), Some("respond-async, wait=5"), 5),
            (Some("units:7"), Some("wait=60"), 10),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(MIN_POSITION, position), ("prefer", prefer)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(patience(&headers), Duration::from_secs(seconds), "{position:?} {prefer:?}");
        }
    }

    #[test]
    fn a_token_reads_back_as_written_and_others_are_refused() {
        for text in ["units:10423", "legal:1@019b2f6e-7c1a-7e53-9d44-1f0c5a7b2e10"] {
            assert_eq!(text.parse::<PositionToken>().map(|token| token.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "units", "units:", "units:x", "units:-1", "moon:1", "units:1@x"] {
            assert_eq!(text.parse::<PositionToken>(), Err(()), "{text}");
        }
    }
}
