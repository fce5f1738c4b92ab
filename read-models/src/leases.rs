//! `leases`: every lease with its terms and state, now and at any earlier position of the log.

use domain::legal::{ActivationFailure, LeaseEvent, LeasePlace, LeaseState, LeaseTerms, SignatureMethod};
use domain::{AggregateKind, Context, Currency, Date, DocumentId, LeaseId, PartyId, PropertyId, Refusal, Sha256, UnitId};
use ports::{
    Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Position, Recorded, Result, Select, ViewSnapshot,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "leases",
    fold_version: 1,
    context: Context::Legal,
    fields: &[
        Field { name: "status", kind: FieldKind::Text },
        Field { name: "unit_id", kind: FieldKind::Text },
        Field { name: "property_id", kind: FieldKind::Text },
        // ISO 8601, so that the order of the texts is that of the days.
        Field { name: "end_date", kind: FieldKind::Text },
    ],
};

/// Rows read at once for a register.
const CHUNK: usize = 500;

pub struct Leases;

/// A lease as it was after each of its events. Terms are kept once for each time they were written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    lease_id: Option<LeaseId>,
    /// Places in `history` are steps; `terms[step.terms]` are the terms of a step.
    terms: Vec<(LeaseTerms, LeasePlace)>,
    history: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Step {
    position: Position,
    sequence: u64,
    effective_on: Date,
    terms: usize,
    standing: Standing,
}

/// All of a lease that is not its terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Standing {
    state: LeaseState,
    sent: Option<Sent>,
    terms_hash: Option<Sha256>,
    term_version: u32,
    signed_on: Option<Date>,
    activated_on: Option<Date>,
    vacated_on: Option<Date>,
    send_refusal: Option<Refusal>,
    activation_failure: Option<ActivationFailure>,
    /// Why it was declined or voided.
    reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sent {
    document_id: DocumentId,
    document_sha256: Sha256,
    signers: Vec<PartyId>,
    signatures: Vec<SignatureOut>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: LeaseState::Draft,
            sent: None,
            terms_hash: None,
            term_version: 0,
            signed_on: None,
            activated_on: None,
            vacated_on: None,
            send_refusal: None,
            activation_failure: None,
            reason: None,
        }
    }
}

impl Standing {
    fn apply(&mut self, event: &LeaseEvent) {
        if let Some(state) = event.leads_to() {
            self.state = state;
        }
        match event {
            LeaseEvent::LeaseDrafted { .. } | LeaseEvent::LeaseDraftEdited { .. } => {}
            LeaseEvent::LeaseSendRequested { document_id, document_sha256, signers, .. } => {
                let (document_id, document_sha256, signers) = (*document_id, *document_sha256, signers.clone());
                self.sent = Some(Sent { document_id, document_sha256, signers, signatures: vec![] });
                self.send_refusal = None;
                self.reason = None;
            }
            LeaseEvent::LeaseSent { terms_hash, .. } => self.terms_hash = Some(*terms_hash),
            LeaseEvent::LeaseSendRefused { refusal, .. } => {
                self.sent = None;
                self.send_refusal = Some(refusal.clone());
            }
            LeaseEvent::LeaseSignatureAdded { party_id, method, on, .. } => {
                if let Some(sent) = self.sent.as_mut() {
                    sent.signatures.push(SignatureOut { party_id: *party_id, method: *method, on: *on });
                }
            }
            LeaseEvent::LeaseSigned { version, terms_hash, signed_on, .. } => {
                self.term_version = *version;
                self.terms_hash = Some(*terms_hash);
                self.signed_on = Some(*signed_on);
            }
            LeaseEvent::LeaseDeclined { reason, .. } => {
                self.sent = None;
                self.terms_hash = None;
                self.reason = reason.clone();
            }
            LeaseEvent::LeaseVoided { reason, .. } => self.reason = Some(reason.clone()),
            LeaseEvent::LeaseActivated { on, .. } => {
                self.activated_on = Some(*on);
                self.activation_failure = None;
            }
            LeaseEvent::LeaseActivationFailed { failure } => self.activation_failure = Some(failure.clone()),
            LeaseEvent::LeaseTerminated { vacated_on, .. } => self.vacated_on = Some(*vacated_on),
        }
    }
}

impl Row {
    fn last(&self) -> Option<&Step> {
        self.history.last()
    }

    fn terms_of(&self, step: &Step) -> Option<&(LeaseTerms, LeasePlace)> {
        self.terms.get(step.terms)
    }

