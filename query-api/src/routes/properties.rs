//! Properties.

use axum::extract::State;
use axum::response::Response;
use domain::{Date, PropertyId};
use read_models::Page;
use read_models::properties::{self, PropertiesFilter, PropertyOut, PropertyStatus};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Path, Problem, Query, QueryProblems, ReadProperties};

use super::{AsOf, date, text};
use crate::QueryApi;
use crate::api::route;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

query! {
    Properties { filter: PropertiesFilter, as_of: Option<Date>, page: Paging }
    as "list", Shared, reads [properties::SPEC],
    page(this, snapshot, now) properties::properties(snapshot, &this.filter, this.as_of, &this.page.request(), now)
}

query! {
    PropertyById { property_id: PropertyId, as_of: Option<Date> }
    as "one", Shared, reads [properties::SPEC],
    found(this, snapshot, now) properties::property(snapshot, this.property_id, this.as_of, now)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PropertiesParams {
    city: Option<String>,
    /// ISO 3166-1 alpha-2.
    country: Option<String>,
    #[param(value_type = Option<PropertyStatus>, inline)]
    status: Option<PropertyStatus>,
    /// Today in each property's own zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    as_of: Option<Date>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// All properties, in the order they were registered.
#[utoipa::path(get, path = "/properties", tag = "units", params(PropertiesParams), security(("token" = [])), responses(
    (status = 200, body = Page<PropertyOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_properties(
    State(api): State<QueryApi>,
    caller: Allowed<ReadProperties>,
    asked: Asked,
    Query(params): Query<PropertiesParams>,
) -> Result<Response, Problem> {
    date("/query/as_of", params.as_of)?;
    let filter = PropertiesFilter {
        city: text("/query/city", params.city)?,
        country: text("/query/country", params.country)?,
        status: params.status,
    };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    let query = Properties { filter, as_of: params.as_of, page };
    api.staff(&caller, query, &asked, "list", route!("/properties")).await
}

/// One property; its `version` is what `If-Match` compares.
#[utoipa::path(get, path = "/properties/{property_id}", tag = "units", params(("property_id" = Uuid, Path), AsOf),
    security(("token" = [])), responses(
    (status = 200, body = PropertyOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_property(
    State(api): State<QueryApi>,
    caller: Allowed<ReadProperties>,
    asked: Asked,
    Path(property_id): Path<Uuid>,
    Query(params): Query<AsOf>,
) -> Result<Response, Problem> {
    let query = PropertyById { property_id: PropertyId(property_id), as_of: params.day()? };
    api.staff(&caller, query, &asked, "property", route!("/properties/{property_id}")).await
}
