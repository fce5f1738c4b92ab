//! History on the move, interrupted: what a verb prints then goes on with it, as it stands.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::super::interrupts::{Begun, Line, Said, Shell, WITHIN};
use super::super::wire::Proxy;
use super::{Lab, Store, last_row, number};
use crate::net::wait_until;
use crate::servers::Postgres;

/// Events that are replayed at most: they are delivered slowly.
const REPLAYED: &str = "600";
/// So many seconds long, so that it is surely under way when it first says how far it is, a second after it began.
const REPLAY_S: u64 = 3;

impl Lab {
    /// A server that hangs in the middle of an import (SIGTERM) and of an export (SIGINT): they end all the same, and in the same
    /// bytes when they have gone on.
    pub fn interrupted_moves(&self) -> Result<String> {
        let whole = self.done(Store::Folder("a"), &["events", "export", "uninterrupted.ndjson"])?;
        let bytes = fs::metadata(self.dir.path().join("uninterrupted.ndjson"))?.len() as i64;
        let server = Postgres::start(&self.dir.path().join("postgres-2"), self.postgres.password())?;
        let proxy = Proxy::start(&server.address())?;
        let (address, through) = (server.address(), proxy.address.clone());
        let (server, through) = (Store::Postgres(&address), Store::Postgres(&through));
        self.done(server, &["migrate"])?;

        let import = ["events", "import", "uninterrupted.ndjson"];
        // Asking where the logs stand takes less, and all of it more.
        let said = self.interrupt_hanging(&proxy, bytes / 4, through, &import, Signal::TERM)?;
        said.has(&["the import stopped behind "])?;
        let again = said.command()?;
        ensure!(again.starts_with("casitas events import uninterrupted.ndjson --resume"), "it goes on with {again}");
        let imported = last_row(&self.run_printed(server, &again)?);
        let same = imported["sha256"] == whole["sha256"] && imported["events"] == whole["events"];
        ensure!(same && whole["sha256"].is_string(), "imported {imported}, exported {whole}");

        proxy.allow(i64::MAX);
        self.done(through, &["events", "export", "imported.ndjson"])?;
        let passed = proxy.passed();
        self.same_history("imported.ndjson")?;
        let name = "gone on with.ndjson";
        let said = self.interrupt_hanging(&proxy, passed / 2, through, &["events", "export", name], Signal::INT)?;
        said.has(&["the export is not complete", " events, the last "])?;
        let again = said.command()?;
        ensure!(again.starts_with("casitas events export 'gone on with.ndjson' --resume"), "it goes on with {again}");
        ensure!(!self.dir.path().join(name).exists(), "it has its name though it is not complete");
        self.run_printed(server, &again)?;
        self.same_history(name)?;
        Ok(format!("{} events imported and exported, each in two goes: the same {bytes} bytes", whole["events"]))
    }

    /// Replays interrupted at their first word: the two goes have every event between them, a pipe has each of them once, and a
    /// fold, which begins anew, comes to the same rows.
    pub fn interrupted_replays(&self) -> Result<String> {
        let replay = ["events", "replay", "--context", "finances", "--until", REPLAYED, "--into"];
        let stored = number(&self.replayed(&replay, &["dry"])?, "replayed")?;
        let rate = (stored / REPLAY_S).max(1).to_string();
        let begins = |into: &str| format!("casitas events replay --into {into} ");
        let goes_on = format!("--context finances --until {REPLAYED} --rate {rate}");

        let (said, again) = self.interrupt_replay(&replay, &["dry", "--rate", &rate])?;
        ensure!(again.starts_with(&begins("dry --from")) && again.contains(&goes_on), "it goes on with {again}");
        let rows = said.err.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let first = rows.rev().find_map(|row| row["progress"].as_u64()).context("it did not say how far it was")?;
        let rest = last_row(&self.run_printed(Store::Folder("a"), &again)?);
        let (second, counted) = (number(&rest, "replayed")?, number(&rest, "stored")?);
        ensure!(first + second == stored && second == counted, "{first} events and {rest}, of {stored}");

        let (said, again) = self.interrupt_replay(&replay, &["stdout", "--rate", &rate])?;
        ensure!(again.starts_with(&begins("stdout --from")) && again.contains(&goes_on), "it goes on with {again}");
        let output = self.run_printed(Store::Folder("a"), &again)?;
        let rest = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = said.out.len() as u64;
        let delivered =
            said.out.iter().map(String::as_str).chain(rest.lines()).map(position).collect::<Result<Vec<u64>>>()?;
        ensure!(delivered.iter().copied().eq(1..=stored), "a pipe was given {delivered:?}, of {stored} events");
        ensure!((1..stored).contains(&first), "{first} of {stored} events before it was interrupted");

        let fold = "projection:ledger_lines";
        let whole = self.replayed(&replay, &[fold])?;
        let (_, again) = self.interrupt_replay(&replay, &[fold, "--rate", &rate])?;
        ensure!(again.starts_with(&format!("{}{goes_on}", begins(fold))), "it begins anew with {again}");
        let anew = last_row(&self.run_printed(Store::Folder("a"), &again)?);
        ensure!(anew == whole && whole["rows"] != 0, "{anew} where uninterrupted it is {whole}");
        Ok(format!("{stored} events delivered in two goes: none is missing, and none is twice in a pipe"))
    }

    /// Begins a verb, and interrupts it when its server has not answered any more. Then the server is well again.
    fn interrupt_hanging(
        &self,
        proxy: &Proxy,
        after_bytes: i64,
        store: Store<'_>,
        args: &[&str],
        signal: Signal,
    ) -> Result<Said> {
        proxy.hang_after(after_bytes);
        let begun = Begun::start(self.program(store, args))?;
        wait_until("a server that hangs", WITHIN, || Ok(proxy.is_hanging()))?;
        begun.signal(signal)?;
        let said = begun.interrupted()?;
        proxy.let_go();
        Ok(said)
    }

    fn replayed(&self, replay: &[&str], into: &[&str]) -> Result<Value> {
        self.done(Store::Folder("a"), &[replay, into].concat())
    }

    /// Interrupts a replay when it first says how far it is; with the command that it ends with.
    fn interrupt_replay(&self, replay: &[&str], into: &[&str]) -> Result<(Said, String)> {
        let mut begun = Begun::start(self.program(Store::Folder("a"), &[replay, into].concat()))?;
        begun.until("how far a replay is", Line::is_progress)?;
        begun.signal(Signal::INT)?;
        let said = begun.interrupted()?;
        let again = said.command()?;
        Ok((said, again))
    }

    /// Runs what a verb printed exactly as it stands; it must succeed.
    fn run_printed(&self, store: Store<'_>, line: &str) -> Result<std::process::Output> {
        let shell = Shell::of(&self.binary)?;
        let output = self.beside(store, shell.command(line)).output()?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    fn same_history(&self, name: &str) -> Result<()> {
        self.same_bytes("uninterrupted.ndjson", name)?;
        self.same_bytes("uninterrupted.ndjson.keys", &format!("{name}.keys")).map(drop)
    }
}

/// Where a CloudEvent stands in its log.
fn position(line: &str) -> Result<u64> {
    let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    event["position"].as_str().with_context(|| line.to_owned())?.parse().with_context(|| line.to_owned())
}
