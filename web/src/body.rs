//! Extractors that refuse with a problem naming the field.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::Problem;

/// A JSON body. Unknown fields are refused when the type denies them; the pointer names the field at fault.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = is_json(request.headers());
        let bytes = read(request, state).await?;
        parse(json, &bytes).map(Self)
    }
}

/// An empty body, with or without a content type, counts as `None`.
impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let json = is_json(request.headers());
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        parse(json, &bytes).map(|value| Some(Self(value)))
    }
}

/// Whether the body is said to be JSON.
pub fn is_json(headers: &axum::http::HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| unreadable(rejection.status()))
}

/// Why a body could not be read, from the status of axum's rejection.
pub fn unreadable(status: StatusCode) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(status, "PAYLOAD_TOO_LARGE", "the body is larger than this route accepts")
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", "the body could not be read"),
    }
}

/// A body that was read, and whether it is said to be JSON.
pub fn parse<T: DeserializeOwned>(json: bool, bytes: &[u8]) -> Result<T, Problem> {
    if !json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "send the body as content-type: application/json",
        ));
    }
    // serde would fill a struct from a list of its fields' values, in their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::validation("", "the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer_of(error.path());
        let inner = error.inner();
        let detail = match inner.classify() {
            serde_json::error::Category::Data => without_place(&inner.to_string()),
            _ => format!("the body is not JSON: {inner}"),
        };
        Problem::validation(pointer, detail)
    })?;
    deserializer.end().map_err(|error| Problem::validation("", format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// A serde path as a JSON pointer.
fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// serde_json appends " at line 1 column 2"; the pointer says it better.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Path parameters; an id that is not a UUID is 400 with `/path/<name>`.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state).await.map(|axum::extract::Path(value)| Self(value)).map_err(
            |rejection| match rejection {
                PathRejection::FailedToDeserializePathParams(error) => {
                    Problem::validation("/path", format!("the path is not valid: {}", error.body_text()))
                }
                other => Problem::validation("/path", other.body_text()),
            },
        )
    }
}

/// Query parameters; unknown ones are refused when the type denies them.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state).await.map(|axum::extract::Query(value)| Self(value)).map_err(
            |rejection| match rejection {
                QueryRejection::FailedToDeserializeQueryString(error) => {
                    let text = error.body_text();
                    let detail = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                    let pointer = match detail.split_once(": ") {
                        Some((name, _)) if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                            format!("/query/{name}")
                        }
                        _ => "/query".to_owned(),
                    };
                    Problem::validation(pointer, detail.to_owned())
                }
                other => Problem::validation("/query", other.body_text()),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rent {
        #[allow(dead_code)]
        lines: Vec<domain::Money>,
    }

    fn pointer(body: &str) -> String {
        parse::<Rent>(true, body.as_bytes()).expect_err("refused").errors[0].pointer.clone()
    }

    #[test]
    fn a_wrong_type_is_pointed_at() {
        assert_eq!(
            pointer(r#"{"lines":[{"amount":1,"currency":"USD"},{"amount":1.5,"currency":"USD"}]}"#),
            "/lines/1/amount"
        );
    }

    #[test]
    fn an_unknown_field_is_pointed_at() {
        assert_eq!(pointer(r#"{"lines":[],"x":1}"#), "/x");
    }

    #[test]
    fn a_list_is_no_struct() {
        assert_eq!(parse::<Rent>(true, b" [[]]").expect_err("refused").code, "VALIDATION_FAILED");
    }

    #[test]
    fn broken_json_and_trailing_text_are_refused() {
        assert_eq!(parse::<Rent>(true, b"{").expect_err("refused").code, "VALIDATION_FAILED");
        assert_eq!(parse::<Rent>(true, b"{\"lines\":[]} x").expect_err("refused").code, "VALIDATION_FAILED");
    }
}