    /// As the log told it at a position, on a business date.
    fn at(&self, position: Position, as_of: Date) -> Option<&Step> {
        self.history.iter().rev().find(|step| step.position <= position && step.effective_on <= as_of)
    }
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        // A row that has no draft is not put.
        let last = self.last().and_then(|step| Some((step, self.terms_of(step)?)));
        let Some((step, (terms, place))) = last else { return vec![FieldValue::Null; SPEC.fields.len()] };
        vec![
            step.standing.state.as_str().into(),
            terms.unit_id.to_string().into(),
            place.property_id.to_string().into(),
            terms.end_date.map(|end| end.to_string()).into(),
        ]
    }
}

impl ReadModel for Leases {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Lease)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Lease => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Lease {
            return Ok(());
        }
        let key = &event.stream.id;
        let fact: LeaseEvent = event.decode()?;
        rows.update(key, Row::default, |row: &mut Row| {
            let mut standing = row.last().map(|step| step.standing.clone()).unwrap_or_default();
            standing.apply(&fact);
            if let LeaseEvent::LeaseDrafted { lease_id, .. } = &fact {
                row.lease_id = Some(*lease_id);
            }
            if let LeaseEvent::LeaseDrafted { terms, place, .. } | LeaseEvent::LeaseDraftEdited { terms, place } = fact {
                row.terms.push((terms, place));
            }
            let terms = row.terms.len().checked_sub(1);
            let terms = terms.ok_or_else(|| Error::corrupt(format!("lease {key} does not begin with its draft")))?;
            let (position, sequence, effective_on) = (event.position, event.sequence, event.effective_on);
            row.history.push(Step { position, sequence, effective_on, terms, standing });
            Ok(())
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LeasesFilter {
    pub status: Option<LeaseState>,
    pub unit_id: Option<UnitId>,
    pub property_id: Option<PropertyId>,
    /// Tenant, guarantor or signer; the only filter of a tenant's own list.
    pub party_id: Option<PartyId>,
    /// The last day is before this one; open-ended leases never end.
    pub ending_before: Option<Date>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignatureOut {
    pub party_id: PartyId,
    pub method: SignatureMethod,
    #[schema(value_type = String, format = Date)]
    pub on: Date,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LeaseOut {
    pub lease_id: LeaseId,
    /// For `If-Match`.
    pub version: u64,
    pub status: LeaseState,
    pub property_id: PropertyId,
    /// IANA name; of the unit.
    pub time_zone: String,
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    pub jurisdiction: String,
    pub terms: LeaseTerms,
    /// Signed versions of the terms; 0 before the first signing.
    pub term_version: u32,
    #[schema(value_type = Option<String>)]
    pub terms_hash: Option<Sha256>,
    pub document_id: Option<DocumentId>,
    #[schema(value_type = Option<String>)]
    pub document_sha256: Option<Sha256>,
    /// Who is asked to sign what was sent.
    pub signers: Vec<PartyId>,
    pub signatures: Vec<SignatureOut>,
    #[schema(value_type = Option<String>, format = Date)]
    pub signed_on: Option<Date>,
    #[schema(value_type = Option<String>, format = Date)]
    pub activated_on: Option<Date>,
    #[schema(value_type = Option<String>, format = Date)]
    pub vacated_on: Option<Date>,
    /// Why the last sending came back, e.g. `UNIT_NOT_AVAILABLE`.
    #[schema(value_type = Option<Object>)]
    pub send_refusal: Option<Refusal>,
    /// Why it is signed but not under way.
    pub activation_failure: Option<ActivationFailure>,
    /// Why it was declined or voided.
    pub reason: Option<String>,
}

impl LeaseOut {
    /// Whether a party is tenant, guarantor or signer of it: what `own` means for a tenant.
    pub fn concerns(&self, party_id: PartyId) -> bool {
        concerns(&self.terms, &self.signers, party_id)
    }
}

fn concerns(terms: &LeaseTerms, signers: &[PartyId], party_id: PartyId) -> bool {
    let tenants = || terms.tenants.iter().map(|tenant| tenant.party_id);
    tenants().chain(terms.guarantors.iter().copied()).chain(signers.iter().copied()).any(|id| id == party_id)
}

/// All leases that pass, in the order they were drafted.
pub async fn leases(
    snapshot: &mut dyn ViewSnapshot,
    filter: &LeasesFilter,
    page: &PageRequest,
) -> Result<Answer<Page<LeaseOut>>> {
    // Days are compared as text; the day before is the last that is before.
    let ending = filter.ending_before.map(|day| day.yesterday().unwrap_or(day));
    let filters = [
        filter.status.map(|status| Filter::Eq("status", status.as_str().into())),
        filter.unit_id.map(|id| Filter::Eq("unit_id", id.to_string().into())),
        filter.property_id.map(|id| Filter::Eq("property_id", id.to_string().into())),
        ending.map(|day| Filter::AtMost("end_date", day.to_string().into())),
    ];
    let filters = filters.into_iter().flatten().collect();
    let (value, valid_until) = scan(
        snapshot,
        &SPEC,
        filters,
        OrderBy::KEY,
        page,
        |_: &Row| FieldValue::Null,
        |row: &Row| {
            let shown = look(row).filter(|lease| filter.party_id.is_none_or(|party_id| lease.concerns(party_id)));
            Look { shown, valid_until: None }
        },
    )
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One lease; `None` when there is no such lease.
pub async fn lease(snapshot: &mut dyn ViewSnapshot, lease_id: LeaseId) -> Result<Answer<Option<LeaseOut>>> {
    let key = lease_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value: row.and_then(|row| look(&row)), tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

fn look(row: &Row) -> Option<LeaseOut> {
    let step = row.last()?;
    let (terms, place) = row.terms_of(step)?.clone();
    let standing = step.standing.clone();
    let (document_id, document_sha256, signers, signatures) = match standing.sent {
        Some(sent) => (Some(sent.document_id), Some(sent.document_sha256), sent.signers, sent.signatures),
        None => (None, None, vec![], vec![]),
    };
    Some(LeaseOut {
        lease_id: row.lease_id?,
        version: step.sequence,
        status: standing.state,
        property_id: place.property_id,
        time_zone: place.time_zone,
        currency: place.currency,
        jurisdiction: place.jurisdiction,
        terms,
        term_version: standing.term_version,
        terms_hash: standing.terms_hash,
        document_id,
        document_sha256,
        signers,
        signatures,
        signed_on: standing.signed_on,
        activated_on: standing.activated_on,
        vacated_on: standing.vacated_on,
        send_refusal: standing.send_refusal,
        activation_failure: standing.activation_failure,
        reason: standing.reason,
    })
}

/// A line of the lease register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisterLine {
    pub lease_id: LeaseId,
    pub status: LeaseState,
    pub terms: LeaseTerms,
    pub place: LeasePlace,
    pub term_version: u32,
    pub terms_hash: Option<Sha256>,
    pub signed_on: Option<Date>,
    pub activated_on: Option<Date>,
    pub vacated_on: Option<Date>,
}

/// Every lease (or one) as the log told it at a position, on a business date; by lease id. The same whatever was appended
/// since.
pub async fn register(
    snapshot: &mut dyn ViewSnapshot,
    position: Position,
    as_of: Date,
    only: Option<LeaseId>,
) -> Result<Vec<RegisterLine>> {
    let mut lines = Vec::new();
    if let Some(lease_id) = only {
        let row: Option<Row> = find(snapshot, SPEC.name, &lease_id.to_string()).await?;
        lines.extend(row.and_then(|row| register_line(&row, position, as_of)));
        return Ok(lines);
    }
    let mut select = Select { model: SPEC.name, filters: vec![], order: OrderBy::KEY, after: None, limit: CHUNK };
    loop {
        let rows = snapshot.select(&select).await?;
        let is_last = rows.len() < CHUNK;
        for stored in rows {
            let row: Row = stored.read(SPEC.name)?;
            lines.extend(register_line(&row, position, as_of));
            select.after = Some((FieldValue::Null, stored.key));
        }
        if is_last {
            return Ok(lines);
        }
    }
}

fn register_line(row: &Row, position: Position, as_of: Date) -> Option<RegisterLine> {
    let step = row.at(position, as_of)?;
    let (terms, place) = row.terms_of(step)?.clone();
    let Standing { state, term_version, terms_hash, signed_on, activated_on, vacated_on, .. } = step.standing.clone();
    let (lease_id, status) = (row.lease_id?, state);
    Some(RegisterLine { lease_id, status, terms, place, term_version, terms_hash, signed_on, activated_on, vacated_on })
}

#[cfg(test)]
pub(crate) mod tests;
