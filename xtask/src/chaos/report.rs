//! What a run came to, for a person and for a program.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::checker::{Column, EXAMPLES};
use super::figures::Figures;

#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub rounds: usize,
    pub bug: Option<String>,
    /// The columns of which the bug must turn one red.
    pub must_be_red: &'static [&'static str],
    /// Kind, rounds in which it was felt, how often it was.
    pub fired: Vec<(String, usize, u64)>,
    /// By kind: the roles or ways on which it was felt, and in how many rounds.
    pub felt_on: BTreeMap<String, BTreeMap<String, usize>>,
    /// Kinds that could not be tried here, and why.
    pub absent: BTreeMap<String, String>,
    /// Whether a kind may be absent.
    pub allow_absent: bool,
    /// Calls whose outcome their clients do not know.
    pub unknown: u64,
    /// Whether a fault was chosen that clients feel.
    pub felt: bool,
    /// GETs that were held to what was acknowledged, after a fault and what it left behind.
    pub calm_reads: usize,
    /// Why the rounds ended early.
    pub broken: Option<String>,
    /// Each way with what its proxy did.
    pub ways: Vec<(String, String)>,
    pub columns: Vec<Column>,
    pub figures: Figures,
    pub seconds: f64,
}

impl Report {
    pub fn red(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| column.count > 0).collect()
    }

    /// Faults that were chosen and never felt, and other reasons why the run proves nothing.
    pub fn quiet(&self) -> Vec<String> {
        let mut reasons: Vec<String> =
            self.fired.iter().filter(|(_, times, _)| *times == 0).map(|(kind, ..)| format!("{kind} never fired")).collect();
        if !self.allow_absent {
            reasons
                .extend(self.absent.iter().map(|(kind, why)| format!("{kind} was not tried: {why} (see --allow-absent)")));
        }
        if self.felt && self.unknown == 0 {
            reasons.push("no client ever lacked an answer".to_owned());
        }
        if self.calm_reads == 0 {
            reasons.push("no GET was held to what was acknowledged while nothing was wrong".to_owned());
        }
        reasons
    }

    /// Without a seeded bug: everything happened and nothing is wrong. With one: it was found, by what it does.
    pub fn passed(&self) -> bool {
        match self.bug {
            None => self.red().is_empty() && self.quiet().is_empty() && self.broken.is_none(),
            Some(_) => self.red().iter().any(|column| self.must_be_red.contains(&column.name)),
        }
    }

    /// Takes in what more rounds, on a system of their own, came to.
    pub fn add(&mut self, other: Self, figures: &'static str) {
        self.fired.extend(other.fired);
        self.felt_on.extend(other.felt_on);
        self.absent.extend(other.absent);
        self.unknown += other.unknown;
        self.felt |= other.felt;
        // Each must have had its own.
        self.calm_reads = self.calm_reads.min(other.calm_reads);
        self.broken = self.broken.take().or(other.broken);
        for (ours, theirs) in self.columns.iter_mut().zip(other.columns) {
            ours.count += theirs.count;
            ours.examples.extend(theirs.examples);
            ours.examples.truncate(EXAMPLES);
        }
        for (name, value) in other.figures.0 {
            self.figures.say(figures, format!("{name}: {value}"));
        }
        self.seconds += other.seconds;
    }

    pub fn json(&self) -> Value {
        let columns = self
            .columns
            .iter()
            .map(|column| json!({"name": column.name, "count": column.count, "examples": column.examples}));
        let fired = self.fired.iter().map(|(kind, rounds, count)| {
            json!({"fault": kind, "rounds": rounds, "count": count, "felt_on": self.felt_on.get(kind)})
        });
        json!({
            "seed": self.seed, "rounds": self.rounds, "bug": self.bug, "passed": self.passed(), "seconds": self.seconds,
            "fired": fired.collect::<Vec<_>>(), "must_be_zero": columns.collect::<Vec<_>>(), "quiet": self.quiet(),
            "one_must_be_red": self.must_be_red, "not_tried": self.absent, "calm_reads": self.calm_reads,
            "broken": self.broken, "unknown": self.unknown,
            "figures": self.figures.0.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
            "ways": self.ways.iter().map(|(way, done)| json!({"way": way, "did": done})).collect::<Vec<_>>(),
        })
    }

    pub fn print(&self) {
        println!("faults fired by kind ({} rounds, seed {})", self.rounds, self.seed);
        for (kind, times, count) in &self.fired {
            println!("  {kind:<20} {times:>4} rounds {count:>6} x");
            for (place, times) in self.felt_on.get(kind).into_iter().flatten() {
                println!("      {times:>3} on {place}");
            }
        }
        println!("must be zero");
        for Column { name, count, examples } in &self.columns {
            println!("  {name:<36} {count:>6}");
            for example in examples {
                println!("      {example}");
            }
        }
        println!("figures");
        for (name, value) in &self.figures.0 {
            println!("  {name}: {value}");
        }
        for (way, done) in &self.ways {
            println!("  {way}: {done}");
        }
        for reason in self.quiet() {
            println!("proves nothing: {reason}");
        }
        if let Some(broken) = &self.broken {
            println!("ended early: {broken}");
        }
        println!("{} in {:.0} s; again with --seed {} --rounds {}", self.verdict(), self.seconds, self.seed, self.rounds);
    }

    fn verdict(&self) -> String {
        let red: Vec<&str> = self.red().iter().map(|column| column.name).collect();
        match (&self.bug, self.passed()) {
            (None, true) => "PASS".to_owned(),
            (None, false) => format!("FAIL: {red:?}"),
            (Some(bug), true) => format!("PASS: {bug} was found by {red:?}"),
            (Some(bug), false) => format!("FAIL: {bug} was not found by any of {:?}, but {red:?}", self.must_be_red),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::BUGS;

    /// A run without a blemish: everything fired, was felt, and was judged afterwards.
    fn good() -> Report {
        Report {
            seed: 1,
            rounds: 1,
            bug: None,
            must_be_red: &[],
            fired: vec![("reset".to_owned(), 1, 3)],
            felt_on: BTreeMap::new(),
            absent: BTreeMap::new(),
            allow_absent: false,
            unknown: 2,
            felt: true,
            calm_reads: 40,
            broken: None,
            ways: Vec::new(),
            columns: Vec::new(),
            figures: Figures::default(),
            seconds: 1.0,
        }
    }

    fn red(name: &'static str) -> Column {
        Column { name, count: 1, examples: vec!["one".to_owned()] }
    }

    #[test]
    fn a_run_that_judged_nothing_in_calm_proves_nothing() {
        let report = Report { calm_reads: 0, ..good() };
        assert!(report.red().is_empty() && !report.passed());
        assert_eq!(report.quiet().len(), 1);
        assert_eq!(report.json()["calm_reads"], 0);
        assert!(good().passed());
    }

    #[test]
    fn a_fault_that_could_not_be_tried_proves_nothing_unless_that_is_allowed() {
        let absent = BTreeMap::from([("skew".to_owned(), "no libfaketime".to_owned())]);
        let report = Report { absent, ..good() };
        assert!(!report.passed() && report.quiet()[0].starts_with("skew was not tried: no libfaketime"));
        assert!(Report { allow_absent: true, ..report }.passed());
    }

    #[test]
    fn a_seeded_bug_is_found_only_by_what_it_does() {
        for (bug, _, _, must_be_red) in BUGS {
            let run = |columns| Report { bug: Some(bug.to_owned()), must_be_red, columns, ..good() };
            assert!(!run(vec![]).passed(), "{bug}");
            assert!(!run(vec![red("hung"), red("clients left without an answer")]).passed(), "{bug}");
            for column in must_be_red {
                assert!(run(vec![red("hung"), red(column)]).passed(), "{bug} by {column}");
            }
        }
    }

    #[test]
    fn more_rounds_are_added_column_by_column() {
        let mut report = Report { columns: vec![red("hung")], ..good() };
        let mut figures = Figures::default();
        figures.say("move-ins", "3");
        let more =
            Report { fired: vec![("disk".to_owned(), 0, 0)], columns: vec![red("hung")], calm_reads: 0, figures, ..good() };
        report.add(more, "on a small disk");
        assert_eq!((report.columns[0].count, report.columns[0].examples.len()), (2, 2));
        assert_eq!(report.figures.0, [("on a small disk", "move-ins: 3".to_owned())]);
        assert_eq!(report.quiet().len(), 2, "disk never fired, and nothing was judged after it");
    }
}
