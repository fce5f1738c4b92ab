//! Leases, and which of them are a tenant's own.

use axum::extract::State;
use axum::response::Response;
use domain::legal::LeaseState;
use domain::{Date, LeaseId, PartyId, PropertyId, UnitId};
use read_models::Page;
use read_models::leases::{self, LeaseOut, LeasesFilter};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Own, Path, Problem, Query, QueryProblems, ReadLeases};

use super::date;
use crate::QueryApi;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::{Asked, Audience, respond};

query! {
    Leases { filter: LeasesFilter, page: Paging }
    as "list", Shared, reads [leases::SPEC],
    page(this, snapshot, now) leases::leases(snapshot, &this.filter, &this.page.request())
}

query! {
    LeaseById { lease_id: LeaseId }
    as "one", Shared, reads [leases::SPEC],
    found(this, snapshot, now) leases::lease(snapshot, this.lease_id)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LeasesParams {
    #[param(value_type = Option<LeaseState>, inline)]
    status: Option<LeaseState>,
    unit_id: Option<Uuid>,
    property_id: Option<Uuid>,
    /// Tenant, guarantor or signer.
    party_id: Option<Uuid>,
    /// The last day is before this one.
    #[param(value_type = Option<String>, format = Date)]
    ending_before: Option<Date>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Leases, in the order they were drafted; a tenant sees their own.
#[utoipa::path(get, path = "/leases", tag = "legal", params(LeasesParams), security(("token" = [])), responses(
    (status = 200, body = Page<LeaseOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_leases(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLeases>,
    asked: Asked,
    Query(params): Query<LeasesParams>,
) -> Result<Response, Problem> {
    date("/query/ending_before", params.ending_before)?;
    let party_id = match (caller.own()?, params.party_id) {
        (Own::Everyone, wanted) => wanted,
        (Own::Party(own), Some(wanted)) if wanted != own => return Err(Problem::not_found("party")),
        (Own::Party(own), _) => Some(own),
    };
    let filter = LeasesFilter {
        status: params.status,
        unit_id: params.unit_id.map(UnitId),
        property_id: params.property_id.map(PropertyId),
        party_id: party_id.map(PartyId),
        ending_before: params.ending_before,
    };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    api.private(Leases { filter, page }, &asked, "list").await
}

/// One lease; its `version` is what `If-Match` compares.
#[utoipa::path(get, path = "/leases/{lease_id}", tag = "legal", params(("lease_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, body = LeaseOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_lease(
    State(api): State<QueryApi>,
    caller: Allowed<ReadLeases>,
    asked: Asked,
    Path(lease_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let served = api.find(LeaseById { lease_id: LeaseId(lease_id) }, &asked, "lease").await?;
    if let Own::Party(own) = caller.own()?
        && !served.entry.value::<LeaseOut>()?.concerns(PartyId(own))
    {
        return Err(Problem::not_found("lease"));
    }
    Ok(respond(&served, &asked, Audience::Private))
}

/// Whether a lease concerns a party.
pub(crate) async fn concerns(api: &QueryApi, asked: &Asked, lease_id: LeaseId, party_id: Uuid) -> Result<bool, Problem> {
    match api.find_optional(LeaseById { lease_id }, asked).await? {
        Some(served) => Ok(served.entry.value::<LeaseOut>()?.concerns(PartyId(party_id))),
        None => Ok(false),
    }
}
