//! How rows are shown: a table for people, JSON for programs.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, Table, Width};
use serde_json::{Value, json};

use crate::operator::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, for people.
    Table,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Ndjson,
}

/// What clap exits with for a call that it does not understand.
const NOT_UNDERSTOOD: u8 = 2;

impl Output {
    /// Refuses one array of rows that have no end: it is shown when the last row is there.
    pub fn check(output: Option<Self>, endless: bool) -> Result<(), Refusal> {
        if endless && output == Some(Self::Json) {
            let message =
                "`-o json` is one array, shown at the end, and this goes on until interrupted: use `-o ndjson`, or --until";
            return Err(Refusal::new(NOT_UNDERSTOOD, message));
        }
        Ok(())
    }
}

/// The result of a verb that has one, of which people are told in words instead of a table.
pub fn one(output: Option<Output>, row: Value, in_words: impl FnOnce()) {
    let mut printer = Printer::new(output, false);
    match printer.output {
        Output::Table => in_words(),
        Output::Json | Output::Ndjson => {
            printer.row(row);
            printer.finish();
        }
    }
}

/// What is for another program, e.g. a shell: as it is, or in a row where rows were asked for.
pub fn text(output: Option<Output>, name: &str, text: &[u8]) -> std::io::Result<()> {
    match output {
        None | Some(Output::Table) => write_now(&mut std::io::stdout(), text),
        Some(Output::Json | Output::Ndjson) => {
            one(output, json!({ name: String::from_utf8_lossy(text) }), || {});
            Ok(())
        }
    }
}

/// Shows rows: ndjson at once, also a table when they come one by one; the others are collected until the end.
pub struct Printer {
    output: Output,
    rows: Vec<Value>,
    /// The table whose rows are shown as they come.
    streamed: Option<Streamed>,
    closed: bool,
    progress: Progress,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

/// Where lines go, and whether somebody looks at them there.
struct Place {
    writer: Box<dyn Write + Send>,
    is_terminal: bool,
}

impl Place {
    fn of(stream: impl Write + IsTerminal + Send + 'static) -> Self {
        Self { is_terminal: stream.is_terminal(), writer: Box::new(stream) }
    }
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
    /// A table on a terminal, ndjson into a pipe, unless it was said. `streaming`: each row is shown when it comes.
    pub fn new(output: Option<Output>, streaming: bool) -> Self {
        Self::onto(Place::of(std::io::stdout()), Place::of(std::io::stderr()), output, streaming)
    }

    fn onto(out: Place, err: Place, output: Option<Output>, streaming: bool) -> Self {
        let progress = match output {
            Some(Output::Ndjson) => Progress::Rows,
            _ if err.is_terminal => Progress::Bar { drawn: false },
            _ => Progress::Lines { last: None },
        };
        let fallback = if out.is_terminal && !streaming { Output::Table } else { Output::Ndjson };
        let output = output.unwrap_or(fallback);
        let streamed = (streaming && output == Output::Table).then(Streamed::default);
        Self { output, rows: vec![], streamed, closed: false, progress, out: out.writer, err: err.writer }
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
        let text = match (self.output, &mut self.streamed) {
            (Output::Ndjson, _) => row.to_string(),
            (Output::Table, Some(streamed)) => streamed.lines(&row),
            (Output::Table, None) | (Output::Json, _) => {
                self.rows.push(row);
                return !self.closed;
            }
        };
        // A reader that has seen enough, like `head`, is no error.
        self.closed |= write_now(&mut self.out, format!("{text}\n").as_bytes()).is_err();
        !self.closed
    }

    /// Whether progress was shown elsewhere than among the rows.
    fn shows(&mut self, progress: &Value) -> bool {
        match &mut self.progress {
            Progress::Rows => return false,
            Progress::Bar { drawn } => {
                *drawn = true;
                self.tell(&format!("\r{}\x1b[K", told(progress)));
            }
            Progress::Lines { last } if last.is_none_or(|last| last.elapsed() >= LINE_PERIOD) => {
                *last = Some(Instant::now());
                self.tell(&format!("{}\n", told(progress)));
            }
            Progress::Lines { .. } => {}
        }
        true
    }

    fn end_bar(&mut self) {
        if let Progress::Bar { drawn } = &mut self.progress
            && std::mem::take(drawn)
        {
            self.tell("\r\x1b[K");
        }
    }

