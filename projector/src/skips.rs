//! Events that operators gave up in a model (`casitas parked skip`): whoever folds the model from the beginning leaves them out.
//!
//! The record is the Operations stream of the auth log, where a skip stands before it is done. It outlives every generation, the
//! whole view store, and the fold that could not take the event: a later fold leaves it out, too. Of one position the last
//! request holds, so that a retry takes a skip back.

use std::collections::HashMap;
use std::sync::Arc;

use domain::auth::{Operations, OperationsEvent};
use domain::{AggregateKind, Context, StreamId};
use ports::{Error, EventQuery, Logs, ParkedStream, Position, Recorded, Result};
use uuid::Uuid;

use crate::known;

/// The events that are read, apart from each other: reveals of personal data are in the same stream, and may be long.
const REQUESTS: [&str; 2] = ["ParkedEventSkipped", "ParkedStreamRetried"];
/// Of them at once.
const CHUNK: usize = 1_000;

/// What is given up in one model, by its place in the log of the model's context.
#[derive(Clone, Debug, Default)]
pub struct Skips(Arc<HashMap<Position, Skip>>);

#[derive(Debug)]
struct Skip {
    /// As it is shown: `unit:0192…`.
    stream: String,
    /// The first records named no event.
    event_id: Option<Uuid>,
}

impl Skips {
    /// As recorded now.
    ///
    /// # Errors
    /// Those of the auth log; `Corrupt` for a record of a newer build.
    pub async fn of(model: &str, logs: &Logs) -> Result<Self> {
        let mut skips = HashMap::new();
        for request in requests(logs).await? {
            known::check(&request).map_err(Error::corrupt)?;
            take(&mut skips, model, request.decode()?);
        }
        Ok(Self(Arc::new(skips)))
    }

    /// Whether an event is given up.
    pub fn has(&self, event: &Recorded) -> bool {
        self.has_at(event.position, event.event_id, &event.stream)
    }

    /// Whether a stream is parked at an event that was given up since.
    pub(crate) fn has_parked(&self, parked: &ParkedStream) -> bool {
        self.has_at(parked.position, parked.event_id, &parked.stream)
    }

    fn has_at(&self, position: Position, event_id: Uuid, stream: &StreamId) -> bool {
        self.0.get(&position).is_some_and(|skip| match skip.event_id {
            Some(id) => id == event_id,
            None => skip.stream == stream.to_string(),
        })
    }

    /// The positions of a stream's events that are given up, in order.
    pub fn of_stream(&self, stream: &StreamId) -> Vec<Position> {
        let stream = stream.to_string();
        let of_it = self.0.iter().filter(|(_, skip)| skip.stream == stream);
        let mut positions: Vec<Position> = of_it.map(|(position, _)| *position).collect();
        positions.sort_unstable();
        positions
    }
}

/// What operators asked for parked streams of any model, in order.
async fn requests(logs: &Logs) -> Result<Vec<Recorded>> {
    let log = logs.get(Context::Auth)?;
    let mut requests = Vec::new();
    for event_type in REQUESTS {
        let query = EventQuery {
            stream: Some(StreamId::new(AggregateKind::Operations, Operations::ID)),
            event_type: Some(event_type.to_owned()),
            ..EventQuery::default()
        };
        let mut after = 0;
        loop {
            let found = log.search(&query, after, Position::MAX >> 1, CHUNK).await?;
            let Some(last) = found.last() else { break };
            after = last.position;
            requests.extend(found);
        }
    }
    requests.sort_unstable_by_key(|request| request.position);
    Ok(requests)
}

fn take(skips: &mut HashMap<Position, Skip>, model: &str, request: OperationsEvent) {
    match request {
        OperationsEvent::ParkedEventSkipped { model: of, stream, position, event_id, .. } if of == model => {
            skips.insert(position, Skip { stream, event_id });
        }
        OperationsEvent::ParkedStreamRetried { model: of, position, .. } if of == model => {
            skips.remove(&position);
        }
        // Of another model, or another action.
        OperationsEvent::ParkedEventSkipped { .. }
        | OperationsEvent::ParkedStreamRetried { .. }
        | OperationsEvent::PersonalDataRevealed { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "unit:1";

    fn skip(model: &str, position: Position, event_id: Option<Uuid>) -> OperationsEvent {
        let (model, stream) = (model.into(), STREAM.into());
        OperationsEvent::ParkedEventSkipped { by: "ana".into(), reason: None, model, stream, position, event_id }
    }

    fn retry(model: &str, position: Position) -> OperationsEvent {
        let (model, stream) = (model.into(), STREAM.into());
        OperationsEvent::ParkedStreamRetried { by: "ana".into(), reason: None, model, stream, position }
    }

    fn units(requests: impl IntoIterator<Item = OperationsEvent>) -> Skips {
        let mut skips = HashMap::new();
        requests.into_iter().for_each(|request| take(&mut skips, "units", request));
        Skips(Arc::new(skips))
    }

    #[test]
    fn the_last_request_about_an_event_holds_in_its_model_alone() {
        let stream = StreamId::new(AggregateKind::Unit, "1");
        let skips = units([retry("units", 9), skip("units", 9, None), skip("units", 12, None), skip("units", 3, None)]);
        assert_eq!(skips.of_stream(&stream), [3, 9, 12]);
        assert_eq!(skips.of_stream(&StreamId::new(AggregateKind::Unit, "2")), [0; 0]);
        let skips = units([skip("units", 9, None), skip("units", 12, None), retry("units", 9), retry("calendar", 12)]);
        assert_eq!(skips.of_stream(&stream), [12]);
        assert_eq!(units([skip("calendar", 9, None)]).of_stream(&stream), [0; 0]);
    }

    #[test]
    fn another_event_at_the_position_of_one_that_was_skipped_is_folded() {
        let [stream, other] = ["1", "2"].map(|id| StreamId::new(AggregateKind::Unit, id));
        let [mine, later] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let skips = units([skip("units", 9, Some(mine))]);
        assert!(skips.has_at(9, mine, &stream) && !skips.has_at(9, later, &stream) && !skips.has_at(8, mine, &stream));
        // Of the first records the stream must do.
        let skips = units([skip("units", 9, None)]);
        assert!(skips.has_at(9, later, &stream) && !skips.has_at(9, later, &other));
    }
}
