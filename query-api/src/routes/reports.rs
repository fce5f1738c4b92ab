//! Report jobs and their results.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::auth::Capability;
use domain::reports::{ReportKind, ReportState};
use domain::{Context, ReportId, UserId};
use read_models::Page;
use read_models::reports::{self, ReportOut, ReportsFilter};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use uuid::Uuid;
use web::{Allowed, Path, Problem, Query, QueryProblems, ReadAnyReport};

use crate::QueryApi;
use crate::download::{Download, download};
use crate::paging::Paging;
use crate::query::query;
use crate::reader::Served;
use crate::respond::{Asked, Audience, respond};

query! {
    Reports { filter: ReportsFilter, page: Paging }
    as "list", Shared, reads [reports::SPEC],
    page(this, snapshot, now) reports::reports(snapshot, &this.filter, &this.page.request())
}

query! {
    ReportById { report_id: ReportId }
    as "one", Shared, reads [reports::SPEC],
    found(this, snapshot, now) reports::report(snapshot, this.report_id)
}

/// Whether the caller's roles show them reports of a kind.
fn sees(caller: &Allowed<ReadAnyReport>, kind: ReportKind) -> bool {
    let capability = match kind.context() {
        Context::Finances => Capability::FinanceReports,
        Context::Legal => Capability::LegalReports,
        Context::Units => Capability::OccupancyReports,
        // No report is of these; whoever may read the audit trail may read what tells of everything.
        Context::Auth | Context::Reports => Capability::AuditTrail,
    };
    caller.access_to(capability).may_read_any()
}

async fn find(
    api: &QueryApi,
    caller: &Allowed<ReadAnyReport>,
    asked: &Asked,
    report_id: Uuid,
) -> Result<(Served, Arc<ReportOut>), Problem> {
    let served = api.find(ReportById { report_id: ReportId(report_id) }, asked, "report").await?;
    let report = served.entry.value::<ReportOut>()?;
    match sees(caller, report.kind) {
        true => Ok((served, report)),
        false => Err(Problem::not_found("report")),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReportsParams {
    #[param(value_type = Option<ReportState>, inline)]
    status: Option<ReportState>,
    #[param(value_type = Option<ReportKind>, inline)]
    kind: Option<ReportKind>,
    requested_by: Option<Uuid>,
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Reports of the kinds that the caller may see, the newest first.
#[utoipa::path(get, path = "/reports", tag = "reports", params(ReportsParams), security(("token" = [])), responses(
    (status = 200, body = Page<ReportOut>),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn list_reports(
    State(api): State<QueryApi>,
    caller: Allowed<ReadAnyReport>,
    asked: Asked,
    Query(params): Query<ReportsParams>,
) -> Result<Response, Problem> {
    let kinds: Vec<ReportKind> = match params.kind {
        Some(kind) if !sees(&caller, kind) => return Err(Problem::forbidden()),
        Some(kind) => vec![kind],
        None => ReportKind::ALL.into_iter().filter(|kind| sees(&caller, *kind)).collect(),
    };
    let filter = ReportsFilter { status: params.status, kinds, requested_by: params.requested_by.map(UserId) };
    let page = Paging::new(params.limit, params.cursor.as_deref())?;
    api.private(Reports { filter, page }, &asked, "list").await
}

/// How far a report is.
#[utoipa::path(get, path = "/reports/{report_id}", tag = "reports", params(("report_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, body = ReportOut),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_report(
    State(api): State<QueryApi>,
    caller: Allowed<ReadAnyReport>,
    asked: Asked,
    Path(report_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let (served, _) = find(&api, &caller, &asked, report_id).await?;
    Ok(respond(&served, &asked, Audience::Private))
}

/// The finished document; 409 while there is none.
#[utoipa::path(get, path = "/reports/{report_id}/result", tag = "reports", params(("report_id" = Uuid, Path)),
    security(("token" = [])), responses(
    (status = 200, description = "the document, as text/csv or application/json", content(
        (String = "text/csv"), (serde_json::Value = "application/json"))),
    (status = 304, description = "what If-None-Match names is still true"),
    QueryProblems))]
pub async fn get_result(
    State(api): State<QueryApi>,
    caller: Allowed<ReadAnyReport>,
    asked: Asked,
    Path(report_id): Path<Uuid>,
) -> Result<Response, Problem> {
    let (_, report) = find(&api, &caller, &asked, report_id).await?;
    let result = report.result.as_ref().ok_or_else(|| not_finished(&report))?;
    let file_name = format!("{}-{}.{}", report.kind.as_str(), report.as_of, report.format.as_str());
    let sha256 = result.sha256.to_string();
    let what = Download { sha256: &sha256, media_type: &result.media_type, file_name: &file_name, what: "result" };
    download(&api, &asked, what).await
}

fn not_finished(report: &ReportOut) -> Problem {
    let current = report.status.as_str();
    let detail = format!("the report has no result: it is {current}");
    let mut problem = Problem::new(StatusCode::CONFLICT, "INVALID_STATE", detail);
    problem.facts.insert("current".into(), json!(current));
    problem.facts.insert("allowed".into(), json!([ReportState::Succeeded.as_str()]));
    problem.retry_after = report.status.is_open().then_some(1);
    problem
}
