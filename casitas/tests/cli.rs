//! The command line as its users see it: what every help page says, sessions on a folder that is new, and whether what it prints
//! can be read by those whom it is for.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A call of a transcript that takes longer would never end.
const CALL_MAX: Duration = Duration::from_secs(60);

/// Verbs that change nothing and find what they look for in a store without an event.
const READ_ONLY: [&str; 13] = [
    "doctor",
    "doctor --quick",
    "events list",
    "events list --data",
    "events tail --until 2026-01-01",
    "events stats",
    "events verify",
    "events replay --into dry",
    "projections list",
    "projections status",
    "parked list",
    "jobs list",
    "jobs dead-letters",
];

fn casitas() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_casitas"));
    program.stdin(Stdio::null());
    program
}

/// What a call that succeeds prints.
fn printed(program: &mut Command) -> String {
    let output = program.output().expect("casitas starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A store without an event: the first user's password is refused.
fn begin_store(data: &Path) {
    let program = casitas()
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

/// Plays the sessions of these files in a folder of their own: a store is for one process at a time.
fn play(files: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    begin_store(&data);
    let cases = trycmd::TestCases::new();
    cases.env("CASITAS_DATA_DIR", data.display().to_string());
    cases.env("USER", "ana");
    // A terminal's width would break the lines elsewhere.
    cases.env("COLUMNS", "100");
    cases.timeout(CALL_MAX);
    cases.case(files);
    cases.run();
}

/// Transcripts in `cli/`. `TRYCMD=overwrite cargo test -p casitas --test cli` writes them anew.
#[test]
fn the_transcripts_are_what_the_program_says() {
    play("tests/cli/*.trycmd");
}

/// Blocks of the operator's page that are marked `console`, and not `console,ignore`: those need servers, or a fault.
#[test]
fn the_sessions_of_the_operators_page_are_what_the_program_says() {
    let page = "../docs/operations.md";
    let text = fs::read_to_string(page).expect("the page is there");
    assert!(text.lines().any(|line| line == "```console"), "no session of {page} is played");
    play(page);
}

/// The names under `Commands:` of a help page.
fn listed(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = commands.take_while(|line| !line.is_empty());
    // A line that is indented further goes on with the one above.
    let entries = lines.filter_map(|line| line.strip_prefix("  ").filter(|entry| !entry.starts_with(' ')));
    let names = entries.filter_map(|entry| entry.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every verb that has no further verbs under it, as the words that call it.
fn leaves(words: &[String], found: &mut Vec<Vec<String>>) {
    let verbs = listed(&printed(casitas().args(words).arg("-h")));
    if verbs.is_empty() {
        found.push(words.to_vec());
    }
    for verb in verbs {
        leaves(&[words, &[verb]].concat(), found);
    }
}

#[test]
fn every_verb_has_a_page_in_the_manual() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    printed(casitas().arg("man").arg(folder.path()));
    let mut verbs = vec![];
    leaves(&[], &mut verbs);
    assert!(verbs.len() > 40, "{verbs:?}");
    for verb in verbs {
        let page = folder.path().join(format!("casitas-{}.1", verb.join("-")));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(text.contains(".SH SYNOPSIS"), "{}: {text}", page.display());
    }
}

#[test]
fn bash_can_read_its_completions() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("casitas.bash");
    let script = printed(casitas().args(["completions", "bash"]));
    assert!(script.contains("dead-letters"), "{script}");
    fs::write(&file, script).expect("written");
    let read = Command::new("bash").arg("-n").arg(&file).output().expect("bash starts");
    let errors = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success() && errors.is_empty(), "{errors}");
}

#[test]
fn every_verb_that_changes_nothing_answers_in_each_form() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    begin_store(&data);
    for verb in READ_ONLY {
        let answer = |form: &str| {
            let mut program = casitas();
            program.env("CASITAS_DATA_DIR", &data).args(verb.split_whitespace()).args(["-o", form]);
            printed(&mut program)
        };
        assert!(!answer("table").trim().is_empty(), "{verb}: a table without a line");
        let array = answer("json");
        let rows: Vec<Value> =
            serde_json::from_str(&array).unwrap_or_else(|error| panic!("{verb} -o json: {error}: {array}"));
        assert!(rows.iter().all(Value::is_object), "{verb} -o json: {array}");
        let lines = answer("ndjson");
        for line in lines.lines() {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{verb} -o ndjson: {error}: {line}"));
            assert!(row.is_object(), "{verb} -o ndjson: {line}");
        }
    }
}

#[test]
fn what_people_are_told_in_words_is_rows_where_rows_are_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let array =
        |text: String| -> Vec<Value> { serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")) };
    let line = |text: String| -> Value { serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")) };

    let secrets = folder.path().join("secrets");
    let init = |form: &str| printed(casitas().args(["secrets", "init"]).arg(&secrets).args(["-o", form]));
    let made = array(init("json"));
    assert!(made.len() == 1 && made[0]["made"].as_array().is_some_and(|names| names.len() > 10), "{made:?}");
    let again = line(init("ndjson"));
    assert!(again["made"].as_array().is_some_and(Vec::is_empty), "{again}");
    assert_eq!(init("table"), "", "people are told beside standard output");

    let data = folder.path().join("data");
    let plan = ["--units", "1", "--years", "1", "-o", "json", "--data-dir"];
    let seeded = array(printed(casitas().args(["seed", "demo"]).args(plan).arg(&data)));
    assert!(seeded.len() == 1 && seeded[0]["units"] == 1 && seeded[0]["properties"] == 1, "{seeded:?}");

    let script = array(printed(casitas().args(["completions", "bash", "-o", "json"])));
    assert!(script[0]["script"].as_str().is_some_and(|text| text.contains("dead-letters")), "{script:?}");
    let page = line(printed(casitas().args(["man", "-o", "ndjson"])));
    assert!(page["page"].as_str().is_some_and(|text| text.contains(".SH SYNOPSIS")), "{page}");
    let openapi = printed(casitas().args(["openapi", "-o", "ndjson"]));
    assert!(openapi.lines().count() == 1 && line(openapi.clone())["paths"].is_object(), "{openapi}");
}
