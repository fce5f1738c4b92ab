//! `cargo xtask simulate`: seeds, one after the other.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use clap::Parser;
use simulation::{Options, Part, Verdict, play};

#[derive(Parser)]
#[command(name = "cargo xtask simulate", about = "Deterministic simulation over the in-memory adapters")]
struct Cli {
    /// How many seeds of each part
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This one alone, with its whole history
    #[arg(long)]
    seed: Option<u64>,
    /// One part alone; repeatable: appender, caches, followers, policies, relay, whole
    #[arg(long, value_parser = part)]
    part: Vec<Part>,
    /// Plays each seed twice and fails where the two histories differ (not for caches and whole: see `Part::ONE_HISTORY`)
    #[arg(long)]
    twice: bool,
    /// Seeds at once
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn part(name: &str) -> Result<Part, String> {
    Part::named(name).ok_or_else(|| "one of appender, caches, followers, policies, relay, whole".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let parts = if cli.part.is_empty() { Part::ALL.to_vec() } else { cli.part.clone() };
    let failed = match cli.seed {
        Some(seed) => parts.iter().map(|part| one(*part, seed)).filter(|passed| !passed).count(),
        None => parts.iter().map(|part| many(*part, &cli)).sum(),
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(part: Part, seed: u64) -> bool {
    let verdict = play(part, seed, Options { prints: true, ..Options::default() });
    println!("{} seed {seed}: trace {:016x}", part.as_str(), verdict.trace);
    verdict.counts.iter().for_each(|(what, count)| println!("  {count:>7} {what}"));
    verdict.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
    verdict.violations.is_empty()
}

/// Plays a part's seeds; how many failed.
fn many(part: Part, cli: &Cli) -> usize {
    let (next, began) = (AtomicU64::new(cli.from), Instant::now());
    let failures: Mutex<BTreeMap<u64, Verdict>> = Mutex::default();
    let counts: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    thread::scope(|scope| {
        for _ in 0..cli.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= cli.from + cli.seeds {
                        return;
                    }
                    let mut verdict = play(part, seed, Options::default());
                    if cli.twice && play(part, seed, Options::default()).trace != verdict.trace {
                        verdict.violations.push("the seed has two histories".to_owned());
                    }
                    let mut counts = counts.lock().expect("nothing panics under this lock");
                    verdict.counts.iter().for_each(|(what, count)| *counts.entry(what.clone()).or_default() += count);
                    drop(counts);
                    if !verdict.violations.is_empty() {
                        let name = part.as_str();
                        println!("{name} seed {seed} FAILED: cargo xtask simulate --part {name} --seed {seed}");
                        verdict.violations.iter().take(5).for_each(|violation| println!("    {violation}"));
                        failures.lock().expect("nothing panics under this lock").insert(seed, verdict);
                    }
                }
            });
        }
    });
    let failed = failures.lock().expect("nothing panics under this lock").len();
    let counts = counts.lock().expect("nothing panics under this lock");
    let shown: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!(
        "{:<10} {} seeds from {}, {failed} failed, {:.1} s\n           {}",
        part.as_str(),
        cli.seeds,
        cli.from,
        began.elapsed().as_secs_f64(),
        shown.join(", ")
    );
    failed
}
