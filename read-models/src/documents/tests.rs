use domain::legal::{Document, DocumentCommand, NewDocument};
use uuid::Uuid;

use super::*;
use crate::testing::stories::Story;

fn store(story: &mut Story, n: u128, lease: Option<u128>) {
    let document_id = DocumentId(Uuid::from_u128(n));
    let new = NewDocument {
        document_id,
        kind: DocumentKind::LeaseAgreement,
        media_type: "application/pdf".into(),
        size: 5,
        sha256: Sha256::of(b"lease"),
        computed_sha256: Sha256::of(b"lease"),
        lease_id: lease.map(|lease| LeaseId(Uuid::from_u128(lease))),
        expires_on: None,
        supersedes: None,
    };
    story.run::<Document>(document_id, "2025-01-10T12:00:00Z", DocumentCommand::StoreDocument(new));
}

#[tokio::test]
async fn documents_are_found_by_lease_and_by_id() {
    let mut story = Story::default();
    store(&mut story, 1, Some(9));
    store(&mut story, 2, None);
    let mut shelf = story.shelf(&[&Documents]);
    let page = PageRequest::default();
    assert_eq!(documents(&mut shelf, None, &page).await.expect("an answer").value.data.len(), 2);
    let of_lease = documents(&mut shelf, Some(LeaseId(Uuid::from_u128(9))), &page).await.expect("an answer").value.data;
    assert_eq!(of_lease.len(), 1);
    let found = document(&mut shelf, DocumentId(Uuid::from_u128(1))).await.expect("an answer").value;
    assert_eq!(found.as_ref(), of_lease.first());
    assert_eq!(document(&mut shelf, DocumentId(Uuid::from_u128(3))).await.expect("an answer").value, None);
}
