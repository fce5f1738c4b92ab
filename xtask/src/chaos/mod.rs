//! `cargo xtask chaos`: the whole distributed system under load and under faults, and a checker that reads what its clients
//! were told.
//!
//! A seed gives the schedule of faults and what each client does; what the machine makes of it differs from run to run. Each
//! fault is counted only when it verifiably happened, and a run in which a chosen one never did fails: a quiet run cannot pass.

mod checker;
mod faults;
mod figures;
mod history;
mod load;
mod logs;
mod proxy;
mod report;
mod samples;
mod schedule;
mod skew;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use checker::Column;
pub use figures::Figures;
pub use report::Report;

use self::faults::{Findings, Harness};
use self::load::Load;
use self::proxy::{Ways, way};
use self::samples::Sampler;
use self::schedule::{DISK, Plan};
use crate::net::{random_password, random_u64};
use crate::scenarios::system::System;
use crate::stack::Options;
use crate::test::BINARY_VARIABLE;
use crate::workspace::{Profile, build_casitas, build_casitas_with_bugs};

/// Undisturbed load before the first fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// After so many rounds, and after the last, nothing is done for a while: GETs are held to what was acknowledged.
const CALM_EVERY_ROUNDS: usize = 25;
/// For so long, once the views had the time that they have after a fault.
const CALM: Duration = Duration::from_secs(3);
/// Each rendering takes at least so long, so that faults find some under way.
const RENDER_DELAY_MS: &str = "150";
/// For `disk`: the system itself needs about half of it.
const DISK_MIB: u32 = 256;
/// A run of so many rounds of every kind has `disk` too, where that is possible.
const DISK_FROM_ROUNDS: usize = 100;
const DISK_ROUNDS: usize = 3;
pub const ROUNDS: usize = 60;

