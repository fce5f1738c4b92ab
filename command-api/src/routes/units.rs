//! Units: adding, describing, listing, blocking, retiring.

use std::collections::BTreeSet;

use axum::extract::State;
use commands::{Step, step};
use domain::units::{AddUnit, Amenity, Bathrooms, Property, PropertyCommand, Unit, UnitCommand, UpdateUnit};
use domain::{BlockId, Date, Money, UnitId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, WriteProperties};

use crate::Api;
use crate::api::problem;
use crate::command::{Command, NoBody};
use crate::reply::{CommandOut, Reply};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitIn {
    pub property_id: Uuid,
    /// Unique within the property.
    #[schema(min_length = 1, max_length = 50)]
    pub unit_number: String,
    #[schema(maximum = 50)]
    pub bedrooms: u8,
    pub bathrooms: Bathrooms,
    pub area_m2: u32,
    #[serde(default)]
    pub amenities: BTreeSet<Amenity>,
}

/// Add a unit to a property.
#[utoipa::path(post, path = "/units", tag = "units", request_body = UnitIn, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn add_unit(State(api): State<Api>, mut command: Command<WriteProperties, UnitIn>) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let property = api.handler().load::<Property>(body.property_id.to_string()).await.map_err(problem)?;
    let facts = property.state.facts().ok_or_else(|| Problem::validation("/property_id", "there is no such property"))?;
    let add = UnitCommand::AddUnit(AddUnit {
        property: facts,
        unit_number: body.unit_number.clone(),
        bedrooms: body.bedrooms,
        bathrooms: body.bathrooms,
        area_m2: body.area_m2,
        amenities: body.amenities,
    });
    let claim = PropertyCommand::ClaimUnitNumber { unit_id: UnitId(id), unit_number: body.unit_number };
    let steps = vec![step::<Unit>(id.to_string(), add), step::<Property>(body.property_id.to_string(), claim)];
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::created(id, executed, |id| format!("/units/{id}")))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitPatch {
    #[serde(default)]
    pub unit_number: Option<String>,
    #[serde(default)]
    pub bedrooms: Option<u8>,
    #[serde(default)]
    pub bathrooms: Option<Bathrooms>,
    #[serde(default)]
    pub area_m2: Option<u32>,
    #[serde(default)]
    pub amenities: Option<BTreeSet<Amenity>>,
}

/// Change a unit's description; what is absent stays.
#[utoipa::path(patch, path = "/units/{unit_id}", tag = "units", request_body = UnitPatch, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn update_unit(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, UnitPatch>,
) -> Result<Reply, Problem> {
    let body = command.body;
    let mut steps: Vec<Box<dyn Step>> = vec![];
    let number = body.unit_number.clone();
    let update = UnitCommand::UpdateUnit(UpdateUnit {
        unit_number: body.unit_number,
        bedrooms: body.bedrooms,
        bathrooms: body.bathrooms,
        area_m2: body.area_m2,
        amenities: body.amenities,
    });
    steps.push(step::<Unit>(id.to_string(), update));
    if let Some(unit_number) = number {
        let property_id = property_of(&api, id).await?;
        let claim = PropertyCommand::ClaimUnitNumber { unit_id: UnitId(id), unit_number };
        steps.push(step::<Property>(property_id.to_string(), claim));
    }
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::changed(id, executed))
}

async fn property_of(api: &Api, unit_id: Uuid) -> Result<Uuid, Problem> {
    let unit = api.handler().load::<Unit>(unit_id.to_string()).await.map_err(problem)?;
    let facts = unit.state.facts().ok_or_else(|| Problem::not_found("unit"))?;
    Ok(facts.property.property_id.0)
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListingIn {
    pub price: Money,
    pub deposit: Money,
    #[schema(value_type = String, format = Date)]
    pub available_from: Date,
    #[serde(default)]
    pub min_term_months: u16,
}

/// List a unit for rent.
#[utoipa::path(post, path = "/units/{unit_id}/listing", tag = "units", request_body = ListingIn, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn list_unit(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, ListingIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    let list = UnitCommand::ListUnit {
        price: body.price,
        deposit: body.deposit,
        available_from: body.available_from,
        min_term_months: body.min_term_months,
        rent_cap: None,
    };
    let executed = api.execute(&command.issue, vec![step::<Unit>(id.to_string(), list)]).await?;
    Ok(Reply::changed(id, executed))
}

