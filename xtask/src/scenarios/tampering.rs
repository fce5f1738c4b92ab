//! `casitas events verify`: what a superuser does to history with triggers off is found, each thing by its name, and nothing is
//! found in a clean store. The chain is computed here once more, from its description and not from its code.

mod store;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::store::{LOG, Store, VIEWS, Verdict, copy_folder};
use super::client::Http;
use super::system::System;
use super::world;
use crate::net::{random_u64, wait_until};
use crate::stack::ROLES;

const SEALED_WITHIN: Duration = Duration::from_secs(20);

const COLUMNS: &str =
    "aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position, event_id,
    effective_on, recorded_at, actor, correlation_id, causation_id, traceparent";

/// What is done, and by which names it must be found.
struct Case {
    name: &'static str,
    database: &'static str,
    sql: String,
    /// The tables' own rules stand in the way.
    lawless: bool,
    /// The forger computes the chain anew.
    forged: bool,
    /// Without an anchor; empty when nothing can be found without one.
    found: Vec<(&'static str, Option<i64>)>,
    /// With it, as well.
    anchored: bool,
}

impl Case {
    fn new(name: &'static str, sql: String, found: &[(&'static str, Option<i64>)]) -> Self {
        Self { name, database: LOG, sql, lawless: false, forged: false, found: found.to_vec(), anchored: false }
    }
}

/// Events of the log that the cases are about.
struct Scene {
    /// The last position.
    head: i64,
    /// One in the middle without personal data.
    plain: i64,
    /// Two of the same type about two people.
    people: [i64; 2],
    /// Where the personal data is: `PartyRegistered`.
    variant: String,
    /// One that is not its stream's first.
    later: i64,
}

impl Scene {
    fn of(store: &Store<'_>) -> Result<Self> {
        let events = store.events()?;
        let text = |event: &Value, column: usize| event[column].as_str().unwrap_or_default().to_owned();
        let position = |event: &Value| event[0].as_i64().unwrap_or_default();
        let head = events.last().map(position).context("an empty log")?;
        let is_sealed = |event: &&Value| text(event, 7).contains("\"sealed\"");
        let inner = |event: &&Value| position(event) > 2 && position(event) < head - 3;
        let first = events.iter().find(is_sealed).context("nothing is sealed")?;
        let second = events
            .iter()
            .filter(is_sealed)
            .find(|event| text(event, 5) == text(first, 5) && text(event, 3) != text(first, 3))
            .context("only one person")?;
        let plain = events.iter().filter(inner).find(|event| !is_sealed(event)).context("no plain event in the middle")?;
        let later = events.iter().filter(inner).find(|event| event[4] == 2).context("no stream with two events")?;
        Ok(Self {
            head,
            plain: position(plain),
            people: [position(first), position(second)],
            variant: text(first, 5),
            later: position(later),
        })
    }

