//! `ledgers`: which ledgers exist, whose they are, and whether they are open. The money is in `ledger_lines`.

use domain::finances::{AllocationPolicy, LateFeePolicy, LedgerEvent};
use domain::{AggregateKind, Context, Currency, Date, LeaseId, PartyId, PropertyId, UnitId};
use ports::{
    Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Position, Recorded, Result, Select, ViewSnapshot,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "ledgers",
    fold_version: 1,
    context: Context::Finances,
    fields: &[
        Field { name: "status", kind: FieldKind::Text },
        Field { name: "property_id", kind: FieldKind::Text },
        Field { name: "unit_id", kind: FieldKind::Text },
    ],
};

/// Rows read at once where all are read.
const CHUNK: usize = 500;

pub struct Ledgers;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LedgerStatus {
    Open,
    Closed,
}

impl LedgerStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// A ledger without its money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LedgerHead {
    pub lease_id: LeaseId,
    pub property_id: PropertyId,
    pub unit_id: UnitId,
    pub tenants: Vec<PartyId>,
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    /// IANA name; of the unit.
    pub time_zone: String,
    pub status: LedgerStatus,
    #[schema(value_type = String, format = Date)]
    pub opened_on: Date,
    #[schema(value_type = Option<String>, format = Date)]
    pub closed_on: Option<Date>,
    pub late_fee_policy: Option<LateFeePolicy>,
    pub allocation_policy: AllocationPolicy,
    /// Place of its opening in the log.
    pub position: Position,
}

impl Indexed for LedgerHead {
    fn fields(&self) -> Vec<FieldValue> {
        vec![self.status.as_str().into(), self.property_id.to_string().into(), self.unit_id.to_string().into()]
    }
}

impl ReadModel for Ledgers {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Ledger)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(if concerns(event) { vec![event.stream.id.clone()] } else { vec![] })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if !concerns(event) {
            return Ok(());
        }
        let key = &event.stream.id;
        let row = match (event.decode()?, rows.get::<LedgerHead>(key)?) {
            (
                LedgerEvent::LedgerOpened {
                    lease_id,
                    property_id,
                    unit_id,
                    tenants,
                    currency,
                    time_zone,
                    late_fee_policy,
                    allocation_policy,
                    opened_on,
                },
                _,
            ) => LedgerHead {
                lease_id,
                property_id,
                unit_id,
                tenants,
                currency,
                time_zone,
                status: LedgerStatus::Open,
                opened_on,
                closed_on: None,
                late_fee_policy,
                allocation_policy,
                position: event.position,
            },
            (LedgerEvent::LedgerClosed { on }, Some(row)) => {
                LedgerHead { status: LedgerStatus::Closed, closed_on: Some(on), ..row }
            }
            (LedgerEvent::LedgerClosed { .. }, None) => {
                return Err(Error::corrupt(format!("ledger {key} does not begin with its opening")));
            }
            (
                LedgerEvent::ChargePosted { .. }
                | LedgerEvent::PaymentReceived { .. }
                | LedgerEvent::PaymentAllocated { .. }
                | LedgerEvent::PaymentReversed { .. }
                | LedgerEvent::ChargeReversed { .. },
                _,
            ) => return Ok(()),
        };
        rows.put(key, row)
    }
}

/// Told by the type, so that the many events about money are not decoded here.
fn concerns(event: &Recorded) -> bool {
    event.stream.kind == AggregateKind::Ledger && matches!(event.event_type.as_str(), "LedgerOpened" | "LedgerClosed")
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LedgersFilter {
    pub status: Option<LedgerStatus>,
    pub property_id: Option<PropertyId>,
    pub unit_id: Option<UnitId>,
    pub tenant: Option<PartyId>,
}

/// All ledgers that pass, by lease.
pub async fn ledgers(
    snapshot: &mut dyn ViewSnapshot,
    filter: &LedgersFilter,
    page: &PageRequest,
) -> Result<Answer<Page<LedgerHead>>> {
    let filters = [
        filter.status.map(|status| Filter::Eq("status", status.as_str().into())),
        filter.property_id.map(|id| Filter::Eq("property_id", id.to_string().into())),
        filter.unit_id.map(|id| Filter::Eq("unit_id", id.to_string().into())),
    ];
    let filters = filters.into_iter().flatten().collect();
    let place = |_: &LedgerHead| FieldValue::Null;
    let (value, valid_until) = scan(snapshot, &SPEC, filters, OrderBy::KEY, page, place, |row: &LedgerHead| {
        let wanted = filter.tenant.is_none_or(|tenant| row.tenants.contains(&tenant));
        Look { shown: wanted.then(|| row.clone()), valid_until: None }
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One ledger without its money; `None` when the lease has none.
pub async fn ledger_head(snapshot: &mut dyn ViewSnapshot, lease_id: LeaseId) -> Result<Answer<Option<LedgerHead>>> {
    let key = lease_id.to_string();
    let value = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value, tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

/// Every ledger (or one) that was open or closed at a position, by lease.
pub async fn ledgers_at(
    snapshot: &mut dyn ViewSnapshot,
    position: Position,
    only: Option<LeaseId>,
) -> Result<Vec<LedgerHead>> {
    if let Some(lease_id) = only {
        let found: Option<LedgerHead> = find(snapshot, SPEC.name, &lease_id.to_string()).await?;
        return Ok(found.into_iter().filter(|head| head.position <= position).collect());
    }
    let mut heads = Vec::new();
    let mut select = Select { model: SPEC.name, filters: vec![], order: OrderBy::KEY, after: None, limit: CHUNK };
    loop {
        let rows = snapshot.select(&select).await?;
        let is_last = rows.len() < CHUNK;
        for row in rows {
            let head: LedgerHead = row.read(SPEC.name)?;
            heads.extend((head.position <= position).then_some(head));
            select.after = Some((FieldValue::Null, row.key));
        }
        if is_last {
            return Ok(heads);
        }
    }
}

#[cfg(test)]
mod tests;
