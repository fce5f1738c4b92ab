//! `processes`: the way of each lease between contexts, step by step, and where it is stuck.

use domain::legal::{ProcessEvent, ProcessStep, StepOutcome, Stuck};
use domain::{AggregateKind, Context, LeaseId, Refusal, Timestamp};
use ports::{Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "processes",
    fold_version: 1,
    context: Context::Legal,
    fields: &[Field { name: "stuck", kind: FieldKind::Int }],
};

pub struct Processes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Done,
    Refused,
    NotNeeded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepOut {
    /// Id of the event that the step follows from.
    pub trigger: Uuid,
    pub step: ProcessStep,
    pub status: StepStatus,
    #[schema(value_type = Option<Object>)]
    pub refusal: Option<Refusal>,
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Timestamp,
}

/// A step whose outcome cannot be learned; it is retried for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StuckOut {
    #[serde(flatten)]
    pub at: Stuck,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProcessOut {
    pub lease_id: LeaseId,
    pub steps: Vec<StepOut>,
    pub stuck: Option<StuckOut>,
}

impl Indexed for ProcessOut {
    fn fields(&self) -> Vec<FieldValue> {
        vec![i64::from(self.stuck.is_some()).into()]
    }
}

impl ReadModel for Processes {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::LeaseProcess)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::LeaseProcess => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::LeaseProcess {
            return Ok(());
        }
        let key = &event.stream.id;
        let fact: ProcessEvent = event.decode()?;
        let (ProcessEvent::StepRecorded { lease_id, .. } | ProcessEvent::StepStuck { lease_id, .. }) = fact;
        let mut row = rows.get(key)?.unwrap_or(ProcessOut { lease_id, steps: vec![], stuck: None });
        match fact {
            ProcessEvent::StepRecorded { trigger, step, outcome, .. } => {
                let (status, refusal) = match outcome {
                    StepOutcome::Done => (StepStatus::Done, None),
                    StepOutcome::Refused(refusal) => (StepStatus::Refused, Some(refusal)),
                    StepOutcome::NotNeeded => (StepStatus::NotNeeded, None),
                };
                row.steps.push(StepOut { trigger, step, status, refusal, recorded_at: event.recorded_at });
                row.stuck = None;
            }
            ProcessEvent::StepStuck { trigger, step, reason, attempts, .. } => {
                let at = Stuck { trigger, step, reason, attempts };
                row.stuck = Some(StuckOut { at, since: event.recorded_at });
            }
        }
        rows.put(key, row)
    }
}

/// All processes, or those that are stuck.
pub async fn processes(
    snapshot: &mut dyn ViewSnapshot,
    stuck: Option<bool>,
    page: &PageRequest,
) -> Result<Answer<Page<ProcessOut>>> {
    let filters = stuck.map(|stuck| Filter::Eq("stuck", i64::from(stuck).into())).into_iter().collect();
    let place = |_: &ProcessOut| FieldValue::Null;
    let (value, valid_until) = scan(snapshot, &SPEC, filters, OrderBy::KEY, page, place, |row: &ProcessOut| Look {
        shown: Some(row.clone()),
        valid_until: None,
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// The process of one lease; `None` before its first step.
pub async fn process(snapshot: &mut dyn ViewSnapshot, lease_id: LeaseId) -> Result<Answer<Option<ProcessOut>>> {
    let key = lease_id.to_string();
    let row: Option<ProcessOut> = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value: row, tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

#[cfg(test)]
mod tests;
