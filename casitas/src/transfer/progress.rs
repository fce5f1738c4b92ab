//! How far a long copy is: a line on a terminal that is written over, nothing into a pipe.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(250);

pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    pub fn of(what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        Self { what, total, done: 0, started: now, shown: now, terminal: std::io::stderr().is_terminal() }
    }

    pub fn expect(&mut self, total: u64) {
        self.total = total;
    }

    pub fn add(&mut self, events: u64) {
        self.done += events;
        if self.terminal && self.shown.elapsed() >= EVERY {
            self.shown = Instant::now();
            let rate = self.done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
            eprint!("\r  {}  {}/{} events  {rate:.0}/s ", self.what, self.done, self.total);
            let _ = std::io::stderr().flush();
        }
    }

    /// Leaves the line as it was.
    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r{:70}\r", "");
        }
    }
}
