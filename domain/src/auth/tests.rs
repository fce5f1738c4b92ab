use std::collections::BTreeSet;

use uuid::Uuid;

use super::{
    LoginRefusal, PasswordHash, RegisterUser, Role, User, UserCommand, UserDetails, UserError, UserEvent, UserNameClaim,
    UserNameClaimCommand, UserNameClaimEvent, UserStatus, user_name,
};
use crate::testing::{given, instant};
use crate::{Aggregate, Fact, Personal, PropertyId, Refused, UserId};

const ANA: UserId = UserId(Uuid::from_u128(1));
const BOSS: UserId = UserId(Uuid::from_u128(2));

fn hash() -> PasswordHash {
    PasswordHash::new("$argon2id$one")
}

fn other_hash() -> PasswordHash {
    PasswordHash::new("$argon2id$two")
}

fn register(roles: &[Role], password_hash: Option<PasswordHash>) -> RegisterUser {
    RegisterUser {
        user_id: ANA,
        username: "ana".into(),
        roles: roles.iter().copied().collect(),
        party_id: None,
        personal: UserDetails { email: "ana@example.org".into(), name: "Ana".into() },
        password_hash,
        demo: false,
    }
}

fn registered_as(roles: &[Role], password_hash: Option<PasswordHash>) -> UserEvent {
    let RegisterUser { user_id, username, roles, party_id, personal, password_hash, demo } = register(roles, password_hash);
    UserEvent::UserRegistered { user_id, username, roles, party_id, personal: Personal::from(personal), password_hash, demo }
}

fn active(role: Role) -> UserEvent {
    registered_as(&[role], Some(hash()))
}

fn after(events: impl IntoIterator<Item = UserEvent>) -> User {
    let mut user = User::default();
    events.into_iter().for_each(|event| user.apply(event));
    user
}

mod registering {
    use super::*;

    #[test]
    fn a_user_who_was_never_registered_is_not_found() {
        for command in [
            UserCommand::ActivateUser { password_hash: hash() },
            UserCommand::ChangePassword { password_hash: hash() },
            UserCommand::RecordLoginSuccess,
            UserCommand::RecordLoginFailure,
            UserCommand::UnlockUser,
            UserCommand::GrantRole { role: Role::Units, property_ids: None, by: None },
            UserCommand::DeactivateUser { other_admins: 1 },
            UserCommand::ReactivateUser,
        ] {
            given::<User>([]).when(command).then_refused("NOT_FOUND");
        }
    }

    #[test]
    fn malformed_users_are_refused_with_a_pointer() {
        type Change = fn(&mut RegisterUser);
        let changes: [(&str, Change); 7] = [
            ("/username", |user| user.username = "an".into()),
            ("/username", |user| user.username = "Ana".into()),
            ("/username", |user| user.username = "ana maria".into()),
            ("/roles", |user| user.roles = BTreeSet::new()),
            ("/name", |user| user.personal.name = String::new()),
            ("/email", |user| user.personal.email = "ana".into()),
            ("/email", |user| user.personal.email = "a na@example.org".into()),
        ];
        for (pointer, change) in changes {
            let mut user = register(&[Role::Units], None);
            change(&mut user);
            let error = given::<User>([]).when(UserCommand::RegisterUser(user)).then_refused("VALIDATION_FAILED");
            assert_eq!(error.pointer(), Some(pointer));
        }
    }

    #[test]
    fn user_names_are_kept_in_lower_case() {
        for text in ["ab", "a b c", "ana@example", "ñandú", "", "../x"] {
            assert!(user_name(text).is_err(), "{text}");
        }
        assert!(user_name(&"x".repeat(65)).is_err());
        assert_eq!(user_name("Test_Admin").as_deref(), Ok("test_admin"));
        assert_eq!(user_name("a.b-c").as_deref(), Ok("a.b-c"));
    }

    #[test]
    fn a_registration_is_repeatable_though_hashes_are_salted() {
        let first = UserCommand::RegisterUser(register(&[Role::Units], Some(hash())));
        let again = UserCommand::RegisterUser(register(&[Role::Units], Some(other_hash())));
        given::<User>([]).when(first).then([active(Role::Units)]).when(again).then_nothing();
        let other = RegisterUser { username: "eva".into(), ..register(&[Role::Units], None) };
        given::<User>([active(Role::Units)]).when(UserCommand::RegisterUser(other)).then_refused("ALREADY_EXISTS");
    }

