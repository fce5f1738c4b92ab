//! Driver errors by meaning.

use std::future::Future;
use std::time::Duration;

use cqrs_es::persist::PersistenceError;
use ports::{Error, Result};

/// Every call ends within this time.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// Whether the call could change something: decides what a lost connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    Write,
}

/// Runs one call with its deadline. The connection of a call that did not end must not be used again: see [`Call`].
pub(super) async fn within<T>(what: &str, call: Call, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(map(what, call, error)),
        Err(elapsed) if call == Call::Write => Err(Error::unknown_outcome(what, elapsed)),
        Err(elapsed) => Err(Error::unavailable(what, elapsed)),
    }
}

pub(super) fn map(what: &str, call: Call, error: sqlx::Error) -> Error {
    use sqlx::Error as E;
    match &error {
        E::PoolTimedOut | E::PoolClosed => Error::unavailable(what, error),
        E::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            by_code(what, call, &code, error)
        }
        E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed if call == Call::Write => {
            Error::unknown_outcome(what, error)
        }
        E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed => Error::unavailable(what, error),
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) | E::RowNotFound => {
            Error::corrupt(format!("{what}: {error}"))
        }
        _ => Error::rejected(what, error),
    }
}

/// By SQLSTATE. An error that the server answered means that the transaction was rolled back, except when the session was
/// ended (57P): that can also happen after the commit.
fn by_code(what: &str, call: Call, code: &str, error: sqlx::Error) -> Error {
    match code {
        "57P01" | "57P02" | "57P05" if call == Call::Write => Error::unknown_outcome(what, error),
        // Cancelled by a timeout, a lock that was not to be had, a conflict the server resolved by rolling back.
        "57014" | "55P03" | "40001" | "40P01" | "25P03" | "25006" => Error::unavailable(what, error),
        // Not yet migrated, or the password is not yet set: the operator (or `casitas migrate`) is on it.
        "3D000" | "42P01" | "28P01" | "28000" => Error::unavailable(what, error),
        // The append function does not exist yet; in a query it is an operator that does not fit.
        "42883" if call == Call::Write => Error::unavailable(what, error),
        "XX001" | "XX002" => Error::corrupt(format!("{what}: {error}")),
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Error::unavailable(what, error),
        _ => Error::rejected(what, error),
    }
}

/// A right is missing. The server says which, and not who lacks it.
#[derive(Debug, thiserror::Error)]
#[error("not allowed to {role}")]
struct NotAllowed {
    role: String,
    source: sqlx::Error,
}

/// The error with the role that was logged in as, where that lacks a right.
pub(super) fn of_role(role: &str, error: Error) -> Error {
    let lacks_right = |error: &sqlx::Error| {
        error.as_database_error().is_some_and(|refused| refused.code().is_some_and(|code| code == "42501"))
    };
    match error {
        Error::Rejected { what, source: Some(source) } => match source.downcast::<sqlx::Error>() {
            Ok(refused) if lacks_right(&refused) => {
                Error::rejected(what, NotAllowed { role: role.to_owned(), source: *refused })
            }
            Ok(refused) => Error::rejected(what, *refused),
            Err(other) => Error::rejected(what, other),
        },
        error => error,
    }
}

/// What postgres-es makes of driver errors on a load: everything it cannot name may be a lost connection.
pub(super) fn map_load(what: &str, error: PersistenceError) -> Error {
    match error {
        PersistenceError::ConnectionError(source) => Error::unavailable(what, source),
        PersistenceError::DeserializationError(source) => Error::corrupt(format!("{what}: {source}")),
        PersistenceError::OptimisticLockError => Error::corrupt(format!("{what}: a load reported a conflict")),
        PersistenceError::UnknownError(source) => match source.downcast::<sqlx::Error>() {
            Ok(error) => map(what, Call::Read, *error),
            Err(source) => Error::unavailable(what, source),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lost_while_writing_is_an_unknown_outcome_and_while_reading_unavailable() {
        let lost = || sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(map("x", Call::Write, lost()), Error::UnknownOutcome { .. }));
        assert!(matches!(map("x", Call::Read, lost()), Error::Unavailable { .. }));
    }

    #[test]
    fn a_session_ended_while_writing_may_have_committed() {
        let ended = |call, code| by_code("x", call, code, sqlx::Error::PoolClosed);
        assert!(matches!(ended(Call::Write, "57P01"), Error::UnknownOutcome { .. }));
        assert!(matches!(ended(Call::Read, "57P01"), Error::Unavailable { .. }));
        assert!(matches!(ended(Call::Write, "55P03"), Error::Unavailable { .. }));
        assert!(matches!(ended(Call::Write, "23505"), Error::Rejected { .. }));
        assert!(matches!(ended(Call::Write, "53100"), Error::Unavailable { .. }));
    }
}
