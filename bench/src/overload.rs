//! Part `overload` (R15): many times more clients than the log can serve, none of which waits as it is told to. What is admitted
//! must be as much as without the flood, answered in bounded time, from bounded memory; the rest is refused and leaves nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::append::{settings, stored};
use crate::bench::{Bench, Part, Round};
use crate::drive::{Driven, audit, collect, drive};
use crate::figure::{Check, Compare, Outcome, Stat};
use crate::load::Posts;
use crate::machine::resident;
use crate::rig::Rig;

/// As many as are served best.
const PEAK: usize = 256;
/// Four times what the queue holds, and each comes again five milliseconds after a refusal.
const FLOOD: usize = 4_096;
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOG: &str = "units_db";

#[derive(Default)]
pub struct Overload {
    rig: Option<Rig>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

fn peak() -> String {
    format!("POST, HTTP, {PEAK} callers")
}

fn flood() -> String {
    format!("POST, HTTP, a flood of {FLOOD} callers")
}

const REFUSED: &str = "refused with 503 in the flood";
const MEMORY: &str = "command-api's memory in the flood";

impl Part for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn compares(&self) -> Vec<Compare> {
        vec![
            Compare::ratio(flood(), peak()).at_least(0.8),
            Compare::bound(flood(), Stat::P99).at_most(2_000.0),
            Compare::bound(MEMORY, Stat::Value).at_most(256.0),
        ]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        let rig = Rig::start(&bench.binary, 1)?;
        self.notes = settings(&rig.postgres)?;
        self.notes.push(
            "The flood comes straight to command-api, past Nginx' limits; the generator shares the cores, and refusals cost both \
             of them. Latencies are those of what was admitted."
                .to_owned(),
        );
        self.rig = Some(rig);
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let rig = self.rig.as_ref().context("no setup")?;
        run(rig, bench, round, &mut self.checks, (peak(), PEAK), bench.run_time())?;
        let pid = rig.pids().first().copied().context("no command-api")?;
        let lasts = Duration::from_secs(bench.size(60, 5));
        let (tell, ended) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let mut most = 0;
            while ended.recv_timeout(LOOK_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                most = most.max(resident(pid).unwrap_or_default());
            }
            most
        });
        let refused = run(rig, bench, round, &mut self.checks, (flood(), FLOOD), lasts);
        drop(tell);
        let most = watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        let refused = refused?;
        // A flood that all goes in shows nothing of shedding.
        let wrong = if refused == 0 { vec!["nobody was refused".to_owned()] } else { Vec::new() };
        collect(&mut self.checks, Check::others(REFUSED, 1, wrong));
        let taken = round.taken();
        round.keep(REFUSED, "requests/s", Outcome::plain(refused as f64 / lasts.as_secs_f64()), taken);
        round.keep(MEMORY, "MB", Outcome::plain(most as f64 / 1e6), taken);
        // It is itself again at once.
        let after = Instant::now();
        run(rig, bench, round, &mut self.checks, ("POST, HTTP, after the flood".to_owned(), PEAK), bench.run_time())?;
        eprintln!("bench: overload: served again, {:.1} s after", after.elapsed().as_secs_f64());
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Drives so many callers, looks everything up, and answers how many commands were refused.
fn run(
    rig: &Rig,
    bench: &Bench,
    round: &mut Round<'_>,
    checks: &mut Vec<Check>,
    (name, callers): (String, usize),
    lasts: Duration,
) -> Result<u64> {
    let head: u64 = rig.postgres.sql(LOG, "SELECT coalesce(max(position), 0) FROM events")?.parse()?;
    let token = rig.token()?;
    let posts = bench.block(Posts::connect(&rig.ports(), callers, &token, false))?;
    let mut driven = Driven::default();
    round.measure(&name, "commands/s", || {
        driven = bench.block(drive(posts, lasts));
        Ok(driven.outcome())
    })?;
    // What was refused must not be there: it answers for no event.
    let all = driven.errors.len();
    driven.errors.retain(|error| !error.starts_with("503 "));
    let refused = all - driven.errors.len();
    collect(checks, audit(name, &driven, &stored(&rig.postgres, LOG, &format!("position > {head}"))?));
    Ok(refused as u64)
}
