//! The artifacts folder against the port's contract.

use std::fs;
use std::path::PathBuf;

use adapters::files::ArtifactFolder;
use bytes::Bytes;
use ports::{Artifacts, Error, conformance};
use tempfile::TempDir;

fn folder() -> (TempDir, ArtifactFolder) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let folder = ArtifactFolder::open(root.path().join("artifacts")).expect("opened");
    (root, folder)
}

fn path(root: &TempDir, name: &str) -> PathBuf {
    root.path().join("artifacts").join(&name[..2]).join(&name[2..4]).join(name)
}

#[tokio::test]
async fn the_folder_keeps_the_contract() {
    let (_root, folder) = folder();
    conformance::artifacts::all(&folder).await;
}

#[tokio::test]
async fn a_changed_file_is_corrupt_and_storing_the_bytes_again_mends_it() {
    let (root, folder) = folder();
    let bytes = Bytes::from_static(b"statement");
    let name = folder.put(bytes.clone()).await.expect("stored");
    fs::write(path(&root, &name), b"forged").expect("tampered");
    assert!(matches!(folder.get(&name).await, Err(Error::Corrupt(_))));
    folder.put(bytes.clone()).await.expect("stored again");
    assert_eq!(folder.get(&name).await.expect("read"), Some(bytes));
}

#[tokio::test]
async fn nothing_unfinished_stays_behind_and_a_second_process_sees_the_files() {
    let (root, folder) = folder();
    let name = folder.put(Bytes::from_static(b"rent roll")).await.expect("stored");
    assert_eq!(fs::read_dir(root.path().join("artifacts/partial")).expect("listed").count(), 0);
    let other = ArtifactFolder::open(root.path().join("artifacts")).expect("opened");
    assert!(other.get(&name).await.expect("read").is_some());
}

#[tokio::test]
async fn folders_that_went_are_made_again() {
    let (root, folder) = folder();
    let bytes = Bytes::from_static(b"register");
    let name = folder.put(bytes.clone()).await.expect("stored");
    fs::remove_dir_all(root.path().join("artifacts").join(&name[..2])).expect("removed");
    assert_eq!(folder.get(&name).await.expect("read"), None);
    folder.put(bytes.clone()).await.expect("stored again");
    assert_eq!(folder.get(&name).await.expect("read"), Some(bytes));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_unavailable() {
    let (root, folder) = folder();
    fs::remove_dir_all(root.path().join("artifacts")).expect("removed");
    fs::write(root.path().join("artifacts"), b"a file in its place").expect("written");
    let error = folder.put(Bytes::from_static(b"x")).await.expect_err("refused");
    assert!(error.is_transient(), "{}", error.chain());
}
