//! What Postgres knows of its sessions, for operators: who waits for whom, and which followers are led. Read from `pg_locks`,
//! which shows every session's locks to everybody; no right to read others' statements is needed.

use std::time::Duration;

use domain::Context;
use ports::{Error, Result};
use sqlx::Row;
use tokio::time::sleep;

use super::errors::Call;
use super::pool::PostgresServer;
use super::shelf::Shelf;

/// Between two looks: what stands in the way at both, with the same transaction, has stood there all the time.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1_100);

/// Of `casitas_append`.
const APPEND_LOCK: i64 = 7_161_131_779_257_103_137;

/// Sessions in whose way others stand, and who holds the append lock; with the transaction, so that two looks can be compared.
const LOOK: &str = "
    WITH standing AS (
        SELECT blocker AS pid, w.pid AS waiting, w.locktype || ' lock' AS what
          FROM pg_locks w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS blocker
         WHERE NOT w.granted
         UNION ALL
        SELECT pid, NULL, 'append lock' FROM pg_locks
         WHERE locktype = 'advisory' AND granted AND objsubid = 1
           AND (classid::bigint << 32) | objid::bigint = $1
    )
    SELECT s.pid, s.waiting, s.what, a.datname::text AS database, a.usename::text AS role,
           coalesce((SELECT l.virtualtransaction FROM pg_locks l
                      WHERE l.pid = s.pid AND l.locktype = 'virtualxid' LIMIT 1), 'session') AS transaction
      FROM standing s LEFT JOIN pg_stat_activity a ON a.pid = s.pid
     WHERE s.pid <> pg_backend_pid() ORDER BY s.pid, s.waiting";

const LED: &str = "SELECT name FROM unnest($1::text[]) AS name WHERE EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (classid::bigint << 32) | objid::bigint = hashtextextended('casitas:lead:' || name, 0))";

/// A session that stands in the way of others, or of all who write to a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocker {
    pub pid: i32,
    pub database: String,
    pub role: String,
    /// `append lock`, or the kind of lock that `waiting` waits for.
    pub what: String,
    /// Who waits for it.
    pub waiting: Vec<i32>,
    transaction: String,
}

/// Asks one server.
pub struct Diagnosis {
    server: PostgresServer,
    sessions: Shelf,
}

impl Diagnosis {
    /// Connects at the first use.
    pub fn connect(server: &PostgresServer) -> Self {
        Self { server: server.clone(), sessions: server.query_shelf("Postgres") }
    }

    /// Sessions that have stood in the way for more than a second, by process id.
    pub async fn blockers(&self) -> Result<Vec<Blocker>> {
        let before = self.look().await?;
        if before.is_empty() {
            return Ok(before);
        }
        sleep(BETWEEN_LOOKS).await;
        let stands_still = |now: &Blocker| {
            before.iter().any(|then| (then.pid, &then.transaction, &then.what) == (now.pid, &now.transaction, &now.what))
        };
        let mut now = self.look().await?;
        now.retain(stands_still);
        Ok(now)
    }

    async fn look(&self) -> Result<Vec<Blocker>> {
        let query = sqlx::query(LOOK).bind(APPEND_LOCK);
        let rows = self.sessions.run(Call::Read, async |connection| query.fetch_all(connection).await).await?;
        let mut found: Vec<Blocker> = vec![];
        for row in rows {
            let text =
                |name: &str| row.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default).map_err(unreadable);
            let pid: i32 = row.try_get("pid").map_err(unreadable)?;
            let waiting: Option<i32> = row.try_get("waiting").map_err(unreadable)?;
            let (what, database, role) = (text("what")?, text("database")?, text("role")?);
            match found.iter_mut().find(|blocker| blocker.pid == pid && blocker.what == what) {
                Some(blocker) => blocker.waiting.extend(waiting),
                None => {
                    let transaction = text("transaction")?;
                    found.push(Blocker { pid, database, role, what, waiting: waiting.into_iter().collect(), transaction });
                }
            }
        }
        Ok(found)
    }

    /// Which of these followers some process leads: read models when `context` is `None`, else those beside a context's log.
    pub async fn led(&self, context: Option<Context>, names: &[&str]) -> Result<Vec<String>> {
        let sessions = match context {
            None => self.sessions.clone(),
            Some(context) => self.server.log_shelf(context, &format!("the {context} log")),
        };
        let query = sqlx::query_scalar(LED).bind(names);
        sessions.run(Call::Read, async |connection| query.fetch_all(connection).await).await
    }
}

fn unreadable(error: sqlx::Error) -> Error {
    Error::corrupt(format!("Postgres: {error}"))
}
