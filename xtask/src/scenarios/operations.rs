//! The operator's page (docs/operations.md), acted out: each fault is put in by force, found with `casitas doctor`, and healed with
//! the command that it names.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::{Http, block};
use super::dates::day;
use super::suite::Size;
use super::system::System;
use super::world::{self, SETTLES_WITHIN, fresh};
use crate::net::wait_until;
use crate::process::find_program;

const MOVE_IN: &str = "policy:move-in";

pub const FINE: i32 = 0;
pub const WRONG: i32 = 6;

/// SQL against a context's log past all its guards, as only a superuser or the owner of the files can run it.
fn force(system: &mut System, context: &str, sql: &str) -> Result<String> {
    match system {
        System::Distributed(stack) => {
            let unguarded = format!(
                "ALTER TABLE events DISABLE TRIGGER events_are_never_changed; {sql};
                ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed"
            );
            stack.postgres.sql(&format!("{context}_db"), &unguarded)
        }
        System::Embedded(embedded) => {
            let file = embedded.data_dir().join(format!("{context}_db.sqlite"));
            let trigger = "CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
                BEGIN SELECT RAISE(ABORT, 'the event log is append-only: UPDATE is refused'); END";
            let unguarded = format!("BEGIN IMMEDIATE; DROP TRIGGER events_are_never_changed; {sql}; {trigger}; COMMIT;");
            sqlite(&file, &unguarded)
        }
    }
}