    fn cases(&self, store: &Store<'_>) -> Vec<Case> {
        let Self { head, plain, people: [one, other], variant, later } = self;
        let (head, plain, later) = (*head, *plain, *later);
        let edited = store.pick("(payload::text || ' ')::json", "payload || ' '");
        let edit = format!("UPDATE events SET payload = {edited} WHERE position = {plain};");
        let personal = store.pick("payload::jsonb", "payload");
        let foreign = match store.is_server() {
            true => format!(
                "UPDATE events SET payload = jsonb_set({personal}, '{{{variant},personal}}', (SELECT {personal} #>
                     '{{{variant},personal}}' FROM events WHERE position = {other}))::json WHERE position = {one};"
            ),
            false => format!(
                "UPDATE events SET payload = json_set({personal}, '$.{variant}.personal', json((SELECT
                     json_extract({personal}, '$.{variant}.personal') FROM events WHERE position = {other})))
                   WHERE position = {one};"
            ),
        };
        let move_by = |by: i64, after: i64| {
            format!(
                "UPDATE events SET position = position + 1000000000 WHERE position > {after};
                 UPDATE events SET position = position - 1000000000 + {by} WHERE position > 1000000000;"
            )
        };
        let copy_to = |position: i64| copy(store, plain, position);
        let ahead = |table: &str, which: &str| format!("UPDATE {table} SET position = position + 1000 WHERE {which};");
        vec![
            Case::new("payload edited", edit.clone(), &[("chain", Some(plain))]),
            Case::new(
                "metadata edited",
                format!("UPDATE events SET actor = 'user:somebody' WHERE position = {plain};"),
                &[("chain", Some(plain))],
            ),
            Case::new(
                "deleted in the middle",
                format!("DELETE FROM events WHERE position = {plain};"),
                &[("gap", Some(plain)), ("chain", None)],
            ),
            Case::new(
                "deleted in the middle, the rest moved up",
                format!("DELETE FROM events WHERE position = {plain}; {}", move_by(-1, plain)),
                &[("chain", Some(plain)), ("cut", Some(head))],
            ),
            Case::new(
                "tail cut",
                format!("DELETE FROM events WHERE position > {head} - 2;"),
                &[("cut", Some(head - 1)), ("checkpoint", None)],
            ),
            Case {
                anchored: true,
                ..Case::new(
                    "tail cut, with the chain's",
                    format!(
                        "DELETE FROM events WHERE position > {head} - 2; DELETE FROM chain WHERE position > {head} - 2;"
                    ),
                    &[("checkpoint", None)],
                )
            },
            Case::new(
                "two events swapped",
                format!(
                    "UPDATE events SET position = 1000000000 WHERE position = {plain};
                     UPDATE events SET position = {plain} WHERE position = {head};
                     UPDATE events SET position = {head} WHERE position = 1000000000;"
                ),
                &[("chain", Some(plain))],
            ),
            Case::new(
                "event inserted",
                format!("{} {}", move_by(1, plain), copy_to(plain + 1)),
                &[("chain", Some(plain + 1))],
            ),
            Case {
                lawless: true,
                ..Case::new("position taken twice", copy_to(plain), &[("duplicate position", Some(plain)), ("chain", None)])
            },
            Case {
                lawless: true,
                ..Case::new(
                    "stream version duplicated",
                    format!("UPDATE events SET sequence = 1 WHERE position = {later};"),
                    &[("broken stream", Some(later)), ("chain", Some(later))],
                )
            },
            Case::new(
                "stream version left out",
                format!("UPDATE events SET sequence = 9000 WHERE position = {later};"),
                &[("broken stream", Some(later)), ("chain", Some(later))],
            ),
            Case::new("position gap", move_by(5, plain), &[("gap", Some(plain + 1)), ("chain", None)]),
            Case { forged: true, anchored: true, ..Case::new("chain recomputed after an edit", edit, &[]) },
            Case {
                forged: true,
                anchored: true,
                ..Case::new(
                    "restored to an earlier day and appended to",
                    format!("DELETE FROM events WHERE position > {head} - 2; {} {}", copy_to(head - 1), copy_to(head)),
                    &[("checkpoint", None)],
                )
            },
            Case {
                database: VIEWS,
                ..Case::new(
                    "checkpoint of a read model moved ahead",
                    ahead("view_heads", "model = 'leases'"),
                    &[("checkpoint", Some(head + 1000))],
                )
            },
            Case::new(
                "checkpoint of a follower moved ahead",
                ahead("follower_checkpoints", "name = 'policy:move-in'"),
                &[("checkpoint", None)],
            ),
            Case::new(
                "another incarnation",
                format!("UPDATE log_incarnation SET incarnation = {};", uuid(store)),
                &[("checkpoint", None)],
            ),
            Case::new(
                "sealed value of another subject",
                foreign.clone(),
                &[("unreadable", Some(*one)), ("chain", Some(*one))],
            ),
            Case {
                forged: true,
                anchored: true,
                ..Case::new("the same, and the chain recomputed", foreign, &[("unreadable", Some(*one))])
            },
            Case::new(
                "payload that is no such event",
                format!("UPDATE events SET payload = '{{\"Nothing\":{{}}}}' WHERE position = {plain};"),
                &[("unreadable", Some(plain)), ("chain", Some(plain))],
            ),
            Case::new(
                "recorded in another year",
                format!(
                    "UPDATE events SET recorded_at = recorded_at {} WHERE position = {plain};",
                    store.pick("- interval '1 year'", "- 31536000000000")
                ),
                &[("time goes back", Some(plain)), ("chain", Some(plain))],
            ),
        ]
    }
}

/// Another event like that one, in a stream of its own.
fn copy(store: &Store<'_>, of: i64, to: i64) -> String {
    format!(
        "INSERT INTO events ({COLUMNS})
         SELECT aggregate_type, 'copy-{:016x}', 1, event_type, event_version, payload, metadata, {to}, {}, effective_on,
                (SELECT max(recorded_at) FROM events WHERE position < {to}), actor, correlation_id, causation_id, traceparent
           FROM events WHERE position = {of};",
        random_u64(),
        uuid(store)
    )
}

fn uuid(store: &Store<'_>) -> String {
    let text = format!("018f3a4e-0000-7000-8000-{:012x}", random_u64() & 0xffff_ffff_ffff);
    if store.is_server() { format!("'{text}'::uuid") } else { format!("'{text}'") }
}

/// Something to tamper with: people, a document, streams with several events.
fn prepare(admin: &Http) -> Result<()> {
    let first = world::party(admin, &world::fresh("Person"))?;
    world::document(admin, None)?;
    world::document(admin, None)?;
    let patch = serde_json::json!({"phones": ["+15550000001"]});
    admin.request("PATCH", &format!("/parties/{first}")).json(&patch).key(&world::fresh("key")).now()?.success()?;
    for _ in 0..3 {
        world::party(admin, &world::fresh("Person"))?;
        world::document(admin, None)?;
    }
    Ok(())
}

