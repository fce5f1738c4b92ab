//! Ctrl-C and SIGTERM of verbs that take long: they end with exit code 130, say where they are, and end that with the whole command
//! that goes on from there. A second signal does not wait for what is put away.

use std::cell::Cell;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Settings;
use crate::exit;
use crate::operator::{Events, Projections, Replay, Verb};
use crate::output::Printer;
use crate::transfer::place_behind;

/// The signals that come from now on, also those that come while nobody waits.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How a verb ended that puts away what it has begun when it is interrupted.
enum Ended {
    Done(u8),
    /// Interrupted, and it has put away what it does not keep.
    Stopped,
    /// Interrupted twice: what it had begun may still be there.
    AtOnce,
}

/// How far rebuilds are, by their rows.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// What follows `stopped`.
    place: String,
    /// Of which a generation may be under way.
    model: Option<String>,
}

impl Seen {
    fn of(verb: &Verb) -> Self {
        let model = match verb {
            Verb::Projections(Projections::Rebuild { names, .. }) if names.len() == 1 => names.first().cloned(),
            _ => None,
        };
        Self { model, ..Self::default() }
    }

    fn row(&mut self, row: &Value) {
        let progress = &row["progress"];
        if let Some(name) = progress["name"].as_str() {
            // Until it knows the generation, the first progress of a model is of nothing.
            if !name.is_empty() {
                let (generation, done, total) = (&progress["generation"], &progress["done"], &progress["total"]);
                self.place = format!(" in generation {generation} of {name}, at {done} of {total} positions");
                self.model = Some(name.to_owned());
            }
        } else if let (Some(name), Some(result)) = (row["name"].as_str(), row["result"].as_str()) {
            *self = Self { place: format!(" behind {name}, which is {result}"), model: None };
        } else {
            *self = Self::default();
        }
    }
}

/// A rebuild, or the doctor's trials of all models.
pub async fn rebuild(settings: &Settings, verb: Verb, printer: &mut Printer) -> Result<u8> {
    let said = &settings.said;
    let goes_on = match &verb {
        Verb::Projections(rebuild) => rebuild.again(said),
        _ => None,
    };
    let mut seen = Seen::of(&verb);
    let ended = perform(settings, verb, |row| {
        seen.row(&row);
        printer.row(row)
    })
    .await?;
    let Seen { place, model } = seen;
    match (ended, goes_on) {
        (Ended::Done(exit), _) => return Ok(exit),
        (Ended::Stopped | Ended::AtOnce, Some(goes_on)) => {
            eprintln!("\nstopped{place}; what was done stays, and this goes on with it: {goes_on}");
        }
        (Ended::Stopped, None) => eprintln!("\nstopped{place}; nothing of it stays"),
        (Ended::AtOnce, None) => {
            let name = model.as_deref().unwrap_or("NAME");
            eprintln!(
                "\nstopped at once{place}; the generation that it had begun may stay until the next rebuild (`casitas projections \
                 list{said}` shows it), and this drops it: casitas projections abort {name}{said}"
            );
        }
    }
    Ok(exit::INTERRUPTED)
}

/// When it is interrupted it is told with its next row, and puts away what it has begun.
async fn perform(settings: &Settings, verb: Verb, mut row: impl FnMut(Value) -> bool) -> Result<Ended> {
    let mut interrupts = Interrupts::listen()?;
    let (interrupted, refused) = (Cell::new(false), Cell::new(false));
    let work = crate::perform(settings, verb, |next| {
        let goes_on = row(next) && !interrupted.get();
        refused.set(!goes_on);
        goes_on
    });
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return Ok(Ended::Done(done?)),
        () = interrupts.next() => interrupted.set(true),
    }
    eprintln!("\nstopping; once more ends at once");
    let ended = tokio::select! {
        done = &mut work => match refused.get() {
            true => Ended::Stopped,
            // It was over before it could be told.
            false => Ended::Done(done?),
        },
        () = interrupts.next() => Ended::AtOnce,
    };
    Ok(ended)
}

/// What is delivered goes to standard output alone; how far it is, and the result where that would be in its way, beside it.
pub async fn replay(settings: &Settings, mut replay: Replay, printer: &mut Printer) -> Result<u8> {
    settings.said.clone_into(&mut replay.settings);
    let (asked, mut next) = (replay.clone(), None);
    let is_piped = asked.into == "stdout";
    let mut interrupts = Interrupts::listen()?;
    let done = crate::perform(settings, Verb::Events(Events::Replay(replay)), |row| {
        if row.get("progress").is_some() {
            eprintln!("{row}");
            next = row["next"].as_str().map(str::to_owned);
            true
        } else if is_piped && row.get("replayed").is_some() {
            eprintln!("{row}");
            true
        } else {
            // A pipe has each event once, also when it was interrupted.
            let behind = if is_piped { place_behind(&row) } else { None };
            let is_taken = printer.row(row);
            if is_taken && behind.is_some() {
                next = behind;
            }
            is_taken
        }
    });
    tokio::select! {
        done = done => return done,
        () = interrupts.next() => {}
    }
    let start = || format!("{}:1", asked.context.as_deref().unwrap_or("auth"));
    let place = next.or(asked.from.clone()).unwrap_or_else(start);
    eprintln!("interrupted; {}", asked.again(&place));
    Ok(exit::INTERRUPTED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(rows: &[Value]) -> (String, Option<String>) {
        let mut seen = Seen { place: String::new(), model: Some("units".into()) };
        rows.iter().for_each(|row| seen.row(row));
        (seen.place, seen.model)
    }

    #[test]
    fn a_rebuild_knows_where_it_is_by_its_rows() {
        let progress = |name: &str| json!({"progress": {"name": name, "generation": 3, "done": 400, "total": 1_000}});
        let result = json!({"name": "leases", "result": "ready", "generation": 2});
        assert_eq!(seen(&[]), (String::new(), Some("units".into())), "the only one that was asked for");
        assert_eq!(seen(&[progress("")]), (String::new(), Some("units".into())));
        let place = " in generation 3 of units, at 400 of 1000 positions";
        assert_eq!(seen(&[progress(""), progress("units")]), (place.into(), Some("units".into())));
        let place = " behind leases, which is ready";
        assert_eq!(seen(&[progress("leases"), result]), (place.into(), None), "the next one has not said its name");
        assert_eq!(seen(&[progress("units"), json!({"check": "rows of units"})]), (String::new(), None));
    }
}
