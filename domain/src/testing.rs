//! Given/when/then over the pure decisions.

use std::fmt::Debug;

use jiff::Timestamp;

use crate::{Decide, Fact, Moment, Refused};

pub struct Given<A> {
    state: A,
    now: Timestamp,
}

pub fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant in the test")
}

/// The state after these events, at noon UTC of 1 January 2025 unless `at` says otherwise.
pub fn given<A>(events: impl IntoIterator<Item = A::Event>) -> Given<A>
where
    A: Decide,
    A::Event: Fact,
{
    let mut state = A::default();
    events.into_iter().for_each(|event| state.apply(event));
    Given { state, now: instant("2025-01-01T12:00:00Z") }
}

impl<A> Given<A>
where
    A: Decide<Error: PartialEq + Debug>,
    A::Event: Fact,
{
    pub fn at(mut self, now: &str) -> Self {
        self.now = instant(now);
        self
    }

    pub fn when(self, command: A::Command) -> Then<A> {
        let outcome = self.state.decide(&command, &Moment { now: self.now });
        Then { state: self.state, now: self.now, outcome }
    }
}

pub struct Then<A: Decide>
where
    A::Event: Fact,
{
    state: A,
    now: Timestamp,
    pub outcome: Result<Vec<A::Event>, A::Error>,
}

impl<A> Then<A>
where
    A: Decide<Error: PartialEq + Debug>,
    A::Event: Fact,
{
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        assert_eq!(self.outcome.as_ref(), Ok(&expected.into_iter().collect()));
        self.accepted()
    }

    pub fn then_nothing(self) -> Given<A> {
        self.then([])
    }

    #[track_caller]
    pub fn then_refused(self, code: &str) -> A::Error {
        let error = self.outcome.expect_err("the command should have been refused");
        assert_eq!(error.code(), code, "{error}");
        error
    }

    /// Carries on from the state after the decided events.
    #[track_caller]
    pub fn accepted(mut self) -> Given<A> {
        for event in self.outcome.expect("the command should have been accepted") {
            self.state.apply(event);
        }
        Given { state: self.state, now: self.now }
    }
}
