//! The people, masked by role. Nothing of them is kept in any cache.

use axum::extract::State;
use axum::response::Response;
use domain::PartyId;
use domain::auth::Access;
use domain::legal::{PartyKind, PartyRole};
use read_models::Page;
use read_models::party_card::{self, Mask, PartiesFilter, PartyOut};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Own, Path, Problem, Query, QueryProblems, ReadParties};

use crate::QueryApi;
use crate::paging::Paging;
use crate::query::query;
use crate::respond::Asked;

query! {
    Parties { filter: PartiesFilter, mask: Mask, page: Paging }
    as "list", Never, reads [party_card::SPEC],
    page(this, snapshot, now) party_card::parties(snapshot, &this.filter, this.mask, &this.page.request())
}

query! {
    PartyById { party_id: PartyId, mask: Mask }
    as "one", Never, reads [party_card::SPEC],
    found(this, snapshot, now) party_card::party(snapshot, this.party_id, this.mask)
}

query! {
    /// The list of one who may see only themselves.
    OwnParty { party_id: PartyId, filter: PartiesFilter }
    as "own", Never, reads [party_card::SPEC],
    page(this, snapshot, now) async {
        let answer = party_card::party(snapshot, this.party_id, Mask::Clear).await?;
        Ok::<_, ports::Error>(answer.map(|party| Page {
            data: party.into_iter().filter(|party| passes(&this.filter, party)).collect(),
            next_cursor: None,
        }))
    }
}

fn passes(filter: &PartiesFilter, party: &PartyOut) -> bool {
    filter.kind.is_none_or(|kind| kind == party.kind) && filter.role.is_none_or(|role| party.roles.contains(&role))
}

/// Who writes or reads parties sees them clearly; the rest of the staff sees them masked.
fn mask(access: Access) -> Mask {
    match access {
        Access::Write | Access::Read => Mask::Clear,
        Access::Masked | Access::Propose | Access::OwnSign | Access::Own | Access::None => Mask::Masked,
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PartiesParams {
    #[param(value_type = Option<PartyKind>, inline)]
    kind: Option<PartyKind>,
    #[param(value_type = Option<PartyRole>, inline)]
    role: Option<PartyRole>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Parties, in the order they were registered; masked for most of the staff, and a tenant sees themselves.
#[utoipa::path(get, path = "/parties", tag = "legal", params(PartiesParams), security(("token" = [])), responses(
    (status = 200, body = Page<PartyOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_parties(
    State(api): State<QueryApi>,
    caller: Allowed<ReadParties>,
    asked: Asked,
    Query(params): Query<PartiesParams>,
) -> Result<Response, Problem> {
    let filter = PartiesFilter { kind: params.kind, role: params.role };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    match caller.own()? {
        Own::Party(own) => api.private(OwnParty { party_id: PartyId(own), filter }, &asked, "list").await,
        Own::Everyone => api.private(Parties { filter, mask: mask(caller.access), page }, &asked, "list").await,
    }
}

/// One party; its `version` is what `If-Match` compares.
#[utoipa::path(get, path = "/parties/{party_id}", tag = "legal", params(("party_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, body = PartyOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_party(
    State(api): State<QueryApi>,
    caller: Allowed<ReadParties>,
    asked: Asked,
    Path(party_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let mask = match caller.own()? {
        Own::Party(own) if own != party_id => return Err(Problem::not_found("party")),
        Own::Party(_) => Mask::Clear,
        Own::Everyone => mask(caller.access),
    };
    api.private(PartyById { party_id: PartyId(party_id), mask }, &asked, "party").await
}