/// SQL against a file, which others may have open; what it answers.
pub fn sqlite(file: &Path, sql: &str) -> Result<String> {
    let sqlite = find_program(&["sqlite3"]).context("sqlite3 is not installed")?;
    let mut child = Command::new(sqlite)
        .args(["-batch", "-bail"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let script = format!(".timeout 5000\n{sql}\n");
    std::io::Write::write_all(&mut child.stdin.take().context("no standard input")?, script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "sqlite3: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Appends an event to a stream by hand, past the append function.
fn inject(system: &mut System, context: &str, kind: &str, id: &str, event_type: &str, payload: &Value) -> Result<()> {
    let event_id = uuid();
    let (correlation, now, today) = match system {
        System::Distributed(_) => ("gen_random_uuid()".to_owned(), "now()", "current_date"),
        System::Embedded(_) => (format!("'{}'", uuid()), "(SELECT max(recorded_at) FROM events)", "date()"),
    };
    force(
        system,
        context,
        &format!(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position,
                event_id, effective_on, recorded_at, actor, correlation_id)
             SELECT '{kind}', '{id}', 1 + (SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate_type = '{kind}'
                AND aggregate_id = '{id}'), '{event_type}', '1', '{payload}', '{{}}', 1 + (SELECT max(position) FROM events),
                '{event_id}', {today}, {now}, 'cli', {correlation}"
        ),
    )
    .map(drop)
}

/// A version 4 UUID.
fn uuid() -> String {
    let (high, low) = (crate::net::random_u64(), crate::net::random_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// What a verb that may fail answered.
#[derive(Debug)]
pub struct Told {
    pub exit: i32,
    /// Without progress.
    pub rows: Vec<Value>,
    /// On standard error.
    pub said: String,
}

/// Runs a verb; whether it failed is the caller's to judge.
pub fn told(system: &System, args: &[&str]) -> Result<Told> {
    let output = system.casitas(&[args, &["--output", "ndjson"]].concat(), "")?;
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let mut rows = rows.with_context(|| format!("casitas {args:?}: {text} {said}"))?;
    rows.retain(|row| row.get("progress").is_none());
    Ok(Told { exit: output.status.code().context("killed")?, rows, said })
}

/// The doctor's exit code, and its lines that are not fine.
fn doctor(system: &System) -> Result<(i32, Vec<Value>)> {
    let Told { exit, rows: mut lines, said } = told(system, &["doctor"])?;
    ensure!(lines.len() > 10, "the doctor says little: {lines:?} {said}");
    lines.retain(|line| line["state"] != "fine");
    Ok((exit, lines))
}

pub fn healthy(system: &System) -> Result<()> {
    let mut last = String::new();
    let waited = wait_until("a doctor who finds nothing", SETTLES_WITHIN, || {
        let (exit, ill) = doctor(system)?;
        last = format!("exit {exit}: {ill:?}");
        Ok(exit == FINE && ill.is_empty())
    });
    waited.with_context(|| last)
}

/// The doctor's line about something wrong, as soon as there is one.
pub fn found(system: &System, check: &str, word: &str) -> Result<Value> {
    let (mut line, mut last) = (None, String::new());
    let waited = wait_until(&format!("the doctor's line about {check} with {word:?}"), SETTLES_WITHIN, || {
        let (exit, ill) = doctor(system)?;
        last = format!("exit {exit}: {ill:?}");
        let told = |line: &&Value| line["check"] == check && line["detail"].as_str().is_some_and(|text| text.contains(word));
        line = ill.iter().find(told).cloned().filter(|_| exit == WRONG);
        Ok(line.is_some())
    });
    waited.with_context(|| last)?;
    let line = line.context("no line")?;
    ensure!(line["next"].as_str().is_some_and(|next| !next.is_empty()), "no next command: {line}");
    Ok(line)
}

fn status(system: &System, args: &[&str]) -> Result<(i32, String)> {
    let output = system.casitas(args, "")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().context("killed")?, text))
}

/// A poison event: its stream alone is parked, everything else is current, and it is whole again once it can be folded. One that
/// is skipped is left out by fresh folds as well, until that is taken back.
pub fn poison(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (sick, _) = world::unit(&admin, &property, &fresh("A"))?;
    let (sound, _) = world::unit(&admin, &property, &fresh("B"))?;
    system.caught_up()?;
    healthy(system)?;

    // `7` is no event; behind it one that could be folded, and must wait.
    inject(system, "units", "unit", &sick, "UnitUnlisted", &json!({"UnitUnlisted": 7}))?;
    let relisted = json!({"price": world::money(77_700), "deposit": world::money(77_700), "available_from": "2026-01-01",
        "min_term_months": 1});
    inject(system, "units", "unit", &sick, "UnitListed", &json!({"UnitListed": relisted}))?;
    let stream = format!("unit:{sick}");
    found(system, "parked streams", &stream)?;
    system.caught_up()?;
    let parked = system.rows(&["parked", "list"])?;
    let models: Vec<&str> = parked.iter().filter_map(|row| row["model"].as_str()).collect();
    ensure!(models.contains(&"units") && models.contains(&"available_units"), "parked in {models:?}");
    for row in &parked {
        ensure!(row["stream"] == stream.as_str() && row["waiting"] == 1 && row["type"] == "UnitUnlisted", "{row}");
    }
    let shown = system.rows(&["parked", "show", "units", &stream])?;
    ensure!(
        shown[0]["event"]["data"] == json!({"UnitUnlisted": 7}) && shown[0]["behind"][0]["type"] == "UnitListed",
        "{shown:?}"
    );
    let retry = format!("casitas parked retry units {stream} --reason '");
    ensure!(shown[0]["next"].as_str().is_some_and(|next| next.starts_with(&retry)), "{shown:?}");

    // Everything else is current.
    let price = json!({"price": world::money(88_800), "effective_on": day(0)});
    let position = admin.done(&format!("/units/{sound}/price"), &price)?.position()?;
    let seen = block(admin.get(&format!("/units/{sound}")).after(&position, 5).send())?.success()?.json()?;
    ensure!(seen.to_string().contains("88800"), "the other unit is not current: {seen}");
    let before = unit(&admin, &sick)?;

    // The same fold fails again, and says so.
    let why = ["--reason", "perhaps it can be taken now"];
    let (exit, text) = status(system, &[&["parked", "retry", "units", &stream], &why[..]].concat())?;
    ensure!(exit == 1 && text.contains("parked"), "exit {exit}: {text}");
    ensure!(system.rows(&["parked", "list"])?.len() == parked.len(), "something was unparked");
    let (exit, text) = status(system, &[&["parked", "retry", "units", "unit:nobody"], &why[..]].concat())?;
    ensure!(exit == 4 && text.contains("parked list"), "exit {exit}: {text}");
    let (exit, text) = status(system, &["parked", "retry", "units", &stream])?;
    ensure!(exit == 2 && text.contains("--reason"), "without a reason: exit {exit}: {text}");

    force(
        system,
        "units",
        &format!(
            "UPDATE events SET payload = '{{\"UnitUnlisted\":{{}}}}' WHERE aggregate_id = '{sick}'
        AND event_type = 'UnitUnlisted'"
        ),
    )?;
    let (exit, text) = status(system, &["parked", "retry", "--all", "--reason", "the event was repaired"])?;
    ensure!(exit == 0 && !text.contains("waiting"), "exit {exit}: {text}");
    ensure!(system.rows(&["parked", "list"])?.is_empty(), "something is still parked");
    healthy(system)?;
    let mut after = Value::Null;
    wait_until("the parked events in the answer", SETTLES_WITHIN, || {
        after = unit(&admin, &sick)?;
        Ok(after.to_string().contains("77700"))
    })
    .with_context(|| format!("before {before}, after {after}"))?;
    recorded(system, "ParkedStreamRetried", parked.len() + 1)?;

    // Once more, and given up, in one model and then in all others: what waits behind it is folded.
    inject(system, "units", "unit", &sick, "UnitUnlisted", &json!({"UnitUnlisted": 8}))?;
    found(system, "parked streams", &stream)?;
    system.caught_up()?;
    let (exit, text) = status(system, &["parked", "skip", "units", &stream, "--reason", "typed by hand"])?;
    ensure!(exit == 0 && text.contains("skipped"), "exit {exit}: {text}");
    let others = system.rows(&["parked", "list"])?.len();
    let all = told(system, &["parked", "skip", "--all", &stream, "--reason", "typed by hand"])?;
    let skipped = all.rows.len() == others && all.rows.iter().all(|row| row["state"] == "skipped");
    ensure!(all.exit == FINE && others > 0 && skipped, "{others} models: {all:?}");
    recorded(system, "ParkedEventSkipped", parked.len())?;
    healthy(system)?;
    left_out(system, &models)?;
    // The stream itself is broken for commands; nobody else needs the unit.
    force(
        system,
        "units",
        &format!(
            "UPDATE events SET payload = '{{\"UnitUnlisted\":{{}}}}' WHERE aggregate_id = '{sick}'
        AND event_type = 'UnitUnlisted'"
        ),
    )?;
    taken_back(system, &models, &stream)?;
    Ok(format!(
        "parked in {} models, the other unit current; a retry healed it; a skip gave one up, in fresh folds too, until it was taken \
         back",
        parked.len()
    ))
}

/// Rebuilds the models, which must all end so, in the rows that readers see and with nothing parked.
fn rebuilt(system: &System, models: &[&str], flags: &[&str], result: &str) -> Result<()> {
    let answer = told(system, &[&["projections", "rebuild"], models, flags].concat())?;
    let ended = |row: &Value| row["result"] == result && row["parked"] == 0 && row["digest"] == row["live_digest"];
    let all = answer.rows.len() == models.len() && answer.rows.iter().all(ended);
    ensure!(answer.exit == FINE && all, "rebuilding {models:?} {flags:?}: {answer:?}");
    Ok(())
}

/// What was skipped in the live models stands in no fresh fold of them, though no fold can take it.
fn left_out(system: &System, models: &[&str]) -> Result<()> {
    rebuilt(system, models, &["--dry-run"], "equal")?;
    rebuilt(system, models, &["--dry-run", "--parallel", "3"], "equal")?;
    rebuilt(system, models, &["--parallel", "2"], "switched")?;
    for model in models {
        let replayed = told(system, &["events", "replay", "--into", &format!("projection:{model}")])?;
        let one = replayed.rows.len() == 1 && replayed.rows[0]["skipped_by_operators"] == 1;
        ensure!(replayed.exit == FINE && one, "{model}: {replayed:?}");
    }
    let doctor = told(system, &["doctor", "--rows"])?;
    for model in models {
        let check = format!("rows of {model}");
        let line = doctor.rows.iter().find(|line| line["check"] == check.as_str());
        ensure!(line.is_some_and(|line| line["state"] == "fine"), "{check}: {doctor:?}");
    }
    healthy(system)
}

/// By itself an event that was put right stays left out. Taken back, the next rebuild folds it, and differs for that.
fn taken_back(system: &System, models: &[&str], stream: &str) -> Result<()> {
    rebuilt(system, models, &["--dry-run"], "equal")?;
    for &model in models {
        let retry = ["parked", "retry", model, stream, "--skipped", "--reason", "the event was repaired"];
        let answer = told(system, &retry)?;
        let [row] = &answer.rows[..] else { bail!("not one event was taken back: {answer:?}") };
        ensure!(answer.exit == FINE && row["state"] == "taken back", "{answer:?}");
        let (exit, text) = status(system, &retry)?;
        ensure!(exit == 4 && text.contains("nothing of"), "taken back twice: exit {exit}: {text}");
    }
    let trial = told(system, &["projections", "rebuild", "units", "--dry-run"])?;
    let differs = trial.rows.len() == 1 && trial.rows[0]["result"] == "different" && trial.rows[0]["differ"] == 1;
    ensure!(trial.exit == WRONG && differs, "the event is folded again: {trial:?}");
    let forced = told(system, &[&["projections", "rebuild", "--force"], models].concat())?;
    let switched = forced.rows.len() == models.len() && forced.rows.iter().all(|row| row["result"] == "switched");
    ensure!(forced.exit == FINE && switched, "{forced:?}");
    rebuilt(system, models, &["--dry-run"], "equal")?;
    healthy(system)
}

fn unit(admin: &Http, id: &str) -> Result<Value> {
    admin.get(&format!("/units/{id}")).now()?.success()?.json()
}

/// In the Operations stream, with who and why.
fn recorded(system: &System, event_type: &str, least: usize) -> Result<()> {
    let rows = system.rows(&["events", "list", "--context", "auth", "--type", event_type, "--limit", "100"])?;
    ensure!(rows.len() >= least, "{} of {least} {event_type} were recorded: {rows:?}", rows.len());
    let last = rows.last().context("none")?;
    ensure!(last["what"].as_str().is_some_and(|what| what.contains("position")), "what it was done to: {last}");
    let id = last["event_id"].as_str().context("no id")?;
    let shown = system.rows(&["events", "show", id])?;
    let data = &shown[0]["data"][event_type];
    ensure!(data["by"].as_str().is_some_and(|by| !by.is_empty()) && data["reason"].is_string(), "{shown:?}");
    Ok(())
}

/// Ends with the value.
struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody else's transaction holds a log of an embedded store: the doctor names the process, beside a running `serve` and at rest.
pub fn held(system: &mut System) -> Result<String> {
    let System::Embedded(embedded) = system else { bail!("only an embedded store has files") };
    let file = embedded.data_dir().join("legal_db.sqlite");
    healthy(system)?;
    let sqlite = find_program(&["sqlite3"]).context("sqlite3 is not installed")?;
    let mut child = Command::new(sqlite).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    std::io::Write::write_all(&mut input, b".timeout 5000\nBEGIN IMMEDIATE;\n")?;
    let (pid, session) = (child.id(), Session(child));
    let line = found(system, "writers", "commands are refused")?;
    ensure!(line["detail"].as_str().is_some_and(|text| text.contains(&format!("process {pid}"))), "not {pid}: {line}");
    drop((input, session));
    healthy(system)?;
    Ok("a log held by another process is found, with its process id".to_owned())
}

/// A stopped projector, a paused model, a report nobody begins, a dead letter, a stuck process, a blocked writer: each found, each
/// healed as the doctor says.
pub fn faults(system: &mut System, _: Size) -> Result<String> {
    healthy(system)?;
    let admin = world::admin(system)?;
    stopped_projector(system)?;
    paused_model(system)?;
    waiting_report(system, &admin)?;
    dead_letter(system, &admin)?;
    stuck_process(system, &admin)?;
    blocked_writer(system)?;
    Ok("a stopped projector, a paused model, a report nobody begins, a dead letter, a stuck process and a blocked writer: each \
        found and healed"
        .to_owned())
}

fn stopped_projector(system: &mut System) -> Result<()> {
    system.stack()?.role("projector")?.stop()?;
    let line = found(system, "followers", "no projector runs")?;
    ensure!(line["next"] == "casitas projector", "{line}");
    system.stack()?.role("projector")?.start()?;
    healthy(system)
}

fn paused_model(system: &mut System) -> Result<()> {
    ensure!(status(system, &["projections", "pause", "units"])?.0 == 0, "pause");
    let line = found(system, "units", "paused")?;
    ensure!(line["next"] == "casitas projections resume units", "{line}");
    ensure!(status(system, &["projections", "resume", "units"])?.0 == 0, "resume");
    healthy(system)
}

fn waiting_report(system: &mut System, admin: &Http) -> Result<()> {
    for role in ["projector", "report-worker"] {
        system.stack()?.role(role)?.stop()?;
    }
    let id = world::report(admin, "/legal/generate_report", &json!({}))?;
    // As if it had been asked for earlier; nobody has seen it yet.
    force(
        system,
        "reports",
        &format!("UPDATE events SET recorded_at = recorded_at - interval '10 minutes' WHERE aggregate_id = '{id}'"),
    )?;
    system.stack()?.role("projector")?.start()?;
    let line = found(system, "waiting reports", &id)?;
    ensure!(line["next"].as_str().is_some_and(|next| next.contains("casitas report-worker must run")), "{line}");
    let listed = system.rows(&["jobs", "list", "--state", "queued", "--older-than", "5m"])?;
    ensure!(listed.iter().any(|row| row["report_id"] == id.as_str()), "{listed:?}");
    system.stack()?.role("report-worker")?.start()?;
    healthy(system)
}

fn dead_letter(system: &mut System, admin: &Http) -> Result<()> {
    system.stack()?.role("report-worker")?.stop()?;
    let id = world::report(admin, "/legal/generate_report", &json!({}))?;
    // As if its workers had given it up: the next one puts the message where such messages go.
    inject(
        system,
        "reports",
        "report",
        &id,
        "ReportDead",
        &json!({"ReportDead": {"attempts": 3, "reason": "given up by the test"}}),
    )?;
    system.stack()?.role("report-worker")?.start()?;
    let line = found(system, "dead letters", "given up")?;
    ensure!(line["next"] == "casitas jobs dead-letters", "{line}");
    let letters = system.rows(&["jobs", "dead-letters"])?;
    let next = format!("casitas jobs retry {id}");
    ensure!(letters.iter().any(|row| row["report_id"] == id.as_str() && row["next"] == next.as_str()), "{letters:?}");
    let dead = system.rows(&["jobs", "list", "--state", "dead"])?;
    ensure!(dead.iter().any(|row| row["report_id"] == id.as_str()), "{dead:?}");
    // As an operator types it: the job has progress among others, and is no progress line.
    let output = system.casitas(&["jobs", "show", &id], "")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && text.contains(&id) && text.contains("dead"), "jobs show {id}: {text}");
    let (exit, text) = status(system, &["jobs", "retry", &id])?;
    ensure!(exit == 0, "exit {exit}: {text}");
    let mut report = Value::Null;
    wait_until("the retried report", SETTLES_WITHIN, || {
        report = admin.get(&format!("/reports/{id}")).now()?.success()?.json()?;
        Ok(report["status"] == "succeeded")
    })
    .with_context(|| report.to_string())?;
    let (exit, text) = status(system, &["jobs", "retry", &id])?;
    ensure!(exit == 1 && text.contains("refused"), "a report that succeeded was retried: exit {exit}: {text}");
    let shown = system.rows(&["jobs", "show", &id])?;
    let history = shown[0]["history"].as_array().with_context(|| format!("no history: {shown:?}"))?;
    let retried = history.iter().find(|event| event["type"] == "ReportRetried").context("no retry was recorded")?;
    ensure!(retried["actor"].as_str().is_some_and(|actor| actor.starts_with("cli:")), "who retried it: {retried}");
    for verb in ["show", "retry", "cancel"] {
        let (exit, text) = status(system, &["jobs", verb, &uuid()])?;
        ensure!(exit == 4 && text.contains("casitas jobs list"), "{verb} of no job: exit {exit}: {text}");
    }
    healthy(system)
}

/// The finances database refuses what the process wants to write.
fn stuck_process(system: &mut System, admin: &Http) -> Result<()> {
    let property = world::property(admin)?;
    let (unit, _) = world::unit(admin, &property, &fresh("C"))?;
    let tenant = world::party(admin, &fresh("Tenant"))?;
    let lease = world::lease(admin, &world::lease_body(&unit, &tenant, 0, 364))?;
    let (document, sha256) = world::document(admin, Some(&lease))?;
    let (state, _) = block(world::send_lease(admin, &lease, &world::send_body(&document, &tenant)))?;
    ensure!(state == "sent", "the lease is {state}");
    let revoke = "REVOKE EXECUTE ON FUNCTION casitas_accept, casitas_append FROM casitas_projector";
    system.stack()?.postgres.sql("finances_db", revoke)?;
    admin.done(&format!("/leases/{lease}/signatures"), &world::sign_body(&tenant, &sha256))?;
    let line = found(system, "move-in processes", &lease)?;
    // The step, and who is refused what.
    let words = ["open_ledger", "casitas_projector", "permission denied"];
    let says_all = |told: &Value| told.as_str().is_some_and(|text| words.iter().all(|word| text.contains(word)));
    ensure!(says_all(&line["detail"]), "{line}");
    let policy = found(system, MOVE_IN, &lease)?;
    ensure!(says_all(&policy["detail"]), "{policy}");
    let listed = system.rows(&["projections", "list"])?;
    let row = listed.iter().find(|row| row["name"] == MOVE_IN).with_context(|| format!("no {MOVE_IN}: {listed:?}"))?;
    ensure!(row["state"] == "stalled" && says_all(&row["reason"]), "{row}");
    let grant = "GRANT EXECUTE ON FUNCTION casitas_accept, casitas_append TO casitas_projector";
    system.stack()?.postgres.sql("finances_db", grant)?;
    healthy(system)
}

fn blocked_writer(system: &mut System) -> Result<()> {
    let stack = system.stack()?;
    let mut psql = stack.postgres.psql("units_db");
    psql.args(["-c", "BEGIN", "-c", "SELECT pg_advisory_xact_lock(7161131779257103137)", "-c", "SELECT pg_sleep(60)"]);
    let session = Session(psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let line = found(system, "writers", "append lock")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    let words: Vec<&str> = detail.split_whitespace().collect();
    let pid = words.iter().skip_while(|word| **word != "process").nth(1).and_then(|word| word.parse::<u32>().ok());
    let Some(pid) = pid else { bail!("no process id: {line}") };
    ensure!(line["next"].as_str().is_some_and(|next| next.contains(&format!("pg_terminate_backend({pid})"))), "{line}");
    system.stack()?.postgres.sql("units_db", &format!("SELECT pg_terminate_backend({pid})"))?;
    drop(session);
    healthy(system)
}
