//! The short form of the scenarios; `cargo xtask verify` runs the full one. One test a system, so that each is started once.

use xtask::scenarios::{SuiteOptions, THEMES, run};

fn theme(name: &str) {
    let rows = run(&SuiteOptions::short(), Some(name)).expect("the system comes up");
    let failed: Vec<String> =
        rows.iter().filter(|row| !row.passed).map(|row| format!("{} ({}): {}", row.name, row.what, row.figure)).collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

#[test]
fn first_run() {
    theme("first-run");
}

#[test]
fn history() {
    theme("history");
}

#[test]
fn embedded() {
    theme("embedded");
}

#[test]
fn distributed() {
    theme("distributed");
}

#[test]
fn faults() {
    theme("faults");
}

#[test]
fn every_theme_has_a_test() {
    // The last has no short form: its scenarios are among those of the distributed system here.
    assert_eq!(THEMES.map(|(name, _)| name), ["first-run", "history", "embedded", "distributed", "faults", "large"]);
}
