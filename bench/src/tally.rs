//! Checks that gather over the runs of a part.

use crate::drive::collect;
use crate::figure::Check;

/// Of each kind of fault this many are told; the others are counted.
const TOLD_MAX: usize = 5;

#[derive(Default)]
pub struct Tally(Vec<Check>);

impl Tally {
    /// So many more things were looked at, and these were wrong.
    pub fn add(&mut self, what: &str, count: u64, wrong: impl IntoIterator<Item = String>) {
        let at = self.0.iter().position(|check| check.what == what).unwrap_or_else(|| {
            self.0.push(Check::others(what, 0, Vec::new()));
            self.0.len() - 1
        });
        self.0[at].count += count;
        self.0[at].wrong.extend(wrong);
    }

    /// A check that was made elsewhere: of commands that were looked up.
    pub fn collect(&mut self, check: Check) {
        collect(&mut self.0, check);
    }

    pub fn checks(&self) -> Vec<Check> {
        let told = |check: &Check| {
            let mut wrong: Vec<String> = check.wrong.iter().take(TOLD_MAX).cloned().collect();
            if check.wrong.len() > TOLD_MAX {
                wrong.push(format!("and {} more", check.wrong.len() - TOLD_MAX));
            }
            Check { wrong, ..check.clone() }
        };
        self.0.iter().map(told).collect()
    }
}
