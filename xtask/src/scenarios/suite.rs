//! What runs, on which system, and what came of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};

use super::system::{Embedded, System};
use super::{
    access, caching, crashes, doctor, edge, fuzz, history, input, interrupts, jobs, large, look, operations, privacy, races,
    reads, rebuilds, tampering, upgrades, walkthrough,
};
use crate::stack::Options;
use crate::test::BINARY_VARIABLE;
use crate::workspace::{Profile, build_casitas};

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Seconds: in `cargo xtask test`.
    Short,
    /// What the issue asks for: in `cargo xtask verify`.
    Full,
}

impl Size {
    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

#[derive(Clone, Debug)]
pub struct SuiteOptions {
    pub size: Size,
    pub profile: Profile,
    /// A `casitas` that is built already.
    pub binary: Option<PathBuf>,
    /// Only scenarios whose name begins so.
    pub only: Vec<String>,
}

impl SuiteOptions {
    /// For `cargo xtask test`: the binary that it built.
    pub fn short() -> Self {
        let binary = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
        Self { size: Size::Short, profile: Profile::Debug, binary, only: Vec::new() }
    }
}

/// One scenario and what came of it.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub what: &'static str,
    /// What was counted or measured, or how it failed.
    pub figure: String,
    pub passed: bool,
    pub seconds: f64,
}

pub struct Suite {
    pub size: Size,
    pub rows: Vec<Row>,
    binary: PathBuf,
    theme: &'static str,
    only: Vec<String>,
    /// Where the roles of the theme's stack write what they say.
    logs: Option<PathBuf>,
}

impl Suite {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    /// Runs one scenario. One that fails does not keep the next from being tried.
    fn check(&mut self, name: &str, what: &'static str, work: impl FnOnce(Size) -> Result<String>) {
        let name = format!("{}.{name}", self.theme);
        if !self.wants(&name) {
            return;
        }
        eprintln!("xtask: {name}: {what}");
        let started = Instant::now();
        let outcome = work(self.size);
        let (passed, figure) = match outcome {
            Ok(figure) => (true, figure),
            Err(error) => (false, format!("{error:#}")),
        };
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("xtask: {name}: {} in {seconds:.1} s: {figure}", if passed { "PASS" } else { "FAIL" });
        if let Some(logs) = self.logs.as_deref().filter(|_| !passed) {
            complaints(logs).iter().for_each(|line| eprintln!("  {line}"));
        }
        self.rows.push(Row { name, what, figure, passed, seconds });
    }

    fn distributed(&mut self, options: &Options) -> Result<System> {
        let mut system = System::distributed(options)?;
        self.logs = Some(system.stack()?.dir().join("logs"));
        Ok(system)
    }

    fn options(&self) -> Options {
        Options { binary: Some(self.binary.clone()), ..Options::for_tests() }
    }
}

/// What each role complained of last.
fn complaints(logs: &Path) -> Vec<String> {
    let mut lines = vec![];
    for file in fs::read_dir(logs).into_iter().flatten().flatten() {
        let text = fs::read(file.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> =
            text.lines().filter(|line| ["WARN", "ERROR"].iter().any(|level| line.contains(level))).collect();
        let name = file.file_name();
        lines.extend(all[all.len().saturating_sub(4)..].iter().map(|line| format!("{}: {line}", name.to_string_lossy())));
    }
    lines
}

const UPGRADES: &str = "rows of an earlier release are served until this one's are made";
const BACKUP: &str = "a backup beside writers is one moment, and serves when restored";
const LARGE: &str = "models of a large log rebuilt under load, equal to folds elsewhere";

type Theme = fn(&mut Suite) -> Result<()>;

/// Systems of their own, each with its scenarios in order.
pub const THEMES: [(&str, Theme); 6] = [
    ("first-run", first_run),
    ("history", history),
    ("embedded", embedded),
    ("distributed", distributed),
    ("faults", faults),
    ("large", large),
];

/// Runs the themes with this name, or all.
///
/// # Errors
/// When `casitas` cannot be built or a system does not come up. A scenario that fails is a row.
pub fn run(options: &SuiteOptions, theme: Option<&str>) -> Result<Vec<Row>> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build_casitas(options.profile)?,
    };
    let mut suite =
        Suite { size: options.size, rows: Vec::new(), binary, theme: "", only: options.only.clone(), logs: None };
    let chosen: Vec<&(&str, Theme)> = THEMES.iter().filter(|(name, _)| theme.is_none_or(|theme| theme == *name)).collect();
    for (name, work) in chosen {
        let prefix = format!("{name}.");
        let related = |only: &String| only.starts_with(&prefix) || prefix.starts_with(only.as_str());
        if !suite.only.is_empty() && !suite.only.iter().any(related) {
            continue;
        }
        (suite.theme, suite.logs) = (name, None);
        work(&mut suite)?;
    }
    if suite.rows.is_empty() {
        bail!("no scenario is called {:?}", options.only);
    }
    Ok(suite.rows)
}

