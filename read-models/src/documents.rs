//! `documents`: what each stored document is; its content is an artifact under its SHA-256.

use domain::legal::{DocumentEvent, DocumentKind};
use domain::{AggregateKind, Context, Date, DocumentId, LeaseId, Sha256, Timestamp};
use ports::{Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "documents",
    fold_version: 1,
    context: Context::Legal,
    fields: &[Field { name: "lease_id", kind: FieldKind::Text }],
};

pub struct Documents;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentOut {
    pub document_id: DocumentId,
    pub kind: DocumentKind,
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Name of the content.
    #[schema(value_type = String)]
    pub sha256: Sha256,
    pub lease_id: Option<LeaseId>,
    #[schema(value_type = Option<String>, format = Date)]
    pub expires_on: Option<Date>,
    pub supersedes: Option<DocumentId>,
    #[schema(value_type = String, format = DateTime)]
    pub stored_at: Timestamp,
}

impl Indexed for DocumentOut {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.lease_id.map(|id| id.to_string()).into()]
    }
}

impl ReadModel for Documents {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Document)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Document => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Document {
            return Ok(());
        }
        let DocumentEvent::DocumentStored { document_id, kind, media_type, size, sha256, lease_id, expires_on, supersedes } =
            event.decode()?;
        let stored_at = event.recorded_at;
        let row = DocumentOut { document_id, kind, media_type, size, sha256, lease_id, expires_on, supersedes, stored_at };
        rows.put(&event.stream.id, row)
    }
}

/// All documents, or those of a lease, in the order they were stored.
pub async fn documents(
    snapshot: &mut dyn ViewSnapshot,
    lease_id: Option<LeaseId>,
    page: &PageRequest,
) -> Result<Answer<Page<DocumentOut>>> {
    let filters = lease_id.map(|id| Filter::Eq("lease_id", id.to_string().into())).into_iter().collect();
    let place = |_: &DocumentOut| FieldValue::Null;
    let (value, valid_until) = scan(snapshot, &SPEC, filters, OrderBy::KEY, page, place, |row: &DocumentOut| Look {
        shown: Some(row.clone()),
        valid_until: None,
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One document; `None` when there is no such document.
pub async fn document(snapshot: &mut dyn ViewSnapshot, document_id: DocumentId) -> Result<Answer<Option<DocumentOut>>> {
    let key = document_id.to_string();
    let value = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value, tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

#[cfg(test)]
mod tests;
