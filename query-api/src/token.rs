//! Read-your-writes: whether a checkpoint has reached the positions that a request wants to see.

use domain::Context;
use ports::Checkpoint;
use web::PositionToken;

/// The positions of `Casitas-Min-Position`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinPosition(Vec<PositionToken>);

/// Whether a checkpoint has reached a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Yes,
    NotYet,
    /// The token is of another life of the log: it will never be reached.
    Never(Context),
}

impl Reached {
    /// The worse of two.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never(context), _) | (_, Self::Never(context)) => Self::Never(context),
            (Self::NotYet, _) | (_, Self::NotYet) => Self::NotYet,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

impl From<Vec<PositionToken>> for MinPosition {
    fn from(tokens: Vec<PositionToken>) -> Self {
        Self(tokens)
    }
}

impl MinPosition {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the token asks anything of this context.
    pub fn concerns(&self, context: Context) -> bool {
        self.0.iter().any(|token| token.context == context && token.position > 0)
    }

    /// Judges the checkpoint of a model that this context feeds; positions of other contexts do not matter.
    pub fn reached_by(&self, context: Context, checkpoint: &Checkpoint) -> Reached {
        self.0.iter().filter(|token| token.context == context).fold(Reached::Yes, |reached, token| {
            // A projection that has read nothing yet knows no life of the log.
            let other_life = checkpoint.position > 0 && token.incarnation.is_some_and(|life| life != checkpoint.incarnation);
            reached.and(if other_life {
                Reached::Never(context)
            } else if checkpoint.position >= token.position {
                Reached::Yes
            } else {
                Reached::NotYet
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn token(texts: &[&str]) -> MinPosition {
        texts.iter().map(|text| text.parse().expect("a token")).collect::<Vec<PositionToken>>().into()
    }

    fn checkpoint(position: u64, life: u128) -> Checkpoint {
        Checkpoint { incarnation: Uuid::from_u128(life), position, event_id: None }
    }

    #[test]
    fn positions_of_other_contexts_do_not_matter() {
        let token = token(&["units:10", "legal:7"]);
        assert_eq!(token.reached_by(Context::Units, &checkpoint(9, 1)), Reached::NotYet);
        assert_eq!(token.reached_by(Context::Units, &checkpoint(10, 1)), Reached::Yes);
        assert_eq!(token.reached_by(Context::Finances, &checkpoint(0, 1)), Reached::Yes);
    }

    #[test]
    fn a_token_of_another_life_is_never_reached() {
        let token = token(&[&format!("units:3@{}", Uuid::from_u128(1))]);
        assert_eq!(token.reached_by(Context::Units, &checkpoint(9, 2)), Reached::Never(Context::Units));
        assert_eq!(token.reached_by(Context::Units, &checkpoint(0, 0)), Reached::NotYet);
        assert_eq!(token.reached_by(Context::Units, &checkpoint(3, 1)), Reached::Yes);
    }
}
