//! `casitas doctor`: is every part well, what is not, and what to do about it. Each line is fine, wrong, or could not be checked;
//! what is wrong names the next command.

mod followers;
mod work;
mod writers;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use domain::Timestamp;
use projector::{Park, Wish};
use read_models::ReadModel;
use serde_json::{Value, json};

pub(super) use self::followers::{BESIDE_LOGS, MOVE_IN};
use super::{Operator, Refusal, Rows, projections};
use crate::exit;

/// Any one check; the writers are looked at twice.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fine,
    Wrong,
    /// Neither: what it would be read from does not answer.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Wrong => "wrong",
            Self::Unknown => "could not check",
        }
    }
}

/// One line of the doctor's.
struct Line {
    check: String,
    state: State,
    detail: String,
    /// The next command, for what is not fine.
    next: Option<String>,
}

impl Line {
    fn fine(check: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Fine, detail: detail.into(), next: None }
    }

    fn wrong(check: impl Into<String>, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check: check.into(), state: State::Wrong, detail: detail.into(), next: Some(next.into()) }
    }

    fn unknown(check: impl Into<String>, detail: impl fmt::Display) -> Self {
        let next = Some("casitas doctor --quick".to_owned());
        Self { check: check.into(), state: State::Unknown, detail: format!("could not check: {detail}"), next }
    }

    fn row(self) -> Value {
        json!({"check": self.check, "state": self.state.as_str(), "detail": self.detail, "next": self.next})
    }
}

impl Operator {
    pub(super) async fn doctor(&self, quick: bool, compare: bool, rows: &Rows) -> Result<u8> {
        let mut exit = self.servers(rows).await?;
        if quick {
            return Ok(exit);
        }
        let mut lines = self.bounded("followers", self.followers()).await;
        lines.extend(self.bounded("chains", self.chains()).await);
        lines.extend(self.bounded("parked streams", self.parked_streams()).await);
        lines.extend(self.bounded("dead letters", self.dead_letters()).await);
        lines.extend(self.bounded("waiting reports", self.waiting_reports()).await);
        lines.extend(self.bounded("move-in processes", self.processes()).await);
        lines.extend(self.bounded("timers", self.overdue()).await);
        lines.extend(self.bounded("writers", self.blocked_writers()).await);
        if !compare {
            lines.push(Line::fine("rows", "not compared with the logs: casitas doctor --rows does"));
        }
        for line in lines {
            exit = worse(exit, line.state);
            rows.send(line.row()).await?;
        }
        for model in read_models::all().into_iter().filter(|_| compare) {
            let line = self.drift(model, rows).await;
            exit = worse(exit, line.state);
            rows.send(line.row()).await?;
        }
        Ok(exit)
    }

    /// Whether a model's rows are those of a fresh fold. Takes as long as there are events, so nothing bounds it.
    async fn drift(&self, model: &'static dyn ReadModel, rows: &Rows) -> Line {
        let (name, now) = (model.spec().name, self.platform.clock.now());
        let check = format!("rows of {name}");
        // What is parked there is parked here, too; what was skipped there is left out by every rebuild.
        let trial = Wish { parallel: 1, manual: false, dry_run: true, force: false, park: Park::Any(now) };
        match self.rebuild_one(model, trial, rows).await {
            Ok(done) if done.comparison.is_equal() => {
                Line::fine(check, format!("{} rows, as a fresh fold makes them", done.comparison.rows))
            }
            Ok(done) if !done.comparison.was_made() => {
                Line::wrong(check, "of another life of the log", format!("casitas projections rebuild {name}"))
            }
            Ok(done) => {
                let found = projections::told(model, &done.comparison);
                // Nothing is replaced by it: it is refused, and its answer says how to see the rows and how to take them.
                Line::wrong(check, found, format!("casitas projections rebuild {name}"))
            }
            Err(error) => match error.downcast_ref::<Refusal>().map(|refusal| refusal.code) {
                Some(exit::DEPENDENCY_DOWN) | None => Line::unknown(check, format!("{error:#}")),
                Some(_) => Line::wrong(check, format!("{error:#}"), format!("casitas projections status {name}")),
            },
        }
    }

    async fn servers(&self, rows: &Rows) -> Result<u8> {
        let mut exit = exit::OK;
        for check in &self.platform.checks {
            let line = match tokio::time::timeout(SERVER_TIMEOUT, check.run()).await {
                Ok(Ok(())) => Line::fine(check.name(), ""),
                Ok(Err(error)) => Line::wrong(
                    check.name(),
                    error.chain(),
                    "casitas doctor --quick, once the server is started or its address or password put right",
                ),
                Err(_) => Line::unknown(check.name(), "no answer in 2 s"),
            };
            if line.state != State::Fine {
                exit = exit::DEPENDENCY_DOWN;
            }
            rows.send(line.row()).await?;
        }
        Ok(exit)
    }

    /// A check's lines, or that it could not be made.
    async fn bounded(&self, check: &str, lines: impl Future<Output = Result<Vec<Line>>>) -> Vec<Line> {
        match tokio::time::timeout(CHECK_TIMEOUT, lines).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => vec![Line::unknown(check, format!("{error:#}"))],
            Err(_) => vec![Line::unknown(check, format!("not done within {} s", CHECK_TIMEOUT.as_secs()))],
        }
    }
}

/// The exit code so far, with one line more.
fn worse(exit: u8, state: State) -> u8 {
    match (exit, state) {
        (exit::DEPENDENCY_DOWN, _) | (_, State::Unknown) => exit::DEPENDENCY_DOWN,
        (_, State::Wrong) => exit::CHECK_FAILED,
        (exit, State::Fine) => exit,
    }
}

/// All that can be said of a folder whose files cannot be opened.
pub fn unopened(error: &anyhow::Error) -> Value {
    let next = "end the process that holds it (fuser -v on its files), or put a backup in its place: casitas restore --help";
    let mut line = Line::unknown("store", format!("{error:#}"));
    line.next = Some(next.to_owned());
    line.row()
}

/// For people: 12 s, 3 min, 5 h, 2 d.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_the_unit_that_people_would_use() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().expect("an instant");
        let ago = |seconds| age(now - jiff::SignedDuration::from_secs(seconds), now);
        assert_eq!([ago(-5), ago(119), ago(120), ago(7_200), ago(200_000)], ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
