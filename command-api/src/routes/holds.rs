//! Holds on units.

use axum::extract::State;
use commands::step;
use domain::units::{Unit, UnitCommand};
use domain::{Date, HoldId, PartyId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, WriteProperties};

use crate::Api;
use crate::command::{Command, NoBody};
use crate::reply::{CommandOut, Reply};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldIn {
    /// For whom.
    pub party_id: Uuid,
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// The first day that is not held.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
    /// At this instant the hold is over; at most 15 days from now.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Hold a unit for somebody.
#[utoipa::path(post, path = "/units/{unit_id}/holds", tag = "units", request_body = HoldIn, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn place_hold(
    State(api): State<Api>,
    Path(unit_id): Path<Uuid>,
    mut command: Command<WriteProperties, HoldIn>,
) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let place = UnitCommand::PlaceHold {
        hold_id: HoldId(id),
        party_id: PartyId(body.party_id),
        from: body.from,
        to: body.to,
        expires_at: body.expires_at,
    };
    let executed = api.execute(&command.issue, vec![step::<Unit>(unit_id.to_string(), place)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/units/{unit_id}/holds/{id}")))
}

/// Give a hold up.
#[utoipa::path(delete, path = "/units/{unit_id}/holds/{hold_id}", tag = "units", security(("token" = [])),
    params(("unit_id" = Uuid, Path), ("hold_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn release_hold(
    State(api): State<Api>,
    Path((unit_id, hold_id)): Path<(Uuid, Uuid)>,
    command: Command<WriteProperties, NoBody>,
) -> Result<Reply, Problem> {
    let release = UnitCommand::ReleaseHold { hold_id: HoldId(hold_id) };
    let executed = api.execute(&command.issue, vec![step::<Unit>(unit_id.to_string(), release)]).await?;
    Ok(Reply::changed(hold_id, executed))
}
