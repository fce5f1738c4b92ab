//! Leases, from draft to termination.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use commands::step;
use domain::auth::Access;
use domain::finances::Ledger;
use domain::legal::{Document, Lease, LeaseCommand, LeasePlace, LeaseState, LeaseTerms, SignatureMethod, move_in};
use domain::units::Unit;
use domain::{Date, DocumentId, LeaseId, PartyId, Sha256};
use ports::{HintStream, Topic};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, SignLeases, WriteLeases};

use crate::Api;
use crate::api::problem;
use crate::command::Command;
use crate::reply::{CommandOut, Reply};

/// How long `send` takes in all before it answers 202 without the reservation's outcome (domain.md 2.2: up to two seconds).
const SEND_WAIT: Duration = Duration::from_millis(1_900);
const SEND_POLL: Duration = Duration::from_millis(50);

/// What the lease takes over from its unit.
async fn place_of(api: &Api, terms: &LeaseTerms) -> Result<LeasePlace, Problem> {
    let unit = api.handler().load::<Unit>(terms.unit_id.to_string()).await.map_err(problem)?;
    let facts = unit.state.facts().ok_or_else(|| Problem::validation("/unit_id", "there is no such unit"))?;
    Ok(LeasePlace {
        property_id: facts.property.property_id,
        time_zone: facts.property.time_zone.clone(),
        currency: facts.property.currency,
        jurisdiction: facts.property.jurisdiction.clone(),
    })
}

/// Draft a lease.
#[utoipa::path(post, path = "/leases", tag = "legal", request_body = LeaseTerms, security(("token" = [])),
    responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn draft_lease(State(api): State<Api>, mut command: Command<WriteLeases, LeaseTerms>) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let place = place_of(&api, &command.body).await?;
    let draft = LeaseCommand::DraftLease { lease_id: LeaseId(id), terms: command.body, place };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), draft)]).await?;
    Ok(Reply::created(id, executed, |id| format!("/leases/{id}")))
}

/// Write a draft anew.
#[utoipa::path(patch, path = "/leases/{lease_id}", tag = "legal", request_body = LeaseTerms, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn edit_draft(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLeases, LeaseTerms>,
) -> Result<Reply, Problem> {
    let place = place_of(&api, &command.body).await?;
    let edit = LeaseCommand::EditDraft { terms: command.body, place };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), edit)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendIn {
    /// The stored document that is to be signed.
    pub document_id: Uuid,
    /// Parties; every one must sign.
    pub signers: Vec<Uuid>,
}

/// Send a draft for signature: its unit is reserved first. Waits up to two seconds for the outcome.
#[utoipa::path(post, path = "/leases/{lease_id}/send", tag = "legal", request_body = SendIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut, description = "sent"),
        (status = 202, body = CommandOut, description = "the reservation is still under way"), CommandProblems))]
pub async fn send_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLeases, SendIn>,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + SEND_WAIT;
    let body = command.body;
    let document = api.handler().load::<Document>(body.document_id.to_string()).await.map_err(problem)?;
    let document_sha256 =
        document.state.sha256().ok_or_else(|| Problem::validation("/document_id", "there is no such document"))?;
    let send = LeaseCommand::SendForSignature {
        document_id: DocumentId(body.document_id),
        document_sha256,
        signers: body.signers.into_iter().map(PartyId).collect(),
    };
    let mut hints = api.hints().subscribe();
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), send)]).await?;
    let sequence = executed.done.version;
    match outcome(&api, id, sequence, deadline, &mut *hints).await? {
        SendOutcome::Sent => Ok(Reply::changed(id, executed).into_response()),
        SendOutcome::Refused(refused) => Err(refused),
        SendOutcome::UnderWay => Ok(Reply::accepted(id, executed, |id| format!("/leases/{id}")).into_response()),
    }
}

enum SendOutcome {
    Sent,
    Refused(Problem),
    UnderWay,
}

