//! Whose data a caller sees: the staff by role, a tenant their own, and what is foreign does not exist.

use axum::http::StatusCode;
use bytes::Bytes;
use domain::auth::Role;
use domain::finances::LedgerEvent;
use domain::legal::{DocumentEvent, LeaseEvent, PartyEvent};
use domain::reports::ReportEvent;
use domain::{AggregateKind, DomainEvent};
use ports::Artifacts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::Stage;

const BERTA: Uuid = Uuid::from_u128(21);
const CARLO: Uuid = Uuid::from_u128(22);

/// The lease, ledger and document of a tenant have the tenant's number plus a hundred, two hundred …
fn of(tenant: Uuid, hundreds: u128) -> Uuid {
    Uuid::from_u128(tenant.as_u128() + 100 * hundreds)
}

async fn tell<E: DomainEvent + Serialize + DeserializeOwned>(
    stage: &Stage,
    kind: AggregateKind,
    id: Uuid,
    sequence: u64,
    event: Value,
) {
    let event: E = serde_json::from_value(event).expect("an event");
    stage.happened(kind, id, sequence, &event).await;
}

async fn moves_in(stage: &Stage, tenant: Uuid) {
    let (lease, document, unit) = (of(tenant, 1), of(tenant, 2), of(tenant, 3));
    let person = json!({"PartyRegistered": {"party_id": tenant, "kind": "person", "roles": ["tenant"], "personal": {
        "names": {"full": "Berta Bauer"}, "emails": ["berta@example.org"], "phones": ["+51 1 234567"]}}});
    tell::<PartyEvent>(stage, AggregateKind::Party, tenant, 1, person).await;
    let terms = json!({"unit_id": unit, "tenants": [{"party_id": tenant}], "start_date": "2026-01-01",
        "term_type": "periodic", "rent": {"money": {"amount": 100_000, "currency": "USD"}, "frequency": "monthly", "due_day": 1}});
    let place =
        json!({"property_id": Uuid::from_u128(1), "time_zone": "America/Lima", "currency": "USD", "jurisdiction": "PE"});
    let drafted = json!({"LeaseDrafted": {"lease_id": lease, "terms": terms, "place": place}});
    tell::<LeaseEvent>(stage, AggregateKind::Lease, lease, 1, drafted).await;
    let bytes = Bytes::from(format!("the lease of {tenant}"));
    let sha256 = stage.shelf.put(bytes.clone()).await.expect("stored");
    let stored = json!({"DocumentStored": {"document_id": document, "kind": "lease_agreement", "media_type": "application/pdf",
        "size": bytes.len(), "sha256": sha256, "lease_id": lease}});
    tell::<DocumentEvent>(stage, AggregateKind::Document, document, 1, stored).await;
    let opened = json!({"LedgerOpened": {"lease_id": lease, "property_id": Uuid::from_u128(1), "unit_id": unit,
        "tenants": [tenant], "currency": "USD", "time_zone": "America/Lima", "late_fee_policy": null,
        "allocation_policy": "oldest", "opened_on": "2026-01-01"}});
    tell::<LedgerEvent>(stage, AggregateKind::Ledger, lease, 1, opened).await;
}

async fn with_two_tenants() -> Stage {
    let stage = Stage::new().await;
    moves_in(&stage, BERTA).await;
    moves_in(&stage, CARLO).await;
    stage
}

/// Paths about one tenant's things.
fn paths(tenant: Uuid) -> Vec<String> {
    let (lease, document) = (of(tenant, 1), of(tenant, 2));
    vec![
        format!("/parties/{tenant}"),
        format!("/leases/{lease}"),
        format!("/leases?party_id={tenant}"),
        format!("/documents/{document}"),
        format!("/documents/{document}/content"),
        format!("/ledgers/{lease}"),
        format!("/ledgers/{lease}/statement?as_of=2026-02-01"),
        format!("/ledgers/{lease}/entries"),
        format!("/ledgers/{lease}/charges"),
        format!("/ledgers/{lease}/payments"),
    ]
}

