//! The logs restored from dumps of an earlier moment, while the views stand where they stood.
//!
//! The databases are dropped and made anew from `pg_dump`'s files, so of what Postgres knows beside the rows
//! (transactions, their order) nothing is left. A dump brings its log's incarnation back with it, and what happened
//! after the dump is gone: the operator begins a new life of the logs, as `casitas restore` does by itself for a
//! folder. Without that, positions that were handed out for what was lost would be given out again as if nothing had
//! happened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::client::{Answer, Http};
use super::operations::{FINE, Told, WRONG, told};
use super::rebuilds::results;
use super::system::{CONTEXTS, System};
use super::world::{self, SETTLES_WITHIN, fresh};
use crate::http;
use crate::net::wait_until;
use crate::servers::{POSTGRES_OWNER, Postgres};
use crate::stack::ROLES;

/// Logs that are written to after their dump.
const SET_BACK: [&str; 2] = ["units", "legal"];
const REPLICAS: [&str; 2] = ["query-1", "query-2"];

/// By context.
type Heads = BTreeMap<&'static str, u64>;
type Histories = BTreeMap<&'static str, Vec<String>>;

/// A unit, and the command that made it.
struct Made {
    key: String,
    body: Value,
    answer: Answer,
}

impl Made {
    fn unit(admin: &Http, property: &str) -> Result<Self> {
        let (key, body) = (fresh("key"), world::unit_body(property, &fresh("Z")));
        let answer = admin.post("/units", &body).key(&key).now()?.expect(201)?;
        Ok(Self { key, body, answer })
    }

    /// The same command with the same key.
    fn again(&self, admin: &Http) -> Result<Answer> {
        admin.post("/units", &self.body).key(&self.key).now()?.expect(201)
    }
}

/// A read model, and where its checkpoint stands.
struct Model {
    name: String,
    context: String,
    position: u64,
}

/// Nothing that was in the dumps is lost, positions go on behind them, what stands beyond them is found by name, tokens
/// of what is gone are refused, and a rebuild heals.
pub fn dumps(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let kept = Made::unit(&admin, &property)?;
    system.caught_up()?;
    let dir = tempfile::tempdir()?;
    let sure = heads(postgres(system)?)?;
    let held = digests(postgres(system)?, &sure)?;
    let beside = dump_beside_a_writer(postgres(system)?, dir.path(), &admin, &property)?;
    let lost = Made::unit(&admin, &property)?;
    world::party(&admin, &fresh("Lost"))?;
    system.caught_up()?;
    let whole = histories(postgres(system)?)?;

    restore_all(system, dir.path())?;
    let heads = heads(postgres(system)?)?;
    let restored = histories(postgres(system)?)?;
    ensure!(digests(postgres(system)?, &sure)? == held, "what stood in the logs before the dumps is not what it was");
    for (context, history) in &restored {
        ensure!(
            whole[context].starts_with(history),
            "the restored {context} log is no beginning of the one that was dumped"
        );
    }
    for context in SET_BACK {
        ensure!(heads[context] < whole[context].len() as u64, "nothing of the {context} log was lost: this shows nothing");
    }
    let models = found_at_rest(system, &heads)?;
    begin_new_life(system, &models)?;
    commands_go_on(system, &property, &heads, &kept, &lost)?;
    healed(system, &models)?;
    reads_are_true(system, &property, &kept, &lost)?;
    let gone: usize = SET_BACK.iter().map(|context| whole[context].len() - restored[context].len()).sum();
    Ok(format!(
        "{} events restored from dumps made beside {beside} commands, {gone} that came later gone; {} models found beyond \
         the logs and rebuilt",
        restored.values().map(Vec::len).sum::<usize>(),
        models.len()
    ))
}

fn postgres(system: &System) -> Result<&Postgres> {
    match system {
        System::Distributed(stack) => Ok(&stack.postgres),
        System::Embedded(_) => bail!("a folder is restored by `casitas restore`"),
    }
}