/// Waits until the move-in process has moved the lease on from the send request at `sequence`.
async fn outcome(
    api: &Api,
    id: Uuid,
    sequence: u64,
    deadline: Instant,
    hints: &mut dyn HintStream,
) -> Result<SendOutcome, Problem> {
    loop {
        let lease = api.handler().load::<Lease>(id.to_string()).await.map_err(problem)?;
        match lease.state.state() {
            _ if lease.version < sequence => {}
            Some(LeaseState::Sending) => {}
            Some(LeaseState::Draft) => {
                let refusal = lease.state.send_refusal().cloned();
                return Ok(refusal.map_or(SendOutcome::UnderWay, |refusal| SendOutcome::Refused(refusal.into())));
            }
            _ => return Ok(SendOutcome::Sent),
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(SendOutcome::UnderWay);
        }
        let pause = SEND_POLL.min(deadline - now);
        let _ = timeout(pause, async {
            while let Some(topic) = hints.next().await {
                if topic == Topic::Log(domain::Context::Legal) {
                    return;
                }
            }
            std::future::pending::<()>().await;
        })
        .await;
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureIn {
    pub party_id: Uuid,
    /// What the signer read and signed.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub document_sha256: Sha256,
    pub method: SignatureMethod,
    #[schema(value_type = String, format = Date)]
    pub on: Date,
}

/// Sign, as the named signer or recorded by staff.
#[utoipa::path(post, path = "/leases/{lease_id}/signatures", tag = "legal", request_body = SignatureIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn sign_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<SignLeases, SignatureIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    named_signer(&api, id, command.caller.access, command.caller.principal.party_id, body.party_id).await?;
    let sign = LeaseCommand::Sign {
        party_id: PartyId(body.party_id),
        document_sha256: body.document_sha256,
        method: body.method,
        on: body.on,
    };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), sign)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclineIn {
    pub party_id: Uuid,
    #[serde(default)]
    pub reason: Option<String>,
}

/// Decline to sign: the lease goes back to draft and its unit is free again.
#[utoipa::path(post, path = "/leases/{lease_id}/decline", tag = "legal", request_body = DeclineIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn decline_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<SignLeases, DeclineIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    named_signer(&api, id, command.caller.access, command.caller.principal.party_id, body.party_id).await?;
    let decline = LeaseCommand::Decline { party_id: PartyId(body.party_id), reason: body.reason };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), decline)]).await?;
    Ok(Reply::changed(id, executed))
}

/// One who may only sign acts for their own party, on a lease that names it; others' leases are as if they were not there.
async fn named_signer(api: &Api, lease: Uuid, access: Access, own: Option<Uuid>, party: Uuid) -> Result<(), Problem> {
    if access == Access::Write {
        return Ok(());
    }
    let lease = api.handler().load::<Lease>(lease.to_string()).await.map_err(problem)?;
    match own {
        Some(own) if own == party && lease.state.is_signer(PartyId(own)) => Ok(()),
        _ => Err(Problem::not_found("lease")),
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoidIn {
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
}

/// Void a lease that has not started.
#[utoipa::path(post, path = "/leases/{lease_id}/void", tag = "legal", request_body = VoidIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn void_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLeases, VoidIn>,
) -> Result<Reply, Problem> {
    let void = LeaseCommand::VoidLease { reason: command.body.reason };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), void)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivateIn {
    #[schema(value_type = String, format = Date)]
    pub on: Date,
}

/// Start a signed lease by hand (the timer does it on the start date).
#[utoipa::path(post, path = "/leases/{lease_id}/activate", tag = "legal", request_body = ActivateIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn activate_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLeases, ActivateIn>,
) -> Result<Reply, Problem> {
    let ledger = api.handler().load::<Ledger>(id.to_string()).await.map_err(problem)?;
    // A deposit that was not charged yet is not paid either.
    let charged = ledger.state.charge(move_in::deposit_charge(LeaseId(id))).is_some();
    let deposit_paid = (ledger.version > 0).then(|| charged && ledger.state.deposit_paid());
    let activate = LeaseCommand::ActivateLease { on: command.body.on, deposit_paid };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), activate)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminateIn {
    /// The day the keys came back.
    #[schema(value_type = String, format = Date)]
    pub vacated_on: Date,
}

/// End an active lease.
#[utoipa::path(post, path = "/leases/{lease_id}/termination", tag = "legal", request_body = TerminateIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn terminate_lease(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLeases, TerminateIn>,
) -> Result<Reply, Problem> {
    let terminate = LeaseCommand::TerminateLease { vacated_on: command.body.vacated_on };
    let executed = api.execute(&command.issue, vec![step::<Lease>(id.to_string(), terminate)]).await?;
    Ok(Reply::changed(id, executed))
}