    #[test]
    fn the_personal_data_of_a_user_is_sealed_with_their_own_key() {
        assert_eq!(active(Role::Units).subject(), Some(format!("user:{ANA}")));
    }

    #[test]
    fn a_taken_user_name_is_refused_without_saying_whose_it_is() {
        let claim = |user_id| UserNameClaimCommand::ClaimUserName { user_id };
        given::<UserNameClaim>([])
            .when(claim(ANA))
            .then([UserNameClaimEvent::UserNameClaimed { user_id: ANA }])
            .when(claim(ANA))
            .then_nothing()
            .when(claim(BOSS))
            .then_refused("USERNAME_TAKEN");
    }

    #[test]
    fn an_invited_user_is_activated_once_and_cannot_log_in_before() {
        let invited = registered_as(&[Role::Units], None);
        let now = instant("2025-01-01T12:00:00Z");
        assert_eq!(after([invited.clone()]).can_log_in(now), Err(LoginRefusal::InvalidCredentials));
        assert_eq!(after([invited.clone()]).status(), Some(UserStatus::Invited));
        let activate = || UserCommand::ActivateUser { password_hash: hash() };
        given::<User>([invited])
            .when(activate())
            .then([UserEvent::UserActivated { password_hash: hash() }])
            .when(activate())
            .then_refused("INVALID_STATE");
    }
}

mod logging_in {
    use super::*;

    fn failed(failures: u32) -> UserEvent {
        UserEvent::LoginFailed { failures }
    }

    fn locked() -> UserEvent {
        UserEvent::UserLocked { until: instant("2025-01-01T12:15:00Z") }
    }

    /// Golden: the 10th failure locks, the right password then still gets ACCOUNT_LOCKED until 15 minutes on.
    #[test]
    fn the_tenth_failure_in_a_row_locks_for_a_quarter_of_an_hour() {
        let mut state = given::<User>([active(Role::Units)]);
        for count in 1..=9 {
            state = state.when(UserCommand::RecordLoginFailure).then([failed(count)]);
        }
        let state = state.when(UserCommand::RecordLoginFailure).then([failed(10), locked()]);
        let error = state.when(UserCommand::RecordLoginSuccess).then_refused("ACCOUNT_LOCKED");
        assert_eq!(error, UserError::Locked { until: instant("2025-01-01T12:15:00Z") });

        let user = after([active(Role::Units), locked()]);
        let refusal = user.can_log_in(instant("2025-01-01T12:14:59.999Z"));
        assert_eq!(refusal.map_err(LoginRefusal::code), Err("ACCOUNT_LOCKED"));
        assert_eq!(user.can_log_in(instant("2025-01-01T12:15:00Z")), Ok(()));
    }

    #[test]
    fn failures_during_a_lock_do_not_prolong_it() {
        given::<User>([active(Role::Units), locked()]).when(UserCommand::RecordLoginFailure).then_nothing();
        given::<User>([active(Role::Units), locked()])
            .at("2025-01-01T12:15:00Z")
            .when(UserCommand::RecordLoginFailure)
            .then([failed(1)]);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        given::<User>([active(Role::Units), failed(9)])
            .when(UserCommand::RecordLoginSuccess)
            .then([UserEvent::LoginSucceeded {}])
            .when(UserCommand::RecordLoginFailure)
            .then([failed(1)]);
    }

    #[test]
    fn an_unlocked_user_may_log_in_at_once() {
        given::<User>([active(Role::Units), locked()])
            .when(UserCommand::UnlockUser)
            .then([UserEvent::UserUnlocked {}])
            .when(UserCommand::RecordLoginSuccess)
            .accepted()
            .when(UserCommand::UnlockUser)
            .then_nothing();
    }

    #[test]
    fn nothing_is_recorded_for_a_deactivated_user() {
        let user = || [active(Role::Units), UserEvent::UserDeactivated {}];
        given::<User>(user()).when(UserCommand::RecordLoginFailure).then_nothing();
        given::<User>(user()).when(UserCommand::RecordLoginSuccess).then_refused("INVALID_STATE");
    }
}

mod changing {
    use super::*;

    fn revoke(role: Role, by: Option<UserId>, other_admins: u32) -> UserCommand {
        UserCommand::RevokeRole { role, by, other_admins }
    }

