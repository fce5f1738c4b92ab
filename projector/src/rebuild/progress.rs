//! How far a rebuild is, for whoever looks.

use std::sync::{Arc, Mutex, MutexGuard};

use ports::Position;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Replay,
    Index,
    CatchUp,
    Verify,
    Switch,
}

/// What can be seen at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Seen {
    pub model: &'static str,
    pub generation: u64,
    pub phase: Phase,
    /// Positions of the log that were passed, and all there are.
    pub done: u64,
    pub total: u64,
    /// Events folded.
    pub events: u64,
    /// Rows loaded.
    pub rows: u64,
    /// How often the log was begun, by the part that did so most often: more than once when not all rows have room in memory.
    pub passes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// The last position passed.
    at: Position,
    passes: u64,
}

impl Progress {
    pub fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    pub(super) fn begin(&self, model: &'static str, generation: u64, to: Position, parts: usize) {
        let mut state = self.state();
        state.parts = vec![Part::default(); parts.max(1)];
        state.seen = Seen { model, generation, total: to, ..Seen::default() };
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.state().seen.phase = phase;
    }

    pub(super) fn at(&self, part: u32, position: Position, events: usize) {
        let mut state = self.state();
        if let Some(part) = state.parts.get_mut(part as usize) {
            part.at = position;
            part.passes += u64::from(position == 0);
        }
        state.seen.passes = state.parts.iter().map(|part| part.passes).max().unwrap_or(0);
        state.seen.events += events as u64;
        state.seen.done = state.parts.iter().map(|part| part.at).sum::<u64>() / state.parts.len().max(1) as u64;
    }

    /// Of one part that goes on behind what was replayed.
    pub(super) fn caught_up(&self, position: Position, head: Position, events: usize) {
        let mut state = self.state();
        state.seen.done = position;
        state.seen.total = head;
        state.seen.events += events as u64;
    }

    pub(super) fn loaded(&self, rows: usize) {
        self.state().seen.rows += rows as u64;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics under this lock")
    }
}
