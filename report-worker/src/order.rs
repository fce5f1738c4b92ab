//! What a report was ordered as, and how far it got: its stream.

use std::collections::BTreeMap;

use domain::reports::{Report, ReportEvent, ReportFormat, ReportKind, ReportParams};
use domain::{Aggregate, Context, Date, ReportId};
use ports::{Error, Metadata, Position, Result, StreamEvents};
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
    /// The position it is computed at in a context's log.
    pub fn position(&self, context: Context) -> Result<Position> {
        self.positions
            .get(&context)
            .copied()
            .ok_or_else(|| Error::corrupt(format!("report {} pins no position of {context}", self.report_id)))
    }
}

/// A report as its stream tells it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) order: Order,
    pub(crate) report: Report,
    /// The last sequence folded.
    pub(crate) version: u64,
}

impl Case {
    /// `None` when there is no such report.
    pub(crate) fn of(report_id: Uuid, stream: StreamEvents) -> Result<Option<Self>> {
        let mut order = None;
        let mut report = Report::default();
        let mut version = 0;
        for event in stream.events {
            version += 1;
            if event.sequence as u64 != version {
                return Err(Error::corrupt(format!("report {report_id} goes from {} to {}", version - 1, event.sequence)));
            }
            let fact: ReportEvent = serde_json::from_value(event.payload)
                .map_err(|error| Error::corrupt(format!("event {version} of report {report_id} cannot be read: {error}")))?;
            if let ReportEvent::ReportRequested { report_id, kind, params, format, positions, as_of, .. } = &fact {
                let (params, positions) = (params.clone(), positions.clone());
                let pinned = Order { report_id: *report_id, kind: *kind, params, format: *format, positions, as_of: *as_of };
                order.get_or_insert(pinned);
            } else if order.is_none() {
                return Err(Error::corrupt(format!("the stream of report {report_id} does not begin with its request")));
            }
            report.apply(fact);
        }
        Ok(order.map(|order| Self { order, report, version }))
    }
}

/// Where a report comes from: its request's event and metadata, if the log tells them.
pub(crate) type Origin = Option<(Uuid, Metadata)>;
