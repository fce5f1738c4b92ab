//! What every part gets: the sizes of this run, the product's binary, a runtime like the product's, and the way to measure.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use crate::figure::{Check, Compare, Curve, Outcome, Sample};
use crate::quiet::{Foreign, Taken, wait_until_quiet};

pub struct Bench {
    pub quick: bool,
    pub rounds: usize,
    /// The product, built with `--release`.
    pub binary: PathBuf,
    /// Measure beside other work, too; the figures are marked.
    pub force: bool,
    /// The size of the log that is rebuilt from, where another one is asked for.
    pub events: Option<usize>,
    /// Rows of what is rebuilt, where other than usual ones are asked for.
    pub units: Option<usize>,
    /// Two workers, as the product has.
    pub runtime: Runtime,
}

impl Bench {
    pub fn new(quick: bool, rounds: usize, binary: PathBuf, force: bool) -> Result<Self> {
        Ok(Self { quick, rounds, binary, force, events: None, units: None, runtime: runtime()? })
    }

    /// How long one run lasts.
    pub fn run_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 3 })
    }

    /// `full` normally, `quick` with `--quick`.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Runs a future from a part (which is blocking code).
    pub fn block<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().context("threads for a runtime")
}

/// The samples of one round, each taken through `measure`.
pub struct Round<'a> {
    pub bench: &'a Bench,
    pub number: usize,
    part: &'static str,
    samples: &'a mut Vec<Sample>,
    taken: Taken,
}

impl<'a> Round<'a> {
    pub fn new(bench: &'a Bench, part: &'static str, number: usize, samples: &'a mut Vec<Sample>) -> Self {
        Self { bench, number, part, samples, taken: Taken::NOTHING }
    }

    /// Waits until the machine is quiet, runs, and keeps the figure with how much others worked meanwhile. Prepare and check
    /// outside of `run`. Figures without a run of their own (a file's size) go through here as well.
    ///
    /// # Errors
    /// When the machine stays busy, or the run fails.
    pub fn measure(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        run: impl FnOnce() -> Result<Outcome>,
    ) -> Result<Outcome> {
        let name = name.into();
        if !self.bench.force {
            wait_until_quiet().with_context(|| format!("before {name:?}"))?;
        }
        let before = Foreign::now();
        let outcome = run().with_context(|| format!("{}: {name}", self.part))?;
        let taken = before.since();
        self.taken = taken;
        self.keep(name, unit, outcome, taken);
        Ok(outcome)
    }

    /// What others took during the last `measure`: for figures that were taken meanwhile.
    pub fn taken(&self) -> Taken {
        self.taken
    }

    /// Keeps a figure that was measured beside another (the memory of a verb whose pace was measured, say).
    pub fn keep(&mut self, name: impl Into<String>, unit: &'static str, outcome: Outcome, taken: Taken) {
        let name = name.into();
        let mark = if taken.disturbs() { " ~" } else { "" };
        eprintln!(
            "bench: {} {} · {name}: {:.*} {unit}{mark}",
            self.part,
            self.number + 1,
            if outcome.value < 100.0 { 2 } else { 0 },
            outcome.value
        );
        let Outcome { value, p50_ms, p99_ms, max_ms } = outcome;
        let (part, round) = (self.part, self.number);
        self.samples.push(Sample { part, name, value, unit, p50_ms, p99_ms, max_ms, round, taken });
    }
}

/// One part of the benchmark. Blocking code; `Bench::block` runs what is not. It is dropped (and its servers with it) before
/// the next part begins.
pub trait Part {
    /// The word for `--only`.
    fn name(&self) -> &'static str;

    fn compares(&self) -> Vec<Compare>;

    fn curves(&self) -> Vec<Curve> {
        Vec::new()
    }

    /// Servers, schemas, data that all rounds share.
    ///
    /// # Errors
    /// When they cannot be had: the part is reported as failed and the others run.
    fn setup(&mut self, bench: &Bench) -> Result<()>;

    /// Ours and the peers, one after the other, in the order in which they are compared.
    ///
    /// # Errors
    /// When something does not run at all. What runs and answers wrongly is a check.
    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()>;

    /// After the last round.
    fn checks(&self) -> Vec<Check>;

    /// The settings that matter, asked from the programs; lines of the report.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
