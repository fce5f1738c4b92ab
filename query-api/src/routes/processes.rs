//! The way of leases between contexts, for the staff.

use axum::extract::State;
use axum::response::Response;
use read_models::Page;
use read_models::processes::{self, ProcessOut};
use serde::Deserialize;
use utoipa::IntoParams;
use web::{Allowed, Own, Problem, Query, QueryProblems, ReadLeases};

use crate::QueryApi;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

query! {
    Processes { stuck: Option<bool>, page: Paging }
    as "list", Shared, reads [processes::SPEC],
    page(this, snapshot, now) processes::processes(snapshot, this.stuck, &this.page.request())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProcessesParams {
    /// Only those that are stuck, or only those that are not.
    stuck: Option<bool>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Move-ins and move-outs step by step, and where they are stuck.
#[utoipa::path(get, path = "/processes", tag = "legal", params(ProcessesParams), security(("token" = [])), responses(
    (status = 200, body = Page<ProcessOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_processes(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLeases>,
    asked: Asked,
    Query(params): Query<ProcessesParams>,
) -> Result<Response, Problem> {
    // A tenant has leases, not the machinery behind them.
    if caller.own()? != Own::Everyone {
        return Err(Problem::forbidden());
    }
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    api.private(Processes { stuck: params.stuck, page }, &asked, "list").await
}
