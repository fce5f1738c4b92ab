//! What the doctor finds besides the faults of `operations`: a row that is not what the log says, a timer that is late,
//! a model that is behind, servers that are down, a folder that cannot be opened.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::client::Http;
use super::dates::{day, instant, now};
use super::operations::{FINE, Told, WRONG, found, healthy, sqlite, told};
use super::system::{CONTEXTS, System};
use super::world::{self, SETTLES_WITHIN, fresh};
use crate::net::wait_until;

const DOWN: i32 = 7;
const UNKNOWN: &str = "could not check";
pub(super) const PROJECTOR: &str = "projector";

/// The model whose row is changed, and which falls behind.
pub(super) const MODEL: &str = "units";
/// A version that no unit here comes to.
const WRITTEN_BY_HAND: u64 = 77;

/// What the timer of holds reads.
const TIMER_MODEL: &str = "hold_expiries";
/// Long enough to end the projector before the hold ends.
const HOLD_LIVES: Duration = Duration::from_secs(8);
/// A hold that ran out is overdue after a minute. Nobody waits for that here: its row is set back by more.
const EARLIER_MS: u64 = 120_000;

const DELAY: &str = "CASITAS_PROJECTOR_DELAY_MS";
/// No batch is committed before it was found missing.
const DELAY_MS: &str = "60000";

/// What the doctor reads from the databases, as it calls each when it cannot.
const FROM_DATABASES: [&str; 7] =
    ["followers", "chains", "parked streams", "waiting reports", "move-in processes", "timers", "writers"];

/// The doctor's line about a check.
fn line<'a>(doctor: &'a Told, check: &str) -> Result<&'a Value> {
    doctor.rows.iter().find(|line| line["check"] == check).with_context(|| format!("no line about {check}: {doctor:?}"))
}

fn has_next(line: &Value) -> bool {
    line["next"].as_str().is_some_and(|next| !next.is_empty())
}

/// The read models by name, each with the number of its live generation.
fn models(system: &System) -> Result<Vec<(String, u64)>> {
    let listed = system.rows(&["projections", "list"])?;
    // Other followers have no generation.
    let model = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["generation"].as_u64()?));
    let models: Vec<_> = listed.iter().filter_map(model).collect();
    ensure!(models.len() > 10, "only {} models: {listed:?}", models.len());
    Ok(models)
}

/// The live table of a model.
fn table(system: &System, model: &str) -> Result<String> {
    let models = models(system)?;
    let live = models.iter().find(|(name, _)| name == model).with_context(|| format!("no {model} in {models:?}"))?;
    Ok(format!("v_{model}_{}", live.1))
}

/// SQL against the views, as only the owner of the database or of the files can run it; what it answers.
pub(super) fn edit(system: &System, sql: &str) -> Result<String> {
    let told = match system {
        System::Distributed(stack) => stack.postgres.sql("views_db", sql)?,
        System::Embedded(embedded) => sqlite(&embedded.data_dir().join("views.sqlite"), &format!("{sql};"))?,
    };
    Ok(told.trim().to_owned())
}

/// Every generation of the model with what it is for.
pub(super) fn standings(system: &System) -> Result<Vec<(u64, String)>> {
    let rows = system.rows(&["projections", "status", MODEL])?;
    let standing = |row: &Value| Some((row["generation"].as_u64()?, row["state"].as_str()?.to_owned()));
    rows.iter().map(|row| standing(row).with_context(|| format!("no generation: {row}"))).collect()
}

pub(super) fn of(standings: &[(u64, String)], state: &str) -> Option<u64> {
    standings.iter().find(|(_, standing)| standing == state).map(|(generation, _)| *generation)
}

/// What readers are shown of a unit.
fn shown_version(admin: &Http, unit: &str, position: &str) -> Result<Value> {
    let answer = admin.get(&format!("/units/{unit}")).after(position, 5).now()?.success()?;
    Ok(answer.json()?["version"].clone())
}

/// A rebuild of the model that found one row to differ, and no other.
fn one_differs(rebuild: &Told, result: &str) -> bool {
    let [row] = &rebuild.rows[..] else { return false };
    let others = ["missing", "extra"].iter().all(|count| row[*count] == 0);
    rebuild.exit == WRONG && row["name"] == MODEL && row["result"] == result && row["differ"] == 1 && others
}

