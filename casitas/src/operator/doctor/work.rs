//! Work that is not getting done: reports that were given up, processes that are stuck, timers that are late.

use anyhow::Result;
use domain::reports::ReportState;
use domain::{ReportId, Timestamp};
use ports::{FieldValue, Filter, OrderBy, Select};
use read_models::hold_expiries::HoldExpiry;
use read_models::lease_starts::LeaseStart;
use read_models::{PageRequest, hold_expiries, lease_starts, leases, processes, reports};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::{Operator, chained};
use super::{Line, age};

/// Findings of one kind that are named one by one.
const NAMED_MAX: usize = 20;
/// A report that nobody has begun for so long waits for a worker that does not come.
const WAITING_S: i64 = 300;
/// What is due for longer is overdue: a timer looks each second.
const OVERDUE_MS: i64 = 60_000;

impl Operator {
    pub(super) async fn dead_letters(&self) -> Result<Vec<Line>> {
        let check = "dead letters";
        let Some(letters) = &self.platform.dead_letters else {
            return Ok(vec![Line::unknown(check, "set CASITAS_RABBITMQ to the broker's host:port")]);
        };
        let letters = letters.list(NAMED_MAX).await.map_err(chained)?;
        Ok(match letters.is_empty() {
            true => vec![Line::fine(check, "none")],
            false => {
                let detail = many(&letters, "message was given up", "messages were given up");
                vec![Line::wrong(check, detail, "casitas jobs dead-letters")]
            }
        })
    }

    /// Reports that were asked for long ago and that nobody has begun.
    pub(super) async fn waiting_reports(&self) -> Result<Vec<Line>> {
        #[derive(Deserialize)]
        struct Waiting {
            report_id: ReportId,
            requested_at: Timestamp,
        }
        let check = "waiting reports";
        let select = Select {
            model: reports::SPEC.name,
            filters: vec![Filter::Eq("status", ReportState::Queued.as_str().into())],
            order: OrderBy::KEY,
            after: None,
            limit: NAMED_MAX,
        };
        let mut snapshot = self.read().await?;
        let rows = snapshot.select(&select).await.map_err(chained)?;
        let now = self.platform.clock.now();
        let mut late = vec![];
        for row in rows {
            let waiting: Waiting = row.read(select.model).map_err(chained)?;
            if now.duration_since(waiting.requested_at).as_secs() >= WAITING_S {
                late.push(waiting);
            }
        }
        let at_rest = !self.platform.distributed && self.board.is_none();
        let Some(oldest) = late.iter().min_by_key(|waiting| waiting.requested_at).filter(|_| !at_rest) else {
            return Ok(vec![Line::fine(check, "none waits for long")]);
        };
        let (report, since) = (oldest.report_id, age(oldest.requested_at, now));
        let count = many(&late, "was asked for and not begun", "were asked for and not begun");
        let detail = format!("{count}, the oldest is {report}, {since} ago");
        let worker = if self.platform.distributed { "casitas report-worker" } else { "casitas serve" };
        let next = format!(
            "casitas jobs list --state queued --older-than 5m; {worker} must run, and reach the queue and the folder of artifacts"
        );
        Ok(vec![Line::wrong(check, detail, next)])
    }

    pub(super) async fn processes(&self) -> Result<Vec<Line>> {
        let check = "move-in processes";
        let stuck = self.stuck_processes().await?;
        if stuck.is_empty() {
            return Ok(vec![Line::fine(check, "none is stuck")]);
        }
        let line = |stuck: &StuckProcess| Line::wrong(check, format!("that of {}", stuck.told()), stuck.next());
        Ok(stuck.iter().map(line).collect())
    }

    /// Those that are stuck for longest first.
    pub(in crate::operator) async fn stuck_processes(&self) -> Result<Vec<StuckProcess>> {
        let mut snapshot = self.read().await?;
        let page = PageRequest { limit: NAMED_MAX, after: None };
        let mut stuck = processes::processes(&mut *snapshot, Some(true), &page).await.map_err(chained)?.value.data;
        stuck.sort_by_key(|process| process.stuck.as_ref().map(|stuck| stuck.since));
        let now = self.platform.clock.now();
        Ok(stuck.into_iter().map(|process| StuckProcess { process, now }).collect())
    }