fn database(context: &str) -> String {
    format!("{context}_db")
}

fn heads(postgres: &Postgres) -> Result<Heads> {
    let head = |context: &&'static str| -> Result<(&'static str, u64)> {
        let text = postgres.sql(&database(context), "SELECT coalesce(max(position), 0) FROM events")?;
        Ok((*context, text.parse()?))
    };
    CONTEXTS.iter().map(head).collect()
}

/// Of all that a log holds up to a position; its chain, which grows behind it, is `casitas events verify`'s business.
fn digests(postgres: &Postgres, upto: &Heads) -> Result<BTreeMap<&'static str, String>> {
    let digest = |(context, head): (&&'static str, &u64)| -> Result<(&'static str, String)> {
        let sql = format!(
            "SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
                 SELECT e::text AS line FROM events e WHERE position <= {head}
                 UNION ALL SELECT k::text FROM idempotency_keys k WHERE position <= {head}
                 UNION ALL SELECT s::text FROM subject_keys s) lines"
        );
        Ok((*context, postgres.sql(&database(context), &sql)?))
    };
    upto.iter().map(digest).collect()
}

/// Every event of each log by its id, in order.
fn histories(postgres: &Postgres) -> Result<Histories> {
    let history = |context: &&'static str| -> Result<(&'static str, Vec<String>)> {
        let text = postgres.sql(&database(context), "SELECT position || ' ' || event_id FROM events ORDER BY position")?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let dense = lines.iter().zip(1_u64..).all(|(line, position)| line.starts_with(&format!("{position} ")));
        ensure!(dense, "the positions of {context} have gaps");
        Ok((*context, lines))
    };
    CONTEXTS.iter().map(history).collect()
}

fn file(dir: &Path, context: &str) -> PathBuf {
    dir.join(format!("{context}.sql"))
}

/// One log after the other, while a client writes; how many units it made meanwhile.
fn dump_beside_a_writer(postgres: &Postgres, dir: &Path, admin: &Http, property: &str) -> Result<u64> {
    let stop = AtomicBool::new(false);
    let (dumped, written) = thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                world::unit(admin, property, &fresh("B"))?;
                written += 1;
            }
            Ok(written)
        });
        let dumped = CONTEXTS.iter().try_for_each(|context| dump(postgres, context, &file(dir, context)));
        stop.store(true, Ordering::SeqCst);
        (dumped, writer.join())
    });
    dumped?;
    let written = written.map_err(|_| anyhow!("the writer panicked"))??;
    ensure!(written > 0, "nothing was written beside the dumps");
    Ok(written)
}

