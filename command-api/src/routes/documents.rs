//! Documents, stored by the hash of their content.

use axum::extract::{DefaultBodyLimit, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use commands::step;
use domain::legal::{Document, DocumentCommand, DocumentKind, NewDocument};
use domain::{Date, DocumentId, LeaseId, Sha256};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use web::{CommandProblems, Problem, WriteLeases};

use crate::Api;
use crate::command::Command;
use crate::reply::{CommandOut, Reply};

/// The largest request that carries a document, in bytes (Nginx has the same).
const BODY_MAX_BYTES: usize = 20 * 1024 * 1024;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(store_document)).layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentIn {
    pub kind: DocumentKind,
    #[schema(example = "application/pdf")]
    pub media_type: String,
    /// SHA-256 of the content in lower-case hex; checked.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Sha256,
    /// Base64; the whole request is at most 20 MiB.
    pub content: String,
    #[serde(default)]
    pub lease_id: Option<Uuid>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Date)]
    pub expires_on: Option<Date>,
    #[serde(default)]
    pub supersedes: Option<Uuid>,
}

/// Store a document.
#[utoipa::path(post, path = "/documents", tag = "legal", request_body = DocumentIn, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn store_document(
    State(api): State<Api>,
    mut command: Command<WriteLeases, DocumentIn>,
) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let content = STANDARD
        .decode(body.content.as_bytes())
        .map_err(|_| Problem::validation("/content", "the content is not base64"))?;
    let computed = Sha256::of(&content);
    let size = content.len() as u64;
    // The bytes are durable before the event names them; bytes that no event names are only waste.
    if computed == body.sha256 {
        api.artifacts().put(Bytes::from(content)).await?;
    }
    let store = DocumentCommand::StoreDocument(NewDocument {
        document_id: DocumentId(id),
        kind: body.kind,
        media_type: body.media_type,
        size,
        sha256: body.sha256,
        computed_sha256: computed,
        lease_id: body.lease_id.map(LeaseId),
        expires_on: body.expires_on,
        supersedes: body.supersedes.map(DocumentId),
    });
    let executed = api.execute(&command.issue, vec![step::<Document>(id.to_string(), store)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/documents/{id}")))
}