/// A row of a view is changed by hand: every verb that compares rows finds it, none replaces it unasked, and `--force`
/// does.
pub fn drift(system: &System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (unit, position) = world::unit(&admin, &property, &fresh("D"))?;
    system.caught_up()?;
    healthy(system)?;
    let events = system.rows(&["events", "list", "--stream", &format!("unit:{unit}")])?;
    let version = events.last().context("a unit without an event")?["sequence"].clone();

    let document = match system {
        System::Distributed(_) => format!("jsonb_set(doc::jsonb, '{{version}}', '{WRITTEN_BY_HAND}')::json"),
        System::Embedded(_) => format!("json_set(doc, '$.version', {WRITTEN_BY_HAND})"),
    };
    let table = table(system, MODEL)?;
    let changed = edit(system, &format!("UPDATE {table} SET doc = {document} WHERE key = '{unit}' RETURNING key"))?;
    ensure!(changed == unit, "not one row was changed: {changed:?}");
    // Nobody has read it before, so no cache has it as it was.
    let shown = shown_version(&admin, &unit, &position)?;
    ensure!(shown == WRITTEN_BY_HAND, "readers are shown version {shown}");

    let fresh_fold = drift_is_found(system, &unit, &version)?;
    let models = drift_is_replaced(system, fresh_fold, || Ok(shown_version(&admin, &unit, &position)? == version))?;
    Ok(format!(
        "a row changed by hand: found by a dry run, a refused rebuild, diff and doctor --rows, replaced by --force; \
         then all {models} models are as a fresh fold makes them"
    ))
}

/// Nothing is replaced by looking. Answers the generation that the refused rebuild left beside the live one.
fn drift_is_found(system: &System, unit: &str, version: &Value) -> Result<u64> {
    let plain = told(system, &["doctor"])?;
    let rows = line(&plain, "rows")?;
    let says_so = rows["detail"].as_str().is_some_and(|detail| detail.contains("not compared"));
    ensure!(plain.exit == FINE && rows["state"] == "fine" && says_so, "a doctor that compares no rows: {plain:?}");

    let before = standings(system)?;
    let trial = told(system, &["projections", "rebuild", MODEL, "--dry-run"])?;
    ensure!(one_differs(&trial, "different") && trial.said.contains("--force"), "the dry run: {trial:?}");
    let after = standings(system)?;
    ensure!(after == before, "the dry run made {after:?} of {before:?}");

    let refused = told(system, &["projections", "rebuild", MODEL])?;
    ensure!(one_differs(&refused, "refused"), "the rebuild: {refused:?}");
    let verbs = ["diff", "switch", "rebuild", "abort"].map(|verb| format!("`casitas projections {verb} {MODEL}"));
    ensure!(verbs.iter().all(|verb| refused.said.contains(verb)), "what can be done now: {refused:?}");
    let after = standings(system)?;
    ensure!(of(&after, "live") == of(&before, "live"), "the rebuild made {after:?} of {before:?}");
    let ready = of(&after, "ready").with_context(|| format!("no fresh fold is left: {after:?}"))?;

    let diff = told(system, &["projections", "diff", MODEL])?;
    let [row] = &diff.rows[..] else { bail!("not one row differs: {diff:?}") };
    let is_it = row["key"] == unit && row["difference"] == "differs";
    let versions = row["live"]["version"] == WRITTEN_BY_HAND && row["rebuilt"]["version"] == *version;
    ensure!(diff.exit == WRONG && is_it && versions, "the difference: {diff:?}");

    let doctor = told(system, &["doctor", "--rows"])?;
    let ill: Vec<&Value> = doctor.rows.iter().filter(|line| line["state"] != "fine").collect();
    let [line] = &ill[..] else { bail!("not one thing is wrong: {doctor:?}") };
    let counts = line["detail"].as_str().is_some_and(|detail| detail.contains("1 differ"));
    ensure!(line["check"] == format!("rows of {MODEL}") && line["state"] == "wrong" && counts, "{line}");
    let next = format!("casitas projections rebuild {MODEL}");
    ensure!(doctor.exit == WRONG && line["next"] == next, "exit {}: {line}", doctor.exit);
    Ok(ready)
}

