//! The contract of [`EventLog`]. Each check starts from the log's present head and uses fresh streams, so that they can
//! share one log; nothing else may write to it meanwhile.

mod append;
mod chain;
mod followers;
mod inspect;
mod keys;
mod order;
mod subjects;
mod transfer;

use std::sync::Arc;

use domain::{AggregateKind, Date, StreamId};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{AppendOutcome, AppendRequest, EventLog, Metadata, NewEvent, Position, Recorded, StreamAppend};

pub use append::*;
pub use chain::*;
pub use followers::*;
pub use inspect::*;
pub use keys::*;
pub use order::*;
pub use subjects::*;
pub use transfer::*;

pub async fn all(log: Arc<dyn EventLog>) {
    let shared = log.as_ref();
    the_head_names_the_last_event(shared).await;
    appended_events_come_back_as_they_were(shared).await;
    a_stream_is_loaded_after_a_sequence(shared).await;
    many_streams_come_at_once_each_whole_and_in_its_place(shared).await;
    a_wrong_expected_version_is_a_conflict_and_writes_nothing(shared).await;
    each_request_of_a_batch_has_its_own_outcome(shared).await;
    a_command_over_several_streams_stands_or_falls_whole(shared).await;
    resent_event_ids_are_committed_once(shared).await;
    what_breaks_a_precondition_is_rejected_whole(shared).await;
    recorded_times_never_go_back(shared).await;

    the_same_request_with_its_key_is_replayed(shared).await;
    another_request_with_a_used_key_is_refused(shared).await;
    a_refused_command_leaves_its_key_free(shared).await;
    a_key_is_kept_without_events_and_decides_from_then_on(shared).await;
    a_key_twice_in_one_batch_counts_once(shared).await;
    a_resent_command_with_a_key_is_committed_not_replayed(shared).await;

    a_read_is_bounded_and_ends_at_the_head(shared).await;
    a_stretch_has_the_events_of_its_streams_and_no_others(shared).await;
    racing_writers_of_one_stream_lose_nothing_and_overwrite_nothing(log.clone()).await;
    a_follower_skips_nothing_while_many_write(log.clone()).await;
    racing_duplicates_of_one_key_commit_once(log.clone()).await;
    a_key_that_is_kept_while_others_append_with_it_has_one_outcome(log.clone()).await;

    a_follower_starts_without_a_checkpoint(shared).await;
    a_checkpoint_moves_only_from_where_it_stands(shared).await;
    a_new_claim_deposes_the_old_leader(shared).await;

    every_checkpoint_is_listed_by_name(shared).await;

    a_scan_tells_every_column_as_it_was_appended(shared).await;
    a_link_goes_on_from_one_link_only(shared).await;

    a_subjects_first_key_comes_with_events_and_stays(shared).await;
    a_command_that_is_not_done_leaves_no_subjects_key(shared).await;
    a_destroyed_key_is_gone_for_good(shared).await;

    a_search_finds_what_was_asked_and_nothing_else(shared).await;
    a_tally_counts_by_month_and_type_and_names_the_longest_streams(shared).await;
}

/// A stream of the log's context that does not exist yet.
pub fn fresh_stream(log: &dyn EventLog) -> StreamId {
    let kind = AggregateKind::ALL.iter().find(|kind| kind.context() == log.context());
    StreamId::new(*kind.expect("every context has an aggregate"), Uuid::now_v7().to_string())
}

pub fn event(number: usize) -> NewEvent {
    NewEvent {
        event_id: Uuid::now_v7(),
        event_type: "Happened".into(),
        event_version: "1".into(),
        payload: RawValue::from_string(format!(r#"{{"Happened":{{"number":{number}}}}}"#)).expect("JSON"),
        effective_on: Date::constant(2024, 2, 29),
    }
}

pub fn events(count: usize) -> Vec<NewEvent> {
    (0..count).map(event).collect()
}

pub fn to(stream: &StreamId, expected_version: u64, events: Vec<NewEvent>) -> StreamAppend {
    StreamAppend { stream: stream.clone(), expected_version, events }
}

pub fn request(streams: Vec<StreamAppend>) -> AppendRequest {
    let metadata = Metadata {
        actor: "user:0192".into(),
        correlation_id: Uuid::now_v7(),
        causation_id: Some(Uuid::now_v7()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    };
    AppendRequest { key: None, metadata, subject_keys: Vec::new(), streams }
}

/// Appends one request.
pub async fn append(log: &dyn EventLog, request: &AppendRequest) -> AppendOutcome {
    let mut outcomes = log.append(std::slice::from_ref(request)).await.expect("appended");
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// The positions of a request that must be committed.
pub async fn commit(log: &dyn EventLog, request: &AppendRequest) -> (Position, Position) {
    match append(log, request).await {
        AppendOutcome::Committed { first, last, .. } => (first, last),
        other => panic!("not committed: {other:?}"),
    }
}

pub async fn head(log: &dyn EventLog) -> Position {
    log.head().await.expect("a head").position
}

/// All events after a position, read in small chunks.
pub async fn read_all(log: &dyn EventLog, mut after: Position) -> Vec<Recorded> {
    let mut all = Vec::new();
    loop {
        let chunk = log.read(after, 7).await.expect("read");
        let Some(last) = chunk.last() else { return all };
        after = last.position;
        all.extend(chunk);
    }
}
