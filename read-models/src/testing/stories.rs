//! Logs written by the aggregates themselves, so that a model is tested on events that can really follow each other.

use domain::{AggregateKind, Decide, DomainEvent, Fact, Moment};
use ports::Recorded;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Shelf, instant, recorded};
use crate::ReadModel;

/// Events of any streams, in the order they were recorded.
#[derive(Default)]
pub struct Story(pub Vec<Recorded>);

impl Story {
    /// The command is decided on its stream as written so far, at an instant, and must be accepted.
    #[track_caller]
    pub fn run<A>(&mut self, id: impl ToString, at: &str, command: A::Command) -> &mut Self
    where
        A: Decide,
        A::Event: Fact + Serialize + DeserializeOwned,
    {
        let id = id.to_string();
        let mut state = A::default();
        let mut sequence = 0;
        for event in self.0.iter().filter(|event| event.stream.kind == A::KIND && event.stream.id == id) {
            state.apply(event.decode().expect("an event decodes"));
            sequence = event.sequence;
        }
        let moment = Moment { now: instant(at) };
        for event in state.decide(&command, &moment).expect("the command should have been accepted") {
            sequence += 1;
            let mut recorded = recorded(A::KIND, &id, sequence, at, &event);
            recorded.position = self.0.len() as u64 + 1;
            recorded.effective_on = state.effective_on(&event, &moment);
            state.apply(event);
            self.0.push(recorded);
        }
        self
    }

    pub fn head(&self) -> u64 {
        self.0.len() as u64
    }

    /// Writes an event that no command of today makes.
    pub fn write<E: DomainEvent + Serialize>(&mut self, kind: AggregateKind, id: impl ToString, at: &str, event: &E) {
        let mut recorded = recorded(kind, id, self.head() + 1, at, event);
        recorded.position = self.head() + 1;
        self.0.push(recorded);
    }

    pub fn shelf(&self, models: &[&dyn ReadModel]) -> Shelf {
        let mut shelf = Shelf::default();
        models.iter().for_each(|model| {
            shelf.fold(*model, &self.0);
        });
        shelf
    }
}