/// The next command of the doctor's, and what is to be seen after it. Answers how many models were compared.
fn drift_is_replaced(system: &System, fresh_fold: u64, is_right: impl FnMut() -> Result<bool>) -> Result<usize> {
    let forced = told(system, &["projections", "rebuild", MODEL, "--force"])?;
    let switched = forced.rows.len() == 1 && forced.rows[0]["result"] == "switched";
    ensure!(forced.exit == FINE && switched, "the rebuild by force: {forced:?}");
    let drop_old = format!("casitas projections drop {MODEL}");
    let next = forced.rows[0]["next"].as_str();
    ensure!(next.is_some_and(|next| next.starts_with(&drop_old)), "what becomes of the old rows: {forced:?}");
    let live = of(&standings(system)?, "live");
    ensure!(live == Some(fresh_fold), "live is {live:?}, not the fold that was ready: {fresh_fold}");
    wait_until("the unit as the log has it", SETTLES_WITHIN, is_right)?;

    let trial = told(system, &["projections", "rebuild", MODEL, "--dry-run"])?;
    let equal = trial.rows.len() == 1 && trial.rows[0]["result"] == "equal" && trial.rows[0]["differ"] == 0;
    ensure!(trial.exit == FINE && equal, "the dry run afterwards: {trial:?}");
    healthy(system)?;
    let doctor = told(system, &["doctor", "--rows"])?;
    let models = models(system)?;
    for (model, _) in &models {
        let rows = line(&doctor, &format!("rows of {model}"))?;
        ensure!(rows["state"] == "fine", "{rows}");
    }
    ensure!(doctor.exit == FINE, "the doctor afterwards: {doctor:?}");

    let dropped = told(system, &["projections", "drop", MODEL])?;
    ensure!(dropped.exit == FINE, "the old rows: {dropped:?}");
    let left = standings(system)?;
    ensure!(left == [(fresh_fold, "live".to_owned())], "left: {left:?}");
    Ok(models.len())
}

/// Ends what folds and fires timers, at once: the one process, when embedded.
fn end_projector(system: &mut System) -> Result<()> {
    match system {
        System::Embedded(embedded) => embedded.server().kill9(),
        System::Distributed(stack) => stack.role(PROJECTOR)?.kill9(),
    }
}

/// A hold runs out while nobody fires timers: it is named, and expires when somebody does again.
pub fn late_timer(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (unit, _) = world::unit(&admin, &property, &fresh("T"))?;
    let party = world::party(&admin, &fresh("Holder"))?;
    system.caught_up()?;
    healthy(system)?;
    let ends = now() + HOLD_LIVES;
    let body = json!({"party_id": party, "from": day(-1), "to": day(5), "expires_at": instant(ends)});
    let hold = admin.post(&format!("/units/{unit}/holds"), &body).now()?.expect(201)?.id()?;
    system.caught_up()?;
    end_projector(system)?;
    let outcome = overdue(system, &hold, ends);
    // Whatever came of it: the next scenario needs it.
    system.restart(PROJECTOR, &[])?;
    outcome?;
    healthy(system)?;
    let stream = format!("unit:{unit}");
    let expired = system.rows(&["events", "list", "--stream", &stream, "--type", "HoldExpired"])?;
    ensure!(expired.len() == 1 && expired[0]["actor"] == "timer:hold-expiry", "{expired:?}");
    Ok("a hold that ran out while nobody looked is named; it expired when somebody did again".to_owned())
}

/// As if the hold had run out earlier.
fn overdue(system: &System, hold: &str, ends: Duration) -> Result<()> {
    let due = format!("f_due_at - {EARLIER_MS}");
    let (document, next) = match system {
        System::Distributed(_) => {
            (format!("jsonb_set(doc::jsonb, '{{due_at}}', to_jsonb({due}))::json"), "restart the projector")
        }
        System::Embedded(_) => (format!("json_set(doc, '$.due_at', {due})"), "casitas serve"),
    };
    let table = table(system, TIMER_MODEL)?;
    let sql = format!("UPDATE {table} SET f_due_at = {due}, doc = {document} WHERE key = '{hold}' RETURNING key");
    let changed = edit(system, &sql)?;
    ensure!(changed == hold, "the hold had expired before the projector was ended, or was not folded: {changed:?}");
    let line = found(system, "timers", hold)?;
    ensure!(line["next"].as_str().is_some_and(|told| told.contains(next)), "{line}");
    // In truth it is in force until then, and the timer would be refused once and for all.
    wait_until("the hold's end", HOLD_LIVES, || Ok(now() > ends))
}

/// A model whose batches are committed late is behind, which is told apart from one that nobody leads.
pub fn behind(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    system.caught_up()?;
    system.restart(PROJECTOR, &[(DELAY, DELAY_MS)])?;
    let outcome = falls_behind(system, &admin, &property);
    // In good order it would finish its batch first.
    end_projector(system)?;
    system.restart(PROJECTOR, &[(DELAY, "0")])?;
    let detail = outcome?;
    healthy(system)?;
    Ok(format!("{MODEL}: {detail}; current again when its batches were no longer held up"))
}

