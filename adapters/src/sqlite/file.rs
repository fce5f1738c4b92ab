//! One database file: its only writing connection, its readers, its migration, its errors.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cqrs_es::persist::PersistenceError;
use ports::{Error, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Row, Sqlite, Transaction};

use super::DataFolder;

const READERS: u32 = 4;
/// Rows that a reader's thread hands over before it waits for whoever takes them.
const READ_BUFFER_ROWS: usize = 1_024;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(10);
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// Rows of one statement at most.
pub(super) const ROWS_MAX: usize = 256;

/// The rows of a VALUES clause for `rows` rows, rounded up to a power of two: few statements have to be prepared, and each is one
/// call of the connection's thread. Parameters that are not bound are NULL, so the statement leaves out rows with a NULL in front.
pub(super) fn rows_for(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    vec![row; rows.next_power_of_two()].join(", ")
}

/// (version, name, SQL); a version is never edited once it was released.
pub(super) type Step = (i64, &'static str, &'static str);

pub(super) struct DatabaseFile {
    pub what: String,
    pub writer: SqlitePool,
    pub readers: SqlitePool,
    /// Keeps the folder held until the last store of it is gone.
    _held: Arc<File>,
}

impl DatabaseFile {
    pub(super) async fn open(
        folder: &DataFolder,
        name: &str,
        what: String,
        synchronous: SqliteSynchronous,
        steps: &[Step],
    ) -> Result<Self> {
        let path = folder.path().join(name);
        let options = SqliteConnectOptions::new().filename(&path).foreign_keys(true).busy_timeout(ACQUIRE_TIMEOUT);
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("journal_size_limit", WAL_KEPT_BYTES.to_string())
            // REPLACE fires the triggers that refuse deletion, and what is deleted (a key) is overwritten.
            .pragma("recursive_triggers", "ON")
            .pragma("secure_delete", "ON");
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(writing)
            .await
            .map_err(|error| map(&what, error))?;
        migrate(&writer, steps).await.map_err(|error| map(&what, error))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true).row_buffer_size(READ_BUFFER_ROWS));
        Ok(Self { what, writer, readers, _held: folder.held() })
    }

    /// The write transaction; it waits for its turn.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.run(self.writer.begin_with("BEGIN IMMEDIATE")).await
    }

    /// Commits durably. Only here a failure leaves the outcome open.
    pub(super) async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<()> {
        match tokio::time::timeout(DEADLINE, transaction.commit()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::unknown_outcome(&self.what, error)),
            Err(elapsed) => Err(Error::unknown_outcome(&self.what, elapsed)),
        }
    }

    /// One call with its deadline.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(answer) => answer.map_err(|error| map(&self.what, error)),
            Err(elapsed) => Err(Error::unavailable(&self.what, elapsed)),
        }
    }

    pub(super) fn column<'r, T>(&self, row: &'r SqliteRow, name: &str) -> Result<T>
    where
        T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
    {
        row.try_get(name).map_err(|error| self.corrupt(&error))
    }

    /// A column that holds text of another type: a UUID, a date.
    pub(super) fn parsed<T>(&self, row: &SqliteRow, name: &str) -> Result<T>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.column::<&str>(row, name)?.parse().map_err(|error| self.corrupt(&format!("{name}: {error}")))
    }

    pub(super) fn parsed_or_null<T>(&self, row: &SqliteRow, name: &str) -> Result<Option<T>>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text: Option<&str> = self.column(row, name)?;
        text.map(|text| text.parse().map_err(|error| self.corrupt(&format!("{name}: {error}")))).transpose()
    }

    pub(super) fn corrupt(&self, detail: &dyn std::fmt::Display) -> Error {
        Error::corrupt(format!("{}: {detail}", self.what))
    }
}

async fn migrate(writer: &SqlitePool, steps: &[Step]) -> Result<(), sqlx::Error> {
    sqlx::query("CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL) STRICT")
        .execute(writer)
        .await?;
    for (version, name, sql) in steps {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        let known: Option<String> = sqlx::query_scalar("SELECT name FROM schema_migrations WHERE version = ?")
            .bind(version)
            .fetch_optional(&mut *transaction)
            .await?;
        if known.is_none() {
            sqlx::raw_sql(sql).execute(&mut *transaction).await?;
            sqlx::query("INSERT INTO schema_migrations (version, name) VALUES (?, ?)")
                .bind(version)
                .bind(name)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

pub(super) fn map(what: &str, error: sqlx::Error) -> Error {
    use sqlx::Error as E;
    match &error {
        E::Database(database) => {
            // The low byte of an extended result code is the primary one.
            let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default() & 0xff;
            match code {
                // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN
                5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 => Error::unavailable(what, error),
                // CORRUPT, NOTADB
                11 | 26 => Error::corrupt(format!("{what}: {error}")),
                _ => Error::rejected(what, error),
            }
        }
        E::PoolTimedOut | E::PoolClosed | E::Io(_) | E::WorkerCrashed => Error::unavailable(what, error),
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) | E::RowNotFound => {
            Error::corrupt(format!("{what}: {error}"))
        }
        _ => Error::rejected(what, error),
    }
}

/// What sqlite-es makes of driver errors on a load.
pub(super) fn map_load(what: &str, error: PersistenceError) -> Error {
    match error {
        PersistenceError::ConnectionError(source) => Error::unavailable(what, source),
        PersistenceError::DeserializationError(source) => Error::corrupt(format!("{what}: {source}")),
        PersistenceError::OptimisticLockError => Error::corrupt(format!("{what}: a load reported a conflict")),
        PersistenceError::UnknownError(source) => match source.downcast::<sqlx::Error>() {
            Ok(error) => map(what, *error),
            Err(source) => Error::unavailable(what, source),
        },
    }
}
