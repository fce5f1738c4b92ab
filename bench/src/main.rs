//! `cargo xtask bench`: every figure next to its baseline from the same run, on real servers.
//!
//! A part runs its own servers and measures itself and its peers in turn, round by round; ratios are of one round, and the
//! median of the rounds counts. What was acknowledged is looked up afterwards: a lost or doubled event fails the run.

mod append;
mod bench;
mod drive;
mod embedded;
mod figure;
mod follow;
mod freshness;
mod growth;
mod import;
mod jobs;
mod load;
mod machine;
mod overload;
mod peers;
mod peers_es;
mod pgbench;
mod plot;
mod portfolio;
mod product;
mod quiet;
mod read;
mod rebuild;
mod report;
mod rig;
mod rows;
mod size;
mod tally;
mod twin;
mod verb;
mod wire;
mod workload;
mod writer;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Sample};
use crate::machine::Machine;
use crate::report::Run;
use crate::rows::Finished;

/// The product's: the handler is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// The product
    #[arg(long)]
    binary: PathBuf,
}

/// Every part, in the order of the report.
fn parts() -> Vec<Box<dyn Part>> {
    // The distributed stack is started by the first part that needs it and stopped with the last.
    let shelf = product::Shelf::default();
    vec![
        Box::new(append::Append::default()),
        Box::new(growth::Growth::default()),
        Box::new(overload::Overload::default()),
        Box::new(embedded::AppendEmbedded::default()),
        Box::new(size::Size::default()),
        Box::new(read::Read::new(shelf.clone())),
        Box::new(freshness::Freshness::new(shelf.clone())),
        Box::new(follow::Follow::new(shelf.clone())),
        Box::new(rebuild::Rebuild::new()),
        Box::new(jobs::Jobs::new(shelf)),
    ]
}

fn main() -> ExitCode {
    let outcome = match peers::run_if_asked() {
        Some(ended) => ended.map(|()| true),
        None if std::env::args().nth(1).as_deref() == Some(twin::VERB) => twin::serve().map(|()| true),
        None => run(&Cli::parse()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let rounds = cli.rounds.unwrap_or(if cli.quick { 1 } else { 3 });
    ensure!(rounds > 0, "no rounds, no figures");
    let rebuild_only = !cli.only.is_empty() && cli.only.iter().all(|part| part == rebuild::NAME);
    let is_sized = cli.events.is_some() || cli.units.is_some();
    ensure!(rebuild_only || !is_sized, "--events and --units go with --only {}", rebuild::NAME);
    let bench =
        Bench { events: cli.events, units: cli.units, ..Bench::new(cli.quick, rounds, cli.binary.clone(), cli.force)? };
    for only in &cli.only {
        let known: Vec<&str> = parts().iter().map(|part| part.name()).collect();
        ensure!(known.contains(&only.as_str()), "no part {only}: one of {}", known.join(", "));
    }
    if !bench.force {
        quiet::wait_until_quiet()?;
    }
    let machine = Machine::ask();
    let date = jiff::Zoned::now().date().to_string();
    let folder = xtask::workspace::root().join("docs/benchmarks");
    let (mut samples, mut finished) = (Vec::new(), Vec::new());
    let wanted = |part: &dyn Part| match cli.only.is_empty() {
        // A curve needs its time.
        true => !(cli.quick && part.name() == growth::NAME),
        false => cli.only.iter().any(|only| only == part.name()),
    };
    for part in parts().into_iter().filter(|part| wanted(&**part)) {
        let began = Instant::now();
        let part = run_part(&bench, part, &mut samples);
        eprintln!("bench: {} took {:.1} min", part.name, began.elapsed().as_secs_f64() / 60.0);
        if !cli.json {
            rows::print(&part, &samples, rounds);
        }
        finished.push(part);
        // After each part: a run that is cut off has reported what it has measured.
        if !cli.no_report {
            report(cli, rounds, (&date, &machine), &finished, &samples).write(&folder)?;
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report(cli, rounds, (&date, &machine), &finished, &samples).json())?);
    }
    if !cli.no_report {
        eprintln!("bench: the report is in {}", folder.display());
    }
    Ok(finished.iter().all(|part| part.failure.is_none() && !part.checks.iter().any(Check::failed)))
}

fn report<'a>(
    cli: &Cli,
    rounds: usize,
    (date, machine): (&str, &Machine),
    parts: &'a [Finished],
    samples: &'a [Sample],
) -> Run<'a> {
    let (command, quick, date, machine) = (command(cli), cli.quick, date.to_owned(), machine.clone());
    Run { command, quick, rounds, date, machine, parts, samples }
}

/// A part that fails does not keep the others from being measured.
fn run_part(bench: &Bench, mut part: Box<dyn Part>, samples: &mut Vec<Sample>) -> Finished {
    let name = part.name();
    let outcome = part.setup(bench).and_then(|()| {
        for number in 0..bench.rounds {
            part.round(bench, &mut Round::new(bench, name, number, samples))?;
        }
        Ok(())
    });
    let failure = outcome.err().map(|error| format!("{error:#}"));
    if let Some(failure) = &failure {
        eprintln!("bench: {name} failed: {failure}");
    }
    let (compares, curves, checks, notes) = (part.compares(), part.curves(), part.checks(), part.notes());
    Finished { name, compares, curves, checks, notes, failure }
}

/// The command that makes these figures again.
fn command(cli: &Cli) -> String {
    let mut words = vec!["cargo xtask bench".to_owned()];
    words.extend(cli.quick.then(|| "--quick".to_owned()));
    words.extend(cli.only.iter().map(|part| format!("--only {part}")));
    words.extend(cli.rounds.map(|rounds| format!("--rounds {rounds}")));
    words.extend(cli.events.map(|events| format!("--events {events}")));
    words.extend(cli.units.map(|units| format!("--units {units}")));
    words.extend(cli.force.then(|| "--force".to_owned()));
    words.join(" ")
}
