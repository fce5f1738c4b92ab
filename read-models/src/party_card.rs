//! `party_card`: the people. The only read model with personal fields; its answers depend on who asks and must never enter a
//! cache that others read (nor Redis).

use std::collections::BTreeSet;
use std::fmt;

use domain::legal::{EmergencyContact, Names, PartyDetails, PartyEvent, PartyKind, PartyRole, PostalAddress};
use domain::{AggregateKind, Context, Date, PartyId, Personal};
use ports::{Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, find, scan};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

/// No personal field is an index field.
pub static SPEC: ModelSpec = ModelSpec {
    name: "party_card",
    fold_version: 1,
    context: Context::Legal,
    fields: &[Field { name: "kind", kind: FieldKind::Text }],
};

pub struct PartyCard;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    party_id: PartyId,
    version: u64,
    kind: PartyKind,
    roles: BTreeSet<PartyRole>,
    personal: Personal<PartyDetails>,
}

/// What a reader may see of a person (domain.md 2.4: R and W see all, M is masked).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Mask {
    Clear,
    /// Names stay; birth date and emergency contact go, the rest shows only enough to recognise it.
    Masked,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PartyOut {
    pub party_id: PartyId,
    /// For `If-Match`.
    pub version: u64,
    pub kind: PartyKind,
    pub roles: BTreeSet<PartyRole>,
    /// The person was erased: nothing about them is left.
    pub erased: bool,
    /// Fields are masked for this reader.
    pub masked: bool,
    pub names: Option<Names>,
    #[schema(value_type = Option<String>, format = Date)]
    pub birth_date: Option<Date>,
    pub tax_id: Option<String>,
    pub emails: Vec<String>,
    pub phones: Vec<String>,
    pub address: Option<PostalAddress>,
    pub emergency_contact: Option<EmergencyContact>,
}

impl fmt::Debug for PartyOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartyOut").field("party_id", &self.party_id).field("version", &self.version).finish_non_exhaustive()
    }
}

fn kind_name(kind: PartyKind) -> &'static str {
    match kind {
        PartyKind::Person => "person",
        PartyKind::Company => "company",
    }
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        vec![kind_name(self.kind).into()]
    }
}

impl ReadModel for PartyCard {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Party)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Party => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Party {
            return Ok(());
        }
        let key = &event.stream.id;
        let version = event.sequence;
        let row = match (rows.get::<Row>(key)?, event.decode()?) {
            (_, PartyEvent::PartyRegistered { party_id, kind, roles, personal }) => {
                Row { party_id, version, kind, roles, personal }
            }
            (Some(row), PartyEvent::PartyUpdated { roles, personal, .. }) => Row { version, roles, personal, ..row },

            (None, PartyEvent::PartyUpdated { .. }) => {
                return Err(Error::corrupt(format!("party {key} does not begin with the registration")));
            }
        };
        rows.put(key, row)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PartiesFilter {
    pub kind: Option<PartyKind>,
    pub role: Option<PartyRole>,
}

/// In the order they were registered.
pub async fn parties(
    snapshot: &mut dyn ViewSnapshot,
    filter: &PartiesFilter,
    mask: Mask,
    page: &PageRequest,
) -> Result<Answer<Page<PartyOut>>> {
    let filters = filter.kind.map(|kind| Filter::Eq("kind", kind_name(kind).into())).into_iter().collect();
    let place = |_: &Row| FieldValue::Null;
    let (value, valid_until) = scan(snapshot, &SPEC, filters, OrderBy::KEY, page, place, |row: &Row| {
        let wanted = filter.role.is_none_or(|role| row.roles.contains(&role));
        Look { shown: wanted.then(|| look(row.clone(), mask)), valid_until: None }
    })
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One party; `None` when there is no such party.
pub async fn party(snapshot: &mut dyn ViewSnapshot, party_id: PartyId, mask: Mask) -> Result<Answer<Option<PartyOut>>> {
    let key = party_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    Ok(Answer { value: row.map(|row| look(row, mask)), tags: vec![Tag::row(SPEC.name, key)], valid_until: None })
}

fn look(row: Row, mask: Mask) -> PartyOut {
    let erased = row.personal.0.is_none();
    let details = row.personal.0.map(|details| match mask {
        Mask::Clear => details,
        Mask::Masked => masked(details),
    });
    let names = details.as_ref().map(|details| details.names.clone());
    let PartyDetails { names: _, birth_date, tax_id, emails, phones, address, emergency_contact } =
        details.unwrap_or_default();
    PartyOut {
        party_id: row.party_id,
        version: row.version,
        kind: row.kind,
        roles: row.roles,
        erased,
        masked: mask == Mask::Masked,
        names,
        birth_date,
        tax_id,
        emails,
        phones,
        address,
        emergency_contact,
    }
}

fn masked(details: PartyDetails) -> PartyDetails {
    PartyDetails {
        names: details.names,
        birth_date: None,
        tax_id: details.tax_id.map(|tax_id| masked_number(&tax_id)),
        emails: details.emails.iter().map(|email| masked_email(email)).collect(),
        phones: details.phones.iter().map(|phone| masked_number(phone)).collect(),
        address: details.address.map(|address| PostalAddress {
            line1: "***".into(),
            line2: None,
            city: address.city,
            region: address.region,
            postal_code: None,
            country: address.country,
        }),
        emergency_contact: None,
    }
}

/// The last two characters, of six and more.
fn masked_number(number: &str) -> String {
    let characters: Vec<char> = number.chars().collect();
    let shown = if characters.len() < 6 { 0 } else { 2 };
    let tail: String = characters[characters.len() - shown..].iter().collect();
    format!("***{tail}")
}

/// The first character and the top-level domain.
fn masked_email(email: &str) -> String {
    let first: String = email.chars().take(1).collect();
    let host = email.rsplit_once('@').map_or("", |(_, host)| host);
    match host.rsplit_once('.') {
        Some((_, top)) => format!("{first}***@***.{top}"),
        None => format!("{first}***@***"),
    }
}

#[cfg(test)]
mod tests;
