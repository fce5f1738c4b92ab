//! Searching and counting.

use uuid::Uuid;

use super::{commit, event, events, fresh_stream, head, read_all, request, to};
use crate::{EventLog, EventQuery, MonthCount, NewEvent, Position, month_of};

fn named(event_type: &str) -> NewEvent {
    NewEvent { event_type: event_type.into(), ..event(0) }
}

pub async fn a_search_finds_what_was_asked_and_nothing_else(log: &dyn EventLog) {
    let before = head(log).await;
    let (stream, other) = (fresh_stream(log), fresh_stream(log));
    let mut asked = request(vec![to(&stream, 0, vec![named("Asked"), named("Answered")])]);
    asked.metadata.actor = "timer:search".into();
    commit(log, &asked).await;
    commit(log, &request(vec![to(&other, 0, vec![named("Asked")]), to(&stream, 2, vec![named("Asked")])])).await;
    let end = head(log).await;
    let all = read_all(log, before).await;

    let open = EventQuery::default();
    let cases: Vec<(EventQuery, Vec<Position>)> = vec![
        (open.clone(), vec![1, 2, 3, 4]),
        (EventQuery { stream: Some(stream.clone()), ..open.clone() }, vec![1, 2, 4]),
        (EventQuery { event_type: Some("Asked".into()), ..open.clone() }, vec![1, 3, 4]),
        (EventQuery { stream: Some(stream.clone()), event_type: Some("Asked".into()), ..open.clone() }, vec![1, 4]),
        (EventQuery { actor: Some("timer:search".into()), ..open.clone() }, vec![1, 2]),
        (EventQuery { correlation_id: Some(asked.metadata.correlation_id), ..open.clone() }, vec![1, 2]),
        (EventQuery { event_id: Some(all[2].event_id), ..open.clone() }, vec![3]),
        (EventQuery { event_id: Some(Uuid::now_v7()), ..open.clone() }, vec![]),
        (EventQuery { event_type: Some("asked".into()), ..open.clone() }, vec![]),
    ];
    for (query, expected) in cases {
        let expected: Vec<Position> = expected.into_iter().map(|place| before + place).collect();
        let found = log.search(&query, before, end, 100).await.expect("searched");
        let places: Vec<Position> = found.iter().map(|event| event.position).collect();
        assert_eq!(places, expected, "{query:?}");
        assert!(found.iter().all(|event| query.matches(event)), "{query:?}");
        assert_eq!(log.count(&query, before, end).await.expect("counted"), expected.len() as u64, "{query:?}");
        let first: Vec<_> = log.search(&query, before, end, 1).await.expect("searched");
        assert_eq!(first.iter().map(|event| event.position).collect::<Vec<_>>(), expected[..expected.len().min(1)]);
        let within = log.search(&query, before + 1, end - 1, 100).await.expect("searched");
        let inner: Vec<_> = expected.iter().copied().filter(|at| (before + 2..end).contains(at)).collect();
        assert_eq!(within.iter().map(|event| event.position).collect::<Vec<_>>(), inner, "{query:?}");
    }
    let found = &log.search(&open, before, u64::MAX, 1).await.expect("searched")[0];
    assert_eq!(found.payload.get(), all[0].payload.get());
    assert_eq!((&found.metadata, found.recorded_at), (&all[0].metadata, all[0].recorded_at));
}

pub async fn a_tally_counts_by_month_and_type_and_names_the_longest_streams(log: &dyn EventLog) {
    let before = head(log).await;
    let (long, short) = (fresh_stream(log), fresh_stream(log));
    commit(log, &request(vec![to(&long, 0, events(3)), to(&short, 0, vec![named("Tallied")])])).await;
    commit(log, &request(vec![to(&long, 3, vec![named("Tallied")])])).await;
    let end = head(log).await;
    let month = month_of(log.read(before, 1).await.expect("read")[0].recorded_at);
    let count = |event_type: &str, events| MonthCount { month: month.clone(), event_type: event_type.into(), events };
    let whole = log.tally(before, end, 10).await.expect("tallied");
    assert_eq!(whole.months, [count("Happened", 3), count("Tallied", 2)]);
    assert_eq!(whole.streams, [(long.clone(), 4), (short, 1)]);
    // In parts it comes to the same.
    let mut parts = log.tally(before, before + 2, 1).await.expect("tallied");
    parts.add(log.tally(before + 2, end, 1).await.expect("tallied"), 1);
    assert_eq!((parts.months, parts.streams), (whole.months, vec![(long, 4)]));
}