    fn grant(role: Role, by: Option<UserId>) -> UserCommand {
        UserCommand::GrantRole { role, property_ids: None, by }
    }

    #[test]
    fn nobody_changes_their_own_roles() {
        given::<User>([active(Role::Admin)]).when(grant(Role::Legal, Some(ANA))).then_refused("SELF_ROLE_CHANGE");
        given::<User>([active(Role::Admin)]).when(revoke(Role::Admin, Some(ANA), 5)).then_refused("SELF_ROLE_CHANGE");
    }

    #[test]
    fn the_last_administrator_stays() {
        let admin = || given::<User>([active(Role::Admin)]);
        admin().when(revoke(Role::Admin, Some(BOSS), 0)).then_refused("LAST_ADMIN");
        admin().when(UserCommand::DeactivateUser { other_admins: 0 }).then_refused("LAST_ADMIN");
        admin().when(revoke(Role::Admin, Some(BOSS), 1)).then([UserEvent::RoleRevoked { role: Role::Admin }]);
        admin().when(UserCommand::DeactivateUser { other_admins: 1 }).then([UserEvent::UserDeactivated {}]);
    }

    #[test]
    fn a_role_is_granted_and_revoked_once() {
        let granted = UserEvent::RoleGranted { role: Role::Legal, property_ids: None };
        given::<User>([active(Role::Units)])
            .when(grant(Role::Legal, Some(BOSS)))
            .then([granted])
            .when(grant(Role::Legal, None))
            .then_nothing()
            .when(revoke(Role::Legal, Some(BOSS), 0))
            .then([UserEvent::RoleRevoked { role: Role::Legal }])
            .when(revoke(Role::Legal, Some(BOSS), 0))
            .then_nothing();
    }

    #[test]
    fn a_role_may_be_limited_to_properties_but_administration_may_not() {
        let property = PropertyId(Uuid::from_u128(9));
        let limited = |role, ids: BTreeSet<PropertyId>| UserCommand::GrantRole { role, property_ids: Some(ids), by: None };
        let state = || given::<User>([active(Role::Units)]);
        state().when(limited(Role::Finance, BTreeSet::new())).then_refused("VALIDATION_FAILED");
        state().when(limited(Role::Admin, BTreeSet::from([property]))).then_refused("VALIDATION_FAILED");
        let events = state().when(limited(Role::Finance, BTreeSet::from([property]))).outcome.expect("granted");
        let user = after([active(Role::Units)].into_iter().chain(events));
        assert_eq!(user.properties_of(Role::Finance), Some(&BTreeSet::from([property])));
        assert_eq!(user.properties_of(Role::Units), None);
        assert_eq!(user.roles(), BTreeSet::from([Role::Units, Role::Finance]));
    }

    #[test]
    fn a_new_password_and_a_deactivation_void_the_tokens_issued_before() {
        let changed = UserEvent::PasswordChanged { password_hash: other_hash() };
        let user = after([active(Role::Units), changed.clone()]);
        assert_eq!((user.epoch(), user.password_hash()), (1, Some(&other_hash())));
        let user = after([active(Role::Units), changed.clone(), UserEvent::UserDeactivated {}]);
        assert_eq!((user.epoch(), user.is_active()), (2, false));
        assert_eq!(user.can_log_in(instant("2025-01-01T12:00:00Z")), Err(LoginRefusal::InvalidCredentials));
        let user = after([active(Role::Units), UserEvent::UserDeactivated {}, UserEvent::UserReactivated {}]);
        assert_eq!((user.epoch(), user.is_active()), (2, true));
        let change = UserCommand::ChangePassword { password_hash: other_hash() };
        given::<User>([active(Role::Units)]).when(change.clone()).then([changed]);
        given::<User>([active(Role::Units), UserEvent::UserDeactivated {}]).when(change).then_refused("INVALID_STATE");
    }

    #[test]
    fn deactivation_and_reactivation_are_repeatable() {
        given::<User>([active(Role::Units)])
            .when(UserCommand::DeactivateUser { other_admins: 0 })
            .then([UserEvent::UserDeactivated {}])
            .when(UserCommand::DeactivateUser { other_admins: 0 })
            .then_nothing()
            .when(UserCommand::ReactivateUser)
            .then([UserEvent::UserReactivated {}])
            .when(UserCommand::ReactivateUser)
            .then_nothing();
    }
}
