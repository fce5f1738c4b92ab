//! `properties`: the buildings, their owners over time, and how many units they have.

use std::collections::BTreeMap;

use domain::units::{Address, OwnerShare, PropertyEvent, PropertyType, RegisterProperty};
use domain::{AggregateKind, Context, Currency, Date, PropertyId, Timestamp, UnitId, today_in};
use ports::{Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::available_units::city_key;
use crate::scan::{Look, find, scan};
use crate::time::day_begins;
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "properties",
    fold_version: 1,
    context: Context::Units,
    fields: &[
        Field { name: "city", kind: FieldKind::Text },
        Field { name: "status", kind: FieldKind::Text },
        Field { name: "country", kind: FieldKind::Text },
    ],
};

pub struct Properties;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PropertyStatus {
    #[default]
    Active,
    Inactive,
}

impl PropertyStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    /// The property's sequence.
    version: u64,
    registered: RegisterProperty,
    status: PropertyStatus,
    /// Assignments after the registration, in the order they were recorded.
    owners: Vec<(Date, Vec<OwnerShare>)>,
    /// Retired or not.
    units: BTreeMap<UnitId, bool>,
}

impl Row {
    /// The assignment with the latest date not after `day`; of two for one date, the one recorded last.
    fn owners_on(&self, day: Date) -> &[OwnerShare] {
        let begun = self.owners.iter().filter(|(effective_on, _)| *effective_on <= day);
        begun.max_by_key(|(effective_on, _)| *effective_on).map_or(&self.registered.owners, |(_, owners)| owners)
    }

    fn apply(&mut self, event: PropertyEvent) {
        match event {
            PropertyEvent::PropertyRegistered(registered) => self.registered = registered,
            PropertyEvent::OwnersAssigned { owners, effective_on } => self.owners.push((effective_on, owners)),
            PropertyEvent::PropertyInactivated {} => self.status = PropertyStatus::Inactive,
            PropertyEvent::UnitNumberClaimed { unit_id, .. } => {
                self.units.entry(unit_id).or_insert(false);
            }
            PropertyEvent::UnitNumberReleased { .. } => {}
            PropertyEvent::UnitRetirementNoted { unit_id } => {
                self.units.insert(unit_id, true);
            }
            PropertyEvent::UnitReinstatementNoted { unit_id } => {
                self.units.insert(unit_id, false);
            }
        }
    }
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        vec![
            city_key(&self.registered.address.city).into(),
            self.status.as_str().into(),
            self.registered.address.country.clone().into(),
        ]
    }
}

impl ReadModel for Properties {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Property)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Property => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Property {
            return Ok(());
        }
        let key = &event.stream.id;
        let mut row = match (rows.get::<Row>(key)?, event.decode()?) {
            (Some(mut row), event) => {
                row.apply(event);
                row
            }
            (None, PropertyEvent::PropertyRegistered(registered)) => {
                Row { version: 0, registered, status: PropertyStatus::Active, owners: vec![], units: BTreeMap::new() }
            }
            (None, _) => return Err(Error::corrupt(format!("property {key} does not begin with its registration"))),
        };
        row.version = event.sequence;
        rows.put(key, row)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PropertiesFilter {
    pub city: Option<String>,
    pub country: Option<String>,
    pub status: Option<PropertyStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PropertyOut {
    pub property_id: PropertyId,
    /// For `If-Match`.
    pub version: u64,
    pub name: String,
    #[serde(rename = "type")]
    pub property_type: PropertyType,
    pub address: Address,
    /// IANA name.
    pub time_zone: String,
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    pub jurisdiction: String,
    pub status: PropertyStatus,
    /// On the day `as_of`.
    pub owners: Vec<OwnerShare>,
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
    pub units: usize,
    /// Units that are not retired.
    pub active_units: usize,
}

/// In the order they were registered. Without `as_of`: today in each property's own zone.
pub async fn properties(
    snapshot: &mut dyn ViewSnapshot,
    filter: &PropertiesFilter,
    as_of: Option<Date>,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Page<PropertyOut>>> {
    let filters = [
        filter.city.as_ref().map(|city| Filter::Eq("city", city_key(city).into())),
        filter.country.as_ref().map(|country| Filter::Eq("country", country.clone().into())),
        filter.status.map(|status| Filter::Eq("status", status.as_str().into())),
    ];
    let filters = filters.into_iter().flatten().collect();
    let place = |_: &Row| FieldValue::Null;
    let (value, valid_until) =
        scan(snapshot, &SPEC, filters, OrderBy::KEY, page, place, |row: &Row| look(row, as_of, now)).await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One property; `None` when there is no such property.
pub async fn property(
    snapshot: &mut dyn ViewSnapshot,
    property_id: PropertyId,
    as_of: Option<Date>,
    now: Timestamp,
) -> Result<Answer<Option<PropertyOut>>> {
    let key = property_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    let seen = row.map(|row| look(&row, as_of, now)).unwrap_or(Look { shown: None, valid_until: None });
    Ok(Answer { value: seen.shown, tags: vec![Tag::row(SPEC.name, key)], valid_until: seen.valid_until })
}

fn look(row: &Row, as_of: Option<Date>, now: Timestamp) -> Look<PropertyOut> {
    let registered = &row.registered;
    let day = as_of.unwrap_or_else(|| today_in(&registered.time_zone, now));
    // `as_of` itself is part of the answer, so an answer of today ends at midnight.
    let valid_until = match as_of {
        Some(_) => None,
        None => day.tomorrow().ok().and_then(|next| day_begins(next, &registered.time_zone)),
    };
    let shown = PropertyOut {
        property_id: registered.property_id,
        version: row.version,
        name: registered.name.clone(),
        property_type: registered.property_type,
        address: registered.address.clone(),
        time_zone: registered.time_zone.clone(),
        currency: registered.currency,
        jurisdiction: registered.jurisdiction.clone(),
        status: row.status,
        owners: row.owners_on(day).to_vec(),
        as_of: day,
        units: row.units.len(),
        active_units: row.units.values().filter(|retired| !**retired).count(),
    };
    Look { shown: Some(shown), valid_until }
}

#[cfg(test)]
mod tests;
