//! `cargo xtask test`: every test there is, against private servers, with one closing line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::net::random_password;
use crate::packages;
use crate::process::find_program;
use crate::servers::{Postgres, RabbitMq, Redis};
use crate::workspace::{self, Profile, build_casitas};

/// The `casitas` that end-to-end tests start.
pub const BINARY_VARIABLE: &str = "CASITAS_TEST_BINARY";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// Runs everything and prints `N passed, M failed` as its last line.
///
/// # Errors
/// When the servers cannot be had: a missing server is a failure, not a skip.
pub fn run() -> Result<Counts> {
    packages::install_missing()?;
    let binary = build_casitas(Profile::Debug)?;
    let mut environment = vec![(BINARY_VARIABLE.to_owned(), binary.display().to_string())];
    let nextest = find_program(&["cargo-nextest"]).is_some();
    let mut counts = Counts::default();
    {
        let servers = Servers::start()?;
        environment.extend(servers.environment());
        counts = counts.plus(step("the workspace's tests", workspace_tests(nextest), &environment)?);
        if nextest {
            let mut examples = workspace::cargo();
            examples.args(["test", "--quiet", "--workspace", "--doc"]);
            counts = counts.plus(step("the examples in the documentation", examples, &environment)?);
        }
        servers.stop()?;
    }
    // Whole systems of their own, one at a time: they bring their servers.
    environment.truncate(1);
    counts = counts.plus(step("the end-to-end scenarios", end_to_end_tests(nextest), &environment)?);
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts)
}

fn workspace_tests(nextest: bool) -> Command {
    let mut command = workspace::cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level=fail"]);
        command.arg("--final-status-level=fail");
    } else {
        command.args(["test", "--workspace", "--no-fail-fast"]);
    }
    command
}

fn end_to_end_tests(nextest: bool) -> Command {
    let mut command = workspace::cargo();
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast", "--status-level=pass", "--final-status-level=fail"]);
        command.args(["--test-threads=1"]);
    } else {
        command.args(["test", "--no-fail-fast"]);
    }
    command.args(["--package", "xtask", "--features", "e2e", "--test", "e2e"]);
    if !nextest {
        command.args(["--", "--test-threads=1"]);
    }
    command
}

/// What the adapters' conformance suites connect to.
struct Servers {
    rabbitmq: RabbitMq,
    redis: Redis,
    postgres: Postgres,
    rabbitmq_password: String,
    _dir: tempfile::TempDir,
}

impl Servers {
    fn start() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let passable = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("casitas-test-").permissions(passable).tempdir()?;
        let folder = |name: &str| dir.path().join(name);
        let rabbitmq_password = random_password()?;
        let postgres = Postgres::start(&folder("postgres"), &random_password()?).context("Postgres is required")?;
        let redis = Redis::start(&folder("redis"), None).context("Redis is required")?;
        let rabbitmq = start_rabbitmq(&folder("rabbitmq"), &rabbitmq_password).context("RabbitMQ is required")?;
        Ok(Self { rabbitmq, redis, postgres, rabbitmq_password, _dir: dir })
    }

    fn environment(&self) -> Vec<(String, String)> {
        let rabbitmq = format!("amqp://casitas:{}@{}/%2f", self.rabbitmq_password, self.rabbitmq.address());
        vec![
            ("CASITAS_TEST_POSTGRES".to_owned(), self.postgres.address()),
            ("CASITAS_TEST_POSTGRES_PASSWORD".to_owned(), self.postgres.password().to_owned()),
            ("CASITAS_TEST_REDIS".to_owned(), self.redis.url()),
            ("CASITAS_TEST_RABBITMQ".to_owned(), rabbitmq),
        ]
    }

    fn stop(mut self) -> Result<()> {
        self.rabbitmq.stop()?;
        self.redis.stop()?;
        self.postgres.stop()
    }
}

fn start_rabbitmq(dir: &Path, password: &str) -> Result<RabbitMq> {
    RabbitMq::start(dir, &format!("default_user = casitas\ndefault_pass = {password}\n"))
}

/// Runs one cargo invocation, shows what it prints, and counts what it says.
fn step(what: &str, mut command: Command, environment: &[(String, String)]) -> Result<Counts> {
    eprintln!("xtask: {what}");
    command.envs(environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cargo could not be started")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let counts = thread::scope(|scope| {
        let out = scope.spawn(|| show_and_count(stdout, &mut std::io::stdout()));
        let err = scope.spawn(|| show_and_count(stderr, &mut std::io::stderr()));
        let join = |reader: thread::ScopedJoinHandle<'_, Result<Counts>>| {
            reader.join().map_err(|_| anyhow::anyhow!("reading {what} panicked"))?
        };
        Ok::<_, anyhow::Error>(join(out)?.plus(join(err)?))
    })?;
    let status = child.wait()?;
    // Something failed that is not a test: a build, or a harness that died.
    let unseen = u64::from(!status.success() && counts.failed == 0);
    if unseen > 0 {
        eprintln!("xtask: {what} failed ({status}) without a failed test");
    }
    Ok(Counts { passed: counts.passed, failed: counts.failed + unseen })
}

fn show_and_count(from: impl Read, to: &mut impl Write) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        if let Some(summary) = summary_of(&String::from_utf8_lossy(&line)) {
            counts = counts.plus(summary);
        }
        line.clear();
    }
    Ok(counts)
}

/// `test result: ok. 3 passed; 1 failed; …` of the built-in harness, or
/// `Summary [ 1.2s] 4 tests run: 3 passed, 1 failed, 0 skipped` of nextest, which shows the output of a failed test
/// indented: a harness' line in there is counted by its own.
fn summary_of(line: &str) -> Option<Counts> {
    let nextest = line.trim_start().starts_with("Summary [") && line.contains(" run: ");
    let relevant = line.starts_with("test result:") || nextest;
    if !relevant {
        return None;
    }
    let tail = line.split_once(" run: ").map_or(line, |(_, tail)| tail);
    let mut counts = Counts::default();
    for part in tail.split([';', ',', '.', '(', ')']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(kind)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match kind {
            "passed" => counts.passed += number,
            "failed" | "timed" => counts.failed += number,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_harnesses_summaries_are_counted() {
        let cargo = "test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(summary_of(cargo), Some(Counts { passed: 12, failed: 2 }));
        let nextest = "     Summary [   1.204s] 7 tests run: 5 passed (1 slow), 1 failed, 1 timed out, 3 skipped\n";
        assert_eq!(summary_of(nextest), Some(Counts { passed: 5, failed: 2 }));
        let all = "     Summary [   0.1s] 2 tests run: 2 passed, 0 skipped";
        assert_eq!(summary_of(all), Some(Counts { passed: 2, failed: 0 }));
    }

    #[test]
    fn other_lines_are_not_counted() {
        assert_eq!(summary_of("12 passed; 0 failed"), None);
        assert_eq!(summary_of("    test result: FAILED. 0 passed; 1 failed; 8 filtered out"), None, "inside nextest's own");
        assert_eq!(summary_of("test result_is_ok ... ok"), None);
    }
}
