//! docs/benchmarks: the figures of a run as a page with plots, and as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figure::{Check, Sample, Things};
use crate::machine::Machine;
use crate::plot;
use crate::rows::{FIGURE_HEADER, Figure, Finished, ROW_HEADER, Row, cells, figure_cells, figures, looked_at, rows};

/// A whole run.
pub struct Run<'a> {
    pub command: String,
    pub quick: bool,
    pub rounds: usize,
    pub date: String,
    pub machine: Machine,
    pub parts: &'a [Finished],
    pub samples: &'a [Sample],
}

impl Run<'_> {
    pub fn json(&self) -> Value {
        let parts: Vec<Value> = self.parts.iter().map(|part| self.part_json(part)).collect();
        let (commands, others) = looked_at(self.parts.iter().flat_map(|part| &part.checks));
        json!({
            "command": self.command, "quick": self.quick, "rounds": self.rounds, "date": self.date,
            "machine": self.machine, "commands_looked_up": commands, "others_checked": others, "parts": parts,
        })
    }

    fn figures(&self, part: &Finished) -> Vec<Figure> {
        figures(self.samples).into_iter().filter(|figure| figure.part == part.name).collect()
    }

    fn rows(&self, part: &Finished) -> Vec<Row> {
        rows(part, self.samples)
    }

    fn part_json(&self, part: &Finished) -> Value {
        let check = |check: &Check| {
            json!({
                "what": check.what, "things": check.things, "count": check.count, "wrong": check.wrong,
                "failed": check.failed(),
            })
        };
        let checks: Vec<Value> = part.checks.iter().map(check).collect();
        json!({
            "part": part.name, "ratios": self.rows(part), "figures": self.figures(part), "checks": checks,
            "notes": part.notes, "failure": part.failure,
        })
    }

    /// Writes the page, its plots and `figures.json` into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut page = self.head();
        for part in self.parts {
            self.part_page(part, folder, &mut page)?;
        }
        fs::write(folder.join("README.md"), page)?;
        fs::write(folder.join("figures.json"), serde_json::to_string_pretty(&self.json())? + "\n")?;
        Ok(())
    }

    fn head(&self) -> String {
        let machine = &self.machine;
        let all: Vec<Row> = self.parts.iter().flat_map(|part| self.rows(part)).collect();
        let judged = all.iter().filter(|row| row.met.is_some()).count();
        let met = all.iter().filter(|row| row.met == Some(true)).count();
        let disturbed = figures(self.samples).iter().filter(|figure| figure.disturbed).count();
        let checks: Vec<_> = self.parts.iter().flat_map(|part| &part.checks).collect();
        let (commands, others) = looked_at(checks.iter().copied());
        let failed = checks.iter().filter(|check| check.failed()).count();
        let mut page = format!(
            "# Benchmarks\n\nMade by `{}` on {}; every figure is the median of {} sample{}, or of as many as stand beside it; \
             every ratio is the median of the ratios of samples that were taken side by side, ours and the other in turn in the \
             same round. {met} of {judged} targets met. {commands} acknowledged commands were looked up in the log afterwards, \
             and {others} other things checked (answers, events folded and copied, jobs, what the peers acknowledged), in {} \
             checks; {failed} failed.{}\n\n",
            self.command,
            self.date,
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            checks.len(),
            if self.quick { " A quick run: short, small, one round." } else { "" },
        );
        if disturbed > 0 {
            let _ = writeln!(
                page,
                "**{disturbed} figures were taken while other programs worked, or the host's other machines (`~`): do not trust \
                 them.**\n"
            );
        }
        let _ = writeln!(page, "| machine | |\n|---|---|");
        for (what, value) in machine.lines() {
            let _ = writeln!(page, "| {what} | {} |", escape(&value));
        }
        let targets: Vec<&Row> = all.iter().filter(|row| row.target.is_some()).collect();
        if !targets.is_empty() {
            let _ = writeln!(
                page,
                "\n## Targets\n\n| part | {} |\n|---|{}",
                ROW_HEADER.join(" | "),
                "---|".repeat(ROW_HEADER.len())
            );
            for row in targets {
                let _ = writeln!(page, "| {} | {} |", row.part, self.row_cells(row));
            }
        }
        page
    }

    fn part_page(&self, part: &Finished, folder: &Path, page: &mut String) -> Result<()> {
        let _ = writeln!(page, "\n## {}\n", part.name);
        if let Some(failure) = &part.failure {
            let _ = writeln!(page, "**Did not run: {}**\n", escape(failure));
        }
        let ratios = self.rows(part);
        if ratios.iter().any(|row| row.ratio.is_some()) {
            let file = format!("{}-ratios.svg", part.name);
            plot::ratios(&folder.join(&file), part.name, &ratios)?;
            let _ = writeln!(page, "![{} ratios]({file})\n", part.name);
        }
        for curve in &part.curves {
            let file = format!("{}.svg", curve.file);
            if plot::curve(&folder.join(&file), curve, &self.figures(part))? {
                let _ = writeln!(page, "![{}]({file})\n", curve.title);
            }
        }
        if !ratios.is_empty() {
            let _ = writeln!(page, "| {} |\n|{}", ROW_HEADER.join(" | "), "---|".repeat(ROW_HEADER.len()));
            for row in &ratios {
                let _ = writeln!(page, "| {} |", self.row_cells(row));
            }
            page.push('\n');
        }
        let _ = writeln!(page, "| {} |\n|{}", FIGURE_HEADER.join(" | "), "---|".repeat(FIGURE_HEADER.len()));
        for figure in self.figures(part) {
            let _ = writeln!(page, "| {} |", figure_cells(&figure, self.rounds).map(|cell| escape(&cell)).join(" | "));
        }
        if !part.notes.is_empty() {
            page.push('\n');
        }
        for note in &part.notes {
            let _ = writeln!(page, "- {note}");
        }
        let _ = writeln!(page, "\n| checked afterwards | commands in the log | other things | wrong |\n|---|---|---|---|");
        for check in &part.checks {
            let wrong = if check.wrong.is_empty() { "0".to_owned() } else { check.wrong.join("; ") };
            let counts = match check.things {
                Things::Commands => format!("{} |", check.count),
                Things::Others => format!("| {}", check.count),
            };
            let _ = writeln!(page, "| {} | {counts} | {} |", escape(&check.what), escape(&wrong));
        }
        Ok(())
    }

    fn row_cells(&self, row: &Row) -> String {
        cells(row, self.rounds).map(|cell| escape(&cell)).join(" | ")
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Compare;
    use crate::quiet::Taken;

    #[test]
    fn a_page_tells_targets_disturbance_and_what_was_wrong() {
        let sample = |name: &str, value, foreign_cores| Sample {
            part: "p",
            name: name.to_owned(),
            value,
            unit: "x/s",
            p50_ms: Some(1.0),
            p99_ms: Some(2.0),
            max_ms: None,
            round: 0,
            taken: Taken { foreign_cores, ..Taken::NOTHING },
        };
        let wrong = vec!["1 lost".to_owned()];
        let lost = Check { what: "acknowledged".to_owned(), things: Things::Commands, count: 7, wrong };
        let answers = Check::others("answers", 12, vec![]);
        let part = Finished {
            name: "p",
            compares: vec![Compare::ratio("ours", "limit").at_least(4.0), Compare::ratio("ours", "peer").at_least(2.0)],
            curves: vec![],
            checks: vec![lost, answers],
            notes: vec!["A note.".to_owned()],
            failure: None,
        };
        let samples = [sample("ours", 30.0, 0.0), sample("limit", 10.0, 0.9), sample("peer", 10.0, 0.0)];
        let run = Run {
            command: "cargo xtask bench".to_owned(),
            quick: false,
            rounds: 1,
            date: "2026-01-01".to_owned(),
            machine: Machine::ask(),
            parts: &[part],
            samples: &samples,
        };
        let dir = tempfile::tempdir().expect("a folder");
        run.write(dir.path()).expect("writes");
        let page = fs::read_to_string(dir.path().join("README.md")).expect("is there");
        for told in [
            "the median of 1 sample,",
            "1 of 2 targets met",
            "7 acknowledged commands",
            "12 other things",
            "1 failed",
            "1 figures were taken while",
            "3.00 ~",
            "| ≥ 4 | NO |",
            "| acknowledged | 7 | | 1 lost |",
            "| answers | | 12 | 0 |",
            "A note.",
        ] {
            assert!(page.contains(told), "no {told:?} in {page}");
        }
        let svg = fs::read_to_string(dir.path().join("p-ratios.svg")).expect("is there");
        assert!(svg.contains("ours ÷ limit") && svg.contains("3.00"), "{svg}");
        let json: Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join("figures.json")).expect("is there")).expect("JSON");
        assert_eq!(
            (&json["parts"][0]["ratios"][0]["met"], &json["parts"][0]["ratios"][0]["disturbed"]),
            (&json!(false), &json!(true))
        );
        assert_eq!((&json["commands_looked_up"], &json["others_checked"]), (&json!(7), &json!(12)));
        assert_eq!(json["parts"][0]["checks"][0]["things"], "commands");
    }
}