/// Take a unit off the market.
#[utoipa::path(delete, path = "/units/{unit_id}/listing", tag = "units", security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn unlist_unit(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, NoBody>,
) -> Result<Reply, Problem> {
    let executed = api.execute(&command.issue, vec![step::<Unit>(id.to_string(), UnitCommand::UnlistUnit)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceIn {
    pub price: Money,
    #[schema(value_type = String, format = Date)]
    pub effective_on: Date,
}

/// Change the listing price from a day on.
#[utoipa::path(post, path = "/units/{unit_id}/price", tag = "units", request_body = PriceIn, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn change_price(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, PriceIn>,
) -> Result<Reply, Problem> {
    let change = UnitCommand::ChangeListingPrice {
        price: command.body.price,
        effective_on: command.body.effective_on,
        rent_cap: None,
    };
    let executed = api.execute(&command.issue, vec![step::<Unit>(id.to_string(), change)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockIn {
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// The first day that is free again.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    #[serde(default)]
    pub request_id: Option<Uuid>,
}

/// Block a unit for a while (turnover, repair).
#[utoipa::path(post, path = "/units/{unit_id}/blocks", tag = "units", request_body = BlockIn, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn block_unit(
    State(api): State<Api>,
    Path(unit_id): Path<Uuid>,
    mut command: Command<WriteProperties, BlockIn>,
) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let block = UnitCommand::BlockUnit {
        block_id: BlockId(id),
        from: body.from,
        to: body.to,
        reason: body.reason,
        request_id: body.request_id,
    };
    let executed = api.execute(&command.issue, vec![step::<Unit>(unit_id.to_string(), block)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/units/{unit_id}/blocks/{id}")))
}

/// End a block today.
#[utoipa::path(delete, path = "/units/{unit_id}/blocks/{block_id}", tag = "units", security(("token" = [])),
    params(("unit_id" = Uuid, Path), ("block_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn end_block(
    State(api): State<Api>,
    Path((unit_id, block_id)): Path<(Uuid, Uuid)>,
    command: Command<WriteProperties, NoBody>,
) -> Result<Reply, Problem> {
    let end = UnitCommand::EndBlock { block_id: BlockId(block_id) };
    let executed = api.execute(&command.issue, vec![step::<Unit>(unit_id.to_string(), end)]).await?;
    Ok(Reply::changed(block_id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetirementIn {
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    #[schema(value_type = String, format = Date)]
    pub on: Date,
}

/// Retire a unit.
#[utoipa::path(post, path = "/units/{unit_id}/retirement", tag = "units", request_body = RetirementIn, security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn retire_unit(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, RetirementIn>,
) -> Result<Reply, Problem> {
    let property_id = property_of(&api, id).await?;
    let retire = UnitCommand::RetireUnit { reason: command.body.reason, on: command.body.on };
    let note = PropertyCommand::NoteUnitRetired { unit_id: UnitId(id) };
    let steps = vec![step::<Unit>(id.to_string(), retire), step::<Property>(property_id.to_string(), note)];
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::changed(id, executed))
}

/// Bring a retired unit back.
#[utoipa::path(post, path = "/units/{unit_id}/reinstatement", tag = "units", security(("token" = [])),
    params(("unit_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn reinstate_unit(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteProperties, NoBody>,
) -> Result<Reply, Problem> {
    let property_id = property_of(&api, id).await?;
    let note = PropertyCommand::NoteUnitReinstated { unit_id: UnitId(id) };
    let steps =
        vec![step::<Unit>(id.to_string(), UnitCommand::ReinstateUnit), step::<Property>(property_id.to_string(), note)];
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::changed(id, executed))
}
