//! What every client asked and was told, and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::scenarios::client::Answer;

/// What the command of a login is called: it leaves no event by which it could be known again.
pub const LOGIN: &str = "login";

/// What a try came to, as far as the client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 2xx.
    Ok,
    /// Refused: nothing was done, says whoever refused.
    Failed,
    /// No answer, or one that leaves open what happened.
    Unknown,
}

/// One HTTP call.
#[derive(Clone, Debug)]
pub struct Try {
    pub outcome: Outcome,
    /// 0 without an answer.
    pub status: u16,
    pub code: String,
    /// Who answered: a role, or nobody (Nginx itself, or the connection).
    pub by: String,
    /// Since the run began.
    pub begun: Duration,
    pub took: Duration,
    /// What a 5xx must be and was not.
    pub malformed: Option<String>,
}

impl Try {
    /// Reads an answer, or its absence.
    pub fn of(begun: Duration, took: Duration, answer: &anyhow::Result<Answer>) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let code = if took >= crate::scenarios::client::REQUEST_MAX { "HUNG".into() } else { format!("{error:#}") };
                let (outcome, malformed) = (Outcome::Unknown, None);
                return Self { outcome, status: 0, code, by: String::new(), begun, took, malformed };
            }
        };
        let (status, code, by) = (answer.status, answer.code(), answer.served_by());
        let outcome = match status {
            200..=399 => Outcome::Ok,
            // The command-api says what it knows; Nginx, in its place, knows nothing.
            503 if code == "OUTCOME_UNKNOWN" || by.is_empty() => Outcome::Unknown,
            500 | 502 | 504 => Outcome::Unknown,
            // The first of two with one key may still be under way.
            409 if code == "IDEMPOTENCY_KEY_IN_FLIGHT" => Outcome::Unknown,
            _ => Outcome::Failed,
        };
        let malformed = (status >= 500)
            .then(|| match answer.any_problem() {
                Ok(_) if [502, 503, 504].contains(&status) => None,
                Ok(problem) => Some(format!("{} answered {problem}", answer.what)),
                Err(error) => Some(format!("{error:#}")),
            })
            .flatten();
        Self { outcome, status, code, by, begun, took, malformed }
    }
}

/// What a command is about.
#[derive(Clone, Debug)]
pub struct Intent {
    pub what: &'static str,
    /// In the events' `traceparent`: whose effect an event is. Empty: nobody can tell.
    pub marker: String,
    pub context: &'static str,
    /// `METHOD path body`, without secrets.
    pub content: String,
}

/// What a command's answer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub id: String,
    pub version: u64,
    pub position: u64,
    pub token: String,
}

/// One command with all its tries under one key.
#[derive(Clone, Debug)]
pub struct Command {
    pub intent: Intent,
    pub tries: Vec<Try>,
    /// The answers of the tries that succeeded: all must be the same.
    pub told: Vec<Told>,
}

impl Command {
    pub fn is_ok(&self) -> bool {
        !self.told.is_empty()
    }

    /// Nothing was done, by every answer there was.
    pub fn is_refused(&self) -> bool {
        self.tries.iter().all(|one| one.outcome == Outcome::Failed)
    }

    /// When the client knew that it was done.
    pub fn known_at(&self) -> Option<Duration> {
        self.tries.iter().find(|one| one.outcome == Outcome::Ok).map(|one| one.begun + one.took)
    }
}

/// A GET and what it showed of the watched units.
#[derive(Clone, Debug)]
pub struct Read {
    pub path: String,
    pub one: Try,
    /// The position in the units log that the request presented.
    pub token: Option<u64>,
    /// (unit, what it showed of it).
    pub shown: Vec<(String, Shown)>,
    /// Watched units that the answer should have had and had not.
    pub missing: Vec<String>,
}

impl Read {
    /// Not to know a thing yet is an answer, too, unless it was there long before.
    pub fn is_answered(&self) -> bool {
        self.one.outcome == Outcome::Ok || (self.one.status == 404 && self.missing.is_empty())
    }
}

/// How an answer dates a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Version(u64),
    /// Unique to the command that wrote it.
    Area(u64),
}

#[derive(Default)]
struct Books {
    commands: Vec<Command>,
    reads: Vec<Read>,
    /// Things that a client cannot explain.
    faults: Vec<String>,
}

/// The whole run.
pub struct History {
    began: Instant,
    books: Mutex<Books>,
    pub acked: AtomicU64,
    pub reads_ok: AtomicU64,
    pub unknown: AtomicU64,
}

impl History {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            books: Mutex::default(),
            acked: AtomicU64::new(0),
            reads_ok: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, one: &Try) {
        if one.outcome == Outcome::Unknown {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn command(&self, command: Command) {
        self.acked.fetch_add(u64::from(command.is_ok()), Ordering::Relaxed);
        self.books().commands.push(command);
    }

    pub fn read(&self, read: Read) {
        self.count(&read.one);
        self.reads_ok.fetch_add(u64::from(read.one.status == 200), Ordering::Relaxed);
        self.books().reads.push(read);
    }

    pub fn fault(&self, what: String) {
        self.books().faults.push(what);
    }

    /// Everything, once the clients have ended.
    pub fn take(&self) -> (Vec<Command>, Vec<Read>, Vec<String>) {
        let Books { commands, reads, faults } = std::mem::take(&mut *self.books());
        (commands, reads, faults)
    }

    /// Failed GETs that began between two instants.
    pub fn reads_between(&self, from: Duration, to: Duration) -> (usize, Vec<String>) {
        let books = self.books();
        let during = books.reads.iter().filter(|read| (from..to).contains(&read.one.begun));
        let mut count = 0;
        let mut failed = Vec::new();
        for read in during {
            count += 1;
            if !read.is_answered() {
                failed.push(format!("GET {} came to {} {}", read.path, read.one.status, read.one.code));
            }
        }
        (count, failed)
    }
}

/// How often each status came, for the report.
pub fn statuses<'a>(tries: impl Iterator<Item = &'a Try>) -> BTreeMap<u16, usize> {
    let mut counted = BTreeMap::new();
    for one in tries {
        *counted.entry(one.status).or_default() += 1;
    }
    counted
}

#[cfg(test)]
impl Try {
    /// A call that all went well with.
    pub fn answered(begun: Duration, took: Duration) -> Self {
        let (outcome, status, malformed) = (Outcome::Ok, 200, None);
        Self { outcome, status, code: String::new(), by: String::new(), begun, took, malformed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_fails_when_nobody_answers_or_what_was_there_is_not_known() {
        let history = History::new();
        let read = |path: &str, status, outcome, missing: &[&str]| {
            let one = Try { status, outcome, ..Try::answered(Duration::from_secs(2), Duration::ZERO) };
            let missing = missing.iter().map(|unit| (*unit).to_owned()).collect();
            history.read(Read { path: path.to_owned(), one, token: None, shown: Vec::new(), missing });
        };
        read("/leases/new", 200, Outcome::Ok, &[]);
        read("/leases/newer", 404, Outcome::Failed, &[]);
        read("/units/hot", 404, Outcome::Failed, &["hot"]);
        read("/leases/new", 502, Outcome::Unknown, &[]);
        let (count, failed) = history.reads_between(Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!((count, failed.len()), (4, 2), "{failed:?}");
        assert_eq!(history.unknown.load(Ordering::Relaxed), 1);
    }
}
