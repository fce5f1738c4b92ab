//! Part `size`: how long things take to start, how much memory they hold, how large an event is, what an idle system does.
//!
//! All in the first round: the log grows once. What varies is measured several times within it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adapters::postgres::PostgresServer;
use adapters::sqlite::DataFolder;
use anyhow::{Context, Result, bail};
use ports::SystemClock;
use xtask::http;
use xtask::net::wait_until;
use xtask::scenarios::system::{Embedded, System};
use xtask::scenarios::world;
use xtask::stack::{Options, ROLES, Stack};

use crate::bench::{Bench, Part, Round};
use crate::drive::{audit, collect, drive, fill};
use crate::figure::{Check, Compare, Outcome};
use crate::load::{Gets, Posts};
use crate::machine::resident;
use crate::quiet::{self, Foreign, Taken};
use crate::rig::token;
use crate::rows::number;
use crate::workload::{Creates, handler, postgres_handler};

const EVENTS: u64 = 1_000_000;
const EVENTS_QUICK: u64 = 20_000;
const EVENTS_EMBEDDED: u64 = 100_000;
const EVENTS_EMBEDDED_QUICK: u64 = 5_000;
/// Starts of each process whose median is told.
const STARTS: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(60);
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1_200);
/// What hangs on a start (plans, pools, the first polls) is over by then.
const SETTLE: Duration = Duration::from_secs(3);
const SETTLE_QUICK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Size {
    checks: Vec<Check>,
}

impl Part for Size {
    fn name(&self) -> &'static str {
        "size"
    }

    fn compares(&self) -> Vec<Compare> {
        Vec::new()
    }

    fn setup(&mut self, _: &Bench) -> Result<()> {
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        if round.number > 0 {
            return Ok(());
        }
        let binary = std::fs::metadata(&bench.binary)?.len();
        round.keep("binary", "MB", Outcome::plain(megabytes(binary)), Taken::NOTHING);
        self.distributed(bench, round)?;
        self.embedded(bench, round)
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    fn notes(&self) -> Vec<String> {
        vec![
            format!(
                "A start is from exec to the first 200 of /readyz, the median of {STARTS}; the events are properties' \
                 registrations, and every view has followed them before the start that is measured."
            ),
            "Memory is the resident set of the process (VmRSS), under load its highest while 64 clients POST and 32 GET."
                .to_owned(),
            "Idle is the whole native stack with nobody calling; queries are transactions of all databases but the one we \
             ask from."
                .to_owned(),
        ]
    }
}

pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

impl Size {
    fn distributed(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let options =
            Options { binary: Some(bench.binary.clone()), login_rate: Some("100r/s".to_owned()), ..Options::default() };
        let mut system = System::distributed(&options)?;
        world::admin(&system)?;
        starts(system.stack()?, bench, round, 0)?;
        if !bench.quick {
            idle(system.stack()?, bench, round, 0)?;
        }

        let events = bench.size(EVENTS, EVENTS_QUICK);
        let stack = system.stack()?;
        let server = PostgresServer::new(&stack.postgres.address(), "casitas_command", &stack.secret("db_command")?)?;
        let filled = bench.block(async {
            let handler = postgres_handler(&server);
            fill(vec![Creates::filling(&handler); 256], events).await
        });
        let stored = crate::append::stored(&stack.postgres, "units_db", "aggregate_type = 'property'")?;
        collect(&mut self.checks, audit("the log being filled, 256 callers", &filled, &stored));
        followed(&system)?;

        let stack = system.stack()?;
        stack.postgres.sql("units_db", "VACUUM ANALYZE events")?;
        bytes(stack, round)?;
        starts(stack, bench, round, events)?;
        idle(stack, bench, round, events)?;
        self.loaded(bench, round, system)
    }

