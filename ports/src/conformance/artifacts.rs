//! The contract of [`Artifacts`].

use bytes::Bytes;
use domain::Sha256;

use crate::Artifacts;

pub async fn all(artifacts: &dyn Artifacts) {
    stored_bytes_come_back_under_their_digest(artifacts).await;
    storing_the_same_bytes_again_is_a_no_op(artifacts).await;
    what_was_never_stored_is_absent(artifacts).await;
    concurrent_writers_of_one_artifact_agree(artifacts).await;
}

pub async fn stored_bytes_come_back_under_their_digest(artifacts: &dyn Artifacts) {
    for bytes in [Bytes::from_static(b""), Bytes::from_static(b"rent roll\n"), Bytes::from(vec![0xA5; 3_000_000])] {
        let name = artifacts.put(bytes.clone()).await.expect("stored");
        assert_eq!(name, Sha256::of(&bytes).to_string());
        assert_eq!(artifacts.get(&name).await.expect("read"), Some(bytes));
    }
}

pub async fn storing_the_same_bytes_again_is_a_no_op(artifacts: &dyn Artifacts) {
    let bytes = Bytes::from_static(b"twice");
    let first = artifacts.put(bytes.clone()).await.expect("stored");
    let second = artifacts.put(bytes.clone()).await.expect("stored again");
    assert_eq!(first, second);
    assert_eq!(artifacts.get(&first).await.expect("read"), Some(bytes));
}

pub async fn what_was_never_stored_is_absent(artifacts: &dyn Artifacts) {
    let unknown = Sha256::of(b"never stored").to_string();
    for name in [unknown.as_str(), "", "../../etc/passwd", &unknown.to_uppercase()] {
        assert_eq!(artifacts.get(name).await.expect("read"), None, "{name}");
    }
}

pub async fn concurrent_writers_of_one_artifact_agree(artifacts: &dyn Artifacts) {
    let bytes = Bytes::from(vec![7; 200_000]);
    let put = || artifacts.put(bytes.clone());
    let (a, b, c) = tokio::join!(put(), put(), put());
    let name = a.expect("stored");
    assert_eq!((b.expect("stored"), c.expect("stored")), (name.clone(), name.clone()));
    assert_eq!(artifacts.get(&name).await.expect("read"), Some(bytes));
}
