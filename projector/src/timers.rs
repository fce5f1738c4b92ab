//! Timers: hold expiry and lease start, from the read models `hold_expiries` and `lease_starts`.
//!
//! A row stands there while something is due at its `due_at`; the timer issues the command and the row goes once the event is
//! folded. What was missed while nothing ran is due at start. Decisions and queries compare times themselves, so a timer that is
//! late makes no answer wrong.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use commands::{CommandError, Handler, Issue, step};
use domain::finances::Ledger;
use domain::legal::move_in::deposit_charge;
use domain::legal::{ActivationFailure, Lease, LeaseCommand};
use domain::units::{Unit, UnitCommand};
use domain::{Context, HoldId, LeaseId, Timestamp, UnitId};
use jiff::SignedDuration;
use ports::{Clock, Direction, Error, EventLog, FieldValue, Filter, Hints, OrderBy, Result, Row, Select, Topic, ViewStore};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::pace::{Backoff, pause};
use crate::projection::ROUND_PERIOD;
use crate::status::Reporter;
use crate::tailer::hinted;

/// How long a timer sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Between two looks that hints asked for: view batches of any model may follow each other fast, and each look is a snapshot.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// How often leadership is asked for again: a lost connection may have given it to another process.
const CLAIM_PERIOD: Duration = Duration::from_secs(10);
const PAGE_MAX: usize = 200;
/// Field of every timer's read model, in milliseconds since the epoch.
const DUE_AT: &str = "due_at";
const UNPAID_RETRY: SignedDuration = SignedDuration::from_hours(24);
/// For a refusal that time may heal.
const EARLY_RETRY: SignedDuration = SignedDuration::from_mins(1);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Documents `{unit_id, hold_id, …}`.
    HoldExpiry,
    /// Documents `{lease_id, …}`.
    LeaseStart,
}

impl Due {
    pub(crate) const ALL: [Self; 2] = [Self::HoldExpiry, Self::LeaseStart];

    /// Name of the follower and scope of its idempotency keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HoldExpiry => "timer:hold-expiry",
            Self::LeaseStart => "timer:lease-start",
        }
    }

    pub(crate) fn context(self) -> Context {
        match self {
            Self::HoldExpiry => Context::Units,
            Self::LeaseStart => Context::Legal,
        }
    }

    pub(crate) fn model(self) -> &'static str {
        match self {
            Self::HoldExpiry => "hold_expiries",
            Self::LeaseStart => "lease_starts",
        }
    }
}

/// When a due row is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It is done or refused for good; the row only waits for its projection.
    Never,
    At(Timestamp),
}

/// A row of a timer's read model.
struct DueRow {
    key: String,
    doc: Value,
}

pub(crate) struct Timer {
    pub due: Due,
    pub log: Arc<dyn EventLog>,
    pub views: Arc<dyn ViewStore>,
    pub handler: Handler,
    pub clock: Arc<dyn Clock>,
    pub hints: Arc<dyn Hints>,
    pub reporter: Reporter,
    pub shutdown: CancellationToken,
}