/// Its name, the faults that bring it out, how many rounds of them are enough, and the columns of which one must turn red.
type Bug = (&'static str, &'static [&'static str], usize, &'static [&'static str]);

/// The mistakes that must be found, by what they do and not by what breaks along with it: two events at one position; rows that
/// the checkpoint passed over; a report that nobody takes up again in time because its message is gone.
pub const BUGS: [Bug; 3] = [
    ("no-lock", &["end-backends"], 3, &[checker::DISORDER]),
    ("checkpoint-before-view", &["kill-projector", "end-backends", "reset"], 12, &[checker::FOLD]),
    // A report is being worked on in about every fourth moment.
    ("ack-before-append", &["kill-worker"], 20, &[checker::REPORTS]),
];

#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// A random one, which is printed, without it.
    pub seed: Option<u64>,
    pub rounds: Option<usize>,
    /// Kinds of faults; all without it.
    pub only: Vec<String>,
    /// A run passes without the kinds that this machine cannot make.
    pub allow_absent: bool,
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
            allow_absent: true,
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
/// When the system does not come up, or cannot be asked at the end: nothing can be checked then.
pub fn run(options: &ChaosOptions) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(|| random_u64() % 1_000_000);
    let bug = options.bug.as_deref().map(bug).transpose()?;
    let only = match bug {
        Some((_, faults, ..)) if options.only.is_empty() => faults.iter().map(|fault| (*fault).to_owned()).collect(),
        _ => options.only.clone(),
    };
    let rounds = options.rounds.unwrap_or_else(|| match bug {
        Some((_, _, rounds, _)) => rounds,
        // All of a few, some times; or the default.
        None if only.is_empty() => ROUNDS,
        None => only.len() * 5,
    });
    let plans = schedule::schedule(seed, rounds, &only)?;
    eprintln!("chaos: seed {seed}, {rounds} rounds{}", bug.map(|(name, ..)| format!(", {name}")).unwrap_or_default());
    if plans.iter().any(|plan| plan.kind == "skew") {
        skew::prepare();
    }
    let binary = match (&options.binary, bug) {
        (Some(binary), Some((name, ..))) => able_to_err(binary, name)?,
        (Some(binary), None) => binary.clone(),
        (None, Some(_)) => build_casitas_with_bugs()?,
        (None, None) => build_casitas(options.profile)?,
    };
    let run = Run { seed, bug, binary, allow_absent: options.allow_absent };
    let mut report = run.rounds(&plans, options.keep_dir.clone())?;
    if rounds >= DISK_FROM_ROUNDS && only.is_empty() && bug.is_none() && report.broken.is_none() {
        run.fill_a_disk(&mut report, options.keep_dir.as_ref().map(|dir| dir.join(DISK)));
    }
    Ok(report)
}

/// What all rounds of a run have in common.
struct Run {
    seed: u64,
    bug: Option<Bug>,
    binary: PathBuf,
    allow_absent: bool,
}

impl Run {
    /// Rounds on a system of their own, and what the checker makes of them.
    fn rounds(&self, plans: &[Plan], keep_dir: Option<PathBuf>) -> Result<Report> {
        let ways = Ways::default();
        let redis_password = random_password()?;
        let mut system = System::distributed(&Options {
            binary: Some(self.binary.clone()),
            route: Some(ways.route()),
            redis_harness: Some(redis_password.clone()),
            postgres_disk_mib: plans.iter().any(|plan| plan.kind == DISK).then_some(DISK_MIB),
            keep_dir,
            env: vec![("CASITAS_RENDER_DELAY_MS".to_owned(), RENDER_DELAY_MS.to_owned())],
            ..Options::for_tests()
        })?;
        let load = Arc::new(Load::new(&system)?);
        if let Some((name, ..)) = self.bug {
            make_mistake(&mut system, name)?;
        }
        let began = Instant::now();
        let clients = load.start(self.seed);
        sleep(WARM_UP);
        let stack = system.stack()?;
        let sampler = Sampler::start(&stack.postgres, &load);
        let mut harness =
            Harness { stack, load: &load, ways: &ways, redis_password: &redis_password, findings: Findings::default() };
        let broken = disturb(&mut harness, plans);
        let findings = harness.findings;
        eprintln!("chaos: letting the clients finish");
        load.finish(clients)?;
        let views = sampler.finish()?;
        let (fired, felt_on) = (tally(plans, &findings), places(&findings));
        let absent = findings.absent.iter().map(|(kind, why)| ((*kind).to_owned(), why.clone())).collect();
        let unknown = load.history.unknown.load(Ordering::Relaxed);
        let verdict = checker::check(&mut system, &load, findings, &views).context("checking")?;
        let seconds = began.elapsed().as_secs_f64();
        if let Err(error) = system.stop() {
            eprintln!("chaos: {error:#}");
        }
        Ok(Report {
            seed: self.seed,
            rounds: plans.len(),
            bug: self.bug.map(|(name, ..)| name.to_owned()),
            must_be_red: self.bug.map(|(.., columns)| columns).unwrap_or_default(),
            fired,
            felt_on,
            absent,
            allow_absent: self.allow_absent,
            unknown,
            felt: plans.iter().any(Plan::is_felt),
            calm_reads: verdict.calm_reads,
            broken,
            ways: what_was_done(&ways),
            columns: verdict.columns,
            figures: verdict.figures,
            seconds,
        })
    }

    /// R17, on a second system: a small disk is there from the start or not at all, and the other rounds write more than it holds.
    fn fill_a_disk(&self, report: &mut Report, keep_dir: Option<PathBuf>) {
        // No reason to fail: the other rounds need no root.
        if let Err(error) = faults::small_disk() {
            report.figures.say("not tried", format!("{DISK}: {error:#}"));
            return;
        }
        eprintln!("chaos: {DISK_ROUNDS} rounds more, on a small disk");
        let plans = schedule::schedule(self.seed, DISK_ROUNDS, &[DISK.to_owned()]);
        match plans.and_then(|plans| self.rounds(&plans, keep_dir)) {
            Ok(more) => report.add(more, "on a small disk"),
            Err(error) => report.broken = Some(format!("on a small disk: {error:#}")),
        }
    }
}

/// Makes the faults, with calm between; why they ended early, if they did.
fn disturb(harness: &mut Harness<'_>, plans: &[Plan]) -> Option<String> {
    let rounds = plans.len();
    for (number, plan) in (1..).zip(plans) {
        match harness.round(plan) {
            Ok(fired) => eprintln!(
                "chaos: {number}/{rounds} {plan}: {} x, {}; commands and GETs again after {:.1} s",
                fired.count,
                fired.what,
                fired.recovered.as_secs_f64()
            ),
            Err(error) => {
                eprintln!("chaos: {number}/{rounds} {plan}: {error:#}");
                return Some(format!("round {number}: {error:#}"));
            }
        }
        if is_followed_by_calm(number, rounds) {
            let calm = checker::CALM_AFTER + CALM;
            eprintln!("chaos: {} s without a fault", calm.as_secs());
            sleep(calm);
        }
    }
    None
}

fn is_followed_by_calm(round: usize, rounds: usize) -> bool {
    round == rounds || round.is_multiple_of(CALM_EVERY_ROUNDS)
}

/// Each chosen kind that could be tried, with the rounds in which it was felt, and how often it was.
fn tally(plans: &[Plan], findings: &Findings) -> Vec<(String, usize, u64)> {
    let mut fired: BTreeMap<&'static str, (usize, u64)> = plans.iter().map(|plan| (plan.kind, (0, 0))).collect();
    for fault in &findings.fired {
        let (times, count) = fired.entry(fault.kind).or_default();
        *times += usize::from(fault.count > 0);
        *count += fault.count;
    }
    fired.retain(|kind, _| !findings.absent.contains_key(kind));
    fired.into_iter().map(|(kind, (times, count))| (kind.to_owned(), times, count)).collect()
}

/// By kind, where faults were felt, and in how many rounds.
fn places(findings: &Findings) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut places: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for fault in findings.fired.iter().filter(|fault| fault.count > 0 && !fault.on.is_empty()) {
        *places.entry(fault.kind.to_owned()).or_default().entry(fault.on.clone()).or_default() += 1;
    }
    places
}

fn what_was_done(ways: &Ways) -> Vec<(String, String)> {
    let named = ways.names().into_iter().map(|(client, server)| {
        let done = ways.get(&client, &server).map(|proxy| proxy.done().to_string()).unwrap_or_default();
        (way(&client, &server), done)
    });
    named.collect()
}

/// A binary that was built without the mistakes would only be found to make none.
fn able_to_err(binary: &Path, bug: &str) -> Result<PathBuf> {
    let mut asked = Command::new(binary);
    asked.args(["--seeded-bug", bug, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let status = asked.status().with_context(|| format!("starting {}", binary.display()))?;
    ensure!(
        status.success(),
        "{} cannot make the mistake {bug}: build it with `--features seeded-bugs`, or leave out --binary",
        binary.display()
    );
    Ok(binary.to_owned())
}

/// From now on: what was needed to begin with is there, and whole.
fn make_mistake(system: &mut System, name: &str) -> Result<()> {
    let stack = system.stack()?;
    let mut migrate = Command::new(stack.binary());
    migrate.arg("migrate").envs(stack.environment().iter().cloned()).env("CASITAS_SEEDED_BUG", name);
    let migrated = migrate.output().context("starting casitas")?;
    ensure!(migrated.status.success(), "casitas migrate: {}", String::from_utf8_lossy(&migrated.stderr));
    for role in ["command-api", "projector", "report-worker"] {
        system.restart(role, &[("CASITAS_SEEDED_BUG", name)])?;
    }
    Ok(())
}

fn bug(name: &str) -> Result<Bug> {
    match BUGS.iter().find(|(known, ..)| *known == name) {
        Some(bug) => Ok(*bug),
        None => bail!("there is no bug {name:?}; there are {}", BUGS.map(|(name, ..)| name).join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_round_and_every_25th_are_followed_by_calm() {
        let followed =
            |rounds: usize| (1..=rounds).filter(|round| is_followed_by_calm(*round, rounds)).collect::<Vec<usize>>();
        assert_eq!(followed(7), [7]);
        assert_eq!(followed(60), [25, 50, 60]);
        assert_eq!(followed(100), [25, 50, 75, 100]);
    }

    #[test]
    fn what_was_felt_is_told_by_kind_and_place() {
        let plans = schedule::schedule(1, 3, &["reset".into(), "skew".into(), "drain".into()]).expect("a schedule");
        let fault = |kind, count, on: &str| faults::Fired {
            kind,
            count,
            what: String::new(),
            on: on.to_owned(),
            from: Duration::ZERO,
            to: Duration::ZERO,
            recovered: Duration::ZERO,
        };
        let fired = vec![fault("reset", 2, "a -> b"), fault("reset", 1, "a -> b"), fault("reset", 0, "c -> d")];
        let absent = BTreeMap::from([("skew", "no library".to_owned())]);
        let findings = Findings { fired, absent, ..Findings::default() };
        assert_eq!(tally(&plans, &findings), [("drain".to_owned(), 0, 0), ("reset".to_owned(), 2, 3)]);
        let on = BTreeMap::from([("a -> b".to_owned(), 2)]);
        assert_eq!(places(&findings), BTreeMap::from([("reset".to_owned(), on)]));
    }
}
