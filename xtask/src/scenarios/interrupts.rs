//! Long verbs interrupted by Ctrl-C: what they say, and that exactly the command which they end with goes on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::rebuilds::results;
use super::system::System;
use super::wire::Proxy;
use crate::net::wait_until;

/// As interfaces.md has it for what was interrupted.
const INTERRUPTED: i32 = 130;
/// How long a verb may take to say what is waited for, and to end when it was interrupted.
pub const WITHIN: Duration = Duration::from_secs(30);

/// A line of standard output, or of standard error.
pub enum Line {
    Out(String),
    Err(String),
}

impl Line {
    /// Of a replay, which says every second how far it is.
    pub fn is_progress(&self) -> bool {
        matches!(self, Self::Err(text) if text.starts_with('{') && text.contains("\"progress\""))
    }

    fn is_result(&self) -> bool {
        matches!(self, Self::Out(text) if row(text).is_some_and(|row| row["result"].is_string()))
    }
}

fn row(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// A verb under way.
pub struct Begun {
    child: Child,
    lines: Receiver<Line>,
    said: Said,
}

/// What a verb said, line by line.
#[derive(Default)]
pub struct Said {
    pub out: Vec<String>,
    pub err: Vec<String>,
}

impl Begun {
    pub fn start(mut command: Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting casitas")?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (there, lines) = mpsc::channel();
        let (out_there, err_there) = (there.clone(), there);
        thread::spawn(move || read(out, |text| out_there.send(Line::Out(text)).is_ok()));
        thread::spawn(move || read(err, |text| err_there.send(Line::Err(text)).is_ok()));
        Ok(Self { child, lines, said: Said::default() })
    }

    /// Waits until it says such a line.
    pub fn until(&mut self, what: &str, is_wanted: impl Fn(&Line) -> bool) -> Result<()> {
        let end = Instant::now() + WITHIN;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let is_it = is_wanted(&line);
                    self.said.keep(line);
                    if is_it {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{what}: not after {} s; it said {}", WITHIN.as_secs(), self.said.err())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("{what}: it ended before; it said {}", self.said.err()),
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process id")?;
        rustix::process::kill_process(pid, signal).context("signalling casitas")
    }

    /// Waits for its end, which must be that of a verb that was interrupted.
    pub fn interrupted(mut self) -> Result<Said> {
        wait_until("the end of a verb that was interrupted", WITHIN, || Ok(self.child.try_wait()?.is_some()))?;
        let status = self.child.wait()?;
        // They end with the process.
        let rest: Vec<Line> = self.lines.iter().collect();
        let mut said = std::mem::take(&mut self.said);
        rest.into_iter().for_each(|line| said.keep(line));
        ensure!(status.code() == Some(INTERRUPTED), "interrupted it ended with {status}; it said {}", said.err());
        Ok(said)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // It has ended, unless what was waited for did not come.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(from: Option<impl Read>, tell: impl Fn(String) -> bool) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines().map_while(|line| line.ok());
    // Until nobody listens any more.
    while lines.next().is_some_and(&tell) {}
}

impl Said {
    fn keep(&mut self, line: Line) {
        match line {
            Line::Out(text) => self.out.push(text),
            Line::Err(text) => self.err.push(text),
        }
    }

    pub fn err(&self) -> String {
        self.err.join("\n")
    }

    /// Fails unless all of it was said on standard error.
    pub fn has(&self, words: &[&str]) -> Result<()> {
        let said = self.err();
        let missing = words.iter().find(|word| !said.contains(**word));
        ensure!(missing.is_none(), "it did not say {missing:?}: {said}");
        Ok(())
    }

    /// The command that it ended with.
    pub fn command(&self) -> Result<String> {
        let found = self.err.iter().rev().find_map(|line| line.split_once(": casitas "));
        let (_, rest) = found.with_context(|| format!("it does not end with a command: {}", self.err()))?;
        Ok(format!("casitas {rest}"))
    }

    pub fn results(&self) -> Vec<Value> {
        self.out.iter().filter_map(|text| row(text)).filter(|row| row["result"].is_string()).collect()
    }
}

/// A shell that finds the `casitas` under test by its name.
pub struct Shell(TempDir);

impl Shell {
    pub fn of(binary: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        symlink(binary.canonicalize()?, folder.path().join("casitas"))?;
        Ok(Self(folder))
    }

    pub fn command(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", format!("{}:{path}", self.0.path().display())).stdin(Stdio::null());
        command
    }
}

/// Runs what a verb printed exactly as it stands; it must succeed.
fn run(system: &System, line: &str) -> Result<Output> {
    let output = match system {
        System::Embedded(embedded) => Shell::of(embedded.binary())?.command(line).output()?,
        System::Distributed(stack) => {
            let shell = Shell::of(stack.binary())?;
            shell.command(line).current_dir(stack.dir()).envs(stack.environment().iter().cloned()).output()?
        }
    };
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// Models that are rebuilt: enough that most of them are still to come when the first is done.
fn models(system: &System) -> Vec<&'static str> {
    match system {
        System::Embedded(_) => vec!["--all"],
        // Each takes longer there.
        System::Distributed(_) => vec!["units", "available_units", "leases", "ledgers", "ledger_lines", "documents"],
    }
}

/// Every generation there is: its model, its number, and what it is.
fn generations(system: &System) -> Result<Vec<(String, u64, String)>> {
    let rows = system.rows(&["projections", "status"])?;
    let text =
        |row: &Value, field: &str| row[field].as_str().map(str::to_owned).with_context(|| format!("no {field}: {row}"));
    rows.iter().map(|row| Ok((text(row, "name")?, generation(row)?, text(row, "state")?))).collect()
}

fn generation(row: &Value) -> Result<u64> {
    row["generation"].as_u64().with_context(|| format!("no generation: {row}"))
}

/// By model.
fn numbers(rows: &[Value]) -> Result<BTreeMap<String, u64>> {
    rows.iter().map(|row| Ok((row["name"].as_str().context("a row of no model")?.to_owned(), generation(row)?))).collect()
}

/// A rebuild that leaves the switch to its operator, interrupted when the first model is ready: what it prints leaves that one as
/// it is, goes on with what was begun, and switches nothing.
pub fn rebuild(system: &System) -> Result<String> {
    system.caught_up()?;
    let models = models(system);
    let names = models.join(" ");
    let before = generations(system)?;
    let args = [&["projections", "rebuild"], &models[..], &["--switch", "manual", "--json"]].concat();
    let mut begun = Begun::start(system.program(&args))?;
    begun.until("the first model that is ready", Line::is_result)?;
    begun.signal(Signal::INT)?;
    let said = begun.interrupted()?;
    said.has(&["stopped ", "what was done stays"])?;
    let again = said.command()?;
    let begins = format!("casitas projections rebuild {names} --switch manual --json");
    ensure!(again.starts_with(&begins), "it goes on with {again}, not with {begins}");
    let first = said.results();
    ensure!(first.iter().all(|row| row["result"] == "ready"), "before it was interrupted: {first:?}");
    // Of the model at which it stopped; it may have been between two.
    let left: Vec<_> = generations(system)?.into_iter().filter(|(_, _, state)| state == "building").collect();
    ensure!(left.len() <= 1, "more than one model was under way: {left:?}");

    let output = run(system, &again)?;
    let rows: Vec<Value> = String::from_utf8_lossy(&output.stdout).lines().filter_map(row).collect();
    let all: Vec<Value> = rows.into_iter().filter(|row| row["result"].is_string()).collect();
    let is_ready = |row: &Value| row["result"] == "ready" && row["digest"] == row["live_digest"];
    ensure!(all.iter().all(is_ready), "gone on with: {all:?}");
    ensure!(first.len() < all.len(), "all {} models were ready before it was interrupted", all.len());
    let numbers_then = numbers(&all)?;
    for row in &first {
        let same = all.iter().find(|then| then["name"] == row["name"] && then["generation"] == row["generation"]);
        ensure!(same.is_some_and(|then| then["events"] == 0), "{row} was made anew: {same:?}");
    }
    for (model, number, _) in &left {
        ensure!(numbers_then.get(model) == Some(number), "{model}: {number} was not gone on with: {numbers_then:?}");
    }
    let live = |generations: &[(String, u64, String)]| -> Vec<(String, u64, String)> {
        generations.iter().filter(|(_, _, state)| state == "live").cloned().collect()
    };
    ensure!(live(&generations(system)?) == live(&before), "it switched though it was told to leave that");
    let switched = results(system, &[&["projections", "rebuild"], &models[..]].concat())?;
    let is_switched = |row: &Value| row["result"] == "switched";
    ensure!(switched.iter().all(is_switched) && numbers(&switched)? == numbers_then, "at last: {switched:?}");
    Ok(format!(
        "stopped behind {} of {} models, {} of them under way; gone on with, not from the start, and switched by hand",
        first.len(),
        all.len(),
        left.len()
    ))
}

/// A dry run that was interrupted leaves no generation.
pub fn trial(system: &System) -> Result<String> {
    system.caught_up()?;
    let models = models(system);
    let before = generations(system)?;
    let args = [&["projections", "rebuild"], &models[..], &["--dry-run", "--json"]].concat();
    let mut begun = Begun::start(system.program(&args))?;
    begun.until("the first model that was compared", Line::is_result)?;
    begun.signal(Signal::INT)?;
    let said = begun.interrupted()?;
    said.has(&["stopped ", "nothing of it stays"])?;
    let first = said.results();
    ensure!(first.iter().all(|row| row["result"] == "equal"), "before it was interrupted: {first:?}");
    let after = generations(system)?;
    ensure!(after == before, "a dry run that was interrupted left something: {after:?}, before it {before:?}");
    let listed = system.rows(&["projections", "list"])?;
    let building = listed.iter().find(|row| row["beside"].as_str().is_some_and(|beside| beside.contains("building")));
    ensure!(building.is_none(), "a dry run that was interrupted left {building:?}");
    Ok(format!("stopped behind {} models; the same {} generations as before", first.len(), after.len()))
}

/// A dry run whose server does not answer cannot put away what it has begun. The second Ctrl-C does not wait for that, and names
/// what drops it.
pub fn at_once(system: &System) -> Result<String> {
    let System::Distributed(stack) = system else { bail!("a server hangs in the distributed mode") };
    let before = generations(system)?;
    let proxy = Proxy::start(&stack.postgres.address())?;
    let program = || {
        let mut command = system.program(&["projections", "rebuild", "units", "--dry-run", "--json"]);
        command.env("CASITAS_POSTGRES", &proxy.address);
        command
    };
    proxy.allow(i64::MAX);
    let whole = program().stdin(Stdio::null()).output()?;
    ensure!(whole.status.success(), "undisturbed: {}", String::from_utf8_lossy(&whole.stderr));
    let bytes = proxy.passed();
    // Most of them are the log's and the rows': after half of them the generation was begun and is not dropped yet.
    proxy.hang_after(bytes / 2);
    let mut begun = Begun::start(program())?;
    wait_until("a server that hangs", WITHIN, || Ok(proxy.is_hanging()))?;
    begun.signal(Signal::INT)?;
    begun.until("that it stops", |line| matches!(line, Line::Err(text) if text.contains("once more ends at once")))?;
    begun.signal(Signal::INT)?;
    let said = begun.interrupted()?;
    said.has(&["stopped at once", "may stay"])?;
    let again = said.command()?;
    ensure!(again == "casitas projections abort units", "what was begun is dropped by {again}");
    proxy.let_go();
    let is_left = |(model, _, state): &(String, u64, String)| model == "units" && state == "building";
    ensure!(generations(system)?.iter().any(is_left), "nothing was left: the server hung at no time that matters");
    run(system, &again)?;
    let after = generations(system)?;
    ensure!(after == before, "{after:?} behind it, before it {before:?}");
    Ok(format!("a server that hangs after {} of {bytes} bytes: ended at once, and dropped by what it printed", bytes / 2))
}
