use std::collections::BTreeSet;

use domain::auth::{PasswordHash, Role, UserDetails, UserEvent, UserStatus};
use domain::{AggregateKind, Personal, UserId};
use uuid::Uuid;

use super::{SPEC, Users, UsersFilter, user, users};
use crate::PageRequest;
use crate::testing::{Shelf, instant, recorded};

const NOON: &str = "2025-01-01T12:00:00Z";

fn id(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

fn registered(user_id: UserId, username: &str, role: Role) -> UserEvent {
    UserEvent::UserRegistered {
        user_id,
        username: username.into(),
        roles: BTreeSet::from([role]),
        party_id: None,
        personal: Personal::from(UserDetails { email: "secret@example.org".into(), name: "Secret Name".into() }),
        password_hash: Some(PasswordHash::new("$argon2id$secret")),
        demo: false,
    }
}

fn fold(shelf: &mut Shelf, user_id: UserId, events: &[UserEvent]) {
    let events: Vec<_> =
        (1..).zip(events).map(|(sequence, event)| recorded(AggregateKind::User, user_id, sequence, NOON, event)).collect();
    shelf.fold(&Users, &events);
}

#[tokio::test]
async fn no_row_holds_personal_data_or_a_password_hash() {
    let mut shelf = Shelf::default();
    fold(&mut shelf, id(1), &[registered(id(1), "ana", Role::Units)]);
    let doc = shelf.doc(SPEC.name, id(1)).expect("a row").to_string().to_lowercase();
    assert!(!doc.contains("secret"), "{doc}");
}

#[tokio::test]
async fn a_lock_is_shown_until_it_ends() {
    let mut shelf = Shelf::default();
    let locked = UserEvent::UserLocked { until: instant("2025-01-01T12:15:00Z") };
    fold(&mut shelf, id(1), &[registered(id(1), "ana", Role::Units), UserEvent::LoginFailed { failures: 10 }, locked]);
    let during = user(&mut shelf, id(1), instant("2025-01-01T12:14:59Z")).await.expect("an answer");
    assert_eq!(during.valid_until, Some(instant("2025-01-01T12:15:00Z")));
    assert_eq!(during.value.and_then(|user| user.locked_until), during.valid_until);
    let after = user(&mut shelf, id(1), instant("2025-01-01T12:15:00Z")).await.expect("an answer");
    assert_eq!((after.value.and_then(|user| user.locked_until), after.valid_until), (None, None));
}

#[tokio::test]
async fn status_roles_and_epoch_follow_the_events() {
    let mut shelf = Shelf::default();
    let granted = UserEvent::RoleGranted { role: Role::Legal, property_ids: None };
    let changed = UserEvent::PasswordChanged { password_hash: PasswordHash::new("$argon2id$other") };
    let revoked = UserEvent::RoleRevoked { role: Role::Units };
    let events = [registered(id(1), "ana", Role::Units), granted, revoked, changed, UserEvent::UserDeactivated {}];
    fold(&mut shelf, id(1), &events);
    let seen = user(&mut shelf, id(1), instant(NOON)).await.expect("an answer").value.expect("a user");
    assert_eq!((seen.status, seen.epoch), (UserStatus::Deactivated, 2));
    assert_eq!(seen.roles.iter().map(|role| role.role).collect::<Vec<_>>(), [Role::Legal]);
}

#[tokio::test]
async fn users_are_listed_by_name_and_filtered() {
    let mut shelf = Shelf::default();
    fold(&mut shelf, id(1), &[registered(id(1), "zoe", Role::Units)]);
    fold(&mut shelf, id(2), &[registered(id(2), "ana", Role::Admin), UserEvent::UserDeactivated {}]);
    let any = UsersFilter::default;
    let cases: Vec<(UsersFilter, &[&str])> = vec![
        (any(), &["ana", "zoe"]),
        (UsersFilter { role: Some(Role::Admin), ..any() }, &["ana"]),
        (UsersFilter { status: Some(UserStatus::Active), ..any() }, &["zoe"]),
    ];
    for (filter, expected) in cases {
        let answer = users(&mut shelf, &filter, &PageRequest::default(), instant(NOON)).await.expect("an answer");
        let names: Vec<_> = answer.value.data.into_iter().map(|user| user.username).collect();
        assert_eq!(names, expected, "{filter:?}");
    }
}
