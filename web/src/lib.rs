//! The HTTP kit: problem+json, extractors that refuse with problems, access rules as types, tokens, read-your-writes positions.
//!
//! Must not know: any aggregate's rules (only the role matrix), any driver, the environment.

mod access;
mod body;
mod headers;
mod layers;
mod position;
mod problem;
mod responses;
mod token;

pub use access::{
    Allowed, Authenticator, EditUsers, FinanceReports, LegalReports, Need, Own, Principal, Principals, ReadAnyReport,
    ReadLeases, ReadLedgers, ReadParties, ReadProperties, ReadUsers, Rule, SignLeases, SignedIn, WriteLeases, WriteLedgers,
    WriteParties, WriteProperties, permits,
};
pub use body::{Json, Path, Query, is_json, parse, unreadable};
pub use headers::{IdempotencyKey, IfMatch};
pub use layers::{Front, Served, Shortcut, layer, not_found};
pub use position::{MinPosition, PositionToken, position_header};
pub use problem::{FieldError, Problem};
pub use responses::{CommandProblems, ProblemBody, PublicProblems, QueryProblems};
pub use token::{AccessClaims, TokenSigner, TokenVerifier};
