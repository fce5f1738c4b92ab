//! Asking for reports. The work is done by report workers; the answer is 202 and where to look.

use std::collections::BTreeMap;

use axum::extract::State;
use commands::step;
use domain::auth::{Access, Capability};
use domain::reports::{NewReport, Report, ReportCommand, ReportFormat, ReportKind, ReportParams};
use domain::{Context, Date, LeaseId, ReportId, UserId, today_in};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use web::{Allowed, CommandProblems, FinanceReports, LegalReports, Path, Problem, ReadAnyReport, Rule};

use crate::Api;
use crate::api::problem;
use crate::command::{Command, NoBody};
use crate::reply::{CommandOut, Reply};

/// All optional: `{}` asks for everything as of today, as CSV.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportIn {
    /// The business date it is computed at; not together with `month`.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Date)]
    pub as_of: Option<Date>,
    /// As of the last day of that month.
    #[serde(default)]
    #[schema(pattern = "^[0-9]{4}-[0-9]{2}$", example = "2026-10")]
    pub month: Option<String>,
    /// Only this lease.
    #[serde(default)]
    pub lease_id: Option<Uuid>,
    #[serde(default)]
    pub format: ReportFormat,
}

/// Ask for the statement of ledgers; it goes before every legal report.
#[utoipa::path(post, path = "/finances/generate_report", tag = "reports", request_body = ReportIn, security(("token" = [])),
    responses((status = 202, body = CommandOut), CommandProblems))]
pub async fn generate_finance_report(
    State(api): State<Api>,
    command: Command<FinanceReports, ReportIn>,
) -> Result<Reply, Problem> {
    generate(&api, command, ReportKind::LedgerStatement).await
}

/// Ask for the lease register.
#[utoipa::path(post, path = "/legal/generate_report", tag = "reports", request_body = ReportIn, security(("token" = [])),
    responses((status = 202, body = CommandOut), CommandProblems))]
pub async fn generate_legal_report(
    State(api): State<Api>,
    command: Command<LegalReports, ReportIn>,
) -> Result<Reply, Problem> {
    generate(&api, command, ReportKind::LeaseRegister).await
}

async fn generate<R: Rule>(api: &Api, mut command: Command<R, ReportIn>, kind: ReportKind) -> Result<Reply, Problem> {
    let id = Uuid::now_v7();
    command.remember(id);
    let body = command.body;
    let params = ReportParams { as_of: body.as_of, month: body.month, lease_id: body.lease_id.map(LeaseId) };
    let as_of = params
        .resolve_as_of(today_in("UTC", api.now()))
        .map_err(|fault| Problem::validation(fault.pointer, fault.detail))?;
    // Computed at what was recorded when it was asked for, however late a worker comes to it.
    let context = kind.context();
    let head = api.handler().logs().get(context)?.head().await?;
    let request = ReportCommand::RequestReport(NewReport {
        report_id: ReportId(id),
        kind,
        params,
        format: body.format,
        positions: BTreeMap::<Context, u64>::from([(context, head.position)]),
        as_of,
        requested_by: UserId(command.caller.principal.user_id),
    });
    let executed = api.execute(&command.issue, vec![step::<Report>(id.to_string(), request)]).await?;
    Ok(Reply::accepted(id, executed, |id| format!("/reports/{id}")))
}

/// Call a report off that is not finished.
#[utoipa::path(delete, path = "/reports/{report_id}", tag = "reports", security(("token" = [])),
    params(("report_id" = Uuid, Path)), responses((status = 200, body = CommandOut), CommandProblems))]
pub async fn cancel_report(
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    command: Command<ReadAnyReport, NoBody>,
) -> Result<Reply, Problem> {
    let report = api.handler().load::<Report>(id.to_string()).await.map_err(problem)?;
    let kind = report.state.kind().ok_or_else(|| Problem::not_found("report"))?;
    may_write(&command.caller, kind)?;
    let executed = api.execute(&command.issue, vec![step::<Report>(id.to_string(), ReportCommand::CancelReport)]).await?;
    Ok(Reply::changed(id, executed))
}

fn may_write(caller: &Allowed<ReadAnyReport>, kind: ReportKind) -> Result<(), Problem> {
    let capability = match kind {
        ReportKind::LedgerStatement => Capability::FinanceReports,
        ReportKind::LeaseRegister => Capability::LegalReports,
    };
    match caller.access_to(capability) {
        Access::Write => Ok(()),
        Access::Read => Err(Problem::forbidden()),
        Access::None | Access::Own | Access::OwnSign | Access::Masked | Access::Propose => Err(Problem::not_found("report")),
    }
}
