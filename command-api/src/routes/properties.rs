//! Properties.

use axum::extract::State;
use commands::step;
use domain::units::{Address, OwnerShare, Property, PropertyCommand, PropertyType, RegisterProperty};
use domain::{Currency, Date, PropertyId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, WriteProperties};

use crate::Api;
use crate::command::{Command, NoBody};
use crate::reply::{CommandOut, Reply};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PropertyIn {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    pub r#type: PropertyType,
    pub address: Address,
    /// IANA name.
    #[schema(example = "America/New_York")]
    pub time_zone: String,
    /// ISO 4217; the currency of every rent in it.
    #[schema(value_type = String, example = "USD", pattern = "^[A-Z]{3}$")]
    pub currency: Currency,
    #[schema(example = "US-NY")]
    pub jurisdiction: String,
    /// Shares sum to 10,000 basis points.
    pub owners: Vec<OwnerShare>,
}

/// Register a property.
#[utoipa::path(post, path = "/properties", tag = "units", request_body = PropertyIn, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn register_property(
    State(api): State<Api>,
    mut command: Command<WriteProperties, PropertyIn>,
) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let register = PropertyCommand::RegisterProperty(RegisterProperty {
        property_id: PropertyId(id),
        name: body.name,
        property_type: body.r#type,
        address: body.address,
        time_zone: body.time_zone,
        currency: body.currency,
        jurisdiction: body.jurisdiction,
        owners: body.owners,
    });
    let executed = api.execute(&command.issue, vec![step::<Property>(id.to_string(), register)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/properties/{id}")))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnersIn {
    pub owners: Vec<OwnerShare>,
    #[schema(value_type = String, format = Date)]
    pub effective_on: Date,
}

/// Name the owners anew.
#[utoipa::path(post, path = "/properties/{property_id}/owners", tag = "units", request_body = OwnersIn, security(("token" = [])),
    params(("property_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn assign_owners(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, OwnersIn>,
) -> Result<Reply, Problem> {
    let assign = PropertyCommand::AssignOwners { owners: command.body.owners, effective_on: command.body.effective_on };
    let executed = api.execute(&command.issue, vec![step::<Property>(id.to_string(), assign)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Give a property up; all its units are retired before.
#[utoipa::path(post, path = "/properties/{property_id}/inactivation", tag = "units", security(("token" = [])),
    params(("property_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn inactivate_property(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, NoBody>,
) -> Result<Reply, Problem> {
    let executed =
        api.execute(&command.issue, vec![step::<Property>(id.to_string(), PropertyCommand::InactivateProperty)]).await?;
    Ok(Reply::changed(id, executed))
}