/// On the living system: nothing is wrong, everything is sealed within a moment; then an anchor.
fn clean(system: &System, file: &Path) -> Result<()> {
    system.caught_up()?;
    wait_until("every event sealed", SEALED_WITHIN, || {
        let verdict = system.casitas(&["events", "verify", "-o", "ndjson"], "")?;
        Verdict::of(&verdict)?;
        Ok(!String::from_utf8_lossy(&verdict.stdout).contains("not sealed yet"))
    })?;
    let path = file.to_string_lossy();
    for _ in 0..2 {
        let made = system.casitas(&["events", "anchor", &path], "")?;
        ensure!(made.status.success(), "casitas events anchor: {}", String::from_utf8_lossy(&made.stderr));
    }
    let lines = std::fs::read_to_string(file)?.lines().count();
    ensure!(lines == 2, "{lines} lines after two anchors");
    let verdict = Verdict::of(&system.casitas(&["events", "verify", "--anchor", &path, "-o", "ndjson"], "")?)?;
    ensure!(verdict.exit == 0, "a clean store: {:?}", verdict.wrong);
    Ok(())
}

fn tamper(store: &Store<'_>, file: &Path) -> Result<String> {
    store.reset(true)?;
    let verdict = store.verify(Some(file))?;
    ensure!(verdict.wrong.is_empty(), "a clean store at rest: {:?}", verdict.wrong);
    let scene = Scene::of(store)?;
    // The chain computed here is the one that is stored, or nothing below would prove anything.
    store.triggers_off()?;
    store.forge_chain()?;
    let verdict = store.verify(Some(file))?;
    ensure!(verdict.wrong.is_empty(), "the chain computed by its description: {:?}", verdict.wrong);
    let cases = scene.cases(store);
    let count = cases.len();
    let (mut missed, mut views) = (Vec::new(), false);
    for case in cases {
        store.reset(views)?;
        views = case.database == VIEWS;
        store.triggers_off()?;
        if case.lawless {
            store.constraints_off()?;
        }
        store.run(case.database, &case.sql).with_context(|| case.name)?;
        if case.forged {
            store.forge_chain()?;
        }
        let alone = store.verify(None).with_context(|| case.name)?;
        let with = store.verify(Some(file)).with_context(|| case.name)?;
        let found = case.found.iter().all(|(what, at)| alone.names(what, *at) && with.names(what, *at));
        let silent = case.found.is_empty() == alone.wrong.is_empty();
        let anchored = !case.anchored || with.names("anchor", None);
        if !(found && silent && anchored) {
            missed.push(format!(
                "{}: expected {:?}, found {:?}, with the anchor {:?}",
                case.name, case.found, alone.wrong, with.wrong
            ));
        }
    }
    ensure!(missed.is_empty(), "{} of {count} not found as they should be:\n{}", missed.len(), missed.join("\n"));
    forged_anchor(store, file)?;
    Ok(format!("{count} kinds of tampering found by name, nothing in the clean store"))
}

/// An anchor that was changed is not believed.
fn forged_anchor(store: &Store<'_>, file: &Path) -> Result<()> {
    store.reset(true)?;
    let text = std::fs::read_to_string(file)?;
    let forged = file.with_extension("forged");
    std::fs::write(&forged, text.replacen("\"position\":", "\"position\":1", 1))?;
    let verdict = store.verify(Some(&forged))?;
    ensure!(verdict.names("anchor", None), "a changed anchor: {:?}", verdict.wrong);
    let missing = store.casitas(&["events", "verify", "--anchor", "/nowhere/anchors"])?;
    ensure!(missing.status.code() == Some(1), "a missing file of anchors: {:?}", missing.status);
    Ok(())
}

pub fn embedded(system: &mut System) -> Result<String> {
    prepare(&world::admin(system)?)?;
    let dir = tempfile::Builder::new().prefix("casitas-history-").tempdir()?;
    let file = dir.path().join("anchors.jsonl");
    clean(system, &file)?;
    let System::Embedded(embedded) = system else { anyhow::bail!("not embedded") };
    embedded.server().stop()?;
    let pristine = dir.path().join("pristine");
    copy_folder(&embedded.data_dir(), &pristine)?;
    let store = Store::Folder { binary: embedded.binary().to_owned(), pristine, work: dir.path().join("work") };
    let figure = tamper(&store, &file);
    embedded.start()?;
    figure
}

/// Leaves the system with its roles stopped.
pub fn distributed(system: &mut System) -> Result<String> {
    prepare(&world::admin(system)?)?;
    let dir = tempfile::Builder::new().prefix("casitas-history-").tempdir()?;
    let file = dir.path().join("anchors.jsonl");
    clean(system, &file)?;
    let stack = system.stack()?;
    for role in ROLES {
        stack.role(role)?.stop()?;
    }
    for name in [LOG, VIEWS] {
        let others = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        stack.postgres.sql("postgres", &others)?;
        stack.postgres.sql("postgres", &format!("CREATE DATABASE {name}_pristine TEMPLATE {name}"))?;
    }
    tamper(&Store::Server { stack }, &file)
}
