//! `available_units`: what the public can rent. Fed by the units' streams alone; one row a unit, so that a unit listed again
//! still knows its calendar.

use std::collections::BTreeSet;

use domain::units::{Amenity, Bathrooms, Listing, Unit, UnitEvent};
use domain::{
    Aggregate, AggregateKind, Context, Date, DateRange, Fault, Money, PropertyId, Timestamp, UnitId, sane_date, today_in,
};
use ports::{Direction, Error, Field, FieldKind, FieldValue, Filter, ModelSpec, OrderBy, Recorded, Result, ViewSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scan::{Look, scan};
use crate::time::{day_begins, earliest, next_midnight};
use crate::{Answer, Feed, Indexed, Page, PageRequest, ReadModel, Rows, Tag};

pub static SPEC: ModelSpec = ModelSpec {
    name: "available_units",
    // 3: the fold is that of 2; the indexes of texts are others.
    fold_version: 3,
    context: Context::Units,
    // The first is the order of the search: its index carries the others.
    fields: &[
        Field { name: "price_low", kind: FieldKind::Int },
        Field { name: "price_high", kind: FieldKind::Int },
        Field { name: "currency", kind: FieldKind::Text },
        Field { name: "bedrooms", kind: FieldKind::Int },
        Field { name: "bathrooms_x2", kind: FieldKind::Int },
        Field { name: "area_m2", kind: FieldKind::Int },
        Field { name: "city", kind: FieldKind::Text },
        Field { name: "property_id", kind: FieldKind::Text },
    ],
};

pub struct AvailableUnits;

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    unit_id: UnitId,
    unit: Unit,
    /// Lowest and highest price asked now or from an announced date on; absent while not listed.
    prices: Option<(i64, i64)>,
}

impl Indexed for Row {
    fn fields(&self) -> Vec<FieldValue> {
        // A row that has no facts is not put.
        let Some(facts) = self.unit.facts() else { return vec![FieldValue::Null; SPEC.fields.len()] };
        vec![
            self.prices.map(|(low, _)| low).into(),
            self.prices.map(|(_, high)| high).into(),
            facts.property.currency.as_str().into(),
            i64::from(facts.bedrooms).into(),
            i64::from(facts.bathrooms_x2).into(),
            i64::from(facts.area_m2).into(),
            city_key(&facts.property.city).into(),
            facts.property.property_id.to_string().into(),
        ]
    }
}

/// The lowest and the highest price asked on a day or a later one.
fn prices_from(listing: &Listing, day: Date) -> (i64, i64) {
    let now = listing.price_on(day).amount;
    listing.prices_from(day).fold((now, now), |(low, high), price| (low.min(price.amount), high.max(price.amount)))
}

/// The unit whose stream an event stands in.
pub(crate) fn unit_of(event: &Recorded) -> Result<UnitId> {
    let id = event.stream.id.parse().map_err(|_| Error::corrupt(format!("the id of {} is not a UUID", event.stream)))?;
    Ok(UnitId(id))
}

/// Cities are compared without regard to case.
pub(crate) fn city_key(city: &str) -> String {
    city.trim().to_lowercase()
}

impl ReadModel for AvailableUnits {
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
        let first = || Row { unit_id, unit: Unit::default(), prices: None };
        rows.update(key, first, |row: &mut Row| {
            row.unit.apply(fact);
            let facts =
                row.unit.facts().ok_or_else(|| Error::corrupt(format!("unit {key} does not begin with its addition")))?;
            row.prices = row.unit.listing().filter(|_| !row.unit.is_retired()).map(|listing| match listing.only_price() {
                Some(price) => (price.amount, price.amount),
                None => prices_from(listing, today_in(&facts.property.time_zone, event.recorded_at)),
            });
            Ok(())
        })
    }
}

/// The search of domain.md 2.1. What is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AvailableUnitsFilter {
    /// Today in each unit's own zone when absent.
    pub from: Option<Date>,
    /// Exclusive. Without it a unit must be free at `from`, and the reply says until when it is.
    pub to: Option<Date>,
    pub city: Option<String>,
    /// In minor units of the unit's currency, both inclusive.
    pub min_price: Option<i64>,
    pub max_price: Option<i64>,
    /// Exactly so many.
    pub bedrooms: Option<u8>,
    pub min_bedrooms: Option<u8>,
    /// Exactly so many.
    pub bathrooms: Option<Bathrooms>,
    /// In square metres.
    pub min_area: Option<u32>,
    /// All of them.
    pub amenities: BTreeSet<Amenity>,
    pub property_id: Option<PropertyId>,
}

impl AvailableUnitsFilter {
    /// The bounds that no unit's zone can change; pointers name the query parameters.
    pub fn check(&self) -> Result<(), Fault> {
        self.from.map_or(Ok(()), |from| sane_date("/from", from))?;
        self.to.map_or(Ok(()), |to| sane_date("/to", to))?;
        match (self.from, self.to) {
            (Some(from), Some(to)) if to <= from => Err(Fault::new("/to", "must be after from")),
            _ => Ok(()),
        }
    }

