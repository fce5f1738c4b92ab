//! Units as the staff sees them, and their calendars.

use axum::extract::State;
use axum::response::Response;
use domain::units::Occupancy;
use domain::{Date, PropertyId, UnitId};
use read_models::Page;
use read_models::unit_calendar::{self, CalendarOut};
use read_models::units::{self, UnitOut, UnitStatus, UnitsFilter};
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
    Units { filter: UnitsFilter, as_of: Option<Date>, page: Paging }
    as "list", Shared, reads [units::SPEC],
    page(this, snapshot, now) units::units(snapshot, &this.filter, this.as_of, &this.page.request(), now)
}

query! {
    UnitById { unit_id: UnitId, as_of: Option<Date> }
    as "one", Shared, reads [units::SPEC],
    found(this, snapshot, now) units::unit(snapshot, this.unit_id, this.as_of, now)
}

query! {
    UnitCalendar { unit_id: UnitId, from: Option<Date>, to: Option<Date> }
    as "one", Shared, reads [unit_calendar::SPEC],
    found(this, snapshot, now) unit_calendar::unit_calendar(snapshot, this.unit_id, this.from, this.to, now)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UnitsParams {
    property_id: Option<Uuid>,
    city: Option<String>,
    #[param(value_type = Option<UnitStatus>, inline)]
    status: Option<UnitStatus>,
    listed: Option<bool>,
    /// As derived on the day `as_of`.
    #[param(value_type = Option<Occupancy>, inline)]
    occupancy: Option<Occupancy>,
    /// Today in each unit's own zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    as_of: Option<Date>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// All units, in the order they were added.
#[utoipa::path(get, path = "/units", tag = "units", params(UnitsParams), security(("token" = [])), responses(
    (status = 200, body = Page<UnitOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_units(
    State(api): State<QueryApi>,
    caller: Allowed<ReadProperties>,
    asked: Asked,
    Query(params): Query<UnitsParams>,
) -> Result<Response, Problem> {
    date("/query/as_of", params.as_of)?;
    let filter = UnitsFilter {
        property_id: params.property_id.map(PropertyId),
        city: text("/query/city", params.city)?,
        status: params.status,
        listed: params.listed,
        occupancy: params.occupancy,
    };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    api.staff(&caller, Units { filter, as_of: params.as_of, page }, &asked, "list", route!("/units")).await
}

/// One unit; its `version` is what `If-Match` compares.
#[utoipa::path(get, path = "/units/{unit_id}", tag = "units", params(("unit_id" = Uuid, Path), AsOf),
    security(("token" = [])), responses(
    (status = 200, body = UnitOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_unit(
    State(api): State<QueryApi>,
    caller: Allowed<ReadProperties>,
    asked: Asked,
    Path(unit_id): Path<Uuid>,
    Query(params): Query<AsOf>,
) -> Result<Response, Problem> {
    let query = UnitById { unit_id: UnitId(unit_id), as_of: params.day()? };
    api.staff(&caller, query, &asked, "unit", route!("/units/{unit_id}")).await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CalendarParams {
    #[param(value_type = Option<String>, format = Date)]
    from: Option<Date>,
    /// Exclusive.
    #[param(value_type = Option<String>, format = Date)]
    to: Option<Date>,
}

/// Who or what takes which days of a unit.
#[utoipa::path(get, path = "/units/{unit_id}/calendar", tag = "units", params(("unit_id" = Uuid, Path), CalendarParams),
    security(("token" = [])), responses(
    (status = 200, body = CalendarOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_calendar(
    State(api): State<QueryApi>,
    caller: Allowed<ReadProperties>,
    asked: Asked,
    Path(unit_id): Path<Uuid>,
    Query(params): Query<CalendarParams>,
) -> Result<Response, Problem> {
    let CalendarParams { from, to } = params;
    date("/query/from", from)?;
    date("/query/to", to)?;
    if from.zip(to).is_some_and(|(from, to)| to <= from) {
        return Err(Problem::validation("/query/to", "must be after from"));
    }
    let query = UnitCalendar { unit_id: UnitId(unit_id), from, to };
    api.staff(&caller, query, &asked, "unit", route!("/units/{unit_id}/calendar")).await
}