/// What somebody sees who has just cloned the repository.
fn first_run(suite: &mut Suite) -> Result<()> {
    let binary = suite.binary.clone();
    suite.check("empty", "an empty store and a first admin by `casitas users add`", |_| {
        let system = System::Embedded(Box::new(Embedded::start_empty(&binary)?));
        let figure = walkthrough::without_demo(&system)?;
        system.stop()?;
        Ok(figure)
    });
    suite.check("demo", "`casitas --demo` answers the walk-through", |size| {
        let started = Instant::now();
        let embedded = match size {
            Size::Short => Embedded::start_seeded(&binary, 40, 1)?,
            Size::Full => Embedded::start_demo(&binary)?,
        };
        let seconds = started.elapsed().as_secs_f64();
        let system = System::Embedded(Box::new(embedded));
        let figure = walkthrough::with_demo(&system)?;
        system.stop()?;
        Ok(format!("{figure}; up with its data after {seconds:.1} s"))
    });
    Ok(())
}

/// What operators do with the logs alone.
fn history(suite: &mut Suite) -> Result<()> {
    let lab = history::Lab::start(&suite.binary, suite.size)?;
    suite.check("moves", "export from a folder, import to Postgres and back: the same bytes", |_| lab.moves());
    suite.check("cuts", "a connection cut in the middle of an export, of either format, and of a replay", |_| lab.cuts());
    suite.check("interrupts.moves", "an import and an export interrupted while their server hangs go on", |_| {
        lab.interrupted_moves()
    });
    suite.check("interrupts.replays", "replays interrupted go on, or begin anew", |_| lab.interrupted_replays());
    let system = System::Embedded(Box::new(Embedded::start_empty(&suite.binary)?));
    let binary = suite.binary.clone();
    suite.check("backup", BACKUP, |size| history::backup(&system, &binary, size));
    system.stop()
}

