//! Ledgers as of a business date.

use axum::extract::State;
use axum::response::Response;
use domain::{Date, LeaseId, PartyId};
use read_models::Page;
use read_models::ledger_lines::{self, AsOf as PointOfView, ChargeOut, EntryOut, LedgerOut, PaymentOut, StatementOut};
use read_models::ledgers::{self, LedgerHead};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Own, Path, Problem, Query, QueryProblems, ReadLedgers};

use super::{AsOf, date};
use crate::QueryApi;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

query! {
    HeadById { lease_id: LeaseId }
    as "one", Shared, reads [ledgers::SPEC],
    found(this, snapshot, now) ledgers::ledger_head(snapshot, this.lease_id)
}

query! {
    LedgerById { lease_id: LeaseId, at: PointOfView }
    as "ledger", Shared, reads [ledger_lines::SPEC, ledgers::SPEC],
    found(this, snapshot, now) ledger_lines::ledger(snapshot, this.lease_id, this.at, now)
}

query! {
    Statement { lease_id: LeaseId, from: Option<Date>, at: PointOfView }
    as "statement", Shared, reads [ledger_lines::SPEC, ledgers::SPEC],
    found(this, snapshot, now) ledger_lines::statement(snapshot, this.lease_id, this.from, this.at, now)
}

query! {
    Entries { lease_id: LeaseId, at: PointOfView, page: Paging }
    as "entries", Shared, reads [ledger_lines::SPEC, ledgers::SPEC],
    found_page(this, snapshot, now) ledger_lines::entries(snapshot, this.lease_id, this.at, &this.page.request(), now)
}

query! {
    Charges { lease_id: LeaseId, at: PointOfView, page: Paging }
    as "charges", Shared, reads [ledger_lines::SPEC, ledgers::SPEC],
    found_page(this, snapshot, now) ledger_lines::charges(snapshot, this.lease_id, this.at, &this.page.request(), now)
}

query! {
    Payments { lease_id: LeaseId, at: PointOfView, page: Paging }
    as "payments", Shared, reads [ledger_lines::SPEC, ledgers::SPEC],
    found_page(this, snapshot, now) ledger_lines::payments(snapshot, this.lease_id, this.at, &this.page.request(), now)
}

/// A tenant reads the ledgers of which they are a tenant; another's does not exist for them.
async fn check_own(api: &QueryApi, caller: &Allowed<ReadLedgers>, asked: &Asked, lease_id: LeaseId) -> Result<(), Problem> {
    let Own::Party(own) = caller.own()? else { return Ok(()) };
    let head = api.find(HeadById { lease_id }, asked, "ledger").await?.entry.value::<LedgerHead>()?;
    match head.tenants.contains(&PartyId(own)) {
        true => Ok(()),
        false => Err(Problem::not_found("ledger")),
    }
}

fn at(as_of: Option<Date>) -> Result<PointOfView, Problem> {
    date("/query/as_of", as_of)?;
    Ok(PointOfView { as_of, known: None })
}

/// The ledger of a lease with its balance.
#[utoipa::path(get, path = "/ledgers/{lease_id}", tag = "finances", params(("lease_id" = Uuid, Path), AsOf),
    security(("token" = [])), responses(
    (status = 200, body = LedgerOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_ledger(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLedgers>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
    Query(params): Query<AsOf>,
) -> Result<Response, Problem> {
    let (lease_id, at) = (LeaseId(lease_id), at(params.as_of)?);
    check_own(&api, &caller, &asked, lease_id).await?;
    api.private(LedgerById { lease_id, at }, &asked, "ledger").await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatementParams {
    /// First day; from the beginning when absent.
    #[param(value_type = Option<String>, format = Date)]
    from: Option<Date>,
    /// Last day; today in the property's zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    as_of: Option<Date>,
}

/// What was charged and paid, and what is owed.
#[utoipa::path(get, path = "/ledgers/{lease_id}/statement", tag = "finances",
    params(("lease_id" = Uuid, Path), StatementParams), security(("token" = [])), responses(
    (status = 200, body = StatementOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_statement(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLedgers>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
    Query(params): Query<StatementParams>,
) -> Result<Response, Problem> {
    date("/query/from", params.from)?;
    if params.from.zip(params.as_of).is_some_and(|(from, as_of)| as_of < from) {
        return Err(Problem::validation("/query/as_of", "must not be before from"));
    }
    let (lease_id, at) = (LeaseId(lease_id), at(params.as_of)?);
    check_own(&api, &caller, &asked, lease_id).await?;
    api.private(Statement { lease_id, from: params.from, at }, &asked, "ledger").await
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LinesParams {
    /// The business date; today in the property's zone when absent.
    #[param(value_type = Option<String>, format = Date)]
    as_of: Option<Date>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl LinesParams {
    fn parse(&self) -> Result<(PointOfView, Paging), Problem> {
        Ok((at(self.as_of)?, Paging::new(self.limit, self.cursor.as_deref())?))
    }
}

/// The journal: every line of double entry.
#[utoipa::path(get, path = "/ledgers/{lease_id}/entries", tag = "finances",
    params(("lease_id" = Uuid, Path), LinesParams), security(("token" = [])), responses(
    (status = 200, body = Page<EntryOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_entries(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLedgers>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
    Query(params): Query<LinesParams>,
) -> Result<Response, Problem> {
    let (lease_id, (at, page)) = (LeaseId(lease_id), params.parse()?);
    check_own(&api, &caller, &asked, lease_id).await?;
    api.private(Entries { lease_id, at, page }, &asked, "ledger").await
}

/// Charges by due date, with what is open of each.
#[utoipa::path(get, path = "/ledgers/{lease_id}/charges", tag = "finances",
    params(("lease_id" = Uuid, Path), LinesParams), security(("token" = [])), responses(
    (status = 200, body = Page<ChargeOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_charges(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLedgers>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
    Query(params): Query<LinesParams>,
) -> Result<Response, Problem> {
    let (lease_id, (at, page)) = (LeaseId(lease_id), params.parse()?);
    check_own(&api, &caller, &asked, lease_id).await?;
    api.private(Charges { lease_id, at, page }, &asked, "ledger").await
}

/// Payments by the day they were received, with what they were used for.
#[utoipa::path(get, path = "/ledgers/{lease_id}/payments", tag = "finances",
    params(("lease_id" = Uuid, Path), LinesParams), security(("token" = [])), responses(
    (status = 200, body = Page<PaymentOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_payments(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLedgers>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
    Query(params): Query<LinesParams>,
) -> Result<Response, Problem> {
    let (lease_id, (at, page)) = (LeaseId(lease_id), params.parse()?);
    check_own(&api, &caller, &asked, lease_id).await?;
    api.private(Payments { lease_id, at, page }, &asked, "ledger").await
}