impl Timer {
    /// Fires until shutdown.
    pub async fn run(&self) {
        let mut hints = Some(self.hints.subscribe());
        let mut handled: HashMap<String, Again> = HashMap::new();
        let mut backoff = Backoff::default();
        let mut claimed_at: Option<Instant> = None;
        while !self.shutdown.is_cancelled() {
            let round = async {
                if claimed_at.is_none_or(|at| at.elapsed() >= CLAIM_PERIOD) {
                    claimed_at = self.log.claim_follower(self.due.name()).await?.map(|_| Instant::now());
                }
                match claimed_at {
                    None => Ok(None),
                    Some(_) => self.round(&mut handled).await.map(Some),
                }
            };
            let wait = match round.await {
                Ok(None) => {
                    self.reporter.waiting();
                    handled.clear();
                    pause(&self.shutdown, ROUND_PERIOD).await;
                    continue;
                }
                Ok(Some(wait)) => {
                    self.reporter.running();
                    backoff.reset();
                    wait
                }
                Err(error) => {
                    self.reporter.stalled(error.chain());
                    pause(&self.shutdown, backoff.next()).await;
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                () = hinted(&mut hints, Topic::Views) => {
                    pause(&self.shutdown, PAUSE_MIN).await;
                }
                () = sleep(wait) => {}
            }
        }
    }

    /// Does everything that is due; how long until something may be due again.
    async fn round(&self, handled: &mut HashMap<String, Again>) -> Result<Duration> {
        let now = self.clock.now();
        let (rows, wait) = self.look(now).await?;
        let keys: Vec<String> = rows.iter().map(due_key).collect();
        let standing: HashSet<&String> = keys.iter().collect();
        handled.retain(|key, _| standing.contains(key));
        let mut failure = None;
        for (row, key) in rows.iter().zip(keys) {
            if self.shutdown.is_cancelled() {
                break;
            }
            let wanted = match handled.get(&key) {
                None => true,
                Some(Again::Never) => false,
                Some(Again::At(at)) => *at <= now,
            };
            if !wanted {
                continue;
            }
            self.reporter.pending_since(instant(row));
            match self.fire(row, &key, now).await {
                Ok(again) => {
                    metrics::counter!("casitas_timer_fired_total", "timer" => self.due.name()).increment(1);
                    handled.insert(key, again);
                }
                // The rest would fail the same way.
                Err(CommandError::Port(error)) if error.is_transient() => return Err(error),
                Err(error) => failure = Some(Error::rejected(format!("{} of {key}", self.due.name()), error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => {
                self.reporter.pending_since(None);
                Ok(wait)
            }
        }
    }

    /// What is due, and how long until something else may be, from one snapshot.
    async fn look(&self, now: Timestamp) -> Result<(Vec<DueRow>, Duration)> {
        let mut snapshot = self.views.snapshot().await?;
        let mut select = self.select(Filter::AtMost(DUE_AT, FieldValue::Int(now.as_millisecond())), PAGE_MAX);
        let mut rows: Vec<DueRow> = Vec::new();
        loop {
            let page = match snapshot.select(&select).await {
                Err(Error::NotFound(_)) => return Ok((rows, SLEEP_MAX)),
                page => page?,
            };
            let full = page.len() == PAGE_MAX;
            for row in page {
                rows.push(self.due_row(row)?);
            }
            match rows.last() {
                Some(last) if full => select.after = Some((FieldValue::Null, last.key.clone())),
                _ => break,
            }
        }
        let mut select = self.select(Filter::AtLeast(DUE_AT, FieldValue::Int(now.as_millisecond() + 1)), 1);
        select.order = OrderBy { field: Some(DUE_AT), direction: Direction::Ascending };
        let next = snapshot.select(&select).await?.pop().map(|row| self.due_row(row)).transpose()?;
        let until = next.as_ref().and_then(instant).map(|due| due.duration_since(now));
        // One millisecond more: `due_at` is rounded down to them.
        let until = until.and_then(|until| Duration::try_from(until).ok()).map(|until| until + Duration::from_millis(1));
        Ok((rows, until.map_or(SLEEP_MAX, |until| until.min(SLEEP_MAX))))
    }

    /// Ordered by key: order does not matter among what is due, and pages follow each other by the key alone.
    fn select(&self, filter: Filter, limit: usize) -> Select {
        Select { model: self.due.model(), filters: vec![filter], order: OrderBy::KEY, after: None, limit }
    }

    fn due_row(&self, row: Row) -> Result<DueRow> {
        Ok(DueRow { doc: row.read(self.due.model())?, key: row.key })
    }

    async fn fire(&self, row: &DueRow, key: &str, now: Timestamp) -> Result<Again, CommandError> {
        match self.due {
            Due::HoldExpiry => self.expire_hold(row, key).await,
            Due::LeaseStart => self.start_lease(row, key, now).await,
        }
    }

    async fn expire_hold(&self, row: &DueRow, key: &str) -> Result<Again, CommandError> {
        let (unit_id, hold_id): (UnitId, HoldId) = (field(row, "unit_id")?, field(row, "hold_id")?);
        let command = step::<Unit>(unit_id.to_string(), UnitCommand::ExpireHold { hold_id });
        match self.handler.execute(&self.issue(key), &[command]).await {
            Ok(_) => Ok(Again::Never),
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(hold.id = %hold_id, code = refusal.code, "a hold was not expired");
                Ok(Again::Never)
            }
            Err(error) => Err(error),
        }
    }

    async fn start_lease(&self, row: &DueRow, key: &str, now: Timestamp) -> Result<Again, CommandError> {
        let lease_id: LeaseId = field(row, "lease_id")?;
        let lease = self.handler.load::<Lease>(lease_id.to_string()).await?;
        let Some(terms) = lease.state.terms() else { return Ok(Again::Never) };
        let deposit_paid = match terms.deposit {
            None => None,
            Some(_) => Some(self.deposit_paid(lease_id).await?),
        };
        let command = LeaseCommand::ActivateLease { on: terms.start_date, deposit_paid };
        match self.handler.execute(&self.issue(key), &[step::<Lease>(lease_id.to_string(), command)]).await {
            Ok(_) => Ok(Again::Never),
            Err(CommandError::Refused(refusal)) if refusal.code == "DEPOSIT_UNPAID" => {
                tracing::warn!(lease.id = %lease_id, "the lease does not start: its deposit is not paid; tried again daily");
                let failure = ActivationFailure { code: refusal.code, detail: refusal.message };
                self.flag(lease_id, failure).await?;
                Ok(later(now, UNPAID_RETRY))
            }
            Err(CommandError::Refused(refusal)) if refusal.code == "NOT_STARTED" => Ok(later(now, EARLY_RETRY)),
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(lease.id = %lease_id, code = refusal.code, "a lease was not started");
                Ok(Again::Never)
            }
            Err(error) => Err(error),
        }
    }

    /// The deposit was charged and is paid. Not charged yet (the move-in process is on its way) is not paid.
    async fn deposit_paid(&self, lease_id: LeaseId) -> Result<bool, CommandError> {
        let ledger = self.handler.load::<Ledger>(lease_id.to_string()).await?;
        Ok(ledger.state.charge(deposit_charge(lease_id)).is_some() && ledger.state.deposit_paid())
    }

    async fn flag(&self, lease_id: LeaseId, failure: ActivationFailure) -> Result<(), CommandError> {
        let command = step::<Lease>(lease_id.to_string(), LeaseCommand::FlagActivationFailed { failure });
        match self.handler.execute(&Issue::by(self.due.name()), &[command]).await {
            Ok(_) | Err(CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn issue(&self, key: &str) -> Issue {
        Issue::derived(self.due.name(), key)
    }
}

fn later(now: Timestamp, wait: SignedDuration) -> Again {
    now.checked_add(wait).map_or(Again::Never, Again::At)
}

/// `<hold or lease>:<due>`: the row's key and its instant, so that the same thing due at another time is another thing.
fn due_key(row: &DueRow) -> String {
    let id = ["hold_id", "lease_id"].into_iter().find_map(|name| row.doc.get(name)?.as_str());
    format!("{}:{}", id.unwrap_or(&row.key), instant(row).unwrap_or_default().as_millisecond())
}

/// `due_at` of the document: milliseconds, or an instant as text.
fn instant(row: &DueRow) -> Option<Timestamp> {
    let due = row.doc.get(DUE_AT)?;
    match due.as_i64() {
        Some(milliseconds) => Timestamp::from_millisecond(milliseconds).ok(),
        None => due.as_str()?.parse().ok(),
    }
}

fn field<T: DeserializeOwned>(row: &DueRow, name: &str) -> Result<T, CommandError> {
    let value = row.doc.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value)
        .map_err(|error| Error::corrupt(format!("row {} has no good {name}: {error}", row.key)).into())
}