fn embedded(suite: &mut Suite) -> Result<()> {
    let mut system = System::Embedded(Box::new(Embedded::start_empty(&suite.binary)?));
    suite.check("access.matrix", "every route x role x own or foreign (2.4)", |_| access::matrix(&system));
    suite.check("access.tokens", "forged, expired and foreign tokens", |_| access::forged_tokens(&system));
    suite.check("access.deactivation", "a deactivated user is out at once", |_| access::deactivation(&system));
    suite.check("input", "bad input is 4xx and writes nothing", |_| input::table(&system));
    for (name, what, work) in look::LOOKS {
        suite.check(name, what, |_| work(&system));
    }
    suite.check("reads.expiry", "a hold that expired is shown by no GET after it", |size| {
        reads::expiring_holds(&system, size)
    });
    suite.check("reads.own-writes", "a GET with the token sees the command", |size| reads::own_writes(&mut system, size));
    suite.check("races.holds", "64 clients place overlapping holds", |size| races::holds(&system, size));
    suite.check("races.leases", "64 leases of one unit are sent", |size| races::leases(&system, size));
    suite.check("races.duplicates", "100 duplicates of one keyed command", |size| races::duplicates(&system, size));
    suite.check("rebuilds.load", "every model rebuilt beside readers and writers", |_| rebuilds::beside_clients(&system));
    suite.check("rebuilds.kills", "rebuilds killed at any moment go on", |size| rebuilds::killed(&mut system, size));
    suite.check("interrupts.rebuild", "a rebuild interrupted goes on, and leaves the switch", |_| {
        interrupts::rebuild(&system)
    });
    suite.check("interrupts.trial", "a dry run interrupted leaves nothing", |_| interrupts::trial(&system));
    suite.check("upgrades", UPGRADES, |_| upgrades::earlier_fold(&mut system));
    suite.check("reports.priority", "high before low on one slot", |size| jobs::priority(&mut system, size));
    // An attempt that died with its process is given up after a minute: too long for the short form, which has the worker's.
    if suite.size == Size::Full {
        suite.check("reports.kills", "the process killed between the steps of a report", |size| {
            jobs::kills(&mut system, size)
        });
    }
    suite.check("crashes", "kill -9 of the process under load", |size| crashes::embedded(&mut system, size));
    suite.check("privacy", "no plaintext of a party in any file but party_card", |_| privacy::embedded(&mut system));
    suite.check("privacy.operator", "operators are shown no person unless recorded", |_| privacy::operator(&system));
    suite.check("operations.held", "a log that another process holds is found", |_| operations::held(&mut system));
    suite.check("operations.drift", "a row that is not what the log says is found", |_| doctor::drift(&system));
    suite.check("operations.timer", "a timer that is late is found", |_| doctor::late_timer(&mut system));
    suite.check("operations.behind", "a model that is behind is found", |_| doctor::behind(&mut system));
    suite.check("operations.damaged", "a folder that cannot be opened", |_| doctor::damaged(&system));
    suite.check("tampering", "what was done to history is found by name", |_| tampering::embedded(&mut system));
    // From here on history is not what was sealed.
    suite.check("operations.poison", "a poison event parks its stream alone; a retry heals it", |_| {
        operations::poison(&mut system)
    });
    suite.check("schemathesis", "property-based requests from /openapi.json", |size| fuzz::schemathesis(&system, size));
    system.stop()
}

