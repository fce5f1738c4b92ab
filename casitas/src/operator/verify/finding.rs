//! What a check has found, told to the operator a row each.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Rows of one kind in one context; more of them are only counted.
const ROWS_OF_A_KIND_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub position: Option<i64>,
    pub what: &'static str,
    pub why: String,
    /// What the operator does now.
    pub next: String,
}

/// The findings of one context: those that wait to be told, and how many there are of each kind.
#[derive(Default)]
pub struct Found {
    waiting: Vec<Finding>,
    counts: BTreeMap<&'static str, usize>,
}

impl Found {
    pub fn add(&mut self, what: &'static str, position: Option<i64>, why: impl Into<String>, next: impl Into<String>) {
        let count = self.counts.entry(what).or_default();
        *count += 1;
        if *count <= ROWS_OF_A_KIND_MAX {
            self.waiting.push(Finding { position, what, why: why.into(), next: next.into() });
        }
    }

    pub fn take(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.waiting)
    }

    /// Counts of what was not told row by row.
    pub fn untold(&self) -> Vec<Finding> {
        let many = self.counts.iter().filter(|(_, count)| **count > ROWS_OF_A_KIND_MAX);
        let told = |(what, count): (&&'static str, &usize)| Finding {
            position: None,
            what,
            why: format!("and {} more like these", count - ROWS_OF_A_KIND_MAX),
            next: String::new(),
        };
        many.map(told).collect()
    }

    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }
}

/// A row of the answer. `state` is `fine`, `wrong` or `note`.
pub fn row(context: &str, state: &str, finding: &Finding) -> Value {
    let Finding { position, what, why, next } = finding;
    json!({"context": context, "position": position, "state": state, "what": what, "why": why, "next": next})
}
