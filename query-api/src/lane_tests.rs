//! The shortcut for what the staff reads: the same bytes, and never past the rules.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use domain::auth::{PasswordHash, Role, UserDetails, UserEvent};
use domain::units::UnitEvent;
use domain::{AggregateKind, Personal, UserId};
use uuid::Uuid;

use crate::routes_tests::{unit, with_units_on};
use crate::stage::{Answer, Stage};

/// The router says how long an answer is; of the shortcut's hyper says it.
fn is_by_shortcut(answer: &Answer) -> bool {
    answer.header("content-length").is_empty()
}

fn calendar() -> String {
    format!("/units/{}/calendar", unit(1))
}

/// Asks until the address is known to the shortcut.
async fn known(stage: &Stage, token: &str, path: &str) -> Answer {
    assert_eq!(stage.get_as(token, path).await.header("x-cache"), "MISS", "{path}");
    assert_eq!(stage.get_as(token, path).await.header("x-cache"), "HIT", "{path}");
    let short = stage.get_as(token, path).await;
    assert!(is_by_shortcut(&short), "{path}");
    short
}

#[tokio::test]
async fn the_shortcut_answers_the_staff_as_the_route_does() {
    let stage = with_units_on(Stage::new().await, 3).await;
    let finance = stage.login(&[Role::Finance], None);
    for path in [calendar(), "/units?limit=2".into(), format!("/units/{}", unit(2)), "/properties".into()] {
        stage.get_as(&finance, &path).await;
        stage.get_as(&finance, &path).await;
        let short = stage.get_as(&finance, &path).await;
        // An empty list of positions asks for nothing, but only the route reads it.
        let long = stage.get_as_with(&finance, &path, "casitas-min-position", "").await;
        assert!(is_by_shortcut(&short) && !is_by_shortcut(&long), "{path}");
        let but_id = |answer: &Answer| {
            let mut headers = answer.headers.clone();
            headers.remove("x-request-id");
            headers.remove("content-length");
            headers
        };
        assert_eq!((short.status, &short.bytes, but_id(&short)), (long.status, &long.bytes, but_id(&long)), "{path}");
        assert_eq!(short.header("cache-control"), "private, no-cache");
        assert_eq!(short.header("x-accel-expires"), "");
        let etag = short.header("etag").to_owned();
        let unchanged = stage.get_as_with(&finance, &path, "if-none-match", &etag).await;
        assert_eq!((unchanged.status, unchanged.bytes.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
    }
}

#[tokio::test]
async fn the_shortcut_answers_nobody_whom_the_route_would_refuse() {
    let stage = with_units_on(Stage::new().await, 1).await;
    let finance = stage.login(&[Role::Finance], None);
    known(&stage, &finance, &calendar()).await;
    assert_eq!(stage.get(&calendar()).await.status, StatusCode::UNAUTHORIZED);
    let other_epoch = stage.token_of(Uuid::from_u128(77), 0);
    for forged in ["forged", &format!("{finance}x"), &other_epoch] {
        assert_eq!(stage.get_as(forged, &calendar()).await.status, StatusCode::UNAUTHORIZED, "{forged}");
    }
    let tenant = stage.login(&[Role::Tenant], Some(Uuid::from_u128(8)));
    assert_eq!(stage.get_as(&tenant, &calendar()).await.status, StatusCode::FORBIDDEN);
    let auditor = stage.login(&[Role::Auditor], None);
    let first = stage.get_as(&auditor, &calendar()).await;
    assert_eq!((first.status, is_by_shortcut(&first)), (StatusCode::OK, false), "a signature is checked on the route");
    let answer = stage.get_as(&auditor, &calendar()).await;
    assert_eq!((answer.status, is_by_shortcut(&answer)), (StatusCode::OK, true), "another who may");
}

#[tokio::test]
async fn what_the_staff_reads_is_never_outdated() {
    let stage = with_units_on(Stage::new().await, 1).await;
    let finance = stage.login(&[Role::Finance], None);
    let path = format!("/units/{}", unit(1));
    let listed = known(&stage, &finance, &path).await.json();
    stage.happened(AggregateKind::Unit, unit(1), 3, &UnitEvent::UnitUnlisted {}).await;
    let changed = stage.get_as(&finance, &path).await;
    assert_eq!((changed.header("x-cache"), changed.json()["version"].as_u64()), ("MISS", Some(3)));
    assert_ne!(changed.json(), listed);
}

async fn register(stage: &Stage, user: Uuid, role: Role) {
    let registered = UserEvent::UserRegistered {
        user_id: UserId(user),
        username: "ana".into(),
        roles: BTreeSet::from([role]),
        party_id: None,
        personal: Personal::from(UserDetails { email: "ana@example.org".into(), name: "Ana".into() }),
        password_hash: Some(PasswordHash::new("$argon2id$")),
        demo: false,
    };
    stage.happened(AggregateKind::User, user, 1, &registered).await;
}

#[tokio::test]
async fn what_the_feed_tells_of_a_user_counts_for_the_very_next_request() {
    let password_hash = PasswordHash::new("$argon2id$other");
    // What the token of then comes to, and one of the epoch that the event begins.
    for (event, old, new) in [
        (UserEvent::UserDeactivated {}, StatusCode::UNAUTHORIZED, Some(StatusCode::UNAUTHORIZED)),
        (UserEvent::PasswordChanged { password_hash }, StatusCode::UNAUTHORIZED, Some(StatusCode::OK)),
        (UserEvent::RoleRevoked { role: Role::Finance }, StatusCode::FORBIDDEN, None),
    ] {
        let stage = with_units_on(Stage::with_users_from_views().await, 1).await;
        let user = Uuid::from_u128(50);
        register(&stage, user, Role::Finance).await;
        let token = stage.token_of(user, 0);
        known(&stage, &token, &calendar()).await;
        stage.happened(AggregateKind::User, user, 2, &event).await;
        assert_eq!(stage.get_as(&token, &calendar()).await.status, old, "{event:?}");
        if let Some(new) = new {
            assert_eq!(stage.get_as(&stage.token_of(user, 1), &calendar()).await.status, new, "{event:?}");
        }
    }
}

#[tokio::test]
async fn the_token_of_an_epoch_that_the_view_does_not_know_yet_waits_for_it() {
    let stage = with_units_on(Stage::with_users_from_views().await, 1).await;
    let user = Uuid::from_u128(50);
    register(&stage, user, Role::Finance).await;
    known(&stage, &stage.token_of(user, 0), &calendar()).await;
    let changed = UserEvent::PasswordChanged { password_hash: PasswordHash::new("$argon2id$other") };
    let (token, path) = (stage.token_of(user, 1), calendar());
    // The first is asked for until it waits.
    let (answer, ()) = tokio::join!(stage.get_as(&token, &path), stage.happened(AggregateKind::User, user, 2, &changed));
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_feed_that_is_not_read_closes_the_shortcut_for_the_staff_too() {
    let stage = with_units_on(Stage::with_users_from_views().await, 1).await;
    let user = Uuid::from_u128(50);
    register(&stage, user, Role::Finance).await;
    let token = stage.token_of(user, 0);
    known(&stage, &token, &calendar()).await;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let blind = stage.get_as(&token, &calendar()).await;
    assert_eq!((blind.status, blind.header("cache-status")), (StatusCode::OK, "casitas; fwd=bypass"));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_compressed_for_the_first_who_asks_and_the_others_find_it_in_the_shared_cache() {
    let stage = with_units_on(Stage::new().await, 20).await;
    let (path, key) = ("/units/available?limit=20", "v:available_units:list?page.limit=20");
    stage.get(path).await;
    stage.put_count(1).await;
    assert_eq!(stage.is_packed(key), Some(false), "nobody has asked for it");
    for _ in 0..3 {
        assert_eq!(stage.get_with(path, &[("accept-encoding", "gzip")]).await.header("content-encoding"), "gzip");
    }
    stage.put_count(2).await;
    assert_eq!(stage.is_packed(key), Some(true));
    let packed = stage.get_with("/units/available?limit=19", &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    stage.put_count(3).await;
    assert_eq!(stage.is_packed("v:available_units:list?page.limit=19"), Some(true), "written once, with it");
}
