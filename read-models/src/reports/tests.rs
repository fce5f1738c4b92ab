use domain::reports::{NewReport, Report, ReportCommand};
use jiff::civil::date;
use uuid::Uuid;

use super::*;
use crate::testing::stories::Story;

const AT: &str = "2025-01-10T12:00:00Z";

fn id(n: u128) -> ReportId {
    ReportId(Uuid::from_u128(n))
}

fn request(story: &mut Story, n: u128, kind: ReportKind) {
    let new = NewReport {
        report_id: id(n),
        kind,
        params: ReportParams::default(),
        format: ReportFormat::Csv,
        positions: BTreeMap::from([(kind.context(), 7)]),
        as_of: date(2025, 1, 10),
        requested_by: UserId(Uuid::from_u128(3)),
    };
    story.run::<Report>(id(n), AT, ReportCommand::RequestReport(new));
}

fn start() -> ReportCommand {
    ReportCommand::StartAttempt { worker: "w".into() }
}

async fn shown(story: &Story, n: u128) -> ReportOut {
    report(&mut story.shelf(&[&Reports]), id(n)).await.expect("an answer").value.expect("the report")
}

#[tokio::test]
async fn a_report_shows_how_far_it_got_and_then_where_it_is() {
    let mut story = Story::default();
    request(&mut story, 1, ReportKind::LedgerStatement);
    let queued = shown(&story, 1).await;
    assert_eq!((queued.status, queued.attempt, queued.finished_at), (ReportState::Queued, 0, None));
    story.run::<Report>(id(1), AT, start());
    assert_eq!(shown(&story, 1).await.status, ReportState::Running);
    let failed = ReportCommand::FailAttempt { attempt: 1, reason: "views are behind".into(), retryable: true };
    story.run::<Report>(id(1), AT, failed);
    let again = shown(&story, 1).await;
    assert_eq!((again.status, again.reason.as_deref()), (ReportState::Queued, Some("views are behind")));
    let complete = ReportCommand::CompleteReport { sha256: Sha256::of(b"x"), size: 1, media_type: "text/csv".into() };
    story.run::<Report>(id(1), AT, start()).run::<Report>(id(1), AT, complete);
    let done = shown(&story, 1).await;
    assert_eq!((done.status, done.attempt, done.progress.done), (ReportState::Succeeded, 2, 1));
    assert_eq!((done.reason, done.finished_at.is_some()), (None, true));
    assert_eq!(done.links.own, format!("/reports/{}", id(1)));
    assert_eq!(done.links.result, Some(format!("/reports/{}/result", id(1))));
}

#[tokio::test]
async fn the_newest_report_comes_first_and_roles_see_their_kinds() {
    let mut story = Story::default();
    request(&mut story, 1, ReportKind::LedgerStatement);
    request(&mut story, 2, ReportKind::LeaseRegister);
    request(&mut story, 3, ReportKind::LedgerStatement);
    story.run::<Report>(id(1), AT, ReportCommand::CancelReport);
    let mut shelf = story.shelf(&[&Reports]);
    for (filter, expected) in [
        (ReportsFilter::default(), vec![id(3), id(2), id(1)]),
        (ReportsFilter { kinds: vec![ReportKind::LedgerStatement], ..Default::default() }, vec![id(3), id(1)]),
        (ReportsFilter { status: Some(ReportState::Cancelled), ..Default::default() }, vec![id(1)]),
        (ReportsFilter { requested_by: Some(UserId(Uuid::nil())), ..Default::default() }, vec![]),
    ] {
        let found = reports(&mut shelf, &filter, &PageRequest::default()).await.expect("an answer").value.data;
        assert_eq!(found.iter().map(|report| report.report_id).collect::<Vec<_>>(), expected);
    }
}