    /// Whether anybody sees how far the work is makes no difference to it.
    fn tell(&mut self, text: &str) {
        let _ = write_now(&mut self.err, text.as_bytes());
    }

    pub fn finish(mut self) {
        self.end_bar();
        let text = match (self.output, &self.streamed) {
            (Output::Ndjson, _) => return,
            (Output::Table, Some(streamed)) if streamed.has_begun() => return,
            (Output::Table, _) => table(&self.rows),
            (Output::Json, _) => serde_json::to_string_pretty(&self.rows).unwrap_or_default(),
        };
        let _ = write_now(&mut self.out, format!("{text}\n").as_bytes());
    }
}

/// Also into a pipe, where lines would wait for each other otherwise.
fn write_now(to: &mut dyn Write, text: &[u8]) -> std::io::Result<()> {
    to.write_all(text)?;
    to.flush()
}

/// Progress as one line, e.g. `units:2 replay   ███████░░░ 812440/1000000  96.1k ev/s  ETA 2s`.
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

/// The columns of all rows.
fn columns(rows: &[Value]) -> Vec<String> {
    let names: BTreeSet<&String> = rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()).collect();
    let mut columns: Vec<String> = names.into_iter().cloned().collect();
    columns.sort_by_key(|name| FIRST.iter().position(|known| known == name).unwrap_or(FIRST.len()));
    columns
}

fn titles(columns: &[String]) -> Vec<String> {
    columns.iter().map(|name| name.to_uppercase()).collect()
}

fn cells(columns: &[String], row: &Value) -> Vec<String> {
    columns.iter().map(|name| cell(&row[name.as_str()])).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns of prose. It is wrapped when it is long, or what stands behind it would be off the screen.
const PROSE: [&str; 4] = ["detail", "why", "error", "reason"];
const PROSE_WIDTH_MAX: u16 = 60;

fn table(rows: &[Value]) -> String {
    let columns = columns(rows);
    if columns.is_empty() {
        return "nothing to show".into();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(titles(&columns));
    table.add_rows(rows.iter().map(|row| cells(&columns, row)));
    for (column, name) in table.column_iter_mut().zip(&columns) {
        if PROSE.contains(&name.as_str()) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(PROSE_WIDTH_MAX + PADDING)));
        }
    }
    table.trim_fmt()
}

/// A table of which each row is shown before the next is known. Its columns are those of the first row.
#[derive(Default)]
struct Streamed {
    columns: Vec<String>,
    /// The widest value of each column so far, so that a row stands under the rows before it.
    widths: Vec<u16>,
}

/// A wider value moves the rest of its own row to the right, not the rows behind it.
const WIDTH_MAX: u16 = 60;
/// The spaces beside a value.
const PADDING: u16 = 2;

