//! The system under test, in either mode, behind one face.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::client::Http;
use crate::http;
use crate::net::{free_port, wait_until};
use crate::process::Program;
use crate::servers::Server;
use crate::stack::{Options, Stack};

const WORKER: &str = "report-worker";
pub const CONTEXTS: [&str; 5] = ["auth", "units", "legal", "finances", "reports"];
/// How long `casitas serve` may take to answer: it may seed first.
const SERVE_READY_WITHIN: Duration = Duration::from_secs(300);
/// How long followers may take to come to the head of a log that nobody writes.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(120);

pub enum System {
    Embedded(Box<Embedded>),
    Distributed(Box<Stack>),
}

impl System {
    pub fn url(&self) -> String {
        match self {
            Self::Embedded(embedded) => format!("http://127.0.0.1:{}", embedded.server.port()),
            Self::Distributed(stack) => stack.url(),
        }
    }

    pub fn http(&self) -> Result<Http> {
        Http::new(&self.url())
    }

    pub fn stack(&mut self) -> Result<&mut Stack> {
        match self {
            Self::Distributed(stack) => Ok(stack),
            Self::Embedded(_) => anyhow::bail!("this scenario is about the distributed mode"),
        }
    }

    /// Where commands are taken without Nginx.
    pub fn command_port(&self) -> Result<u16> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.server.port()),
            Self::Distributed(stack) => {
                let role = stack.roles.iter().find(|role| role.name() == "command-api");
                Ok(role.context("no command-api")?.port())
            }
        }
    }

    /// An operator's verb, to be started.
    pub fn program(&self, args: &[&str]) -> Command {
        match self {
            Self::Embedded(embedded) => {
                let mut command = Command::new(&embedded.binary);
                command.current_dir(embedded.dir.path()).args(args).arg("--data-dir").arg(embedded.data_dir());
                command
            }
            Self::Distributed(stack) => {
                let mut command = Command::new(stack.binary());
                command.current_dir(stack.dir()).args(args).envs(stack.environment().iter().cloned());
                command
            }
        }
    }

    /// Runs an operator's verb with this on its standard input; its exit status is the caller's to judge.
    pub fn casitas(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut command = self.program(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting casitas")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input may be gone already.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }

    /// The rows of a verb that must succeed.
    pub fn rows(&self, args: &[&str]) -> Result<Vec<Value>> {
        let output = self.casitas(&[args, &["--output", "ndjson"]].concat(), "")?;
        ensure!(output.status.success(), "casitas {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Every event of a context after a position, oldest first: without its data.
    pub fn events(&self, context: &str, after: u64) -> Result<Vec<Event>> {
        let after = after.to_string();
        let args = ["events", "list", "--context", context, "--after-position", &after, "--limit", "10000000"];
        self.rows(&args)?.iter().map(Event::read).collect()
    }

    /// The last position of each log.
    pub fn heads(&self) -> Result<BTreeMap<String, u64>> {
        let head = |context: &str| -> Result<u64> {
            let rows = self.rows(&["events", "list", "--context", context, "--limit", "1"])?;
            Ok(rows.last().and_then(|row| row["position"].as_u64()).unwrap_or(0))
        };
        CONTEXTS.iter().map(|context| Ok(((*context).to_owned(), head(context)?))).collect()
    }

    /// Waits until no read model is behind its log.
    pub fn caught_up(&self) -> Result<()> {
        self.caught_up_within(CAUGHT_UP_WITHIN)
    }

    /// The same for more events than usual.
    pub fn caught_up_within(&self, bound: Duration) -> Result<()> {
        let mut behind = String::new();
        let waited = wait_until("every read model at its log's head", bound, || {
            // A server may just be coming back.
            let Ok(rows) = self.rows(&["projections", "list"]) else { return Ok(false) };
            let models = rows.iter().filter(|row| row["generation"].is_u64());
            let late: Vec<&Value> = models.filter(|row| row["lag_events"] != 0 || row["state"] == "absent").collect();
            behind = format!("{late:?}");
            Ok(!rows.is_empty() && late.is_empty())
        });
        waited.with_context(|| behind)
    }

    /// Restarts what runs report workers, with more in its environment.
    pub fn restart_worker(&mut self, env: &[(&str, &str)]) -> Result<()> {
        self.restart(WORKER, env)
    }

    /// Restarts a role (the one process, when embedded) with more in its environment; an empty value takes one out.
    pub fn restart(&mut self, role: &str, env: &[(&str, &str)]) -> Result<()> {
        self.set_env(role, env)?;
        match self {
            Self::Embedded(embedded) => {
                embedded.server.stop()?;
                embedded.start()
            }
            Self::Distributed(stack) => stack.role(role)?.restart(),
        }
    }

    fn set_env(&mut self, role: &str, env: &[(&str, &str)]) -> Result<()> {
        for (name, value) in env {
            match self {
                Self::Embedded(embedded) if value.is_empty() => embedded.server.program_mut().unset_env(name),
                Self::Embedded(embedded) => embedded.server.program_mut().set_env(name, *value),
                Self::Distributed(stack) if value.is_empty() => stack.role(role)?.unset_env(name),
                Self::Distributed(stack) => stack.role(role)?.set_env(name, *value),
            }
        }
        Ok(())
    }

    /// Starts the worker (the one process, when embedded), which may end by itself before it is ready.
    pub fn start_doomed_worker(&mut self, env: &[(&str, &str)]) -> Result<()> {
        self.kill_worker()?;
        self.set_env(WORKER, env)?;
        match self {
            Self::Embedded(embedded) => embedded.server.start_until(SERVE_READY_WITHIN, |_| Ok(true)),
            Self::Distributed(stack) => stack.role(WORKER)?.start_unready(),
        }
    }

    /// How it ended, if it did.
    pub fn worker_ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        match self {
            Self::Embedded(embedded) => embedded.server.crashed(),
            Self::Distributed(stack) => stack.role(WORKER)?.crashed(),
        }
    }

    /// SIGKILL, if it still runs.
    pub fn kill_worker(&mut self) -> Result<()> {
        match self {
            Self::Embedded(embedded) => embedded.server.kill9(),
            Self::Distributed(stack) => stack.role(WORKER)?.kill9(),
        }
    }

    pub fn stop(self) -> Result<()> {
        match self {
            Self::Embedded(mut embedded) => embedded.server.stop().map(drop),
            Self::Distributed(stack) => stack.stop(),
        }
    }

    /// A secret's text by its file's name.
    pub fn secret(&self, name: &str) -> Result<String> {
        match self {
            Self::Distributed(stack) => stack.secret(name),
            Self::Embedded(embedded) => {
                let path = embedded.data_dir().join("keys").join(name);
                let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                Ok(text.trim().to_owned())
            }
        }
    }

    pub fn distributed(options: &Options) -> Result<Self> {
        Ok(Self::Distributed(Box::new(Stack::start(options)?)))
    }
}

/// What `casitas events list` says of an event.
#[derive(Clone, Debug)]
pub struct Event {
    pub position: u64,
    pub kind: String,
    /// `lease:0192…`.
    pub stream: String,
}

impl Event {
    fn read(row: &Value) -> Result<Self> {
        let text = |name: &str| row[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {row}"));
        Ok(Self {
            position: row["position"].as_u64().with_context(|| format!("no position in {row}"))?,
            kind: text("type")?,
            stream: text("stream")?,
        })
    }

    /// The id of the stream alone.
    pub fn id(&self) -> &str {
        self.stream.split_once(':').map_or(&self.stream, |(_, id)| id)
    }
}

/// One `casitas serve` on a folder of its own.
pub struct Embedded {
    // Dropped in this order: the process before its folder.
    server: Server,
    binary: PathBuf,
    dir: TempDir,
}

impl Embedded {
    /// A store with nothing in it, as a fresh clone has it.
    pub fn start_empty(binary: &Path) -> Result<Self> {
        let mut embedded = Self::new(binary, &[])?;
        embedded.start()?;
        Ok(embedded)
    }

    /// The one documented command: `casitas --demo`.
    pub fn start_demo(binary: &Path) -> Result<Self> {
        let mut embedded = Self::new(binary, &["--demo"])?;
        embedded.start()?;
        Ok(embedded)
    }

    /// A smaller portfolio, seeded first.
    pub fn start_seeded(binary: &Path, units: u32, years: u32) -> Result<Self> {
        let mut embedded = Self::new(binary, &[])?;
        let log = embedded.dir.path().join("seed.log");
        Program::new("seed", binary, log)
            .args(["seed", "demo", "--units", &units.to_string(), "--years", &years.to_string(), "--data-dir"])
            .args([embedded.data_dir().to_string_lossy()])
            .dir(embedded.dir.path())
            .run()?;
        embedded.server.program_mut().set_env("CASITAS_DEMO", "demo");
        embedded.start()?;
        Ok(embedded)
    }

    /// A folder made from a backup that has its master key.
    pub fn restored(binary: &Path, backup: &Path) -> Result<Self> {
        let mut embedded = Self::new(binary, &[])?;
        let log = embedded.dir.path().join("restore.log");
        Program::new("restore", binary, log)
            .args(["restore".into(), backup.to_string_lossy(), "--data-dir".into(), embedded.data_dir().to_string_lossy()])
            .dir(embedded.dir.path())
            .run()?;
        embedded.start()?;
        Ok(embedded)
    }

    /// A folder that holds the exported history and the master key it was sealed under, and nothing else.
    pub fn imported(binary: &Path, export: &Path, master_key: &Path) -> Result<Self> {
        let mut embedded = Self::new(binary, &[])?;
        let keys = embedded.data_dir().join("keys");
        fs::create_dir_all(&keys)?;
        fs::copy(master_key, keys.join("master.key"))?;
        let log = embedded.dir.path().join("import.log");
        Program::new("import", binary, log)
            .args(["events".into(), "import".into(), export.to_string_lossy()])
            .args(["--data-dir".into(), embedded.data_dir().to_string_lossy()])
            .dir(embedded.dir.path())
            .run()?;
        embedded.start()?;
        Ok(embedded)
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    fn new(binary: &Path, args: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("casitas-embedded-").tempdir()?;
        let port = free_port()?;
        let program = Program::new("casitas", binary, dir.path().join("casitas.log"))
            .args(args)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .args([dir.path().join("casitas-data").to_string_lossy()])
            .dir(dir.path());
        Ok(Self {
            server: Server::new(program, port, Signal::TERM, Duration::from_secs(15)),
            binary: binary.to_owned(),
            dir,
        })
    }

    pub fn start(&mut self) -> Result<()> {
        let ready = |port: u16| Ok(http::get(port, "/units/available").is_ok_and(|answer| answer.status == 200));
        self.server.start_until(SERVE_READY_WITHIN, ready)
    }

    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("casitas-data")
    }

    pub fn log(&self) -> &Path {
        self.server.log()
    }
}
