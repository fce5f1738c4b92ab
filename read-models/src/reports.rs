//! `reports`: every report job, how far it got, and where its result is.

use std::collections::BTreeMap;

use domain::reports::{ReportEvent, ReportFormat, ReportKind, ReportParams, ReportQueue, ReportState};
use domain::{AggregateKind, Context, Date, ReportId, Sha256, Timestamp, UserId};
use ports::{
    Direction, Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Position, Recorded, Result, ViewSnapshot,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "reports",
    fold_version: 1,
    context: Context::Reports,
    fields: &[
        Field { name: "status", kind: FieldKind::Text },
        Field { name: "kind", kind: FieldKind::Text },
        Field { name: "requested_by", kind: FieldKind::Text },
    ],
};

pub struct Reports;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    report_id: ReportId,
    kind: ReportKind,
    queue: ReportQueue,
    params: ReportParams,
    format: ReportFormat,
    positions: BTreeMap<Context, Position>,
    as_of: Date,
    requested_by: UserId,
    requested_at: Timestamp,
    version: u64,
    state: ReportState,
    attempt: u32,
    reason: Option<String>,
    result: Option<ResultOut>,
    finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResultOut {
    /// Name of the artifact.
    #[schema(value_type = String)]
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
    pub media_type: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressOut {
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinksOut {
    #[serde(rename = "self")]
    pub own: String,
    /// The finished document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportOut {
    pub report_id: ReportId,
    /// For `If-Match`.
    pub version: u64,
    pub kind: ReportKind,
    pub queue: ReportQueue,
    pub status: ReportState,
    pub format: ReportFormat,
    pub params: ReportParams,
    /// The business date it is computed at.
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
    /// The positions it is computed at, by context.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub positions: BTreeMap<Context, Position>,
    pub requested_by: UserId,
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Attempts started so far.
    pub attempt: u32,
    pub progress: ProgressOut,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    pub result: Option<ResultOut>,
    pub links: LinksOut,
}

impl Row {
    fn apply(&mut self, event: ReportEvent, recorded_at: Timestamp) {
        match event {
            ReportEvent::ReportRequested { .. } => {}
            ReportEvent::ReportAttemptStarted { attempt, .. } => {
                self.attempt = attempt;
                self.state = ReportState::Running;
            }
            ReportEvent::ReportCompleted { sha256, size, media_type, .. } => {
                self.result = Some(ResultOut { sha256, size, media_type });
                self.reason = None;
                self.state = ReportState::Succeeded;
            }
            ReportEvent::ReportAttemptFailed { reason, retryable, .. } => {
                self.reason = Some(reason);
                self.state = if retryable { ReportState::Queued } else { ReportState::Failed };
            }
            ReportEvent::ReportDead { reason, .. } => {
                self.reason = Some(reason);
                self.state = ReportState::Dead;
            }
            ReportEvent::ReportCancelled { .. } => self.state = ReportState::Cancelled,
            ReportEvent::ReportRetried { .. } => self.state = ReportState::Queued,
        }
        self.finished_at = (!self.state.is_open()).then_some(recorded_at);
    }
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.state.as_str().into(), self.kind.as_str().into(), self.requested_by.to_string().into()]
    }
}

impl ReadModel for Reports {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Report)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Report => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Report {
            return Ok(());
        }
        let key = &event.stream.id;
        let mut row = match (rows.get::<Row>(key)?, event.decode()?) {
            (
                None,
                ReportEvent::ReportRequested { report_id, kind, queue, params, format, positions, as_of, requested_by },
            ) => Row {
                report_id,
                kind,
                queue,
                params,
                format,
                positions,
                as_of,
                requested_by,
                requested_at: event.recorded_at,
                version: 0,
                state: ReportState::Queued,
                attempt: 0,
                reason: None,
                result: None,
                finished_at: None,
            },
            (Some(mut row), fact) => {
                row.apply(fact, event.recorded_at);
                row
            }
            (None, _) => return Err(Error::corrupt(format!("report {key} does not begin with its request"))),
        };
        row.version = event.sequence;
        rows.put(key, row)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReportsFilter {
    pub status: Option<ReportState>,
    /// Any of these; all when empty. What a role may see is named here.
    pub kinds: Vec<ReportKind>,
    pub requested_by: Option<UserId>,
}

/// The newest first.
pub async fn reports(
    snapshot: &mut dyn ViewSnapshot,
    filter: &ReportsFilter,
    page: &PageRequest,
) -> Result<Answer<Page<ReportOut>>> {
    let kinds = || filter.kinds.iter().map(|kind| kind.as_str().into()).collect();
    let filters = [
        filter.status.map(|status| Filter::Eq("status", status.as_str().into())),
        (!filter.kinds.is_empty()).then(|| Filter::In("kind", kinds())),
        filter.requested_by.map(|user| Filter::Eq("requested_by", user.to_string().into())),
    ];
    let filters = filters.into_iter().flatten().collect();
    let order = OrderBy { field: None, direction: Direction::Descending };
    let place = |_: &Row| FieldValue::Null;
    let (value, valid_until) = scan(snapshot, &SPEC, filters, order, page, place, |row: &Row| Look {
        shown: Some(look(row.clone())),
        valid_until: None,
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One report; `None` when there is no such report.
pub async fn report(snapshot: &mut dyn ViewSnapshot, report_id: ReportId) -> Result<Answer<Option<ReportOut>>> {
    let key = report_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value: row.map(look), tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

fn look(row: Row) -> ReportOut {
    let own = format!("/reports/{}", row.report_id);
    let result = row.result.is_some().then(|| format!("{own}/result"));
    ReportOut {
        report_id: row.report_id,
        version: row.version,
        kind: row.kind,
        queue: row.queue,
        status: row.state,
        format: row.format,
        params: row.params,
        as_of: row.as_of,
        positions: row.positions,
        requested_by: row.requested_by,
        requested_at: row.requested_at,
        finished_at: row.finished_at,
        attempt: row.attempt,
        progress: ProgressOut { done: u64::from(row.result.is_some()), total: 1 },
        reason: row.reason,
        result: row.result,
        links: LinksOut { own, result },
    }
}

#[cfg(test)]
mod tests;