impl Streamed {
    fn has_begun(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The lines of the next row; the first has the header above it.
    fn lines(&mut self, row: &Value) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        if !self.has_begun() {
            self.columns = columns(std::slice::from_ref(row));
            self.widths = vec![0; self.columns.len()];
            table.set_header(titles(&self.columns));
        }
        let mut cells = cells(&self.columns, row);
        // What has no column is not left out.
        let fields = row.as_object().into_iter().flatten();
        let others = fields.filter(|(name, value)| !value.is_null() && !self.columns.contains(name));
        cells.extend(others.map(|(name, value)| format!("{name}={}", cell(value))));
        table.add_row(cells);
        let least = self.widths.iter().map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(width + PADDING)));
        table.set_constraints(least);
        for (known, width) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            *known = width.min(WIDTH_MAX).max(*known);
        }
        table.trim_fmt()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written and flushed, to be read while the printer still writes.
    #[derive(Clone, Default)]
    struct Paper {
        shown: Arc<Mutex<Vec<u8>>>,
        waiting: Vec<u8>,
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.shown.lock().expect("no writer panicked").clone()).expect("UTF-8")
        }

        fn place(&self, is_terminal: bool) -> Place {
            Place { writer: Box::new(self.clone()), is_terminal }
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.waiting.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            self.shown.lock().expect("no writer panicked").append(&mut self.waiting);
            Ok(())
        }
    }

    /// The other end of a pipe is gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A printer that writes onto paper: what goes to standard output, and beside it.
    fn printer(output: Option<Output>, streaming: bool, terminal: bool) -> (Printer, Paper, Paper) {
        let (out, err) = (Paper::default(), Paper::default());
        (Printer::onto(out.place(terminal), err.place(terminal), output, streaming), out, err)
    }

    fn step(done: u64) -> Value {
        json!({"name": "units", "generation": 2, "phase": "replay", "done": done, "total": 1000, "pass": 1,
            "events_per_second": 96100.0, "eta_seconds": 2.4})
    }

    #[test]
    fn an_array_of_rows_without_end_is_not_understood() {
        let refused = Output::check(Some(Output::Json), true).expect_err("it would never be shown");
        assert_eq!(refused.code, 2);
        assert!(refused.to_string().contains("-o ndjson"), "{refused}");
        for (output, endless) in
            [(Some(Output::Json), false), (Some(Output::Table), true), (Some(Output::Ndjson), true), (None, true)]
        {
            assert!(Output::check(output, endless).is_ok(), "{output:?} {endless}");
        }
    }

    #[test]
    fn progress_is_told_on_one_line() {
        assert_eq!(told(&json!("auth: 2 of 3 events checked")), "auth: 2 of 3 events checked");
        let half = "█".repeat(12) + &"░".repeat(12);
        assert_eq!(told(&step(500)), format!("units:2 replay   {half} 500/1000  96.1k ev/s  ETA 2s"));
        let full = "█".repeat(24);
        let second = json!({"name": "units", "generation": 3, "phase": "catch-up", "done": 7, "total": 5, "pass": 2});
        assert_eq!(told(&second), format!("units:3 catch-up {full} 7/5  0.0k ev/s  pass 2"));
        let nothing = json!({"name": "units", "generation": 1, "phase": "load", "done": 0, "total": 0});
        assert_eq!(told(&nothing), format!("units:1 load     {full} 0/0  0.0k ev/s"));
    }

    #[test]
    fn a_table_has_the_columns_of_all_its_rows() {
        let rows = [
            json!({"state": "current", "name": "units", "lag_events": 0}),
            json!({"name": "leases", "reason": "held", "state": null, "beside": ["a"]}),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], " NAME    STATE    LAG_EVENTS  BESIDE  REASON");
        assert_eq!(lines[1], " units   current  0");
        assert_eq!(lines[2].find("held"), lines[0].find("REASON"), "{text}");
        assert_eq!(lines[2].find("[\"a\"]"), lines[0].find("BESIDE"), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn long_prose_is_wrapped_beside_what_stands_behind_it() {
        let words = ["word"; 100].join(" ");
        let next = "casitas parked show units unit:1, which is a long command, but the last in its row";
        let text = table(&[json!({"check": "units", "detail": words, "next": next})]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].find("NEXT"), lines[1].find(next), "{text}");
        assert!(lines[0].find("NEXT").is_some_and(|column| column < 80), "{text}");
        assert!(lines.len() > 8 && lines[2..].iter().all(|line| line.trim_end().len() < 80), "{text}");
        assert_eq!(text.matches("word").count(), 100, "{text}");
        // What fits has the width that it needs.
        let text = table(&[json!({"check": "units", "detail": "fine", "next": next})]);
        assert_eq!(text, format!(" CHECK  DETAIL  NEXT\n units  fine    {next}"));
    }

    #[test]
    fn a_table_without_a_row_says_so() {
        assert_eq!(table(&[]), "nothing to show");
        for streaming in [false, true] {
            let (printer, out, _) = printer(Some(Output::Table), streaming, false);
            printer.finish();
            assert_eq!(out.text(), "nothing to show\n");
        }
    }

    #[test]
    fn the_rows_of_a_streamed_table_are_shown_as_they_come_under_one_header() {
        let (mut printer, out, _) = printer(Some(Output::Table), true, false);
        assert!(printer.row(json!({"context": "units", "position": 9, "type": "HoldPlaced"})));
        let first = " CONTEXT  POSITION  TYPE\n units    9         HoldPlaced\n";
        assert_eq!(out.text(), first);
        assert!(printer.row(json!({"context": "legal", "position": 10, "type": "LeaseSigned"})));
        let second = format!("{first} legal    10        LeaseSigned\n");
        assert_eq!(out.text(), second);
        printer.finish();
        assert_eq!(out.text(), second);
    }

    #[test]
    fn a_streamed_table_stays_in_line_behind_a_wide_value_and_shows_what_has_no_column() {
        let mut streamed = Streamed::default();
        streamed.lines(&json!({"context": "units", "type": "HoldPlaced"}));
        let wide = streamed.lines(&json!({"context": "x".repeat(200), "type": "HoldPlaced"}));
        assert_eq!(wide, format!(" {}  HoldPlaced", "x".repeat(200)));
        let next = streamed.lines(&json!({"context": "units", "type": "HoldPlaced", "why": "late", "detail": null}));
        assert_eq!(next, format!(" {:60}  HoldPlaced  why=late", "units"));
    }

    #[test]
    fn a_collected_table_and_an_array_come_at_the_end() {
        for (output, shown) in
            [(Output::Table, " NAME\n units\n"), (Output::Json, "[\n  {\n    \"name\": \"units\"\n  }\n]\n")]
        {
            let (mut printer, out, _) = printer(Some(output), false, false);
            assert!(printer.row(json!({"name": "units"})));
            assert_eq!(out.text(), "");
            printer.finish();
            assert_eq!(out.text(), shown);
        }
    }

    #[test]
    fn rows_are_a_table_on_a_terminal_and_lines_into_a_pipe() {
        let row = || json!({"name": "units"});
        for (terminal, shown) in [(true, " NAME\n units\n"), (false, "{\"name\":\"units\"}\n")] {
            let (mut printer, out, _) = printer(None, false, terminal);
            printer.row(row());
            printer.finish();
            assert_eq!(out.text(), shown, "terminal: {terminal}");
        }
        let (mut printer, out, _) = printer(None, true, true);
        printer.row(row());
        assert_eq!(out.text(), "{\"name\":\"units\"}\n", "a stream of objects stays one where nothing was said");
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed() {
        for output in [Output::Ndjson, Output::Table] {
            let closed = Place { writer: Box::new(Closed), is_terminal: false };
            let mut printer = Printer::onto(closed, Paper::default().place(false), Some(output), true);
            assert!(!printer.row(json!({"name": "units"})), "{output:?}");
            printer.finish();
        }
    }

    #[test]
    fn progress_is_a_row_among_ndjson() {
        let (mut printer, out, err) = printer(Some(Output::Ndjson), false, true);
        printer.row(json!({"progress": "half"}));
        assert_eq!(out.text(), "{\"progress\":\"half\"}\n");
        assert_eq!(err.text(), "");
    }

    #[test]
    fn progress_is_a_bar_on_a_terminal_and_gone_before_the_next_row() {
        let (mut printer, out, err) = printer(None, false, true);
        printer.row(json!({"progress": "a third"}));
        printer.row(json!({"progress": "half"}));
        let bars = "\ra third\x1b[K\rhalf\x1b[K";
        assert_eq!(err.text(), bars);
        printer.row(json!({"name": "units"}));
        assert_eq!(err.text(), format!("{bars}\r\x1b[K"));
        printer.finish();
        assert_eq!(err.text(), format!("{bars}\r\x1b[K"), "what is gone is not removed again");
        assert_eq!(out.text(), " NAME\n units\n");
    }

    #[test]
    fn progress_is_a_line_in_a_log_every_few_seconds() {
        let (mut printer, out, err) = printer(None, false, false);
        printer.row(json!({"progress": step(100)}));
        printer.row(json!({"progress": step(200)}));
        assert_eq!(err.text(), format!("{}\n", told(&step(100))));
        printer.progress = Progress::Lines { last: Instant::now().checked_sub(LINE_PERIOD) };
        printer.row(json!({"progress": step(300)}));
        assert_eq!(err.text(), format!("{}\n{}\n", told(&step(100)), told(&step(300))));
        assert_eq!(out.text(), "");
    }

    #[test]
    fn a_row_that_has_progress_among_others_is_a_result() {
        let (mut printer, out, err) = printer(None, false, false);
        printer.row(json!({"progress": 50, "report_id": "r"}));
        assert_eq!(out.text(), "{\"progress\":50,\"report_id\":\"r\"}\n");
        assert_eq!(err.text(), "");
    }
}
