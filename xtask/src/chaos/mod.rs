//! `cargo xtask chaos`: the whole distributed system under load and under faults, and a checker that reads what its clients
//! were told.
//!
//! A seed gives the schedule of faults and what each client does; what the machine makes of it differs from run to run. Each
//! fault is counted only when it verifiably happened, and a run in which a chosen one never did fails: a quiet run cannot pass.

mod checker;
mod faults;
mod history;
mod load;
mod logs;
mod proxy;
mod report;
mod samples;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use checker::{Column, Figures};
pub use report::Report;

use self::faults::{Findings, Harness};
use self::load::Load;
use self::proxy::Ways;
use self::samples::Sampler;
use crate::net::{random_password, random_u64};
use crate::scenarios::system::System;
use crate::stack::Options;
use crate::test::BINARY_VARIABLE;
use crate::workspace::{Profile, build_casitas, build_casitas_with_bugs};

/// Undisturbed load before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// Each rendering takes at least so long, so that faults find some under way.
const RENDER_DELAY_MS: &str = "150";
/// For `disk`: the system itself needs about half of it.
const DISK_MIB: u32 = 256;
pub const ROUNDS: usize = 60;

/// The mistakes that must be found, with the faults that bring them out and how many rounds of them are enough.
pub const BUGS: [(&str, &[&str], usize); 3] = [
    ("no-lock", &["end-backends"], 3),
    ("checkpoint-before-view", &["kill-projector", "end-backends", "reset"], 12),
    ("ack-before-append", &["kill-worker"], 5),
];

#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// A random one, which is printed, without it.
    pub seed: Option<u64>,
    pub rounds: Option<usize>,
    /// Kinds of faults; all without it.
    pub only: Vec<String>,
    pub profile: Profile,
    /// A `casitas` that is built already.
    pub binary: Option<PathBuf>,
    /// One of `BUGS`.
    pub bug: Option<String>,
    pub keep_dir: Option<PathBuf>,
}

impl ChaosOptions {
    /// For `cargo xtask test`: the binary that it built, and few faults of many kinds.
    pub fn short() -> Self {
        let only = ["kill-command-api", "kill-postgres", "kill-projector", "flush-redis", "cut-reply", "blackhole", "drain"];
        Self {
            seed: None,
            rounds: Some(only.len()),
            only: only.map(str::to_owned).to_vec(),
            profile: Profile::Debug,
            binary: std::env::var_os(BINARY_VARIABLE).map(PathBuf::from),
            bug: None,
            keep_dir: None,
        }
    }
}