fn dump(postgres: &Postgres, context: &str, to: &Path) -> Result<()> {
    let output = Command::new(postgres.bin_dir().join("pg_dump"))
        .args(["-h", "127.0.0.1", "-p", &postgres.port().to_string(), "-U", POSTGRES_OWNER, "--create", "--file"])
        .arg(to)
        .arg(database(context))
        .env("PGPASSWORD", postgres.password())
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "pg_dump of {context}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Leaves the roles stopped.
fn restore_all(system: &mut System, dir: &Path) -> Result<()> {
    let stack = system.stack()?;
    for role in ROLES.iter().rev() {
        stack.role(role)?.stop()?;
    }
    for context in CONTEXTS {
        let postgres = &stack.postgres;
        postgres.sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", database(context)))?;
        let output = postgres.psql("postgres").arg("-f").arg(file(dir, context)).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "restoring {context}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let migrated = stack.casitas(&["migrate"])?;
    ensure!(migrated.status.success(), "casitas migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    Ok(())
}

fn models(system: &System) -> Result<Vec<Model>> {
    let rows = system.rows(&["projections", "list"])?;
    let model = |row: &Value| -> Result<Model> {
        let text = |name: &str| row[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {row}"));
        let position = row["position"].as_u64().with_context(|| format!("no position: {row}"))?;
        Ok(Model { name: text("name")?, context: text("context")?, position })
    };
    // The others are followers whose checkpoints lie beside their log.
    rows.iter().filter(|row| row["generation"].is_u64()).map(model).collect()
}

/// What `casitas events verify` ends with, and the read models that it says are to be rebuilt. Nothing else may be wrong.
fn verified(system: &System) -> Result<(i32, BTreeSet<String>)> {
    let Told { exit, rows, .. } = told(system, &["events", "verify"])?;
    let mut named = BTreeSet::new();
    for row in rows.iter().filter(|row| row["state"] == "wrong") {
        let model = row["next"].as_str().and_then(|next| next.strip_prefix("casitas projections rebuild "));
        ensure!(row["what"] == "checkpoint" && model.is_some(), "{row}");
        named.extend(model.map(str::to_owned));
    }
    Ok((exit, named))
}

/// What `casitas doctor` ends with, and the read models of which it says something with this word in it.
fn doctor(system: &System, models: &[Model], word: &str) -> Result<(i32, BTreeSet<String>)> {
    let Told { exit, rows, .. } = told(system, &["doctor"])?;
    let is_ill = |model: &&Model| {
        rows.iter().any(|row| {
            let says = row["detail"].as_str().is_some_and(|detail| detail.contains(word));
            row["check"] == model.name.as_str() && row["state"] != "fine" && says
        })
    };
    Ok((exit, models.iter().filter(is_ill).map(|model| model.name.clone()).collect()))
}

/// The roles are stopped: every checkpoint beyond the end of its log is found, and nothing else.
fn found_at_rest(system: &System, heads: &Heads) -> Result<Vec<Model>> {
    let models = models(system)?;
    let beyond = |model: &&Model| heads.get(model.context.as_str()).is_some_and(|head| model.position > *head);
    let beyond: BTreeSet<String> = models.iter().filter(beyond).map(|model| model.name.clone()).collect();
    ensure!(!beyond.is_empty(), "no view is beyond its log: this shows nothing");
    let by_verify = verified(system)?;
    ensure!(by_verify == (WRONG, beyond.clone()), "{beyond:?} are beyond their logs, verify found {by_verify:?}");
    let by_doctor = doctor(system, &models, "another life")?;
    ensure!(by_doctor == (WRONG, beyond.clone()), "{beyond:?} are beyond their logs, the doctor found {by_doctor:?}");
    Ok(models)
}

/// Starts the roles on logs that are others from now on: every read model is found, and stands still instead of folding on.
fn begin_new_life(system: &mut System, models: &[Model]) -> Result<()> {
    let renewed = results(system, &["events", "renew", "--all"])?;
    ensure!(renewed.len() == CONTEXTS.len(), "{renewed:?}");
    let all: BTreeSet<String> = models.iter().filter(|model| model.position > 0).map(|model| model.name.clone()).collect();
    let by_verify = verified(system)?;
    ensure!(by_verify == (WRONG, all.clone()), "{all:?} are of another life, verify found {by_verify:?}");
    for name in ROLES {
        let role = system.stack()?.role(name)?;
        // It is not ready while its models stand still.
        if name == "projector" { role.start_unready()? } else { role.start()? }
    }
    let by_doctor = doctor(system, models, "another life")?;
    ensure!(by_doctor == (WRONG, all.clone()), "{all:?} are of another life, the doctor found {by_doctor:?}");
    let port = system.stack()?.role("projector")?.port();
    let mut still = BTreeSet::new();
    let waited = wait_until("all models standing still", SETTLES_WITHIN, || {
        still = standing_still(port);
        Ok(still.is_superset(&all))
    });
    waited.with_context(|| format!("{all:?} are of another life, {still:?} stand still"))
}

/// The followers of which the projector's readiness says that a rebuild is needed.
fn standing_still(port: u16) -> BTreeSet<String> {
    let report: Value = match http::get(port, "/readyz?verbose") {
        Ok(answer) if answer.status == 503 => serde_json::from_str(&answer.body).unwrap_or_default(),
        // It may not listen yet.
        Ok(_) | Err(_) => return BTreeSet::new(),
    };
    let still = |follower: &&Value| {
        follower["state"] == "stalled"
            && follower["reason"].as_str().is_some_and(|reason| reason.contains("casitas projections rebuild"))
    };
    let followers = report["followers"].as_array().cloned().unwrap_or_default();
    followers.iter().filter(still).filter_map(|follower| Some(follower["name"].as_str()?.to_owned())).collect()
}

/// A command from before the dump is known by its key, one that was lost is done as if for the first time, and new
/// events stand behind the last one that was restored.
fn commands_go_on(system: &System, property: &str, heads: &Heads, kept: &Made, lost: &Made) -> Result<()> {
    let admin = world::admin(system)?;
    let again = kept.again(&admin)?;
    ensure!(again.header("idempotent-replayed") == Some("true"), "done twice: {:?}, then {again}", kept.answer.text());
    ensure!(again.json()? == kept.answer.json()?, "another answer than {:?}: {again}", kept.answer.text());
    let anew = lost.again(&admin)?;
    let is_new = anew.header("idempotent-replayed").is_none() && anew.id()? != lost.answer.id()?;
    ensure!(is_new, "replayed, and nothing of it is there: {anew}");
    world::unit(&admin, property, &fresh("Z"))?;
    world::party(&admin, &fresh("New"))?;
    for context in SET_BACK {
        let events = system.events(context, heads[context])?;
        let dense = events.iter().zip(heads[context] + 1..).all(|(event, position)| event.position == position);
        let positions: Vec<u64> = events.iter().map(|event| event.position).collect();
        ensure!(dense && !events.is_empty(), "the restored {context} log ends at {}, then {positions:?}", heads[context]);
    }
    Ok(())
}

/// What doctor and verify name as the next command is all that is needed.
fn healed(system: &mut System, models: &[Model]) -> Result<()> {
    let rebuilt = results(system, &["projections", "rebuild", "--all"])?;
    let switched = rebuilt.iter().filter(|row| row["result"] == "switched").count();
    ensure!(switched == models.len(), "{switched} of {} models were rebuilt: {rebuilt:?}", models.len());
    let projector = system.stack()?.role("projector")?;
    wait_until("a projector that is well", SETTLES_WITHIN, || Ok(projector.is_ready()))?;
    system.caught_up()?;
    let by_verify = verified(system)?;
    ensure!(by_verify == (FINE, BTreeSet::new()), "after the rebuild: {by_verify:?}");
    let (_, ill) = doctor(system, models, "")?;
    ensure!(ill.is_empty(), "after the rebuild the doctor finds {ill:?}");
    let equal = results(system, &["projections", "rebuild", "--all", "--dry-run"])?;
    ensure!(equal.iter().all(|row| row["result"] == "equal"), "a fresh fold differs: {equal:?}");
    // Fails unless it delivers as many events as are stored, in order.
    let replayed = told(system, &["events", "replay", "--into", "dry"])?;
    ensure!(replayed.exit == FINE, "{replayed:?}");
    Ok(())
}

/// On both replicas: what was restored and what is new is there, what was lost is not, and who asks for it by its token
/// is told why.
fn reads_are_true(system: &mut System, property: &str, kept: &Made, lost: &Made) -> Result<()> {
    let admin = world::admin(system)?;
    let (unit, position) = world::unit(&admin, property, &fresh("Z"))?;
    for name in REPLICAS {
        let port = system.stack()?.role(name)?.port();
        let http = admin.at(&format!("http://127.0.0.1:{port}"));
        let read = |unit: &str| http.get(&format!("/units/{unit}")).after(&position, 5).now();
        read(&unit)?.expect(200)?;
        read(&kept.answer.id()?)?.expect(200)?;
        read(&lost.answer.id()?)?.expect(404)?;
        for token in [&lost.answer, &kept.answer] {
            let stale = http.get("/units/available").after(&token.position()?, 1).now()?;
            stale.problem(409, "LOG_RESTORED").with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}
