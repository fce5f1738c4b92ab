//! One append: versions, batches, resends, refusals.

use domain::{AggregateKind, Date};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{append, commit, event, events, fresh_stream, head, read_all, request, to};
use cqrs_es::persist::SerializedEvent;

use crate::{AppendOutcome, AppendRequest, Error, EventLog};

pub async fn the_head_names_the_last_event(log: &dyn EventLog) {
    let before = log.head().await.expect("a head");
    let command = request(vec![to(&fresh_stream(log), 0, events(3))]);
    let (first, last) = commit(log, &command).await;
    assert_eq!((first, last), (before.position + 1, before.position + 3));
    let after = log.head().await.expect("a head");
    assert_eq!(after.position, last);
    assert_eq!(after.event_id, Some(command.streams[0].events[2].event_id));
    assert!(after.recorded_at.is_some());
    assert_eq!(after.incarnation, before.incarnation);
}

pub async fn appended_events_come_back_as_they_were(log: &dyn EventLog) {
    let stream = fresh_stream(log);
    // Text is kept byte for byte: key order, spaces, number forms, escapes.
    let payload = "{\"Happened\": {\"z\":1.10, \"a\":\"\\u00e9 \\u0000 Ünïcødé 🏠\", \"big\":12345678901234567890}}";
    let mut happened = event(0);
    happened.payload = RawValue::from_string(payload.into()).expect("JSON");
    happened.event_version = "2".into();
    happened.effective_on = Date::constant(1999, 12, 31);
    let mut command = request(vec![to(&stream, 0, vec![happened.clone()])]);
    command.metadata.causation_id = None;
    command.metadata.traceparent = None;
    let AppendOutcome::Committed { first, last, recorded_at } = append(log, &command).await else { panic!("not committed") };
    assert_eq!(first, last);

    let read = log.read(first - 1, 1).await.expect("read").remove(0);
    assert_eq!(read.payload.get(), payload);
    assert_eq!((read.position, read.event_id, read.sequence), (first, happened.event_id, 1));
    assert_eq!((&read.stream, read.event_type.as_str(), read.event_version.as_str()), (&stream, "Happened", "2"));
    assert_eq!((read.effective_on, read.recorded_at), (happened.effective_on, recorded_at));
    assert_eq!(read.metadata, command.metadata);

    let loaded = log.load(&stream, 0).await.expect("loaded").remove(0);
    assert_eq!(loaded.payload, serde_json::from_str::<Value>(payload).expect("JSON"));
    assert_eq!((loaded.aggregate_id, loaded.sequence), (stream.id, 1));
    assert_eq!((loaded.event_type.as_str(), loaded.event_version.as_str()), ("Happened", "2"));
}

pub async fn a_stream_is_loaded_after_a_sequence(log: &dyn EventLog) {
    let (stream, other) = (fresh_stream(log), fresh_stream(log));
    commit(log, &request(vec![to(&stream, 0, events(2))])).await;
    commit(log, &request(vec![to(&other, 0, events(1))])).await;
    commit(log, &request(vec![to(&stream, 2, events(3))])).await;
    for (after, expected) in [(0, vec![1, 2, 3, 4, 5]), (3, vec![4, 5]), (5, vec![]), (9, vec![])] {
        let loaded = log.load(&stream, after).await.expect("loaded");
        assert_eq!(loaded.iter().map(|event| event.sequence).collect::<Vec<_>>(), expected, "after {after}");
    }
    assert_eq!(log.load(&fresh_stream(log), 0).await.expect("loaded"), []);
}

pub async fn a_wrong_expected_version_is_a_conflict_and_writes_nothing(log: &dyn EventLog) {
    let stream = fresh_stream(log);
    commit(log, &request(vec![to(&stream, 0, events(2))])).await;
    let before = head(log).await;
    for wrong in [0, 1, 3] {
        let outcome = append(log, &request(vec![to(&stream, wrong, events(1))])).await;
        assert_eq!(outcome, AppendOutcome::VersionConflict { stream: stream.clone(), actual: 2 });
    }
    assert_eq!(head(log).await, before);
}

pub async fn each_request_of_a_batch_has_its_own_outcome(log: &dyn EventLog) {
    let (one, two, three) = (fresh_stream(log), fresh_stream(log), fresh_stream(log));
    let before = head(log).await;
    let batch = [
        request(vec![to(&one, 0, events(2))]),
        request(vec![to(&two, 7, events(1))]),
        request(vec![to(&three, 0, events(1))]),
    ];
    let outcomes = log.append(&batch).await.expect("appended");
    assert!(
        matches!(outcomes[0], AppendOutcome::Committed { first, last, .. } if (first, last) == (before + 1, before + 2))
    );
    assert_eq!(outcomes[1], AppendOutcome::VersionConflict { stream: two.clone(), actual: 0 });
    assert!(
        matches!(outcomes[2], AppendOutcome::Committed { first, last, .. } if (first, last) == (before + 3, before + 3))
    );
    assert_eq!(read_all(log, before).await.len(), 3);
    assert_eq!(log.append(&[]).await.expect("an empty batch"), []);
}

