//! docs/benchmarks: the figures of a run as a page with plots, and as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figure::Sample;
use crate::machine::Machine;
use crate::plot;
use crate::rows::{FIGURE_HEADER, Figure, Finished, ROW_HEADER, Row, cells, figure_cells, figures, rows};

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
        json!({
            "command": self.command, "quick": self.quick, "rounds": self.rounds, "date": self.date,
            "machine": self.machine, "parts": parts,
        })
    }

    fn figures(&self, part: &Finished) -> Vec<Figure> {
        figures(self.samples).into_iter().filter(|figure| figure.part == part.name).collect()
    }

    fn rows(&self, part: &Finished) -> Vec<Row> {
        rows(part, self.samples)
    }

    fn part_json(&self, part: &Finished) -> Value {
        let checks: Vec<Value> = part
            .checks
            .iter()
            .map(|check| json!({"what": check.what, "count": check.count, "wrong": check.wrong, "failed": check.failed()}))
            .collect();
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
        let looked: u64 = checks.iter().map(|check| check.count).sum();
        let failed = checks.iter().filter(|check| check.failed()).count();
        let mut page = format!(
            "# Benchmarks\n\nMade by `{}` on {}; every figure is the median of {} round{}, every ratio the median of the \
             rounds' ratios, ours and the other measured in turn in the same round. {met} of {judged} targets met. {looked} \
             acknowledged things were looked up afterwards in {} checks; {failed} failed.{}\n\n",
            self.command,
            self.date,
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            checks.len(),
            if self.quick { " A quick run: short, small, one round." } else { "" },
        );
        if disturbed > 0 {
            let _ =
                writeln!(page, "**{disturbed} figures were taken while other programs worked (`~`): do not trust them.**\n");
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
                let _ = writeln!(page, "| {} | {} |", row.part, cells(row).map(|cell| escape(&cell)).join(" | "));
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
                let _ = writeln!(page, "| {} |", cells(row).map(|cell| escape(&cell)).join(" | "));
            }
            page.push('\n');
        }
        let _ = writeln!(page, "| {} |\n|{}", FIGURE_HEADER.join(" | "), "---|".repeat(FIGURE_HEADER.len()));
        for figure in self.figures(part) {
            let _ = writeln!(page, "| {} |", figure_cells(&figure).map(|cell| escape(&cell)).join(" | "));
        }
        if !part.notes.is_empty() {
            page.push('\n');
        }
        for note in &part.notes {
            let _ = writeln!(page, "- {note}");
        }
        let _ = writeln!(page, "\n| checked afterwards | looked at | wrong |\n|---|---|---|");
        for check in &part.checks {
            let wrong = if check.wrong.is_empty() { "0".to_owned() } else { check.wrong.join("; ") };
            let _ = writeln!(page, "| {} | {} | {} |", escape(&check.what), check.count, escape(&wrong));
        }
        Ok(())
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
