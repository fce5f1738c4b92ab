//! Nothing that we start outlives us, however it or we end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use xtask::net::wait_until;
use xtask::process::{Program, alive};

/// A shell that starts a child of its own and writes the child's id to a file.
fn parent_of_one(dir: &Path) -> Program {
    Program::new("parent", "/bin/sh", dir.join("log")).args(["-c", "sleep 600 & echo $! > child; wait"]).dir(dir)
}

fn child_of(dir: &Path) -> u32 {
    let mut found = None;
    wait_until("the child's id", Duration::from_secs(5), || {
        found = fs::read_to_string(dir.join("child")).ok().and_then(|text| text.trim().parse().ok());
        Ok(found.is_some())
    })
    .expect("an id");
    found.expect("an id")
}

#[test]
fn dropping_a_program_ends_its_children_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = parent_of_one(dir.path()).start().expect("starts");
    let (parent, child) = (running.pid(), child_of(dir.path()));
    assert!(alive(parent) && alive(child));
    drop(running);
    assert!(!alive(parent) && !alive(child));
}

#[test]
fn children_that_a_crash_orphaned_are_ended_as_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut running = parent_of_one(dir.path()).start().expect("starts");
    let child = child_of(dir.path());
    running.signal(Signal::KILL).expect("killed");
    wait_until("the crash", Duration::from_secs(5), || Ok(running.exited()?.is_some())).expect("ended");
    assert!(alive(child));
    running.stop(Signal::TERM, Duration::from_secs(1)).expect("stops");
    assert!(!alive(child));
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let dir = tempfile::tempdir().expect("a folder");
    let stubborn = Program::new("stubborn", "/bin/sh", dir.path().join("log"))
        .args(["-c", "trap '' TERM; echo $$ > child; while :; do sleep 600; done"])
        .dir(dir.path());
    let mut running = stubborn.start().expect("starts");
    child_of(dir.path());
    let status = running.stop(Signal::TERM, Duration::from_millis(200)).expect("stops").expect("a status");
    assert_eq!(status.code(), None, "{status}");
}

#[test]
fn the_starting_threads_end_is_not_the_programs() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_owned();
    let starter = std::thread::spawn(move || parent_of_one(&folder).start().expect("starts"));
    let mut running = starter.join().expect("the thread ends");
    let child = child_of(dir.path());
    assert!(running.exited().expect("known").is_none() && alive(child));
}
