//! Parked streams: written with a step, asked about by operators.

use domain::{AggregateKind, StreamId, Timestamp};
use uuid::Uuid;

use super::{lead, put, step};
use crate::{Ask, Error, ParkedStream, Parking, Position, ViewStore, conformance_spec};

pub fn parked(id: &str, position: Position) -> ParkedStream {
    ParkedStream {
        stream: StreamId::new(AggregateKind::Unit, id),
        position,
        sequence: position,
        event_id: Uuid::from_u128(position.into()),
        event_type: "UnitListed".into(),
        reason: "łacks a field".into(),
        since: Timestamp::from_microsecond(1_772_452_800_000_123).expect("an instant"),
        asked: None,
    }
}

pub async fn a_parked_stream_moves_with_its_step_and_only_with_it(views: &dyn ViewStore) {
    let spec = conformance_spec!("parking");
    let claim = lead(views, spec).await;
    assert_eq!(views.parked(spec.name, 1).await.expect("none"), []);
    let (one, two) = (parked("one", 2), parked("two", 1));
    let mut batch = step(spec, &claim, 0, vec![put("a", 1, None, None)]);
    batch.parking = vec![Parking::Park(one.clone()), Parking::Park(two.clone())];
    views.apply(&batch).await.expect("applied");
    assert_eq!(views.parked(spec.name, 1).await.expect("parked"), [two.clone(), one.clone()]);
    assert_eq!(views.parked(spec.name, 2).await.expect("none"), []);
    assert_eq!(views.parked("nobody", 1).await.expect("none"), []);

    // From a checkpoint that is not the stored one nothing moves.
    let late = views.apply(&batch).await;
    assert!(matches!(late, Err(Error::Conflict(_))), "{late:?}");
    let mut refused = step(spec, &claim, 7, vec![]);
    refused.parking = vec![Parking::Unpark(one.stream.clone())];
    assert!(matches!(views.apply(&refused).await, Err(Error::Conflict(_))));
    assert_eq!(views.parked(spec.name, 1).await.expect("parked").len(), 2);

    // A step without rows and without a move may park and unpark too.
    let moved = ParkedStream { reason: "another".into(), ..parked("two", 5) };
    let mut batch = step(spec, &claim, 1, vec![]);
    batch.to = super::at(1);
    batch.parking = vec![Parking::Unpark(one.stream.clone()), Parking::Park(moved.clone())];
    assert_eq!(views.apply(&batch).await.expect("applied"), 1);
    assert_eq!(views.parked(spec.name, 1).await.expect("parked"), std::slice::from_ref(&moved));

    let mut twice = step(spec, &claim, 1, vec![]);
    twice.parking = vec![Parking::Unpark(moved.stream.clone()), Parking::Park(moved)];
    assert!(matches!(views.apply(&twice).await, Err(Error::Rejected { .. })), "one stream twice");
}

pub async fn what_is_asked_for_a_parked_stream_waits_for_the_leader(views: &dyn ViewStore) {
    let spec = conformance_spec!("asking");
    let claim = lead(views, spec).await;
    let one = parked("one", 1);
    let mut batch = step(spec, &claim, 0, vec![]);
    batch.parking = vec![Parking::Park(one.clone())];
    views.apply(&batch).await.expect("applied");

    let elsewhere = StreamId::new(AggregateKind::Unit, "elsewhere");
    for (generation, stream, position) in [(2, &one.stream, 1), (1, &elsewhere, 1), (1, &one.stream, 9)] {
        let answer = views.ask(spec.name, generation, stream, position, Ask::Retry).await;
        assert!(matches!(answer, Err(Error::NotFound(_))), "{generation} {stream} {position}: {answer:?}");
    }
    let asked = async || views.parked(spec.name, 1).await.expect("parked")[0].asked;
    assert_eq!(asked().await, None);
    for ask in [Ask::Retry, Ask::Skip] {
        views.ask(spec.name, 1, &one.stream, 1, ask).await.expect("asked");
        assert_eq!(asked().await, Some(ask));
    }
    // Parking it again, wherever, answers the request.
    let mut batch = step(spec, &claim, 1, vec![]);
    batch.parking = vec![Parking::Park(parked("one", 2))];
    views.apply(&batch).await.expect("applied");
    assert_eq!(asked().await, None);
}
