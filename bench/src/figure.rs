//! What is measured, and what it is held against.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::quiet::Taken;

/// One measured figure of one round.
#[derive(Clone, Debug)]
pub struct Sample {
    pub part: &'static str,
    /// Stable over rounds and releases, e.g. `create, handler, 64 callers`.
    pub name: String,
    pub value: f64,
    /// `commands/s`, `ms`, `MB`.
    pub unit: &'static str,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    pub round: usize,
    /// What others took of the processors while it was measured.
    pub taken: Taken,
}

/// What one run yields; `Bench::measure` makes a `Sample` of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub value: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

impl Outcome {
    /// A figure without latencies.
    pub fn plain(value: f64) -> Self {
        Self { value, ..Self::default() }
    }

    /// So many operations in so much time, with their latencies.
    pub fn rate(done: u64, elapsed: Duration, latencies: &Histogram<u64>) -> Self {
        Self { value: done as f64 / elapsed.as_secs_f64(), ..Self::latencies(latencies) }
    }

    /// The p99 as the value, for figures that are about time alone.
    pub fn latencies(latencies: &Histogram<u64>) -> Self {
        let ms = |us: u64| Some(us as f64 / 1_000.0);
        if latencies.is_empty() {
            return Self::default();
        }
        Self {
            value: latencies.value_at_quantile(0.99) as f64 / 1_000.0,
            p50_ms: ms(latencies.value_at_quantile(0.5)),
            p99_ms: ms(latencies.value_at_quantile(0.99)),
            max_ms: ms(latencies.max()),
        }
    }
}

/// Latencies in microseconds, up to a minute, to three digits.
pub fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| Histogram::new(3).expect("3 digits"));
    histogram.auto(true);
    histogram
}

/// Records a latency; what is beyond a minute counts as a minute.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(latency.as_micros().clamp(1, 60_000_000) as u64);
}

/// Which number of a sample is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    Value,
    P99,
}

impl Stat {
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Value => Some(sample.value),
            Self::P99 => sample.p99_ms,
        }
    }
}

/// What a figure is compared with: the figure of the same round divided by the baseline of the same round; the median of the
/// rounds' ratios is reported. Without a baseline the target is a bound on the figure itself.
#[derive(Clone, Debug)]
pub struct Compare {
    pub ours: String,
    pub baseline: Option<String>,
    pub stat: Stat,
    pub target: Option<f64>,
    /// Whether more is better: the target is a least value; otherwise a greatest.
    pub at_least: bool,
}

impl Compare {
    /// ours / baseline, for information; `at_least` or `at_most` makes it a target.
    pub fn ratio(ours: impl Into<String>, baseline: impl Into<String>) -> Self {
        Self { ours: ours.into(), baseline: Some(baseline.into()), stat: Stat::Value, target: None, at_least: true }
    }

    /// A bound on our own figure, e.g. `Compare::bound(name, Stat::P99).at_most(25.0)`.
    pub fn bound(ours: impl Into<String>, stat: Stat) -> Self {
        Self { ours: ours.into(), baseline: None, stat, target: None, at_least: true }
    }

    pub fn at_least(self, target: f64) -> Self {
        Self { target: Some(target), at_least: true, ..self }
    }

    pub fn at_most(self, target: f64) -> Self {
        Self { target: Some(target), at_least: false, ..self }
    }
}

/// What a check has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Things {
    /// Commands that the product acknowledged; each was looked up in its log.
    Commands,
    /// Anything else: answers, events that were folded or copied, jobs, and what a peer acknowledged.
    Others,
}

/// Something that must hold whatever the figures are: acknowledged events found, no errors, none twice.
#[derive(Clone, Debug)]
pub struct Check {
    pub what: String,
    pub things: Things,
    /// How many things were looked at; a check of nothing proves nothing and fails.
    pub count: u64,
    /// What was found wrong; must be empty.
    pub wrong: Vec<String>,
}

impl Check {
    /// Of anything but acknowledged commands.
    pub fn others(what: impl Into<String>, count: u64, wrong: Vec<String>) -> Self {
        Self { what: what.into(), things: Things::Others, count, wrong }
    }

    /// The commands were a peer's, and so is the log.
    pub fn of_peer(self) -> Self {
        Self { things: Things::Others, ..self }
    }

    pub fn failed(&self) -> bool {
        self.count == 0 || !self.wrong.is_empty()
    }
}

/// A plot: each point takes its height from the median of the samples of that name.
#[derive(Clone, Debug)]
pub struct Curve {
    /// `<file>.svg` under docs/benchmarks.
    pub file: String,
    pub title: String,
    pub x: &'static str,
    pub y: &'static str,
    /// Label, and its points: x and the sample's name.
    pub series: Vec<(String, Vec<(f64, String)>)>,
}
