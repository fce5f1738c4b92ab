//! Request headers of commands.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::Problem;

/// The longest idempotency key.
const KEY_MAX: usize = 200;

/// `Idempotency-Key`, bare or as a quoted structured-field string (draft-ietf-httpapi-idempotency-key-header).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let refused =
            || Problem::validation("/header/idempotency-key", "1 to 200 visible ASCII characters, bare or in double quotes");
        let text = value.to_str().map_err(|_| refused())?.trim();
        let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        if bare.is_empty() || bare.len() > KEY_MAX || !bare.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(refused());
        }
        Ok(Self(Some(bare.to_owned())))
    }
}

/// `If-Match: "<version>"`: the version of the stream that the caller saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfMatch(pub Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(axum::http::header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        text.trim_matches('"')
            .parse()
            .map(|version| Self(Some(version)))
            .map_err(|_| Problem::validation("/header/if-match", "a version as commands answer it, e.g. \"3\""))
    }
}
