//! `units`: every unit for staff, with its occupancy on a day derived from its calendar.

use std::collections::BTreeSet;

use domain::units::{Amenity, Bathrooms, Listing, Occupancy, Unit, UnitEvent};
use domain::{Aggregate, AggregateKind, Context, Currency, Date, DateRange, Money, PropertyId, Timestamp, UnitId};
use ports::{Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::available_units::{city_key, unit_of};
use crate::scan::{Look, find, scan};
use crate::time::{earliest, next_midnight};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "units",
    fold_version: 1,
    context: Context::Units,
    fields: &[
        Field { name: "property_id", kind: FieldKind::Text },
        Field { name: "city", kind: FieldKind::Text },
        Field { name: "status", kind: FieldKind::Text },
        Field { name: "listed", kind: FieldKind::Int },
    ],
};

pub struct Units;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    unit_id: UnitId,
    /// The unit's sequence.
    version: u64,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitStatus {
    Active,
    Retired,
}

impl UnitStatus {
    fn of(unit: &Unit) -> Self {
        if unit.is_retired() { Self::Retired } else { Self::Active }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        // A row that has no facts is not put.
        let Some(facts) = self.unit.facts() else { return vec![FieldValue::Null; SPEC.fields.len()] };
        vec![
            facts.property.property_id.to_string().into(),
            city_key(&facts.property.city).into(),
            UnitStatus::of(&self.unit).as_str().into(),
            i64::from(self.unit.listing().is_some()).into(),
        ]
    }
}

impl ReadModel for Units {
    fn spec(&self) -> &'static ModelSpec {
        &SPEC
    }

    fn feed(&self) -> Feed {
        Feed::Streams(AggregateKind::Unit)
    }

    fn keys(&self, event: &Recorded) -> Result<Vec<String>> {
        Ok(match event.stream.kind {
            AggregateKind::Unit => vec![event.stream.id.clone()],
            _ => vec![],
        })
    }

    fn fold(&self, event: &Recorded, rows: &mut Rows) -> Result<()> {
        if event.stream.kind != AggregateKind::Unit {
            return Ok(());
        }
        let key = &event.stream.id;
        let unit_id = unit_of(event)?;
        let fact: UnitEvent = event.decode()?;
        let first = || Row { unit_id, unit: Unit::default(), version: 0 };
        rows.update(key, first, |row: &mut Row| {
            row.unit.apply(fact);
            row.version = event.sequence;
            match row.unit.facts() {
                Some(_) => Ok(()),
                None => Err(Error::corrupt(format!("unit {key} does not begin with its addition"))),
            }
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UnitsFilter {
    pub property_id: Option<PropertyId>,
    pub city: Option<String>,
    pub status: Option<UnitStatus>,
    pub listed: Option<bool>,
    /// As derived on the day asked for.
    pub occupancy: Option<Occupancy>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UnitOut {
    pub unit_id: UnitId,
    /// For `If-Match`.
    pub version: u64,
    pub property_id: PropertyId,
    pub property_name: String,
    pub unit_number: String,
    pub city: String,
    pub region: Option<String>,
    pub country: String,
    /// IANA name.
    pub time_zone: String,
    #[schema(value_type = String, example = "USD")]
    pub currency: Currency,
    pub jurisdiction: String,
    pub bedrooms: u8,
    pub bathrooms: Bathrooms,
    pub area_m2: u32,
    pub amenities: BTreeSet<Amenity>,
    pub status: UnitStatus,
    /// Null while the unit is not offered.
    pub listing: Option<ListingOut>,
    pub occupancy: Occupancy,
    /// The day that occupancy and price are of.
    #[schema(value_type = String, format = Date)]
    pub as_of: Date,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ListingOut {
    pub price: Money,
    pub deposit: Money,
    #[schema(value_type = String, format = Date)]
    pub available_from: Date,
    pub min_term_months: u16,
}

impl ListingOut {
    fn on(listing: &Listing, day: Date) -> Self {
        Self {
            price: listing.price_on(day),
            deposit: listing.deposit,
            available_from: listing.available_from,
            min_term_months: listing.min_term_months,
        }
    }
}

/// All units that pass, in the order they were added. Without `as_of`: today in each unit's own zone.
pub async fn units(
    snapshot: &mut dyn ViewSnapshot,
    filter: &UnitsFilter,
    as_of: Option<Date>,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Page<UnitOut>>> {
    let filters = [
        filter.property_id.map(|id| Filter::Eq("property_id", id.to_string().into())),
        filter.city.as_ref().map(|city| Filter::Eq("city", city_key(city).into())),
        filter.status.map(|status| Filter::Eq("status", status.as_str().into())),
        filter.listed.map(|listed| Filter::Eq("listed", i64::from(listed).into())),
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
            let Look { shown, valid_until } = look(row, as_of, now);
            let wanted = |unit: &UnitOut| filter.occupancy.is_none_or(|occupancy| occupancy == unit.occupancy);
            Look { shown: shown.filter(wanted), valid_until }
        },
    )
    .await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

/// One unit; `None` when there is no such unit.
pub async fn unit(
    snapshot: &mut dyn ViewSnapshot,
    unit_id: UnitId,
    as_of: Option<Date>,
    now: Timestamp,
) -> Result<Answer<Option<UnitOut>>> {
    let key = unit_id.to_string();
    let row: Option<Row> = find(snapshot, SPEC.name, &key).await?;
    let seen = row.map(|row| look(&row, as_of, now)).unwrap_or(Look { shown: None, valid_until: None });
    Ok(Answer { value: seen.shown, tags: vec![Tag::row(SPEC.name, key)], valid_until: seen.valid_until })
}

fn look(row: &Row, as_of: Option<Date>, now: Timestamp) -> Look<UnitOut> {
    let Some(facts) = row.unit.facts() else { return Look { shown: None, valid_until: None } };
    let day = as_of.unwrap_or_else(|| row.unit.today(now));
    let zone = &facts.property.time_zone;
    // Of a given day only a hold running out can change the picture; of today, midnight too.
    let midnight = || next_midnight(zone, now);
    let on_the_day = DateRange { from: day, to: day.tomorrow().ok() };
    let valid_until =
        earliest([as_of.is_none().then(midnight).flatten(), row.unit.calendar().next_expiry(&on_the_day, now)]);
    let shown = UnitOut {
        unit_id: row.unit_id,
        version: row.version,
        property_id: facts.property.property_id,
        property_name: facts.property.property_name.clone(),
        unit_number: facts.unit_number.clone(),
        city: facts.property.city.clone(),
        region: facts.property.region.clone(),
        country: facts.property.country.clone(),
        time_zone: zone.clone(),
        currency: facts.property.currency,
        jurisdiction: facts.property.jurisdiction.clone(),
        bedrooms: facts.bedrooms,
        bathrooms: facts.bathrooms(),
        area_m2: facts.area_m2,
        amenities: facts.amenities.clone(),
        status: UnitStatus::of(&row.unit),
        listing: row.unit.listing().map(|listing| ListingOut::on(listing, day)),
        occupancy: row.unit.calendar().occupancy_on(day, now),
        as_of: day,
    };
    Look { shown: Some(shown), valid_until }
}

#[cfg(test)]
mod tests;
