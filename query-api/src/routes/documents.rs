//! Documents and their contents.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use domain::DocumentId;
use read_models::documents::{self, DocumentOut};
use uuid::Uuid;
use web::{Allowed, Own, Path, Problem, QueryProblems, ReadLeases};

use super::leases::concerns;
use crate::QueryApi;
use crate::download::{Download, download};
use crate::query::query;
use crate::reader::Served;
use crate::respond::{Asked, Audience, respond};

query! {
    DocumentById { document_id: DocumentId }
    as "one", Shared, reads [documents::SPEC],
    found(this, snapshot, now) documents::document(snapshot, this.document_id)
}

/// A tenant sees the documents of their own leases.
async fn find(
    api: &QueryApi,
    caller: &Allowed<ReadLeases>,
    asked: &Asked,
    document_id: Uuid,
) -> Result<(Served, Arc<DocumentOut>), Problem> {
    let served = api.find(DocumentById { document_id: DocumentId(document_id) }, asked, "document").await?;
    let document = served.entry.value::<DocumentOut>()?;
    if let Own::Party(own) = caller.own()? {
        let is_own = match document.lease_id {
            Some(lease_id) => concerns(api, asked, lease_id, own).await?,
            None => false,
        };
        if !is_own {
            return Err(Problem::not_found("document"));
        }
    }
    Ok((served, document))
}

/// What a document is.
#[utoipa::path(get, path = "/documents/{document_id}", tag = "legal", params(("document_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, body = DocumentOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_document(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLeases>,
    asked: Asked,
    Path(document_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let (served, _) = find(&api, &caller, &asked, document_id).await?;
    Ok(respond(&served, &asked, Audience::Private))
}

/// A document's bytes, as they were stored.
#[utoipa::path(get, path = "/documents/{document_id}/content", tag = "legal", params(("document_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, description = "the bytes, in the media type they were stored with", body = Vec<u8>,
        content_type = "application/octet-stream"),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_content(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLeases>,
    asked: Asked,
    Path(document_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let (_, document) = find(&api, &caller, &asked, document_id).await?;
    let name = document.document_id.to_string();
    let sha256 = document.sha256.to_string();
    let what = Download { sha256: &sha256, media_type: &document.media_type, file_name: &name, what: "document" };
    download(&api, &asked, what).await
}