    /// What the view store can tell by itself: a row that fails one of these is not in the answer.
    pub fn filters(&self) -> Vec<Filter> {
        let exactly = |name, value: Option<i64>| value.map(|value| Filter::Eq(name, value.into()));
        let at_least = |name, value: Option<i64>| value.map(|value| Filter::AtLeast(name, value.into()));
        let filters = [
            // A unit that is not listed has no price. As a range this is where the search begins in the index; rows without
            // a price, which may be most of them, stand before it.
            at_least("price_low", Some(0)),
            self.city.as_ref().map(|city| Filter::Eq("city", city_key(city).into())),
            at_least("price_high", self.min_price),
            self.max_price.map(|price| Filter::AtMost("price_low", price.into())),
            exactly("bedrooms", self.bedrooms.map(i64::from)),
            at_least("bedrooms", self.min_bedrooms.map(i64::from)),
            exactly("bathrooms_x2", self.bathrooms.map(|bathrooms| i64::from(bathrooms.x2()))),
            at_least("area_m2", self.min_area.map(i64::from)),
            self.property_id.map(|id| Filter::Eq("property_id", id.to_string().into())),
        ];
        filters.into_iter().flatten().collect()
    }

    fn price_fits(&self, price: Money) -> bool {
        self.min_price.is_none_or(|least| least <= price.amount) && self.max_price.is_none_or(|most| price.amount <= most)
    }
}

/// What anybody may see of a unit: nothing of who lives, lived or will live there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AvailableUnitOut {
    pub unit_id: UnitId,
    pub property_id: PropertyId,
    pub property_name: String,
    pub unit_number: String,
    pub city: String,
    pub region: Option<String>,
    pub country: String,
    pub bedrooms: u8,
    pub bathrooms: Bathrooms,
    pub area_m2: u32,
    pub amenities: BTreeSet<Amenity>,
    /// A month's rent as asked today.
    pub price: Money,
    pub deposit: Money,
    #[schema(value_type = String, format = Date)]
    pub available_from: Date,
    pub min_term_months: u16,
    /// The first day after `from` that is taken; null while none is.
    #[schema(value_type = Option<String>, format = Date)]
    pub free_until: Option<Date>,
}

/// The order of the search.
pub const CHEAPEST_FIRST: OrderBy = OrderBy { field: Some("price_low"), direction: Direction::Ascending };

/// Active, listed, and nothing in the way; cheapest first.
pub async fn available_units(
    snapshot: &mut dyn ViewSnapshot,
    filter: &AvailableUnitsFilter,
    page: &PageRequest,
    now: Timestamp,
) -> Result<Answer<Page<AvailableUnitOut>>> {
    let place = |row: &Row| row.prices.map(|(low, _)| low).into();
    let (value, valid_until) =
        scan(snapshot, &SPEC, filter.filters(), CHEAPEST_FIRST, page, place, |row: &Row| look(row, filter, now)).await?;
    Ok(Answer { value, tags: vec![Tag::collection(SPEC.name)], valid_until })
}

fn look(row: &Row, filter: &AvailableUnitsFilter, now: Timestamp) -> Look<AvailableUnitOut> {
    let (Some(facts), Some(listing)) = (row.unit.facts(), row.unit.listing()) else {
        return Look { shown: None, valid_until: None };
    };
    let zone = &facts.property.time_zone;
    let today = row.unit.today(now);
    let from = filter.from.unwrap_or(today);
    let calendar = row.unit.calendar();
    let price = listing.price_on(today);
    // A hold on any day from `from` on may be what bars the unit or what ends `free_until`.
    let valid_until = earliest([
        filter.from.is_none().then(|| next_midnight(zone, now)).flatten(),
        listing.next_price_change(today).and_then(|day| day_begins(day, zone)),
        calendar.next_expiry(&DateRange { from, to: None }, now),
    ]);
    let wanted = match filter.to {
        Some(to) => DateRange::new(from, Some(to)),
        None => from.tomorrow().ok().and_then(|next| DateRange::new(from, Some(next))),
    };
    let is_shown = wanted.is_some_and(|days| calendar.is_free(&days, now))
        && filter.price_fits(price)
        && filter.amenities.is_subset(&facts.amenities);
    let shown = is_shown.then(|| AvailableUnitOut {
        unit_id: row.unit_id,
        property_id: facts.property.property_id,
        property_name: facts.property.property_name.clone(),
        unit_number: facts.unit_number.clone(),
        city: facts.property.city.clone(),
        region: facts.property.region.clone(),
        country: facts.property.country.clone(),
        bedrooms: facts.bedrooms,
        bathrooms: facts.bathrooms(),
        area_m2: facts.area_m2,
        amenities: facts.amenities.clone(),
        price,
        deposit: listing.deposit,
        available_from: listing.available_from,
        min_term_months: listing.min_term_months,
        free_until: calendar.free_until(from, now),
    });
    Look { shown, valid_until }
}

#[cfg(test)]
mod tests;
