//! One database file: its only writing connection, its readers, its migration, its errors.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cqrs_es::persist::PersistenceError;
use ports::{Error, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor, Row, Sqlite, Transaction};

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

    /// Whether a write could begin. `Unavailable` when another one stands in its way for longer than that; it names the other
    /// processes that hold the file, where the system tells them.
    pub(super) async fn can_write(&self, patience: Duration) -> Result<()> {
        let options = self.readers.connect_options().as_ref().clone().read_only(false).busy_timeout(patience);
        let path = options.get_filename().to_owned();
        // A connection of its own: this process' writes are no reason to worry.
        let tried = self.run(async {
            let mut connection = options.connect().await?;
            let begun = connection.execute("BEGIN IMMEDIATE; ROLLBACK").await;
            connection.close().await?;
            begun
        });
        match tried.await {
            Ok(_) => Ok(()),
            Err(Error::Unavailable { what, source }) => {
                let told = match holders(&path).as_slice() {
                    [] => "a process that the system does not name, or a long write of this one".to_owned(),
                    [one] => format!("process {one}"),
                    many => format!("one of the processes {many:?}"),
                };
                let what = format!("{what} ({}, held by {told})", path.display());
                Err(Error::Unavailable { what, source })
            }
            Err(error) => Err(error),
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

/// Other processes that hold write locks on a database, as Linux tells it. The files are not opened for that: closing one gives up
/// every lock that this process has on it.
fn holders(database: &Path) -> Vec<u32> {
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else { return vec![] };
    let mut shared = database.as_os_str().to_owned();
    shared.push("-shm");
    let files = [database.to_owned(), PathBuf::from(shared)];
    let inodes: Vec<String> =
        files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.ino().to_string()).collect();
    let held = |line: &str| {
        // 1: POSIX  ADVISORY  WRITE 4711 fe:00:262145 120 120
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, "WRITE", pid, file, ..] = fields[..] else { return None };
        let inode = file.rsplit(':').next()?;
        let pid: u32 = pid.parse().ok()?;
        (pid != std::process::id() && inodes.iter().any(|known| known == inode)).then_some(pid)
    };
    let found: BTreeSet<u32> = locks.lines().filter_map(held).collect();
    found.into_iter().collect()
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
