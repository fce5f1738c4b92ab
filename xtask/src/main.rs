//! `cargo xtask`: the native stack and the drivers of the tests. `cargo xtask help` lists them.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use xtask::chaos::{BUGS, ChaosOptions};
use xtask::scenarios::{self, Row, Size, SuiteOptions};
use xtask::stack::{Options, Stack};
use xtask::workspace::Profile;
use xtask::{packages, servers, test, tidy, workspace};

/// How often the running stack is looked over for crashed parts.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The private native stack, and the drivers that test it")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything: unit, conformance, end to end; ends with `N passed, M failed`
    Test,
    /// The end-to-end scenarios at their full sizes, as a table of what was counted; exits with 1 if one fails
    Verify(Verify),
    /// Deterministic simulation over the in-memory adapters: seeds, each a whole history; `simulate --help` lists its options
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The product beside its limits and its peers, on real servers: a table, and docs/benchmarks
    Bench(Bench),
    /// Faults of every kind under load, and a checker of what clients were told; exits with 1 if anything is wrong
    Chaos(Chaos),
    /// The whole distributed system on free loopback ports
    Stack {
        #[command(subcommand)]
        verb: StackVerb,
    },
    /// Check the dependency rules of the architecture
    Tidy,
    /// Install the Debian packages that the stack runs, where missing
    Install,
}

#[derive(Subcommand)]
enum StackVerb {
    /// Start it, print where it is, and stop it at Ctrl-C
    Up(Box<Up>),
}

#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Args)]
struct Up {
    /// Load the demo portfolio and the demo logins
    #[arg(long)]
    demo: bool,
    /// Nginx's port (default: a free one)
    #[arg(long)]
    port: Option<u16>,
    /// Build and run casitas without optimisation
    #[arg(long)]
    debug: bool,
    /// Run this casitas instead of building one
    #[arg(long, conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// Requests of one address, e.g. 5000r/s (default 50r/s)
    #[arg(long)]
    api_rate: Option<String>,
    /// How many of them may come at once (default 100)
    #[arg(long)]
    api_burst: Option<u32>,
    /// Logins of one address, e.g. 100r/s (default 10r/m)
    #[arg(long)]
    login_rate: Option<String>,
    /// How many of them may come at once (default 10)
    #[arg(long)]
    login_burst: Option<u32>,
    /// Simultaneous connections of one address (default 100)
    #[arg(long)]
    connections: Option<u32>,
    /// Address or network that may call the operator routes; repeatable (default 127.0.0.1)
    #[arg(long, value_name = "CIDR")]
    nginx_allow: Vec<String>,
    /// Keep data and logs in this empty folder
    #[arg(long, value_name = "DIR")]
    keep_dir: Option<PathBuf>,
    /// The in-process tier of the query replicas
    #[arg(long, default_value = "on")]
    memory_cache: Switch,
    /// Delay each projection batch by this many milliseconds
    #[arg(long)]
    projector_delay_ms: Option<u64>,
    /// Slots of the report worker (default 8)
    #[arg(long)]
    worker_slots: Option<u32>,
}

#[derive(Args)]
struct Verify {
    /// Only scenarios whose name begins so, e.g. `distributed.races`; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The sizes of `cargo xtask test`
    #[arg(long)]
    short: bool,
    /// Build and run casitas without optimisation
    #[arg(long)]
    debug: bool,
    /// Run this casitas instead of building one
    #[arg(long, conflicts_with = "debug")]
    binary: Option<PathBuf>,
}

