//! `casitas jobs`: the report queues. The reports log is the truth about a job, the broker carries only its id; what is changed
//! here goes through the command path like any other.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use commands::{CommandError, step};
use domain::reports::{Report, ReportCommand, ReportQueue, ReportState};
use domain::{AggregateKind, RefusalClass, ReportId, StreamId, Timestamp};
use jiff::SignedDuration;
use ports::{DeadLetters, EventQuery, Position, Priority};
use read_models::reports::{ReportOut, ReportsFilter, report, reports};
use read_models::{Cursor, PageRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Operator, Refusal, Rows, chained, undone};
use crate::exit;

const LETTERS_MAX: usize = 10_000;
const EVENTS_MAX: usize = 1_000;

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Jobs {
    /// Report jobs, the newest first.
    #[command(
        after_help = "Examples:\n  casitas jobs list --state dead\n  casitas jobs list --state queued --queue high --older-than 5m"
    )]
    List {
        #[command(flatten)]
        filter: JobFilter,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One job whole, with everything that happened to it.
    #[command(after_help = "Example:\n  casitas jobs show 0192d3c4-0000-7000-8000-000000000001")]
    Show { id: Uuid },
    /// Send jobs that failed or are dead to the queue again, with all their tries, and remove their dead letters.
    #[command(
        after_help = "Examples:\n  casitas jobs retry 0192d3c4-0000-7000-8000-000000000001\n  casitas jobs retry --all-matching --state dead --older-than 1h"
    )]
    Retry(Chosen),
    /// Call jobs off that are queued or running.
    #[command(
        after_help = "Examples:\n  casitas jobs cancel 0192d3c4-0000-7000-8000-000000000001\n  casitas jobs cancel --all-matching --state queued --queue low"
    )]
    Cancel(Chosen),
    /// Messages that were given up, with what the log says of their reports.
    #[command(
        after_help = "Examples:\n  casitas jobs dead-letters\n  casitas jobs dead-letters --drop 0192d3c4-0000-7000-8000-000000000001\n  casitas jobs dead-letters --drop-unreadable"
    )]
    DeadLetters {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Remove the letters of this report: what became of it is settled. May be repeated.
        #[arg(long, value_name = "ID")]
        drop: Vec<Uuid>,
        /// Remove the letters that name no report.
        #[arg(long)]
        drop_unreadable: bool,
    },
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
pub struct JobFilter {
    /// queued, running, succeeded, failed, cancelled or dead.
    #[arg(long, value_parser = state)]
    pub state: Option<ReportState>,
    /// high or low.
    #[arg(long, value_parser = queue)]
    pub queue: Option<ReportQueue>,
    /// Requested longer ago than this, e.g. 90s, 5m, 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older_than: Option<SignedDuration>,
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct Chosen {
    #[arg(required_unless_present = "all_matching", conflicts_with = "all_matching")]
    pub ids: Vec<Uuid>,
    /// Every job that the filters leave, and that allows it.
    #[arg(long)]
    pub all_matching: bool,
    #[command(flatten)]
    pub filter: JobFilter,
}

fn state(text: &str) -> Result<ReportState, String> {
    serde_json::from_value(json!(text)).map_err(|_| "queued, running, succeeded, failed, cancelled or dead".to_owned())
}

fn queue(text: &str) -> Result<ReportQueue, String> {
    match text {
        "high" | "high_priority" => Ok(ReportQueue::HighPriority),
        "low" | "low_priority" => Ok(ReportQueue::LowPriority),
        _ => Err("high or low".to_owned()),
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let duration: SignedDuration = text.parse().map_err(|_| "a duration, e.g. 90s, 5m, 2h".to_owned())?;
    if duration.is_negative() { Err("a duration that is not negative".to_owned()) } else { Ok(duration) }
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Retry,
    Cancel,
}

impl Change {
    fn command(self) -> ReportCommand {
        match self {
            Self::Retry => ReportCommand::RetryReport,
            Self::Cancel => ReportCommand::CancelReport,
        }
    }

    fn fits(self, state: ReportState) -> bool {
        match self {
            Self::Retry => matches!(state, ReportState::Failed | ReportState::Dead),
            Self::Cancel => state.is_open(),
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Retry => "queued",
            Self::Cancel => "cancelled",
        }
    }
}

impl JobFilter {
    fn keeps(&self, report: &ReportOut, now: Timestamp) -> bool {
        self.queue.is_none_or(|queue| report.queue == queue)
            && self.older_than.is_none_or(|age| now.duration_since(report.requested_at) >= age)
    }
}

impl Operator {
    pub(super) async fn jobs(&self, verb: Jobs, rows: &Rows) -> Result<u8> {
        match verb {
            Jobs::List { filter, limit } => {
                for report in self.matching(&filter, limit, |_| true).await? {
                    rows.send(row(&report)).await?;
                }
                Ok(exit::OK)
            }
            Jobs::Show { id } => self.show_job(id, rows).await,
            Jobs::Retry(chosen) => self.change_jobs(chosen, Change::Retry, rows).await,
            Jobs::Cancel(chosen) => self.change_jobs(chosen, Change::Cancel, rows).await,
            Jobs::DeadLetters { limit, drop, drop_unreadable } => {
                let dropped = drop.into_iter().map(Some).chain(drop_unreadable.then_some(None)).collect::<Vec<_>>();
                match dropped.is_empty() {
                    true => self.list_dead_letters(limit, rows).await,
                    false => self.drop_dead_letters(&dropped, rows).await,
                }
            }
        }
    }

    /// The newest jobs that a filter and a test leave.
    async fn matching(
        &self,
        filter: &JobFilter,
        limit: usize,
        fits: impl Fn(ReportState) -> bool,
    ) -> Result<Vec<ReportOut>> {
        let now = self.platform.clock.now();
        let asked = ReportsFilter { status: filter.state, ..ReportsFilter::default() };
        let mut page = PageRequest { limit: PageRequest::MAX_LIMIT, after: None };
        let mut snapshot = self.read().await?;
        let mut found = vec![];
        loop {
            let answer = reports(&mut *snapshot, &asked, &page).await.map_err(chained)?.value;
            let wanted = answer.data.into_iter().filter(|report| filter.keeps(report, now) && fits(report.status));
            found.extend(wanted.take(limit - found.len()));
            let next = answer.next_cursor.as_deref().and_then(Cursor::decode);
            if next.is_none() || found.len() >= limit {
                return Ok(found);
            }
            page.after = next;
        }
    }

    async fn show_job(&self, id: Uuid, rows: &Rows) -> Result<u8> {
        let Some(found) = self.job(id).await? else {
            return Err(Refusal::new(exit::NOT_FOUND, no_report(id)).into());
        };
        let log = self.platform.logs.get(domain::Context::Reports).map_err(chained)?;
        let stream = Some(StreamId::new(AggregateKind::Report, id.to_string()));
        let query = EventQuery { stream, ..EventQuery::default() };
        let events = log.search(&query, 0, Position::MAX >> 1, EVENTS_MAX).await.map_err(chained)?;
        let mut value = serde_json::to_value(&found)?;
        if let Some(fields) = value.as_object_mut() {
            let history = events.iter().map(|event| {
                let data: Value = serde_json::from_str(event.payload.get()).unwrap_or_default();
                json!({
                    "position": event.position,
                    "recorded_at": event.recorded_at.to_string(),
                    "type": event.event_type,
                    "actor": event.metadata.actor,
                    "data": data.get(&event.event_type).cloned().unwrap_or_default(),
                })
            });
            fields.insert("history".into(), history.collect());
        }
        rows.send(value).await?;
        Ok(exit::OK)
    }

    async fn job(&self, id: Uuid) -> Result<Option<ReportOut>> {
        let mut snapshot = self.read().await?;
        Ok(report(&mut *snapshot, ReportId(id)).await.map_err(chained)?.value)
    }

    async fn change_jobs(&self, chosen: Chosen, change: Change, rows: &Rows) -> Result<u8> {
        let handler = self.handler.as_ref().context("this process cannot write")?;
        let ids = match chosen.all_matching {
            false => chosen.ids,
            true => {
                let found = self.matching(&chosen.filter, usize::MAX, |state| change.fits(state)).await?;
                found.into_iter().map(|report| report.report_id.0).collect()
            }
        };
        let alone = ids.len() == 1;
        let (mut changed, mut refused, mut missing) = (vec![], 0, 0);
        for id in ids {
            let steps = [step::<Report>(id.to_string(), change.command())];
            let (state, detail) = match handler.execute(&self.issue(), &steps).await {
                Ok(_) => {
                    changed.push(Some(id));
                    (change.done(), String::new())
                }
                Err(CommandError::Refused(refusal)) if refusal.class == RefusalClass::NotFound => {
                    if alone {
                        return Err(Refusal::new(exit::NOT_FOUND, no_report(id)).into());
                    }
                    missing += 1;
                    ("not found", no_report(id))
                }
                Err(CommandError::Refused(refusal)) => {
                    refused += 1;
                    ("refused", refusal.message)
                }
                Err(error) => return Err(undone(error)),
            };
            rows.send(json!({"report_id": id, "state": state, "detail": detail})).await?;
        }
        if change == Change::Retry
            && !changed.is_empty()
            && let Some(letters) = &self.platform.dead_letters
            && let Err(error) = letters.remove(&changed).await
        {
            let detail = format!("the dead letters of these reports are still there: {}", error.chain());
            rows.send(json!({"report_id": null, "state": "warning", "detail": detail})).await?;
        }
        Ok(ended(changed.len(), refused, missing))
    }

    fn letters(&self) -> Result<&dyn DeadLetters> {
        let letters = self.platform.dead_letters.as_deref();
        letters.context("this process knows no broker: set CASITAS_RABBITMQ to its host:port")
    }

    async fn list_dead_letters(&self, limit: usize, rows: &Rows) -> Result<u8> {
        let letters = self.letters()?.list(limit.min(LETTERS_MAX)).await.map_err(chained)?;
        let mut snapshot = self.read().await?;
        let mut known: HashMap<Uuid, Option<ReportOut>> = HashMap::new();
        for letter in letters {
            let found = match letter.report_id {
                None => None,
                Some(id) => match known.get(&id) {
                    Some(found) => found.clone(),
                    None => {
                        let found = report(&mut *snapshot, ReportId(id)).await.map_err(chained)?.value;
                        known.entry(id).or_insert(found).clone()
                    }
                },
            };
            let next = match (&letter.report_id, &found) {
                (None, _) => "casitas jobs dead-letters --drop-unreadable".to_owned(),
                (Some(id), Some(report)) if Change::Retry.fits(report.status) => format!("casitas jobs retry {id}"),
                (Some(id), _) => format!("casitas jobs dead-letters --drop {id}"),
            };
            rows.send(json!({
                "report_id": letter.report_id,
                "queue": letter.priority.map(Priority::queue),
                "given_up": letter.reason,
                "state": found.as_ref().map(|report| report.status.as_str()),
                "reason": found.and_then(|report| report.reason),
                "next": next,
            }))
            .await?;
        }
        Ok(exit::OK)
    }

    async fn drop_dead_letters(&self, report_ids: &[Option<Uuid>], rows: &Rows) -> Result<u8> {
        let dropped = self.letters()?.remove(report_ids).await.map_err(chained)?;
        if dropped == 0 {
            let message = "no such dead letter; `casitas jobs dead-letters` shows what there is";
            return Err(Refusal::new(exit::NOT_FOUND, message).into());
        }
        rows.send(json!({"dropped": dropped})).await?;
        Ok(exit::OK)
    }
}

fn no_report(id: Uuid) -> String {
    format!("there is no report {id}; `casitas jobs list` shows the newest")
}

/// The exit code, of how many jobs were changed, how many did not allow it, and how many are not there.
fn ended(changed: usize, refused: usize, missing: usize) -> u8 {
    match (changed, refused, missing) {
        (_, 0, 0) => exit::OK,
        (0, 0, _) => exit::NOT_FOUND,
        (0, _, _) => exit::FAILED,
        _ => exit::PARTLY,
    }
}

fn row(report: &ReportOut) -> Value {
    json!({
        "report_id": report.report_id,
        "queue": report.queue,
        "kind": report.kind,
        "state": report.status.as_str(),
        "attempt": report.attempt,
        "requested_at": report.requested_at.to_string(),
        "finished_at": report.finished_at.map(|at| at.to_string()),
        "reason": report.reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_people_write_them_and_anything_else_is_refused() {
        assert_eq!(state("dead"), Ok(ReportState::Dead));
        assert_eq!(queue("high"), Ok(ReportQueue::HighPriority));
        assert_eq!(duration("5m"), Ok(SignedDuration::from_mins(5)));
        assert_eq!(duration("1h30m"), Ok(SignedDuration::from_mins(90)));
        for wrong in ["", "5", "yesterday", "-5m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(state("Dead").is_err() && queue("medium").is_err());
    }

    #[test]
    fn the_exit_code_tells_what_is_not_there_from_what_was_refused() {
        assert_eq!([ended(0, 0, 0), ended(2, 0, 0)], [exit::OK; 2]);
        assert_eq!([ended(0, 0, 1), ended(0, 0, 2)], [exit::NOT_FOUND; 2]);
        assert_eq!([ended(0, 1, 0), ended(0, 1, 1)], [exit::FAILED; 2]);
        assert_eq!([ended(1, 1, 0), ended(1, 0, 1), ended(1, 1, 1)], [exit::PARTLY; 3]);
    }
}
