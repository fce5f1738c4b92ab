//! The keys of data subjects.

use uuid::Uuid;

use super::{append, commit, events, fresh_key, fresh_stream, head, request, to};
use crate::{AppendOutcome, AppendRequest, Error, EventLog, Keep, KeyUse, NewSubjectKey};

fn subject() -> String {
    format!("party:{}", Uuid::now_v7())
}

/// A command on a fresh stream that gives a subject this key.
pub fn sealed(log: &dyn EventLog, subject: &str, wrapped: &[u8]) -> AppendRequest {
    let subject_keys = vec![NewSubjectKey { subject: subject.to_owned(), wrapped: wrapped.to_vec() }];
    AppendRequest { subject_keys, ..request(vec![to(&fresh_stream(log), 0, events(1))]) }
}

async fn key(log: &dyn EventLog, subject: &str) -> Option<Vec<u8>> {
    log.subject_key(subject).await.expect("read")
}

async fn is_rejected(log: &dyn EventLog, command: AppendRequest) {
    let before = head(log).await;
    let answer = log.append(&[command]).await;
    assert!(matches!(answer, Err(Error::Rejected { .. })), "{answer:?}");
    assert_eq!(head(log).await, before);
}

pub async fn a_subjects_first_key_comes_with_events_and_stays(log: &dyn EventLog) {
    let subject = subject();
    assert_eq!(key(log, &subject).await, None);
    let command = sealed(log, &subject, b"\0first");
    let outcome = append(log, &command).await;
    assert!(matches!(outcome, AppendOutcome::Committed { .. }), "{outcome:?}");
    assert_eq!(key(log, &subject).await, Some(b"\0first".to_vec()));
    assert_eq!(append(log, &command).await, outcome, "a resent command is not refused for its own key");
    is_rejected(log, sealed(log, &subject, b"second")).await;
    assert_eq!(key(log, &subject).await, Some(b"\0first".to_vec()));
}

pub async fn a_command_that_is_not_done_leaves_no_subjects_key(log: &dyn EventLog) {
    let used = fresh_key(Keep::Days30);
    let with_key = |subject: &str, key: &KeyUse| AppendRequest { key: Some(key.clone()), ..sealed(log, subject, b"key") };
    let other = KeyUse { request_hash: "other".into(), ..used.clone() };
    let first = subject();
    commit(log, &with_key(&first, &used)).await;
    let [repeated, reused, late, beside, accepted] = [(); 5].map(|()| subject());
    let conflicting = |subject: &str| {
        let mut command = sealed(log, subject, b"key");
        command.streams[0].expected_version = 4;
        command
    };
    // Alone, and beside one that is accepted.
    assert!(matches!(append(log, &with_key(&repeated, &used)).await, AppendOutcome::Replayed(_)));
    assert!(matches!(append(log, &with_key(&reused, &other)).await, AppendOutcome::KeyReused));
    assert!(matches!(append(log, &conflicting(&late)).await, AppendOutcome::VersionConflict { .. }));
    let batch = [with_key(&beside, &used), sealed(log, &accepted, b"accepted"), conflicting(&late)];
    let outcomes = log.append(&batch).await.expect("appended");
    assert!(matches!(outcomes[0], AppendOutcome::Replayed(_)), "{outcomes:?}");
    assert!(matches!(outcomes[1], AppendOutcome::Committed { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[2], AppendOutcome::VersionConflict { .. }), "{outcomes:?}");
    assert_eq!(key(log, &accepted).await, Some(b"accepted".to_vec()));
    for subject in [&repeated, &reused, &late, &beside] {
        assert_eq!(key(log, subject).await, None);
    }
    // None of them counts as having had one.
    commit(log, &sealed(log, &repeated, b"its own")).await;
}

pub async fn a_destroyed_key_is_gone_for_good(log: &dyn EventLog) {
    let subject = subject();
    commit(log, &sealed(log, &subject, b"key")).await;
    for _ in 0..2 {
        log.destroy_subject_key(&subject).await.expect("destroyed");
        assert_eq!(key(log, &subject).await, None);
        is_rejected(log, sealed(log, &subject, b"another")).await;
    }
    // One that never had a key can be erased ahead.
    let early = self::subject();
    log.destroy_subject_key(&early).await.expect("destroyed");
    is_rejected(log, sealed(log, &early, b"key")).await;
}
