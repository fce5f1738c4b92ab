//! A document: its content is stored once, named by its SHA-256; this stream says what it is. Never overwritten.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::events::event_names;
use crate::fault::{optional_date, text};
use crate::{
    Aggregate, AggregateKind, Decide, DocumentId, Fact, Fault, LeaseId, Moment, RefusalClass, Refused, Sha256, bridge,
    today_in,
};

/// The largest document, bytes.
pub const DOCUMENT_SIZE_MAX: u64 = 50 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    LeaseAgreement,
    Identity,
    Insurance,
    Inspection,
    Notice,
    ProofOfService,
    Evidence,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDocument {
    pub document_id: DocumentId,
    pub kind: DocumentKind,
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// As the sender says.
    pub sha256: Sha256,
    /// As computed from the bytes received; a fact.
    pub computed_sha256: Sha256,
    pub lease_id: Option<LeaseId>,
    pub expires_on: Option<Date>,
    pub supersedes: Option<DocumentId>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DocumentCommand {
    StoreDocument(NewDocument),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DocumentEvent {
    DocumentStored {
        document_id: DocumentId,
        kind: DocumentKind,
        media_type: String,
        size: u64,
        sha256: Sha256,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_id: Option<LeaseId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_on: Option<Date>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        supersedes: Option<DocumentId>,
    },
}

event_names!(DocumentEvent: DocumentStored);

impl Fact for DocumentEvent {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
    #[error("the content received does not have the hash given")]
    HashMismatch { given: Sha256, computed: Sha256 },
    #[error("this document is stored already, with other content")]
    DocumentExists { sha256: Sha256 },
}

impl From<Fault> for DocumentError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl Refused for DocumentError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
            Self::HashMismatch { .. } => "DOCUMENT_HASH_MISMATCH",
            Self::DocumentExists { .. } => "DOCUMENT_EXISTS",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
            Self::HashMismatch { .. } | Self::DocumentExists { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Invalid { .. } => Value::Null,
            Self::HashMismatch { given, computed } => json!({ "given": given, "computed": computed }),
            Self::DocumentExists { sha256 } => json!({ "sha256": sha256 }),
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } => Some(pointer),
            Self::HashMismatch { .. } => Some("/sha256"),
            Self::DocumentExists { .. } => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    stored: Option<(Sha256, u64)>,
}

impl Document {
    /// What `LeaseCommand::SendForSignature` needs as a fact.
    pub fn sha256(&self) -> Option<Sha256> {
        self.stored.map(|(sha256, _)| sha256)
    }
}

impl Decide for Document {
    const KIND: AggregateKind = AggregateKind::Document;

    fn decide(&self, command: &DocumentCommand, _: &Moment) -> Result<Vec<DocumentEvent>, DocumentError> {
        let DocumentCommand::StoreDocument(new) = command;
        text("/media_type", &new.media_type, 100)?;
        if !new.media_type.is_ascii() || new.media_type.split('/').filter(|part| !part.is_empty()).count() != 2 {
            return Err(Fault::new("/media_type", "must be a media type, e.g. application/pdf").into());
        }
        if !(1..=DOCUMENT_SIZE_MAX).contains(&new.size) {
            return Err(Fault::new("/size", format!("must be from 1 to {DOCUMENT_SIZE_MAX} bytes")).into());
        }
        optional_date("/expires_on", new.expires_on)?;
        if new.supersedes == Some(new.document_id) {
            return Err(Fault::new("/supersedes", "must be another document").into());
        }
        if new.sha256 != new.computed_sha256 {
            return Err(DocumentError::HashMismatch { given: new.sha256, computed: new.computed_sha256 });
        }
        match self.stored {
            Some((sha256, size)) if (sha256, size) == (new.sha256, new.size) => Ok(Vec::new()),
            Some((sha256, _)) => Err(DocumentError::DocumentExists { sha256 }),
            None => Ok(vec![DocumentEvent::DocumentStored {
                document_id: new.document_id,
                kind: new.kind,
                media_type: new.media_type.clone(),
                size: new.size,
                sha256: new.sha256,
                lease_id: new.lease_id,
                expires_on: new.expires_on,
                supersedes: new.supersedes,
            }]),
        }
    }

    fn effective_on(&self, _: &DocumentEvent, at: &Moment) -> Date {
        today_in("UTC", at.now)
    }
}

impl Aggregate for Document {
    const TYPE: &'static str = "document";
    type Command = DocumentCommand;
    type Event = DocumentEvent;
    type Error = DocumentError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: DocumentEvent) {
        let DocumentEvent::DocumentStored { sha256, size, .. } = event;
        self.stored = Some((sha256, size));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::given;

    fn new(content: &[u8]) -> NewDocument {
        NewDocument {
            document_id: DocumentId(Uuid::from_u128(1)),
            kind: DocumentKind::LeaseAgreement,
            media_type: "application/pdf".into(),
            size: content.len() as u64,
            sha256: Sha256::of(content),
            computed_sha256: Sha256::of(content),
            lease_id: None,
            expires_on: None,
            supersedes: None,
        }
    }

    fn store(new: NewDocument) -> DocumentCommand {
        DocumentCommand::StoreDocument(new)
    }

    #[test]
    fn content_with_another_hash_is_refused() {
        let tampered = NewDocument { computed_sha256: Sha256::of(b"other"), ..new(b"lease") };
        given::<Document>([]).when(store(tampered)).then_refused("DOCUMENT_HASH_MISMATCH");
    }

    #[test]
    fn a_document_is_never_overwritten() {
        let stored = || given::<Document>([]).when(store(new(b"lease"))).accepted();
        stored().when(store(new(b"leasf"))).then_refused("DOCUMENT_EXISTS");
        stored().when(store(new(b"lease"))).then_nothing();
    }

    #[test]
    fn malformed_documents_are_refused() {
        for faulty in [
            NewDocument { media_type: "pdf".into(), ..new(b"x") },
            NewDocument { size: DOCUMENT_SIZE_MAX + 1, ..new(b"x") },
            NewDocument { size: 0, ..new(b"x") },
            NewDocument { supersedes: Some(DocumentId(Uuid::from_u128(1))), ..new(b"x") },
        ] {
            given::<Document>([]).when(store(faulty)).then_refused("VALIDATION_FAILED");
        }
    }
}
