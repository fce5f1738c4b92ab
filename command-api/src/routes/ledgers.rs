//! Charges, payments and their reversal.

use axum::extract::State;
use commands::{Step, step};
use domain::finances::{
    ChargeType, ExternalRef, Fee, Ledger, LedgerCommand, NewPayment, PaymentMethod, PaymentReference, ReferenceCommand,
    ReversalKind,
};
use domain::{ChargeId, Date, DateRange, LeaseId, Money, PartyId, PaymentId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;
use web::{CommandProblems, Path, Problem, WriteLedgers};

use crate::Api;
use crate::api::problem;
use crate::command::Command;
use crate::reply::{CommandOut, Reply};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChargeIn {
    pub r#type: ChargeType,
    pub money: Money,
    /// The charge is effective on this day, whenever it is posted.
    #[schema(value_type = String, format = Date)]
    pub due_on: Date,
    /// The days it is for, `[from, to)`.
    #[serde(default)]
    pub period: Option<DateRange>,
    /// Unique in the ledger for ever; absent: the charge's id.
    #[serde(default)]
    pub key: Option<String>,
    #[serde(default)]
    pub memo: Option<String>,
}

/// Post a charge.
#[utoipa::path(post, path = "/ledgers/{lease_id}/charges", tag = "finances", request_body = ChargeIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn post_charge(
    State(api): State<Api>,
    Path(lease): Path<Uuid>,
    mut command: Command<WriteLedgers, ChargeIn>,
) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let post = LedgerCommand::PostCharge {
        charge_id: ChargeId(id),
        kind: body.r#type,
        money: body.money,
        due_on: body.due_on,
        period: body.period,
        key: body.key.unwrap_or_else(|| id.to_string()),
        memo: body.memo,
    };
    let executed = api.execute(&command.issue, vec![step::<Ledger>(lease.to_string(), post)]).await?;
    Ok(Reply::created(id, executed, |_| format!("/ledgers/{lease}/charges")))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentIn {
    pub money: Money,
    pub method: PaymentMethod,
    #[schema(value_type = String, format = Date)]
    pub received_on: Date,
    /// Its name at the bank or the processor: the same name is recorded once.
    #[serde(default)]
    pub external_ref: Option<ExternalRef>,
    #[serde(default)]
    pub payer: Option<Uuid>,
}

/// Record a payment; it is allocated to what is due, oldest first.
#[utoipa::path(post, path = "/ledgers/{lease_id}/payments", tag = "finances", request_body = PaymentIn, security(("token" = [])),
    params(("lease_id" = Uuid, Path)), responses((status = 201, body = CommandOut), CommandProblems))]
pub async fn record_payment(
    State(api): State<Api>,
    Path(lease): Path<Uuid>,
    mut command: Command<WriteLedgers, PaymentIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    let mut payment = NewPayment {
        payment_id: PaymentId(Uuid::now_v7()),
        money: body.money,
        method: body.method,
        received_on: body.received_on,
        external_ref: body.external_ref,
        payer: body.payer.map(PartyId),
    };
    let mut steps: Vec<Box<dyn Step>> = vec![];
    let mut claim = None;
    if let Some(reference) = &payment.external_ref {
        reference.check().map_err(|fault| Problem::validation(fault.pointer, fault.detail))?;
        let stream = reference.stream();
        let known = api.handler().load::<PaymentReference>(&stream.id).await.map_err(problem)?;
        // A reference that was claimed before names the payment: the same content again is the same payment.
        if let Some(known) = known.state.payment().map(|(_, payment)| payment) {
            payment.payment_id = known;
        }
        let content_hash = payment.content_hash(LeaseId(lease));
        let command =
            ReferenceCommand::ClaimReference { lease_id: LeaseId(lease), payment_id: payment.payment_id, content_hash };
        claim = Some(step::<PaymentReference>(stream.id, command));
    }
    let id = payment.payment_id.0;
    command.issue.remember = json!({"id": id});
    // The claim is judged first: a reused reference says more than what follows from it.
    steps.extend(claim);
    steps.push(step::<Ledger>(lease.to_string(), LedgerCommand::RecordPayment(payment)));
    let executed = api.execute(&command.issue, steps).await?;
    Ok(Reply::created(id, executed, |_| format!("/ledgers/{lease}/payments")))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentReversalIn {
    pub lease_id: Uuid,
    pub kind: ReversalKind,
    /// The day the bank took it back.
    #[schema(value_type = String, format = Date)]
    pub on: Date,
    /// Charged to the tenant at once, for a bounced payment.
    #[serde(default)]
    pub fee: Option<Money>,
}

/// Reverse a payment: it bounced, or was recorded in error.
#[utoipa::path(post, path = "/payments/{payment_id}/reversal", tag = "finances", request_body = PaymentReversalIn,
    security(("token" = [])), params(("payment_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn reverse_payment(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLedgers, PaymentReversalIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    let reverse = LedgerCommand::ReversePayment {
        payment_id: PaymentId(id),
        kind: body.kind,
        on: body.on,
        fee: body.fee.map(|money| Fee { charge_id: ChargeId(Uuid::now_v7()), money }),
    };
    let executed = api.execute(&command.issue, vec![step::<Ledger>(body.lease_id.to_string(), reverse)]).await?;
    Ok(Reply::changed(id, executed))
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChargeReversalIn {
    pub lease_id: Uuid,
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
}

/// Reverse a charge: what was paid on it becomes credit.
#[utoipa::path(post, path = "/charges/{charge_id}/reversal", tag = "finances", request_body = ChargeReversalIn,
    security(("token" = [])), params(("charge_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn reverse_charge(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<WriteLedgers, ChargeReversalIn>,
) -> Result<Reply, Problem> {
    let body = command.body;
    let reverse = LedgerCommand::ReverseCharge { charge_id: ChargeId(id), reason: body.reason };
    let executed = api.execute(&command.issue, vec![step::<Ledger>(body.lease_id.to_string(), reverse)]).await?;
    Ok(Reply::changed(id, executed))
}
