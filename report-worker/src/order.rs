//! What a report was ordered as: the first event of its stream.

use std::collections::BTreeMap;

use domain::reports::{Report, ReportEvent, ReportFormat, ReportKind, ReportParams};
use domain::{Context, Date, ReportId, StreamId};
use ports::{Error, EventLog, Position, Result};
use uuid::Uuid;

/// A request with its facts pinned: the same order always gives the same bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub report_id: ReportId,
    pub kind: ReportKind,
    pub params: ReportParams,
    pub format: ReportFormat,
    /// Events after these are not part of the report.
    pub positions: BTreeMap<Context, Position>,
    /// Facts effective after this day are not part of the report.
    pub as_of: Date,
}

impl Order {
    /// `None` when there is no such report.
    pub(crate) async fn load(log: &dyn EventLog, report_id: Uuid) -> Result<Option<Self>> {
        let events = log.load(&StreamId::of::<Report>(report_id), 0).await?;
        let Some(first) = events.into_iter().next() else { return Ok(None) };
        let event = serde_json::from_value(first.payload)
            .map_err(|error| Error::corrupt(format!("the order of report {report_id} cannot be read: {error}")))?;
        match event {
            ReportEvent::ReportRequested { report_id, kind, params, format, positions, as_of, .. } => {
                Ok(Some(Self { report_id, kind, params, format, positions, as_of }))
            }
            ReportEvent::ReportAttemptStarted { .. }
            | ReportEvent::ReportCompleted { .. }
            | ReportEvent::ReportAttemptFailed { .. }
            | ReportEvent::ReportDead { .. }
            | ReportEvent::ReportCancelled { .. } => {
                Err(Error::corrupt(format!("the stream of report {report_id} does not begin with its request")))
            }
        }
    }

    /// The position it is computed at in a context's log.
    pub fn position(&self, context: Context) -> Result<Position> {
        self.positions
            .get(&context)
            .copied()
            .ok_or_else(|| Error::corrupt(format!("report {} pins no position of {context}", self.report_id)))
    }
}
