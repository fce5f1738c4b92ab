//! The command line as its users see it: what every help page says, and a session on a folder that is new.

/// Transcripts in `cli/`. `TRYCMD=overwrite cargo test -p casitas --test cli` writes them anew.
#[test]
fn the_transcripts_are_what_the_program_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = trycmd::TestCases::new();
    cases.env("CASITAS_DATA_DIR", folder.path().join("data").display().to_string());
    cases.env("USER", "ana");
    // A terminal's width would break the lines elsewhere.
    cases.env("COLUMNS", "100");
    cases.case("tests/cli/*.trycmd");
}