#[tokio::test]
async fn a_tenant_sees_their_own_and_what_is_foreign_does_not_exist() {
    let stage = with_two_tenants().await;
    let berta = stage.login(&[Role::Tenant], Some(BERTA));
    let nobody = stage.login(&[Role::Tenant], None);
    for (own, foreign) in paths(BERTA).into_iter().zip(paths(CARLO)) {
        assert_eq!(stage.get_as(&berta, &own).await.status, StatusCode::OK, "{own}");
        // The staff has read it before, so that it is cached: the rule is not in the cache.
        let admin = stage.login(&[Role::Admin], None);
        assert_eq!(stage.get_as(&admin, &foreign).await.status, StatusCode::OK, "{foreign}");
        assert_eq!(stage.get_as(&berta, &foreign).await.status, StatusCode::NOT_FOUND, "{foreign}");
        assert_eq!(stage.get_as(&nobody, &own).await.status, StatusCode::NOT_FOUND, "{own}");
    }
    for path in ["/leases", "/parties"] {
        let list = stage.get_as(&berta, path).await.json();
        assert_eq!(list["data"].as_array().expect("a list").len(), 1, "{path}");
    }
    for path in ["/processes", "/reports", "/users", "/units", "/properties"] {
        assert_eq!(stage.get_as(&berta, path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn people_are_masked_by_role_and_never_cached() {
    let stage = with_two_tenants().await;
    let path = format!("/parties/{BERTA}");
    for (role, is_masked) in
        [(Role::Admin, false), (Role::Finance, true), (Role::Legal, false), (Role::Units, true), (Role::Auditor, true)]
    {
        let token = stage.login(&[role], None);
        let answer = stage.get_as(&token, &path).await;
        assert_eq!((answer.status, &answer.json()["masked"]), (StatusCode::OK, &is_masked.into()), "{role}");
        assert_eq!(answer.json()["emails"][0] == json!("berta@example.org"), !is_masked, "{role}");
        assert_eq!(stage.get_as(&token, &path).await.header("x-cache"), "MISS", "{role}");
    }
    let legal = stage.login(&[Role::Legal], None);
    stage.get_as(&legal, "/parties").await;
    assert!(!stage.cached().iter().any(|key| key.contains("party_card")), "{:?}", stage.cached());
}

#[tokio::test]
async fn contents_are_downloads_with_their_hash_as_tag() {
    let stage = with_two_tenants().await;
    let admin = stage.login(&[Role::Admin], None);
    let path = format!("/documents/{}/content", of(BERTA, 2));
    let content = stage.get_as(&admin, &path).await;
    assert_eq!(content.bytes, format!("the lease of {BERTA}"));
    assert_eq!(content.header("content-type"), "application/pdf");
    assert!(content.header("content-disposition").starts_with("attachment; "));
    assert_eq!(content.header("etag"), format!("\"{}\"", domain::Sha256::of(&content.bytes)));
}

#[tokio::test]
async fn a_report_is_seen_by_those_whose_kind_it_is_and_downloaded_once_it_is_finished() {
    let stage = Stage::new().await;
    let report = Uuid::from_u128(7);
    let requested = json!({"ReportRequested": {"report_id": report, "kind": "ledger_statement", "queue": "high_priority",
        "params": {}, "format": "csv", "positions": {"finances": 3}, "as_of": "2026-02-28", "requested_by": Uuid::from_u128(5)}});
    tell::<ReportEvent>(&stage, AggregateKind::Report, report, 1, requested).await;
    let finance = stage.login(&[Role::Finance], None);
    let legal = stage.login(&[Role::Legal], None);
    let path = format!("/reports/{report}");
    assert_eq!(stage.get_as(&finance, &path).await.json()["status"], "queued");
    assert_eq!(stage.get_as(&legal, &path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(stage.get_as(&legal, "/reports").await.json()["data"], json!([]));
    assert_eq!(stage.get_as(&finance, "/reports").await.json()["data"].as_array().expect("a list").len(), 1);
    let early = stage.get_as(&finance, &format!("{path}/result")).await;
    assert_eq!((early.status, &early.json()["code"]), (StatusCode::CONFLICT, &"INVALID_STATE".into()));
    let bytes = Bytes::from_static(b"lease,balance\n");
    let sha256 = stage.shelf.put(bytes.clone()).await.expect("stored");
    let completed = json!({"ReportCompleted": {"attempt": 1, "sha256": sha256, "size": bytes.len(),
        "media_type": "text/csv; charset=utf-8"}});
    tell::<ReportEvent>(&stage, AggregateKind::Report, report, 2, completed).await;
    let result = stage.get_as(&finance, &format!("{path}/result")).await;
    assert_eq!((result.status, result.bytes.clone()), (StatusCode::OK, bytes));
    assert_eq!(result.header("content-disposition"), "attachment; filename=\"ledger_statement-2026-02-28.csv\"");
    let unchanged = stage.get_as_with(&finance, &format!("{path}/result"), "if-none-match", result.header("etag")).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    assert_eq!(stage.get_as(&legal, &format!("{path}/result")).await.status, StatusCode::NOT_FOUND);
}