/// Runs the rounds and checks.
///
/// # Errors
/// When the system does not come up, or not come back after a fault: nothing can be checked then.
pub fn run(options: &ChaosOptions) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| random_u64() % 1_000_000);
    let bug = options.bug.as_deref().map(bug).transpose()?;
    let only = match bug {
        Some((_, faults, _)) if options.only.is_empty() => faults.iter().map(|fault| (*fault).to_owned()).collect(),
        _ => options.only.clone(),
    };
    let rounds = options.rounds.unwrap_or_else(|| match bug {
        Some((_, _, rounds)) => rounds,
        // All of a few, some times; or the default.
        None if only.is_empty() => ROUNDS,
        None => only.len() * 5,
    });
    let plans = schedule::schedule(seed, rounds, &only)?;
    let on_disk = plans.iter().any(|plan| plan.kind == schedule::DISK);
    eprintln!("chaos: seed {seed}, {rounds} rounds{}", bug.map(|(name, ..)| format!(", {name}")).unwrap_or_default());
    if plans.iter().any(|plan| plan.kind == "skew") {
        faults::prepare_skew();
    }
    let binary = match (&options.binary, bug) {
        (Some(binary), _) => binary.clone(),
        (None, Some(_)) => build_casitas_with_bugs()?,
        (None, None) => build_casitas(options.profile)?,
    };
    let ways = Ways::default();
    let redis_password = random_password()?;
    let env = vec![("CASITAS_RENDER_DELAY_MS".to_owned(), RENDER_DELAY_MS.to_owned())];
    let mut system = System::distributed(&Options {
        binary: Some(binary),
        route: Some(ways.route()),
        redis_harness: Some(redis_password.clone()),
        postgres_disk_mib: on_disk.then_some(DISK_MIB),
        keep_dir: options.keep_dir.clone(),
        env,
        ..Options::for_tests()
    })?;
    let load = Arc::new(Load::new(&system)?);
    if let Some((name, ..)) = bug {
        make_mistake(&mut system, name)?;
    }
    let began = Instant::now();
    let clients = load.start(seed);
    std::thread::sleep(WARM_UP);
    let stack = system.stack()?;
    let sampler = Sampler::start(&stack.postgres, &load);
    let mut harness =
        Harness { stack, load: &load, ways: &ways, redis_password: &redis_password, findings: Findings::default() };
    let mut broken = None;
    for (number, plan) in plans.iter().enumerate() {
        match harness.round(plan) {
            Ok(fired) => eprintln!(
                "chaos: {}/{rounds} {plan}: {} x, {}; commands and GETs again after {:.1} s",
                number + 1,
                fired.count,
                fired.what,
                fired.recovered.as_secs_f64()
            ),
            Err(error) => {
                eprintln!("chaos: {}/{rounds} {plan}: {error:#}", number + 1);
                broken = Some(format!("round {}: {error:#}", number + 1));
                break;
            }
        }
    }
    let findings = std::mem::take(&mut harness.findings);
    eprintln!("chaos: letting the clients finish");
    load.finish(clients)?;
    let views = sampler.finish()?;
    let mut fired: BTreeMap<&'static str, (usize, u64)> = BTreeMap::new();
    for plan in &plans {
        fired.entry(plan.kind).or_default();
    }
    for fault in &findings.fired {
        let (times, count) = fired.entry(fault.kind).or_default();
        *times += usize::from(fault.count > 0);
        *count += fault.count;
    }
    // What could not be tried here is said, not failed.
    for absent in findings.absent.keys() {
        fired.remove(absent);
    }
    let felt = plans.iter().any(|plan| !schedule::BEHIND_THE_SCENES.contains(&plan.kind));
    let unknown = load.history.unknown.load(std::sync::atomic::Ordering::Relaxed);
    let verdict = checker::check(&mut system, &load, findings, &views).context("checking")?;
    let seconds = began.elapsed().as_secs_f64();
    if let Err(error) = system.stop() {
        eprintln!("chaos: {error:#}");
    }
    let ways = ways.names().into_iter().map(|(client, server)| {
        let done = ways.get(&client, &server).map(|proxy| proxy.done().to_string()).unwrap_or_default();
        (format!("{client} -> {server}"), done)
    });
    Ok(Report {
        seed,
        rounds,
        bug: bug.map(|(name, ..)| name.to_owned()),
        fired: fired.into_iter().map(|(kind, (times, count))| (kind.to_owned(), times, count)).collect(),
        unknown,
        felt,
        broken,
        ways: ways.collect(),
        columns: verdict.columns,
        figures: verdict.figures,
        seconds,
    })
}

/// From now on: what was needed to begin with is there, and whole.
fn make_mistake(system: &mut System, name: &str) -> Result<()> {
    let stack = system.stack()?;
    let mut migrate = std::process::Command::new(stack.binary());
    migrate.arg("migrate").envs(stack.environment().iter().cloned()).env("CASITAS_SEEDED_BUG", name);
    let migrated = migrate.output().context("starting casitas")?;
    ensure!(migrated.status.success(), "casitas migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    for role in ["command-api", "projector", "report-worker"] {
        system.restart(role, &[("CASITAS_SEEDED_BUG", name)])?;
    }
    Ok(())
}

type Bug = (&'static str, &'static [&'static str], usize);

fn bug(name: &str) -> Result<Bug> {
    match BUGS.iter().find(|(known, ..)| *known == name) {
        Some(bug) => Ok(*bug),
        None => bail!("there is no bug {name:?}; there are {}", BUGS.map(|(name, ..)| name).join(", ")),
    }
}
