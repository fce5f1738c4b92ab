//! Parties: the people and companies we deal with.

use std::collections::BTreeSet;

use axum::extract::State;
use commands::step;
use domain::PartyId;
use domain::legal::{Party, PartyCommand, PartyDetails, PartyKind, PartyPatch, PartyRole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, WriteParties};

use crate::Api;
use crate::command::Command;
use crate::reply::{CommandOut, Reply};

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartyIn {
    pub kind: PartyKind,
    #[serde(default)]
    pub roles: BTreeSet<PartyRole>,
    /// Stored sealed with the party's own key.
    pub details: PartyDetails,
}

/// Register a party.
#[utoipa::path(post, path = "/parties", tag = "legal", request_body = PartyIn, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn register_party(State(api): State<Api>, mut command: Command<WriteParties, PartyIn>) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let register =
        PartyCommand::RegisterParty { party_id: PartyId(id), kind: body.kind, roles: body.roles, personal: body.details };
    let executed = api.execute(&command.issue, vec![step::<Party>(id.to_string(), register)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/parties/{id}")))
}

/// Change a party; what is absent stays, `null` removes.
#[utoipa::path(patch, path = "/parties/{party_id}", tag = "legal", request_body = PartyPatch, security(("token" = [])),
    params(("party_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn update_party(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteParties, PartyPatch>,
) -> Result<Reply, Problem> {
    let update = PartyCommand::UpdateParty(command.body);
    let executed = api.execute(&command.issue, vec![step::<Party>(id.to_string(), update)]).await?;
    Ok(Reply::changed(id, executed))
}
