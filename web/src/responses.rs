//! The problems that routes document in OpenAPI, in groups.

use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// An RFC 9457 problem.
#[derive(Serialize, ToSchema)]
#[schema(title = "Problem")]
pub struct ProblemBody {
    pub r#type: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// Stable; what a program acts on.
    #[schema(example = "VALIDATION_FAILED")]
    pub code: String,
    pub trace_id: Option<String>,
    // Inline: a response's own schema is collected, but not what it refers to.
    #[schema(inline)]
    pub errors: Option<Vec<FieldProblem>>,
}

#[derive(Serialize, ToSchema)]
pub struct FieldProblem {
    /// JSON pointer into the body, or `/query/<name>`, `/path/<name>`, `/header/<name>`.
    pub pointer: String,
    pub detail: String,
}

macro_rules! problems {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $status:literal $description:literal,)* }) => {
        $(#[$doc])*
        #[derive(IntoResponses)]
        pub enum $name {$(
            #[response(status = $status, description = $description, content_type = "application/problem+json")]
            $variant(#[to_schema] ProblemBody),
        )*}
    };
}

problems! {
    /// What a public route may answer beside success.
    PublicProblems {
        Invalid 400 "the request is malformed: VALIDATION_FAILED with a pointer to each field",
        Unauthenticated 401 "wrong credentials or no valid token",
        NotFound 404 "no such route or thing",
        TooLarge 413 "the body is larger than 64 KiB",
        MediaType 415 "the body is not application/json",
        RateLimited 429 "too many requests; see Retry-After",
        Unavailable 503 "a server it needs is down or too much is waiting; see Retry-After",
    }
}

problems! {
    /// What a query may answer beside success.
    QueryProblems {
        Invalid 400 "a parameter is malformed: VALIDATION_FAILED with a pointer",
        Unauthenticated 401 "no valid token",
        Forbidden 403 "the caller's roles do not allow it",
        NotFound 404 "there is no such thing, or it is not the caller's to see",
        Conflict 409 "the position token is from another life of the log",
        RateLimited 429 "too many requests; see Retry-After",
        Unavailable 503 "the position was not reached in time or a server is down; see Retry-After",
    }
}

problems! {
    /// What a command may answer beside success.
    CommandProblems {
        Invalid 400 "the request is malformed: VALIDATION_FAILED with a pointer to each field",
        Unauthenticated 401 "no valid token",
        Forbidden 403 "the caller's roles do not allow it",
        NotFound 404 "there is no such thing",
        Conflict 409 "the state forbids it; `code` says why",
        Precondition 412 "If-Match named another version: VERSION_CONFLICT",
        TooLarge 413 "the body is larger than the route accepts",
        MediaType 415 "the body is not application/json",
        Policy 422 "an amount or policy forbids it, or the idempotency key was used with another body",
        RateLimited 429 "too many requests; see Retry-After",
        Unavailable 503 "a server it needs is down or too much is waiting; see Retry-After",
    }
}