pub async fn a_command_over_several_streams_stands_or_falls_whole(log: &dyn EventLog) {
    let (one, two) = (fresh_stream(log), fresh_stream(log));
    let before = head(log).await;
    let outcome = append(log, &request(vec![to(&one, 0, events(1)), to(&two, 1, events(1))])).await;
    assert_eq!(outcome, AppendOutcome::VersionConflict { stream: two.clone(), actual: 0 });
    assert_eq!(head(log).await, before);

    let (first, last) = commit(log, &request(vec![to(&one, 0, events(2)), to(&two, 0, events(1))])).await;
    assert_eq!((first, last), (before + 1, before + 3));
    let read = read_all(log, before).await;
    let placed: Vec<_> = read.iter().map(|event| (&event.stream, event.sequence)).collect();
    assert_eq!(placed, [(&one, 1), (&one, 2), (&two, 1)]);
}

pub async fn resent_event_ids_are_committed_once(log: &dyn EventLog) {
    let (one, two) = (fresh_stream(log), fresh_stream(log));
    let command = request(vec![to(&one, 0, events(2)), to(&two, 0, events(1))]);
    let outcome = append(log, &command).await;
    // Others went on meanwhile, on the same stream too.
    commit(log, &request(vec![to(&one, 2, events(1))])).await;
    let before = head(log).await;
    let fresh = request(vec![to(&fresh_stream(log), 0, events(1))]);
    let outcomes = log.append(&[command, fresh]).await.expect("resent");
    assert_eq!(outcomes[0], outcome);
    assert!(matches!(outcomes[1], AppendOutcome::Committed { first, .. } if first == before + 1));
    assert_eq!(head(log).await, before + 1);
}

pub async fn what_breaks_a_precondition_is_rejected_whole(log: &dyn EventLog) {
    let stream = fresh_stream(log);
    let known = event(0);
    commit(log, &request(vec![to(&stream, 0, vec![known.clone()])])).await;
    let before = head(log).await;
    let foreign_kind = *AggregateKind::ALL.iter().find(|kind| kind.context() != log.context()).expect("another context");
    let foreign = domain::StreamId::new(foreign_kind, "x");
    let twice = event(1);
    let broken: Vec<(&str, AppendRequest)> = vec![
        ("no stream", request(vec![])),
        ("no event", request(vec![to(&fresh_stream(log), 0, vec![])])),
        ("a stream of another context", request(vec![to(&foreign, 0, events(1))])),
        ("a stream twice", request(vec![to(&stream, 1, events(1)), to(&stream, 2, events(1))])),
        ("an event id of another stream", request(vec![to(&fresh_stream(log), 0, vec![known])])),
        ("an event id twice", request(vec![to(&fresh_stream(log), 0, vec![twice.clone(), twice])])),
    ];
    for (why, bad) in broken {
        let good = request(vec![to(&fresh_stream(log), 0, events(1))]);
        let answer = log.append(&[good, bad]).await;
        assert!(matches!(answer, Err(Error::Rejected { .. })), "{why}: {answer:?}");
        assert_eq!(head(log).await, before, "{why}: nothing is written");
    }
}

pub async fn recorded_times_never_go_back(log: &dyn EventLog) {
    let before = head(log).await;
    for _ in 0..5 {
        commit(log, &request(vec![to(&fresh_stream(log), 0, events(2))])).await;
    }
    let read = read_all(log, before).await;
    assert!(read.is_sorted_by_key(|event| event.recorded_at));
    assert_eq!(read[0].recorded_at, read[1].recorded_at, "one append, one time");
}

pub async fn many_streams_come_at_once_each_whole_and_in_its_place(log: &dyn EventLog) {
    let (one, two, none) = (fresh_stream(log), fresh_stream(log), fresh_stream(log));
    let first = request(vec![to(&one, 0, events(1))]);
    commit(log, &first).await;
    commit(log, &request(vec![to(&two, 0, events(2))])).await;
    commit(log, &request(vec![to(&one, 1, events(2))])).await;
    let asked = [two.clone(), none, one.clone(), two];
    let answers = log.load_many(&asked).await.expect("loaded");
    for (stream, answer) in asked.iter().zip(&answers) {
        let alone = log.load(stream, 0).await.expect("loaded");
        let facts = |events: &[SerializedEvent]| -> Vec<_> {
            events.iter().map(|event| (event.sequence, event.event_type.clone(), event.payload.clone())).collect()
        };
        assert_eq!(facts(&answer.events), facts(&alone), "{stream}");
    }
    assert_eq!(answers.iter().map(|answer| answer.events.len()).collect::<Vec<_>>(), [2, 0, 3, 2]);
    // Where an adapter tells the origin, it is that of the first event.
    if let Some((event_id, metadata)) = &answers[2].origin {
        assert_eq!((*event_id, metadata), (first.streams[0].events[0].event_id, &first.metadata));
    }
    assert!(answers[1].origin.is_none());
}
