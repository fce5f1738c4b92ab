//! The reads on one page.

pub(crate) mod available;
mod documents;
mod leases;
mod ledgers;
mod parties;
mod processes;
mod properties;
mod reports;
mod units;
pub(crate) mod users;

use domain::{Date, Fault};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use web::Problem;

use crate::QueryApi;

/// Every read route; the OpenAPI document comes with it.
pub fn router(api: QueryApi) -> OpenApiRouter {
    described().with_state(api)
}

/// The routes without their state: for the document.
pub fn described() -> OpenApiRouter<QueryApi> {
    OpenApiRouter::new()
        .routes(routes!(available::available_units))
        .routes(routes!(units::list_units))
        .routes(routes!(units::get_unit))
        .routes(routes!(units::get_calendar))
        .routes(routes!(properties::list_properties))
        .routes(routes!(properties::get_property))
        .routes(routes!(leases::list_leases))
        .routes(routes!(leases::get_lease))
        .routes(routes!(parties::list_parties))
        .routes(routes!(parties::get_party))
        .routes(routes!(documents::get_document))
        .routes(routes!(documents::get_content))
        .routes(routes!(processes::list_processes))
        .routes(routes!(ledgers::get_ledger))
        .routes(routes!(ledgers::get_statement))
        .routes(routes!(ledgers::list_entries))
        .routes(routes!(ledgers::list_charges))
        .routes(routes!(ledgers::list_payments))
        .routes(routes!(reports::list_reports))
        .routes(routes!(reports::get_report))
        .routes(routes!(reports::get_result))
        .routes(routes!(users::list_users))
        .routes(routes!(users::get_user))
        .routes(routes!(users::me))
}

/// `as_of` alone.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AsOf {
    /// The business date; today in the property's zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    as_of: Option<Date>,
}

impl AsOf {
    fn day(&self) -> Result<Option<Date>, Problem> {
        date("/query/as_of", self.as_of)?;
        Ok(self.as_of)
    }
}

/// A fault of a read model's own check as a problem; pointers name query parameters.
fn check(result: Result<(), Fault>) -> Result<(), Problem> {
    result.map_err(|fault| {
        let pointer = fault.pointer.strip_prefix("/query").unwrap_or(fault.pointer);
        Problem::validation(format!("/query{pointer}"), fault.detail)
    })
}

fn date(pointer: &'static str, day: Option<Date>) -> Result<(), Problem> {
    day.map_or(Ok(()), |day| check(domain::sane_date(pointer, day)))
}

/// The longest text to filter by.
const TEXT_MAX: usize = 200;

/// A filter's text; without control characters, which no stored text has (and Postgres refuses NUL).
fn text(pointer: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) => {
            Err(Problem::validation(pointer, "at most 200 characters, none of them a control character"))
        }
        text => Ok(text),
    }
}
