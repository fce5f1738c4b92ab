//! The public search for units to rent.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use domain::units::{Amenity, Bathrooms};
use domain::{Date, PropertyId};
use read_models::Page;
use read_models::available_units::{self, AvailableUnitOut, AvailableUnitsFilter};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Problem, Query, QueryProblems};

use crate::QueryApi;
use crate::api::route;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

use super::check;

query! {
    /// Units that can be rented.
    AvailableUnits { filter: AvailableUnitsFilter, page: Paging }
    as "list", Public, reads [available_units::SPEC],
    page(this, snapshot, now) available_units::available_units(snapshot, &this.filter, &this.page.request(), now)
}

/// The list as asked for without any parameter: the one that the projector keeps in the shared cache.
pub(crate) fn default_list() -> impl crate::Query {
    AvailableUnits { filter: AvailableUnitsFilter::default(), page: Paging::default() }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AvailableParams {
    /// First day; today in each unit's own zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<Date>,
    /// First day after the stay. Without it a unit must be free at `from`, and the answer says until when it is.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<Date>,
    city: Option<String>,
    /// In minor units, inclusive.
    #[param(minimum = 0)]
    min_price: Option<i64>,
    /// In minor units, inclusive.
    #[param(minimum = 0)]
    max_price: Option<i64>,
    /// Exactly so many.
    #[param(maximum = 255)]
    bedrooms: Option<u8>,
    #[param(maximum = 255)]
    min_bedrooms: Option<u8>,
    /// Exactly so many, in steps of 0.5.
    #[param(value_type = Option<f64>, minimum = 0, maximum = 50, multiple_of = 0.5)]
    bathrooms: Option<Bathrooms>,
    /// In square metres.
    min_area: Option<u32>,
    /// All of them, separated by commas.
    #[param(example = "balcony,elevator")]
    amenities: Option<String>,
    property_id: Option<Uuid>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl AvailableParams {
    fn query(self) -> Result<AvailableUnits, Problem> {
        let page = Paging::new(self.limit, self.cursor.as_deref())?;
        let filter = AvailableUnitsFilter {
            from: self.from,
            to: self.to,
            city: super::text("/query/city", self.city)?,
            min_price: self.min_price,
            max_price: self.max_price,
            bedrooms: self.bedrooms,
            min_bedrooms: self.min_bedrooms,
            bathrooms: self.bathrooms,
            min_area: self.min_area,
            amenities: amenities(self.amenities.as_deref().unwrap_or_default())?,
            property_id: self.property_id.map(PropertyId),
        };
        check(filter.check())?;
        Ok(AvailableUnits { filter, page })
    }
}

fn amenities(text: &str) -> Result<BTreeSet<Amenity>, Problem> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| {
            serde_json::from_value(name.into())
                .map_err(|_| Problem::validation("/query/amenities", format!("{name:.50} is no amenity of the list")))
        })
        .collect()
}

/// Units that can be rented, cheapest first.
#[utoipa::path(get, path = "/units/available", tag = "units", params(AvailableParams), responses(
    (status = 200, body = Page<AvailableUnitOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn available_units(
    State(api): State<QueryApi>,
    asked: Asked,
    Query(params): Query<AvailableParams>,
) -> Result<Response, Problem> {
    api.public(params.query()?, &asked, "list", route!("/units/available")).await
}
