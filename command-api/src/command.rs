//! One extractor for every command: who, the body, and how it is issued.

use axum::extract::{FromRef, FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use commands::{Issue, Key};
use ports::Keep;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{Allowed, Authenticator, IdempotencyKey, IfMatch, Problem, Rule};

/// A caller that the rule allows, the body, and the issue built from the headers. An absent body counts as `{}`.
pub struct Command<R: Rule, B> {
    pub caller: Allowed<R>,
    pub body: B,
    pub issue: Issue,
}

/// For commands that say everything in their path.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoBody {}

impl<R: Rule, B: DeserializeOwned + Serialize> Command<R, B> {
    /// Has an id made here remembered with the idempotency key, so that a repetition is answered with the same id.
    pub fn remember(&mut self, id: Uuid) {
        self.issue.remember = json!({"id": id});
    }
}

impl<R, B, S> FromRequest<S> for Command<R, B>
where
    R: Rule,
    B: DeserializeOwned + Serialize,
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let caller = Allowed::<R>::from_request_parts(&mut parts, state).await?;
        let key = IdempotencyKey::from_request_parts(&mut parts, state).await?.0;
        let if_match = IfMatch::from_request_parts(&mut parts, state).await?.0;
        let scope = format!("{} {} {}", caller.actor(), parts.method, parts.uri.path());
        let mut issue = Issue::by(caller.actor());
        issue.if_match = if_match;
        issue.metadata.traceparent = parts
            .headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .filter(|text| text.len() <= 64)
            .map(Into::into);
        let absent = parts.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
            && parts.headers.get(header::TRANSFER_ENCODING).is_none()
            && parts.headers.get(header::CONTENT_TYPE).is_none();
        let mut sent = Bytes::new();
        let body: B = if absent {
            serde_json::from_value(json!({})).map_err(|error| Problem::validation("", error.to_string()))?
        } else {
            let json = web::is_json(&parts.headers);
            let read = Bytes::from_request(Request::from_parts(parts, body), state).await;
            sent = read.map_err(|rejection| web::unreadable(rejection.status()))?;
            web::parse(json, &sent)?
        };
        let canonical = serde_json::to_vec(&body)
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", "the body could not be read"))?;
        no_list_for_object(&sent, &canonical)?;
        if let Some(key) = key {
            let hash: String = Sha256::digest(&canonical).iter().map(|byte| format!("{byte:02x}")).collect();
            issue.key = Some(Key { scope, key, request_hash: hash, keep: Keep::Days30, settles: false });
        }
        Ok(Self { caller, body, issue })
    }
}

/// serde fills a struct from a list of its fields' values in their order (`"price": [100, "USD"]`); nobody means that. A list that
/// was taken for an object is an object in what was understood.
fn no_list_for_object(sent: &[u8], understood: &[u8]) -> Result<(), Problem> {
    let opened = Opened::by(sent);
    if opened.lists == 0 || opened == Opened::by(understood) {
        return Ok(());
    }
    let (Ok(sent), Ok(understood)) = (serde_json::from_slice(sent), serde_json::from_slice(understood)) else {
        return Ok(());
    };
    match list_for_object(&sent, &understood) {
        None => Ok(()),
        Some(pointer) => Err(Problem::validation(pointer, "a list where an object is expected")),
    }
}

/// How many lists and objects a JSON text has.
#[derive(Default, PartialEq, Eq)]
struct Opened {
    lists: usize,
    objects: usize,
}

impl Opened {
    fn by(json: &[u8]) -> Self {
        let mut opened = Self::default();
        let (mut in_string, mut escaped) = (false, false);
        for byte in json {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                b'[' if !in_string => opened.lists += 1,
                b'{' if !in_string => opened.objects += 1,
                _ => {}
            }
        }
        opened
    }
}

fn list_for_object(sent: &Value, parsed: &Value) -> Option<String> {
    match (sent, parsed) {
        (Value::Array(_), Value::Object(_)) => Some(String::new()),
        (Value::Object(sent), Value::Object(parsed)) => sent
            .iter()
            .find_map(|(name, value)| list_for_object(value, parsed.get(name)?).map(|rest| format!("/{name}{rest}"))),
        (Value::Array(sent), Value::Array(parsed)) => sent
            .iter()
            .zip(parsed)
            .enumerate()
            .find_map(|(index, (sent, parsed))| list_for_object(sent, parsed).map(|rest| format!("/{index}{rest}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::Money;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Rent {
        price: Money,
        lines: Vec<Money>,
        #[serde(default)]
        notes: Vec<String>,
    }

    fn refused(body: &str) -> Option<String> {
        let parsed: Rent = serde_json::from_str(body).expect("serde takes it");
        let understood = serde_json::to_vec(&parsed).expect("as it came");
        no_list_for_object(body.as_bytes(), &understood).err().map(|problem| problem.errors[0].pointer.clone())
    }

    #[test]
    fn a_list_of_an_objects_values_is_refused_with_its_pointer() {
        assert_eq!(refused(r#"{"price":{"amount":1,"currency":"USD"},"lines":[[1,"USD"]]}"#), Some("/lines/0".into()));
        assert_eq!(refused(r#"{"price":{"amount":1,"currency":"USD"},"lines":[{"amount":1,"currency":"USD"}]}"#), None);
        // As many lists as are understood, because one that is absent is understood as an empty one.
        assert_eq!(refused(r#"{"price":[100,"USD"],"lines":[],"notes":[]}"#), Some("/price".into()));
        assert_eq!(refused(r#"{"price":[100,"USD"],"lines":[]}"#), Some("/price".into()));
        assert_eq!(refused(r#"{"price":{"amount":1,"currency":"USD"},"lines":[],"notes":["[{\"\\"]}"#), None);
    }
}
