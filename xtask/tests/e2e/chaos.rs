//! Few rounds of the fault harness; `cargo xtask chaos` runs more, of every kind.

use xtask::chaos::{ChaosOptions, run};

#[test]
fn nothing_acknowledged_is_lost_doubled_or_stale_under_faults() {
    let report = run(&ChaosOptions::short()).expect("the system comes up and comes back");
    let red: Vec<String> =
        report.red().iter().map(|column| format!("{}: {}, e.g. {:?}", column.name, column.count, column.examples)).collect();
    assert!(report.passed(), "seed {}: {red:?} {:?} {:?}", report.seed, report.quiet(), report.broken);
}
