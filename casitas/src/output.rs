//! How rows are shown: a table for people, JSON for programs.

use std::io::{IsTerminal, Write};

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
}

impl Printer {
    /// A table on a terminal, ndjson into a pipe, unless it was said.
    pub fn new(output: Option<Output>, streaming: bool) -> Self {
        let fallback = if std::io::stdout().is_terminal() && !streaming { Output::Table } else { Output::Ndjson };
        Self { output: output.unwrap_or(if streaming { Output::Ndjson } else { fallback }), rows: vec![], closed: false }
    }

    /// Shows a row; answers whether anybody still reads.
    pub fn row(&mut self, row: Value) -> bool {
        if let Some(text) = row["progress"].as_str() {
            eprintln!("{text}");
            return !self.closed;
        }
        match self.output {
            Output::Ndjson => {
                // A reader that has seen enough, like `head`, is no error.
                self.closed |= writeln!(std::io::stdout(), "{row}").is_err();
            }
            Output::Table | Output::Json => self.rows.push(row),
        }
        !self.closed
    }

    pub fn finish(self) {
        let text = match self.output {
            Output::Ndjson => return,
            Output::Json => serde_json::to_string_pretty(&self.rows).unwrap_or_default(),
            Output::Table => table(&self.rows),
        };
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// Columns that come first, in this order; the others follow by name.
const FIRST: &[&str] = &[
    "check",
    "name",
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