/// All but `--binary` is the benchmark's own: see bench/src/main.rs.
#[derive(Args)]
struct Bench {
    /// One round, short runs, small sizes: under three minutes
    #[arg(long)]
    quick: bool,
    /// Only this part; repeatable
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// Rounds (default 3, with --quick 1)
    #[arg(long)]
    rounds: Option<usize>,
    /// Rebuild from a log of so many events, instead of the usual sizes; with --only rebuild
    #[arg(long, value_name = "N")]
    events: Option<usize>,
    /// Rows that the rebuilt read model has (default 5000); with --only rebuild
    #[arg(long, value_name = "N")]
    units: Option<usize>,
    /// Write no docs/benchmarks
    #[arg(long)]
    no_report: bool,
    /// Measure on a busy machine, too
    #[arg(long)]
    force: bool,
    /// Measure this casitas instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

impl Bench {
    fn args(&self) -> Vec<String> {
        let switches =
            [("--quick", self.quick), ("--json", self.json), ("--no-report", self.no_report), ("--force", self.force)];
        let mut args: Vec<String> =
            switches.into_iter().filter(|(_, on)| *on).map(|(switch, _)| switch.to_owned()).collect();
        for part in &self.only {
            args.extend(["--only".to_owned(), part.clone()]);
        }
        if let Some(rounds) = self.rounds {
            args.extend(["--rounds".to_owned(), rounds.to_string()]);
        }
        if let Some(events) = self.events {
            args.extend(["--events".to_owned(), events.to_string()]);
        }
        if let Some(units) = self.units {
            args.extend(["--units".to_owned(), units.to_string()]);
        }
        args
    }
}

#[derive(Args)]
struct Chaos {
    /// Of the schedule and of the clients (default: a random one, which is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// Faults in all (default 60)
    #[arg(long)]
    rounds: Option<usize>,
    /// Only this kind of fault; repeatable. Without it, all; `disk`, which needs root, after 100 rounds or more
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,
    /// Pass without the faults that cannot be made on this machine
    #[arg(long)]
    allow_absent: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Build and run casitas without optimisation
    #[arg(long)]
    debug: bool,
    /// Run this casitas instead of building one; for --bug and --bugs one with the feature `seeded-bugs`
    #[arg(long, conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// Run a casitas that makes this mistake: no-lock, checkpoint-before-view or ack-before-append; exits with 0 only if the
    /// checker finds it
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Each of the three mistakes in turn
    #[arg(long, conflicts_with = "bug")]
    bugs: bool,
    /// Keep data and logs in this empty folder
    #[arg(long, value_name = "DIR")]
    keep_dir: Option<PathBuf>,
}

impl Up {
    fn options(self) -> Options {
        Options {
            demo: self.demo,
            port: self.port,
            profile: if self.debug { Profile::Debug } else { Profile::Release },
            binary: self.binary,
            api_rate: self.api_rate,
            api_burst: self.api_burst,
            login_rate: self.login_rate,
            login_burst: self.login_burst,
            connections: self.connections,
            nginx_allow: self.nginx_allow,
            keep_dir: self.keep_dir,
            memory_cache: matches!(self.memory_cache, Switch::On),
            projector_delay_ms: self.projector_delay_ms,
            worker_slots: self.worker_slots,
            ..Options::default()
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Test => test::run().map(|counts| counts.failed == 0),
        Verb::Verify(verify) => run_verify(verify),
        Verb::Bench(bench) => run_bench(&bench),
        Verb::Chaos(chaos) => run_chaos(&chaos),
        Verb::Stack { verb: StackVerb::Up(up) } => stack_up(&up.options()),
        Verb::Tidy => run_tidy(),
        Verb::Simulate { arguments } => simulate(&arguments),
        Verb::Install => packages::install_missing().map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_verify(verify: Verify) -> Result<bool> {
    let options = SuiteOptions {
        size: if verify.short { Size::Short } else { Size::Full },
        profile: if verify.debug { Profile::Debug } else { Profile::Release },
        binary: verify.binary,
        only: verify.only,
    };
    let rows = scenarios::run(&options, None)?;
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for Row { name, what, figure, passed, seconds } in &rows {
        let verdict = if *passed { "PASS" } else { "FAIL" };
        println!("{name:<width$}  {verdict}  {seconds:>6.1} s  {what}\n{:width$}  {figure}", "");
    }
    let failed = rows.iter().filter(|row| !row.passed).count();
    println!("{} passed, {failed} failed", rows.len() - failed);
    Ok(failed == 0)
}

/// Built and run by cargo, so that xtask itself does not depend on the product.
fn simulate(arguments: &[String]) -> Result<bool> {
    let mut run = workspace::cargo();
    run.args(["run", "--quiet", "--package", "simulation", "--"]).args(arguments);
    Ok(run.status().context("cargo could not be started")?.success())
}

fn run_bench(bench: &Bench) -> Result<bool> {
    let product = match &bench.binary {
        Some(binary) => binary.clone(),
        None => workspace::build_casitas(Profile::Release)?,
    };
    let program = workspace::build("bench", "casitas-bench", Profile::Release)?;
    let status = Command::new(program).args(bench.args()).arg("--binary").arg(product).status()?;
    Ok(status.success())
}

fn run_chaos(chaos: &Chaos) -> Result<bool> {
    let bugs: Vec<Option<String>> = match chaos.bugs {
        true => BUGS.iter().map(|(name, ..)| Some((*name).to_owned())).collect(),
        false => vec![chaos.bug.clone()],
    };
    let mut passed = true;
    for bug in bugs {
        let report = xtask::chaos::run(&ChaosOptions {
            seed: chaos.seed,
            rounds: chaos.rounds,
            only: chaos.only.clone(),
            allow_absent: chaos.allow_absent,
            profile: if chaos.debug { Profile::Debug } else { Profile::Release },
            binary: chaos.binary.clone(),
            bug,
            keep_dir: chaos.keep_dir.clone(),
        })?;
        passed &= report.passed();
        if chaos.json {
            println!("{}", report.json());
        } else {
            report.print();
        }
    }
    Ok(passed)
}

fn run_tidy() -> Result<bool> {
    let violations = tidy::violations()?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    Ok(violations.is_empty())
}

#[tokio::main(flavor = "current_thread")]
async fn stack_up(options: &Options) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let options = options.clone();
    let demo = options.demo;
    let mut starting = tokio::task::spawn_blocking(move || Stack::start(&options));
    // A signal that comes while things start makes them give up; what had been started is stopped again.
    let started = tokio::select! {
        started = &mut starting => started,
        _ = interrupt.recv() => { servers::interrupt_starts(); starting.await }
        _ = terminate.recv() => { servers::interrupt_starts(); starting.await }
    };
    let mut stack = started.context("starting panicked")??;
    describe(&stack, demo);
    let mut watch = tokio::time::interval(WATCH_EVERY);
    let mut said = Vec::new();
    let mut healthy = true;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = watch.tick() => {
                for crash in stack.crashed()? {
                    if !said.contains(&crash) {
                        eprintln!("xtask: {crash}");
                        said.push(crash);
                        healthy = false;
                    }
                }
            }
        }
    }
    eprintln!("xtask: stopping");
    tokio::task::spawn_blocking(move || stack.stop()).await.context("stopping panicked")??;
    Ok(healthy)
}

fn describe(stack: &Stack, demo: bool) {
    println!("Casitas Empire, distributed: {}", stack.url());
    println!("{:<14} {:>7} {:>6}  log", "part", "pid", "port");
    for (name, pid, port, log) in stack.inventory() {
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{name:<14} {pid:>7} {port:>6}  {}", log.display());
    }
    if demo {
        println!("demo logins on loopback only: test_admin / password123");
    }
    println!("secrets and data: {}", stack.dir().display());
    println!("Ctrl-C stops everything and removes it.");
}