    /// The highest resident set of each role while clients write and read.
    fn loaded(&mut self, bench: &Bench, round: &mut Round<'_>, mut system: System) -> Result<()> {
        let stack = system.stack()?;
        let (commands, queries) = (stack.role("command-api")?.port(), stack.role("query-1")?.port());
        let token = token(&format!("http://127.0.0.1:{commands}"))?;
        let pids = pids(stack)?;
        let over = Arc::new(AtomicBool::new(false));
        let watcher = {
            let (pids, over) = (pids.clone(), over.clone());
            thread::spawn(move || {
                let mut highest = vec![0; pids.len()];
                while !over.load(Ordering::Relaxed) {
                    for (highest, (_, pid)) in highest.iter_mut().zip(&pids) {
                        *highest = resident(*pid).unwrap_or(0).max(*highest);
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                highest
            })
        };
        let head: u64 = stack.postgres.sql("units_db", "SELECT max(position) FROM events")?.parse()?;
        let before = Foreign::now();
        let (posted, got) = bench.block(async {
            let posts = Posts::connect(&[commands], 64, &token, false).await?;
            let gets = Gets::connect(queries, 32, "/properties", &token).await?;
            anyhow::Ok(tokio::join!(drive(posts, bench.run_time()), drive(gets, bench.run_time())))
        })?;
        let taken = before.since();
        over.store(true, Ordering::Relaxed);
        let highest = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        for ((name, _), bytes) in pids.iter().zip(highest) {
            round.keep(format!("memory under load, {name}"), "MB", Outcome::plain(megabytes(bytes)), taken);
        }
        let stored = crate::append::stored(&stack.postgres, "units_db", &format!("position > {head}"))?;
        collect(&mut self.checks, audit("POSTs under load", &posted, &stored));
        collect(&mut self.checks, Check::others("GETs under load", got.done, got.errors));
        system.stop()
    }

    fn embedded(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let mut embedded = Embedded::start_empty(&bench.binary)?;
        embedded_starts(&mut embedded, bench, round, 0)?;
        embedded.server().stop()?;
        let events = bench.size(EVENTS_EMBEDDED, EVENTS_EMBEDDED_QUICK);
        let filled = bench.block(async {
            let folder = DataFolder::open(embedded.data_dir())?;
            let log = folder.log(domain::Context::Units, Arc::new(SystemClock)).await?;
            let handler = handler(Arc::new(log));
            anyhow::Ok(fill(vec![Creates::filling(&handler); 256], events).await)
        })?;
        let stored = bench.block(crate::embedded::stored(&embedded.data_dir().join(crate::embedded::LOG), "true"))?;
        collect(&mut self.checks, audit("the embedded log being filled, 256 callers", &filled, &stored));
        // The handler's appender ends with its last handle, and lets go of the folder.
        wait_until("the folder being free", READY_WITHIN, || Ok(DataFolder::open(embedded.data_dir()).is_ok()))?;
        embedded.start()?;
        let system = System::Embedded(Box::new(embedded));
        followed(&system)?;
        let System::Embedded(mut embedded) = system else { bail!("it is embedded") };
        let file = std::fs::metadata(embedded.data_dir().join(crate::embedded::LOG))?.len();
        round.keep("SQLite log, bytes an event", "bytes", Outcome::plain(file as f64 / events as f64), Taken::NOTHING);
        embedded_starts(&mut embedded, bench, round, events)
    }
}

/// `0 events`, `1,000,000 events`.
fn at(events: u64) -> String {
    format!("{} events", if events == 0 { "0".to_owned() } else { number(events as f64) })
}

/// Stops and starts each role.
fn starts(stack: &mut Stack, bench: &Bench, round: &mut Round<'_>, events: u64) -> Result<()> {
    for name in ROLES {
        for _ in 0..bench.size(STARTS, 1) {
            let role = stack.role(name)?;
            role.stop()?;
            round.measure(format!("start-up, {name}, {}", at(events)), "ms", || {
                let started = Instant::now();
                role.start_unready()?;
                ready(role.port(), started)
            })?;
        }
    }
    Ok(())
}

fn embedded_starts(embedded: &mut Embedded, bench: &Bench, round: &mut Round<'_>, events: u64) -> Result<()> {
    for _ in 0..bench.size(STARTS, 1) {
        embedded.server().stop()?;
        round.measure(format!("start-up, casitas serve, {}", at(events)), "ms", || {
            let started = Instant::now();
            embedded.server().start_until(READY_WITHIN, |_| Ok(true))?;
            ready(embedded.server().port(), started)
        })?;
    }
    let before = Foreign::now();
    thread::sleep(bench.size(SETTLE, SETTLE_QUICK));
    let taken = before.since();
    let pid = embedded.server().pid().context("casitas serve does not run")?;
    let bytes = resident(pid).context("its memory")?;
    round.keep(format!("memory idle, casitas serve, {}", at(events)), "MB", Outcome::plain(megabytes(bytes)), taken);
    Ok(())
}

/// Milliseconds until it answers that it is ready.
fn ready(port: u16, started: Instant) -> Result<Outcome> {
    while !http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200) {
        if started.elapsed() > READY_WITHIN {
            bail!("not ready after {} s", READY_WITHIN.as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Outcome::plain(started.elapsed().as_secs_f64() * 1_000.0))
}

/// Memory, processor time and queries of the whole stack while nobody calls.
fn idle(stack: &mut Stack, bench: &Bench, round: &mut Round<'_>, events: u64) -> Result<()> {
    let watched = bench.size(Duration::from_secs(10), Duration::from_secs(3));
    thread::sleep(bench.size(SETTLE, SETTLE_QUICK));
    let pids = pids(stack)?;
    let transactions = || -> Result<f64> {
        let sum = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname <> 'postgres'";
        Ok(stack.postgres.sql("postgres", sum)?.parse()?)
    };
    let used = |pids: &[(String, u32)]| pids.iter().map(|(_, pid)| quiet::tree_seconds(*pid)).collect::<Vec<f64>>();
    let mut cores = Vec::new();
    round.measure(format!("idle, queries of the whole stack, {}", at(events)), "queries/s", || {
        let (before, seconds_before, started) = (transactions()?, used(&pids), Instant::now());
        thread::sleep(watched);
        let elapsed = started.elapsed().as_secs_f64();
        let seconds = used(&pids);
        cores = seconds.iter().zip(&seconds_before).map(|(now, then)| (now - then) / elapsed).collect();
        Ok(Outcome::plain((transactions()? - before) / elapsed))
    })?;
    let (taken, percent) = (round.taken(), |cores: f64| Outcome::plain(cores * 100.0));
    round.keep(format!("idle, processor, whole stack, {}", at(events)), "% of a core", percent(cores.iter().sum()), taken);
    for ((name, pid), cores) in pids.iter().zip(cores) {
        round.keep(format!("idle, processor, {name}, {}", at(events)), "% of a core", percent(cores), taken);
        if ROLES.contains(&name.as_str()) {
            let bytes = resident(*pid).with_context(|| format!("the memory of {name}"))?;
            round.keep(format!("memory idle, {name}, {}", at(events)), "MB", Outcome::plain(megabytes(bytes)), taken);
        }
    }
    Ok(())
}

/// What an event takes in Postgres.
fn bytes(stack: &Stack, round: &mut Round<'_>) -> Result<()> {
    for (name, sql) in [
        ("Postgres log, bytes an event, table", "pg_table_size('events')::float8 / (SELECT count(*) FROM events)"),
        ("Postgres log, bytes an event, indexes", "pg_indexes_size('events')::float8 / (SELECT count(*) FROM events)"),
        ("payload, bytes an event", "(SELECT avg(length(payload::text)) FROM events)::float8"),
    ] {
        let value: f64 = stack.postgres.sql("units_db", &format!("SELECT {sql}"))?.parse()?;
        round.keep(name, "bytes", Outcome::plain(value), Taken::NOTHING);
    }
    Ok(())
}

/// Everything of the stack that runs, by name.
fn pids(stack: &Stack) -> Result<Vec<(String, u32)>> {
    let all = stack.inventory().into_iter();
    all.map(|(name, pid, _, _)| Ok((name.clone(), pid.with_context(|| format!("{name} does not run"))?))).collect()
}

/// Waits until every view is at its log's head.
fn followed(system: &System) -> Result<()> {
    let started = Instant::now();
    loop {
        match system.caught_up() {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > FOLLOWED_WITHIN => return Err(error),
            Err(_) => {}
        }
    }
}
