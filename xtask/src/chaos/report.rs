//! What a run came to, for a person and for a program.

use serde_json::{Value, json};

use super::checker::{Column, Figures};

#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub rounds: usize,
    pub bug: Option<String>,
    /// Kind, rounds in which it was felt, how often it was.
    pub fired: Vec<(String, usize, u64)>,
    /// Calls whose outcome their clients do not know.
    pub unknown: u64,
    /// Whether a fault was chosen that clients feel.
    pub felt: bool,
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
        if self.felt && self.unknown == 0 {
            reasons.push("no client ever lacked an answer".to_owned());
        }
        reasons
    }

    /// Without a seeded bug: everything happened and nothing is wrong. With one: it was found.
    pub fn passed(&self) -> bool {
        match self.bug {
            None => self.red().is_empty() && self.quiet().is_empty() && self.broken.is_none(),
            Some(_) => !self.red().is_empty(),
        }
    }

    pub fn json(&self) -> Value {
        let columns = self
            .columns
            .iter()
            .map(|column| json!({"name": column.name, "count": column.count, "examples": column.examples}));
        let fired = self.fired.iter().map(|(kind, rounds, count)| json!({"fault": kind, "rounds": rounds, "count": count}));
        json!({
            "seed": self.seed, "rounds": self.rounds, "bug": self.bug, "passed": self.passed(), "seconds": self.seconds,
            "fired": fired.collect::<Vec<_>>(), "must_be_zero": columns.collect::<Vec<_>>(), "quiet": self.quiet(),
            "broken": self.broken, "unknown": self.unknown,
            "figures": self.figures.0.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
            "ways": self.ways.iter().map(|(way, done)| json!({"way": way, "did": done})).collect::<Vec<_>>(),
        })
    }

    pub fn print(&self) {
        println!("faults fired by kind ({} rounds, seed {})", self.rounds, self.seed);
        for (kind, times, count) in &self.fired {
            println!("  {kind:<20} {times:>4} rounds {count:>6} x");
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
        let red: Vec<&str> = self.red().iter().map(|column| column.name).collect();
        let verdict = match (&self.bug, self.passed()) {
            (None, true) => "PASS".to_owned(),
            (None, false) => format!("FAIL: {red:?}"),
            (Some(bug), true) => format!("PASS: {bug} was found by {red:?}"),
            (Some(bug), false) => format!("FAIL: {bug} was not found"),
        };
        println!("{verdict} in {:.0} s; again with --seed {} --rounds {}", self.seconds, self.seed, self.rounds);
    }
}
