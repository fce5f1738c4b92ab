//! The demo's data: a portfolio of properties in several countries, its tenants, leases and ledgers, and the demo logins.
//!
//! Everything is written as users would write it, through the one write path; the move-in process must be running, here or in
//! another process. The same plan on the same date (UTC) gives the same data: ids and values come from the seed, dates hang on
//! today's date. Who wrote what when (event ids, `recorded_at`) is never the same twice.
//!
//! Seeding that was interrupted is not taken up again: the store is not empty then, and goes on as it is.

mod blueprint;
mod days;
mod money;
mod people;
mod places;
mod rng;
mod tenancy;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::io::{IsTerminal, Write};

use anyhow::{Result, ensure};
use commands::Handler;
use domain::Context;
use serde::Serialize;

use crate::platform::Platform;
use blueprint::Blueprint;
use writer::Writer;

const UNITS_MAX: u32 = 50_000;
const YEARS_MAX: u32 = 20;

/// How much of it there is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// At least 1.
    pub units: u32,
    /// How far back ledgers go, at least 1.
    pub years: u32,
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { units: 300, years: 3, seed: 42 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub properties: usize,
    pub cities: usize,
    pub units: usize,
    pub leases: usize,
    /// Charges, payments and reversals.
    pub entries: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { properties, cities, units, leases, entries } = *self;
        let counted = [(properties, "properties in"), (cities, "cities,"), (units, "units,"), (leases, "leases,")];
        counted.iter().try_for_each(|(count, what)| write!(f, "{} {what} ", grouped(*count)))?;
        write!(f, "{} entries", grouped(entries))
    }
}

/// `9812` as `9,812`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Demo data goes into an empty store only.
#[derive(Debug)]
pub struct NotEmpty {
    context: Context,
    events: u64,
}

impl fmt::Display for NotEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { context, events } = self;
        write!(
            f,
            "the store is not empty ({} events of {context}): demo data goes into an empty one only",
            grouped(*events as usize)
        )
    }
}

impl std::error::Error for NotEmpty {}

/// Fills the store. [`NotEmpty`] when anything was done in it, logins aside; they are completed when some are missing.
/// `progress` is told what is being written, how many of it are done, and how many there are.
pub async fn seed(
    platform: &Platform,
    handler: &Handler,
    plan: &Plan,
    progress: impl Fn(&str, u64, u64) + Send + Sync,
) -> Result<Summary> {
    ensure!((1..=UNITS_MAX).contains(&plan.units), "the demo has from 1 to {UNITS_MAX} units");
    ensure!((1..=YEARS_MAX).contains(&plan.years), "the demo has from 1 to {YEARS_MAX} years");
    if let Some(not_empty) = not_empty(platform).await? {
        return Err(not_empty.into());
    }
    let blueprint = Blueprint::draw(plan, platform.clock.now());
    let writer = Writer::new(handler, &*platform.artifacts, &progress);
    writer.users().await?;
    writer.parties(&blueprint).await?;
    writer.properties(&blueprint).await?;
    writer.units(&blueprint).await?;
    let entries = writer.lives(&blueprint).await?;
    Ok(Summary {
        properties: blueprint.properties.len(),
        cities: blueprint.cities(),
        units: blueprint.units.len(),
        leases: blueprint.leases(),
        entries,
    })
}

/// One line on what was written; `None` when the store is not empty, and is left as it is.
pub async fn seed_if_empty(platform: &Platform, handler: &Handler, plan: &Plan) -> Result<Option<String>> {
    if let Some(not_empty) = not_empty(platform).await? {
        tracing::info!("no demo data is loaded: {not_empty}");
        return Ok(None);
    }
    tracing::info!(plan.units, plan.years, plan.seed, "loading the demo data into the empty store");
    let summary = seed(platform, handler, plan, show_progress).await?;
    Ok(Some(summary.to_string()))
}

async fn not_empty(platform: &Platform) -> Result<Option<NotEmpty>> {
    for context in [Context::Units, Context::Legal, Context::Finances] {
        let log = platform.logs.get(context).map_err(chained)?;
        let events = log.head().await.map_err(chained)?.position;
        if events > 0 {
            return Ok(Some(NotEmpty { context, events }));
        }
    }
    Ok(None)
}

fn chained(error: ports::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}

/// On standard error: a line that moves on a terminal, otherwise a line when a stage is done.
pub fn show_progress(stage: &str, done: u64, total: u64) {
    let mut stderr = std::io::stderr().lock();
    // Nothing depends on its being seen.
    let _ = match (stderr.is_terminal(), done == total) {
        (true, false) => write!(stderr, "\r\x1b[Kdemo: {stage} {done} of {total}"),
        (true, true) => writeln!(stderr, "\r\x1b[Kdemo: {total} {stage}"),
        (false, true) => writeln!(stderr, "demo: {total} {stage}"),
        (false, false) => Ok(()),
    };
    let _ = stderr.flush();
}
