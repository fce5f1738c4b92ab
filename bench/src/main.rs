//! `cargo xtask bench`: every figure next to its baseline from the same run, on real servers.
//!
//! A part runs its own servers and measures itself and its peers in turn, round by round; ratios are of one round, and the
//! median of the rounds counts. What was acknowledged is looked up afterwards: a lost or doubled event fails the run.

mod bench;
mod figure;
mod quiet;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::bench::{Bench, Part, Round};

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures the product beside its limits and its peers")]
struct Cli {
    /// One round, short runs, small sizes: under three minutes in all
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
    /// Write no docs/benchmarks
    #[arg(long)]
    no_report: bool,
    /// Measure on a busy machine, too
    #[arg(long)]
    force: bool,
    /// The product
    #[arg(long)]
    binary: PathBuf,
}

/// Every part, in the order of the report.
fn parts() -> Vec<Box<dyn Part>> {
    vec![]
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let bench = Bench::new(cli.quick, cli.rounds.unwrap_or(if cli.quick { 1 } else { 3 }), cli.binary.clone(), cli.force)?;
    for only in &cli.only {
        ensure!(parts().iter().any(|part| part.name() == only), "no part {only}");
    }
    let mut samples = Vec::new();
    for mut part in parts() {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| only == part.name()) {
            continue;
        }
        part.setup(&bench)?;
        for number in 0..bench.rounds {
            part.round(&bench, &mut Round::new(&bench, part.name(), number, &mut samples))?;
        }
    }
    Ok(true)
}