    /// Holds that ran out and leases that began, and nobody has recorded it.
    pub(super) async fn overdue(&self) -> Result<Vec<Line>> {
        let holds: Vec<HoldExpiry> = self.due(hold_expiries::SPEC.name).await?;
        let starts: Vec<LeaseStart> = self.due(lease_starts::SPEC.name).await?;
        let at_rest = !self.platform.distributed && self.board.is_none();
        let next = if at_rest {
            "casitas serve"
        } else {
            "casitas projections list: hold_expiries and lease_starts must be at the head; restart the projector"
        };
        let mut lines = vec![];
        if let Some(hold) = holds.first() {
            let count = many(&holds, "hold ran out and did not expire", "holds ran out and did not expire");
            let detail = format!("{count}, the oldest is {} for {}", hold.hold_id, self.late(hold.due_at));
            lines.push(Line::wrong("timers", detail, next));
        }
        let mut snapshot = self.read().await?;
        let mut late = vec![];
        for start in starts {
            // One that failed for a reason of business (an unpaid deposit) waits for that, not for the timer.
            let lease = leases::lease(&mut *snapshot, start.lease_id).await.map_err(chained)?.value;
            if lease.is_none_or(|lease| lease.activation_failure.is_none()) {
                late.push(start);
            }
        }
        if let Some(start) = late.first() {
            let (lease, since) = (start.lease_id, self.late(start.due_at));
            let count = many(&late, "lease began and was not activated", "leases began and were not activated");
            let detail = format!("{count}, the oldest is {lease} for {since}");
            lines.push(Line::wrong("timers", detail, next));
        }
        if lines.is_empty() {
            lines.push(Line::fine("timers", "nothing is overdue"));
        }
        Ok(lines)
    }

    /// What has been due for too long, the oldest first.
    async fn due<D: DeserializeOwned>(&self, model: &'static str) -> Result<Vec<D>> {
        let until = self.platform.clock.now().as_millisecond() - OVERDUE_MS;
        let select = Select {
            model,
            filters: vec![Filter::AtMost("due_at", FieldValue::Int(until))],
            order: OrderBy { field: Some("due_at"), ..OrderBy::KEY },
            after: None,
            limit: NAMED_MAX,
        };
        let mut snapshot = self.read().await?;
        let rows = snapshot.select(&select).await.map_err(chained)?;
        rows.iter().map(|row| row.read(model).map_err(chained)).collect()
    }

    fn late(&self, due_at: i64) -> String {
        Timestamp::from_millisecond(due_at).map_or_else(|_| "ever".to_owned(), |due| age(due, self.platform.clock.now()))
    }
}

/// A move-in process with a step whose outcome cannot be learned.
pub(in crate::operator) struct StuckProcess {
    process: processes::ProcessOut,
    now: Timestamp,
}

impl StuckProcess {
    /// Since when it is stuck, where and why.
    pub(in crate::operator) fn told(&self) -> String {
        let stuck = self.process.stuck.as_ref().map(|stuck| {
            let (step, attempts) = (stuck.at.step.as_str(), stuck.at.attempts);
            let since = age(stuck.since, self.now);
            format!("is stuck at {step} for {since} ({attempts} attempts and more since): {}", stuck.at.reason)
        });
        format!("lease {} {}", self.process.lease_id, stuck.unwrap_or_default())
    }

    pub(super) fn next(&self) -> String {
        // The step is tried again by itself, once a second.
        let lease = self.process.lease_id;
        format!("put right what the reason names; then casitas events list --context legal --stream lease_process:{lease}")
    }
}

/// How many, with what is said of one and of more.
fn many<T>(found: &[T], one: &str, more: &str) -> String {
    match found.len() {
        1 => format!("1 {one}"),
        NAMED_MAX => format!("at least {NAMED_MAX} {more}"),
        count => format!("{count} {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_as_one_and_as_many_as_are_named_as_at_least_those() {
        let told = |count| many(&vec![(); count], "hold ran out", "holds ran out");
        assert_eq!([told(1), told(2)], ["1 hold ran out", "2 holds ran out"]);
        assert_eq!(told(NAMED_MAX), "at least 20 holds ran out");
    }
}