fn falls_behind(system: &System, admin: &Http, property: &str) -> Result<String> {
    // Led again, and with nothing to do.
    healthy(system)?;
    // The connections of before ended with the process; a login now would be one event more.
    let admin = system.http()?.with(admin.token().context("the admin has no token")?);
    world::unit(&admin, property, &fresh("L"))?;
    let line = found(system, MODEL, "events behind")?;
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(!detail.contains("nobody leads it"), "{line}");
    let next = line["next"].as_str().unwrap_or_default();
    ensure!(next.starts_with("casitas projections list"), "{line}");
    Ok(detail.to_owned())
}

/// The broker is down, then the databases: exit 7, the server is named, and what is read from it could not be checked.
pub fn servers(system: &mut System) -> Result<String> {
    healthy(system)?;
    system.stack()?.rabbitmq.stop()?;
    let outcome = without_broker(system);
    system.stack()?.rabbitmq.start_again()?;
    outcome?;
    healthy(system)?;
    system.stack()?.postgres.stop()?;
    let outcome = without_databases(system);
    system.stack()?.postgres.start_again()?;
    outcome?;
    healthy(system)?;
    Ok("RabbitMQ and Postgres down in turn: exit 7, each named, what is read from it could not be checked".to_owned())
}

fn without_broker(system: &System) -> Result<()> {
    let doctor = told(system, &["doctor"])?;
    ensure!(doctor.exit == DOWN, "without RabbitMQ: {doctor:?}");
    let server = line(&doctor, "rabbitmq")?;
    ensure!(server["state"] == "wrong" && has_next(server), "{server}");
    let letters = line(&doctor, "dead letters")?;
    let says_so = letters["detail"].as_str().is_some_and(|detail| detail.starts_with(UNKNOWN));
    ensure!(letters["state"] == UNKNOWN && says_so && has_next(letters), "{letters}");
    let concerned = ["rabbitmq", "dead letters"];
    let others = |line: &&Value| !concerned.iter().any(|check| line["check"] == *check);
    let ill: Vec<&Value> = doctor.rows.iter().filter(others).filter(|line| line["state"] != "fine").collect();
    ensure!(ill.is_empty(), "nothing else needs RabbitMQ: {ill:?}");
    let quick = told(system, &["doctor", "--quick"])?;
    let is_named = line(&quick, "rabbitmq")?["state"] == "wrong";
    ensure!(quick.exit == DOWN && is_named && line(&quick, "dead letters").is_err(), "of the servers alone: {quick:?}");
    Ok(())
}

fn without_databases(system: &System) -> Result<()> {
    let doctor = told(system, &["doctor"])?;
    ensure!(doctor.exit == DOWN, "without Postgres: {doctor:?}");
    for database in CONTEXTS.into_iter().chain(["views"]) {
        let server = line(&doctor, &format!("{database}_db"))?;
        ensure!(server["state"] == "wrong" && has_next(server), "{server}");
    }
    for check in FROM_DATABASES {
        let line = line(&doctor, check)?;
        let says_so = line["detail"].as_str().is_some_and(|detail| detail.starts_with(UNKNOWN));
        ensure!(line["state"] == UNKNOWN && says_so && has_next(line), "{line}");
    }
    for check in ["redis", "rabbitmq", "dead letters"] {
        let line = line(&doctor, check)?;
        ensure!(line["state"] == "fine", "not from Postgres: {line}");
    }
    Ok(())
}

/// Of a folder whose files cannot be opened the doctor says no more than that.
pub fn damaged(system: &System) -> Result<String> {
    let System::Embedded(embedded) = system else { bail!("only an embedded store has files") };
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("legal_db.sqlite"), "no database at all\n".repeat(100))?;
    let output = Command::new(embedded.binary())
        .args(["doctor", "--output", "ndjson", "--data-dir"])
        .arg(dir.path())
        .current_dir(dir.path())
        .output()
        .context("starting casitas")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(DOWN), "the doctor ended with {}: {text}", output.status);
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let [line] = &lines[..] else { bail!("not one line: {text}") };
    ensure!(line["check"] == "store" && line["state"] == UNKNOWN, "{line}");
    let detail = line["detail"].as_str().unwrap_or_default();
    ensure!(detail.starts_with(UNKNOWN) && detail.contains("legal"), "which file is it: {line}");
    ensure!(line["next"].as_str().is_some_and(|next| next.contains("casitas restore")), "{line}");
    Ok(format!("exit 7: {detail}"))
}
