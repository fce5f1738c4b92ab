//! The keys of data subjects.

use uuid::Uuid;

use crate::{Error, EventLog};

fn subject() -> String {
    format!("party:{}", Uuid::now_v7())
}

pub async fn the_first_key_of_a_subject_stays(log: &dyn EventLog) {
    let subject = subject();
    assert_eq!(log.subject_key(&subject).await.expect("read"), None);
    let create = |key: &'static [u8]| log.create_subject_key(&subject, key);
    let (a, b) = tokio::join!(create(b"\0first"), create(b"second"));
    let (a, b) = (a.expect("created"), b.expect("created"));
    assert_eq!(a, b, "both makers use the same key");
    assert_eq!(create(b"third").await.expect("answered"), a);
    assert_eq!(log.subject_key(&subject).await.expect("read"), Some(a));
}

pub async fn a_destroyed_key_is_gone_for_good(log: &dyn EventLog) {
    let subject = subject();
    log.create_subject_key(&subject, b"key").await.expect("created");
    for _ in 0..2 {
        log.destroy_subject_key(&subject).await.expect("destroyed");
        assert_eq!(log.subject_key(&subject).await.expect("read"), None);
        let again = log.create_subject_key(&subject, b"another").await;
        assert!(matches!(again, Err(Error::Rejected { .. })), "{again:?}");
    }
    // One that never had a key can be erased ahead.
    let early = self::subject();
    log.destroy_subject_key(&early).await.expect("destroyed");
    assert!(matches!(log.create_subject_key(&early, b"key").await, Err(Error::Rejected { .. })));
}
