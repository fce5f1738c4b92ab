//! The command line as its users see it: what every help page says, and a session on a folder that is new.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A store without an event: the first user's password is refused.
fn begin_store(data: &Path) {
    let program = Command::new(env!("CARGO_BIN_EXE_casitas"))
        .args(["users", "add", "ana", "--role", "admin", "--data-dir"])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut program = program.expect("casitas starts");
    let mut input = program.stdin.take().expect("its input");
    input.write_all(b"short\n").expect("written");
    drop(input);
    assert!(!program.wait().expect("ended").success(), "a password of five characters was taken");
}

/// Transcripts in `cli/`. `TRYCMD=overwrite cargo test -p casitas --test cli` writes them anew.
#[test]
fn the_transcripts_are_what_the_program_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    begin_store(&data);
    let cases = trycmd::TestCases::new();
    cases.env("CASITAS_DATA_DIR", data.display().to_string());
    cases.env("USER", "ana");
    // A terminal's width would break the lines elsewhere.
    cases.env("COLUMNS", "100");
    cases.case("tests/cli/*.trycmd");
}
