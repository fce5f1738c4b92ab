//! How rows are shown: a table for people, JSON for programs.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, for people.
    Table,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Ndjson,
}

/// Collects rows and shows them; ndjson at once, the others at the end.
pub struct Printer {
    output: Output,
    rows: Vec<Value>,
    closed: bool,
    progress: Progress,
}

/// Where progress is shown.
enum Progress {
    /// A bar on the terminal, drawn over.
    Bar { drawn: bool },
    /// A line on standard error now and then.
    Lines { last: Option<Instant> },
    /// As it is, among the rows.
    Rows,
}

const LINE_PERIOD: Duration = Duration::from_secs(5);
const BAR_WIDTH: u64 = 24;

impl Printer {
    /// A table on a terminal, ndjson into a pipe, unless it was said.
    pub fn new(output: Option<Output>, streaming: bool) -> Self {
        let fallback = if std::io::stdout().is_terminal() && !streaming { Output::Table } else { Output::Ndjson };
        let progress = match output {
            Some(Output::Ndjson) => Progress::Rows,
            _ if std::io::stderr().is_terminal() => Progress::Bar { drawn: false },
            _ => Progress::Lines { last: None },
        };
        let output = output.unwrap_or(if streaming { Output::Ndjson } else { fallback });
        Self { output, rows: vec![], closed: false, progress }
    }

    /// Shows a row; answers whether anybody still reads.
    pub fn row(&mut self, row: Value) -> bool {
        // A row that has progress among others, as a job has, is a result.
        let is_progress = row.as_object().is_some_and(|row| row.len() == 1);
        if is_progress
            && let Some(progress) = row.get("progress")
            && self.shows(progress)
        {
            return !self.closed;
        }
        self.end_bar();
        match self.output {
            Output::Ndjson => {
                // A reader that has seen enough, like `head`, is no error.
                self.closed |= writeln!(std::io::stdout(), "{row}").is_err();
            }
            Output::Table | Output::Json => self.rows.push(row),
        }
        !self.closed
    }

    /// Whether progress was shown elsewhere than among the rows.
    fn shows(&mut self, progress: &Value) -> bool {
        match &mut self.progress {
            Progress::Rows => return false,
            Progress::Bar { drawn } => {
                *drawn = true;
                eprint!("\r{}\x1b[K", told(progress));
            }
            Progress::Lines { last } if last.is_none_or(|last| last.elapsed() >= LINE_PERIOD) => {
                *last = Some(Instant::now());
                eprintln!("{}", told(progress));
            }
            Progress::Lines { .. } => {}
        }
        true
    }

    fn end_bar(&mut self) {
        if let Progress::Bar { drawn } = &mut self.progress
            && std::mem::take(drawn)
        {
            eprint!("\r\x1b[K");
        }
    }

    pub fn finish(mut self) {
        self.end_bar();
        let text = match self.output {
            Output::Ndjson => return,
            Output::Json => serde_json::to_string_pretty(&self.rows).unwrap_or_default(),
            Output::Table => table(&self.rows),
        };
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// Progress as one line, e.g. `units 2  replay ███████░░░ 812,440/1,000,000  96100 ev/s  ETA 2s`.
fn told(progress: &Value) -> String {
    if let Some(text) = progress.as_str() {
        return text.to_owned();
    }
    let number = |name: &str| progress[name].as_u64().unwrap_or(0);
    let text = |name: &str| progress[name].as_str().unwrap_or_default();
    let (done, total) = (number("done"), number("total"));
    let full = (done * BAR_WIDTH).checked_div(total).unwrap_or(BAR_WIDTH).min(BAR_WIDTH) as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR_WIDTH as usize - full));
    let rate = progress["events_per_second"].as_f64().unwrap_or(0.0) / 1_000.0;
    let pass = if number("pass") > 1 { format!("  pass {}", number("pass")) } else { String::new() };
    let eta = progress["eta_seconds"].as_f64().map_or_else(String::new, |left| format!("  ETA {left:.0}s"));
    let (name, phase) = (text("name"), text("phase"));
    format!("{name}:{} {phase:<8} {bar} {done}/{total}  {rate:.1}k ev/s{pass}{eta}", number("generation"))
}

/// Columns that come first, in this order; the others follow by name.
const FIRST: &[&str] = &[
    "check",
    "model",
    "report_id",
    "name",
    "result",
    "key",
    "difference",
    "generation",
    "context",
    "position",
    "recorded_at",
    "type",
    "stream",
    "sequence",
    "version",
    "state",
    "lag_events",
    "what",
    "why",
    "detail",
    "next",
];

fn table(rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else { return "nothing to show".into() };
    let mut columns: Vec<&String> = first.keys().collect();
    columns.sort_by_key(|name| FIRST.iter().position(|known| known == name).unwrap_or(FIRST.len()));
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|name| match &row[name.as_str()] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
    }
    table.to_string()
}
