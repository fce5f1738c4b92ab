use jiff::civil::date;
use uuid::Uuid;

use super::*;
use crate::testing::{Given, given};

fn request() -> ReportCommand {
    ReportCommand::RequestReport(NewReport {
        report_id: ReportId(Uuid::from_u128(1)),
        kind: ReportKind::LedgerStatement,
        params: ReportParams { month: Some("2026-10".into()), ..Default::default() },
        format: ReportFormat::Csv,
        positions: BTreeMap::from([(Context::Finances, 7)]),
        as_of: date(2026, 11, 5),
        requested_by: UserId(Uuid::from_u128(2)),
    })
}

fn queued() -> Given<Report> {
    given::<Report>([]).when(request()).accepted()
}

fn start() -> ReportCommand {
    ReportCommand::StartAttempt { worker: "worker-1".into() }
}

fn complete() -> ReportCommand {
    ReportCommand::CompleteReport { sha256: Sha256::of(b"x"), size: 1, media_type: "text/csv".into() }
}

fn fail(attempt: u32, retryable: bool) -> ReportCommand {
    ReportCommand::FailAttempt { attempt, reason: "views are behind".into(), retryable }
}

fn running() -> Given<Report> {
    queued().when(start()).accepted()
}

#[test]
fn a_report_that_was_not_requested_is_not_found_and_one_that_was_is_not_requested_again() {
    given::<Report>([]).when(start()).then_refused("NOT_FOUND");
    queued().when(request()).then_refused("REPORT_EXISTS");
}

#[test]
fn a_finished_report_takes_no_attempt() {
    let cancelled = running().when(ReportCommand::CancelReport).accepted();
    cancelled.when(start()).then_refused("INVALID_STATE");
    running().when(ReportCommand::CancelReport).accepted().when(complete()).then_refused("INVALID_STATE");
    running().when(complete()).accepted().when(start()).then_refused("INVALID_STATE");
    running().when(complete()).accepted().when(ReportCommand::CancelReport).then_refused("INVALID_STATE");
    running().when(fail(1, false)).accepted().when(start()).then_refused("INVALID_STATE");
}

#[test]
fn a_month_is_pinned_to_its_last_day() {
    let events = given::<Report>([]).when(request()).outcome.expect("accepted");
    let [ReportEvent::ReportRequested { as_of, queue, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((*as_of, *queue), (date(2026, 10, 31), ReportQueue::HighPriority));
}

#[test]
fn a_second_completion_changes_nothing() {
    running().when(complete()).accepted().when(complete()).then_nothing();
    running().when(ReportCommand::CancelReport).accepted().when(ReportCommand::CancelReport).then_nothing();
}

#[test]
fn the_third_failure_is_death() {
    let mut report = queued();
    for attempt in 1..FAILURES_MAX {
        report = report.when(start()).accepted().when(fail(attempt, true)).accepted();
    }
    let dying = report.when(start()).accepted().when(fail(FAILURES_MAX, true));
    let events = dying.outcome.clone().expect("accepted");
    assert!(matches!(events[1], ReportEvent::ReportDead { attempts: FAILURES_MAX, .. }), "{events:?}");
    dying.accepted().when(start()).then_refused("INVALID_STATE");
}

#[test]
fn what_was_given_up_may_be_tried_again_with_all_its_tries_and_nothing_else_may() {
    for report in [queued(), running(), running().when(complete()).accepted()] {
        report.when(ReportCommand::RetryReport).then_refused("INVALID_STATE");
    }
    running().when(ReportCommand::CancelReport).accepted().when(ReportCommand::RetryReport).then_refused("INVALID_STATE");
    let retried = running().when(fail(1, false)).accepted().when(ReportCommand::RetryReport);
    let expected = ReportEvent::ReportRetried { queue: ReportQueue::HighPriority, attempts: 1 };
    assert_eq!(retried.outcome.as_deref(), Ok(&[expected][..]));
    let mut report = retried.accepted();
    for attempt in 2..FAILURES_MAX + 2 {
        let failed = report.when(start()).accepted().when(fail(attempt, true));
        let events = failed.outcome.clone().expect("accepted");
        assert_eq!(events.len() == 2, attempt == FAILURES_MAX + 1, "attempt {attempt}: {events:?}");
        report = failed.accepted();
    }
    report.when(ReportCommand::RetryReport).accepted().when(start()).accepted().when(complete()).accepted();
}

#[test]
fn killed_workers_are_no_failures_but_not_for_ever() {
    let mut report = running();
    for _ in 0..CRASHES_MAX {
        report = report.when(start()).accepted();
    }
    let dead = report.when(start());
    assert!(matches!(dead.outcome.as_deref(), Ok([ReportEvent::ReportDead { attempts: 11, .. }])));
    dead.accepted().when(complete()).then_refused("INVALID_STATE");
}

#[test]
fn the_failure_of_an_attempt_that_was_given_up_changes_nothing() {
    running().when(start()).accepted().when(fail(1, true)).then_nothing();
}

#[test]
fn a_slow_worker_may_still_deliver_after_its_attempt_was_failed() {
    let retried = running().when(fail(1, true)).accepted().when(complete());
    assert!(matches!(retried.outcome.as_deref(), Ok([ReportEvent::ReportCompleted { attempt: 1, .. }])));
}