fn distributed(suite: &mut Suite) -> Result<()> {
    let size = suite.size;
    let demo = Options {
        demo: true,
        demo_units: size.pick(Some(40), None),
        demo_years: size.pick(Some(1), None),
        ..suite.options()
    };
    let mut system = suite.distributed(&demo)?;
    suite.check("cache.warm", "available_units is in Redis before any GET of it", |_| caching::warm(&mut system));
    suite.check("walk", "the walk-through by Nginx", |_| walkthrough::with_demo(&system));
    suite.check("cache.tiers", "both replicas; the second GET is a HIT", |_| caching::tiers(&mut system, true));
    suite.check("cache.redis", "the same with the in-process tier off, by Redis' own count", |_| {
        caching::tiers(&mut system, false)
    });
    suite.check("cache.stampede", "500 clients find a list changed: one computation a replica", |size| {
        caching::stampede(&mut system, size)
    });
    suite.check("cache.expiry", "500 clients ask as a hold runs out: one computation a replica", |size| {
        caching::expiry(&mut system, size)
    });
    suite.check("reads.own-writes", "projector delayed: a GET with the token sees the command", |size| {
        reads::own_writes(&mut system, size)
    });
    suite.check("reads.expiry", "a hold that expired is shown by no GET after it", |size| {
        reads::expiring_holds(&system, size)
    });
    suite.check("races.holds", "64 clients place overlapping holds", |size| races::holds(&system, size));
    suite.check("races.leases", "64 leases of one unit are sent", |size| races::leases(&system, size));
    suite.check("races.duplicates", "100 duplicates of one keyed command", |size| races::duplicates(&system, size));
    suite.check("rebuilds.load", "every model rebuilt beside readers and writers", |_| rebuilds::beside_clients(&system));
    suite.check("rebuilds.kills", "rebuilds killed at any moment go on", |size| rebuilds::killed(&mut system, size));
    suite.check("interrupts.rebuild", "a rebuild interrupted goes on, and leaves the switch", |_| {
        interrupts::rebuild(&system)
    });
    suite.check("interrupts.trial", "a dry run interrupted leaves nothing", |_| interrupts::trial(&system));
    suite.check("upgrades", UPGRADES, |_| upgrades::earlier_fold(&mut system));
    suite.check("interrupts.at-once", "a dry run interrupted twice says what is left", |_| interrupts::at_once(&system));
    // The full form has a system of its own.
    if suite.size == Size::Short {
        suite.check("rebuilds.large", LARGE, |size| large::rebuilds(&mut system, size));
    }
    suite.check("access.matrix", "every route x role x own or foreign (2.4)", |_| access::matrix(&system));
    suite.check("access.tokens", "forged, expired and foreign tokens", |_| access::forged_tokens(&system));
    suite.check("access.deactivation", "a deactivated user is out at once", |_| access::deactivation(&system));
    suite.check("input", "bad input is 4xx and writes nothing", |_| input::table(&system));
    for (name, what, work) in look::LOOKS {
        suite.check(name, what, |_| work(&system));
    }
    suite.check("edge", "Nginx at its default limits", |_| edge::default_limits(&mut system));
    suite.check("edge.stopped", "command-api stopped: commands are told in time", |_| edge::stopped_commands(&mut system));
    suite.check("edge.reads", "a replica, then Postgres stopped: GETs are answered in time", |_| {
        edge::stopped_reads(&mut system)
    });
    suite.check("privacy", "no plaintext of a party in any store but party_card", |_| privacy::distributed(&mut system));
    suite.check("privacy.operator", "operators are shown no person unless recorded", |_| privacy::operator(&system));
    suite.check("operations.faults", "faults put in by force are found with doctor and healed", |size| {
        operations::faults(&mut system, size)
    });
    suite.check("operations.drift", "a row that is not what the log says is found", |_| doctor::drift(&system));
    suite.check("operations.timer", "a timer that is late is found", |_| doctor::late_timer(&mut system));
    suite.check("operations.behind", "a model that is behind is found", |_| doctor::behind(&mut system));
    suite.check("operations.servers", "servers that are down are named", |_| doctor::servers(&mut system));
    // The last: from here on history is not what was sealed.
    suite.check("operations.poison", "a poison event parks its stream alone; a retry heals it", |_| {
        operations::poison(&mut system)
    });
    system.stop()
}

fn faults(suite: &mut Suite) -> Result<()> {
    let mut system = suite.distributed(&suite.options())?;
    let binary = suite.binary.clone();
    suite.check("backup", BACKUP, |size| history::backup(&system, &binary, size));
    suite.check("reports.priority", "high before low on one slot", |size| jobs::priority(&mut system, size));
    suite.check("reports.kills", "the worker killed between the steps of a report", |size| jobs::kills(&mut system, size));
    suite.check("reports.wiped", "RabbitMQ wiped with jobs open", |size| jobs::wiped(&mut system, size));
    suite.check("redis", "Redis flushed, stopped, started under GETs", |size| caching::redis_away(&mut system, size));
    suite.check("drain", "roles stopped in order beside half-sent heads", |size| crashes::drains(&mut system, size));
    suite.check("crashes", "kill -9 of everything in turn under load", |size| crashes::distributed(&mut system, size));
    suite.check("restored", "logs restored from dumps: found beyond, tokens refused, healed by a rebuild", |_| {
        super::restored::dumps(&mut system)
    });
    // The last: it leaves the roles stopped.
    suite.check("tampering", "what was done to history is found by name", |_| tampering::distributed(&mut system));
    system.stop()
}

/// A log of a million events, in the full form only.
fn large(suite: &mut Suite) -> Result<()> {
    if suite.size == Size::Short {
        return Ok(());
    }
    let options = Options { demo: true, demo_units: Some(1_000), ..suite.options() };
    let mut system = suite.distributed(&options)?;
    suite.check("rebuilds", LARGE, |size| large::rebuilds(&mut system, size));
    // Twenty of them are killed where a rebuild takes less; here each victim once, in the middle of much more work.
    suite.check("kills", "rebuilds of it killed at any moment go on", |_| rebuilds::killed(&mut system, Size::Short));
    system.stop()
}
