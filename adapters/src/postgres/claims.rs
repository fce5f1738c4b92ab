//! Leadership: session advisory locks on one dedicated connection. When the connection dies the server frees them, and the
//! terms (bumped at every claim, compared at every step) keep a deposed leader from writing.

use std::collections::HashSet;

use ports::Result;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use super::errors::{Call, DEADLINE, within};

pub(super) struct Claims {
    what: String,
    options: PgConnectOptions,
    /// Held during a claim's own round trips only; claims are rare.
    session: Mutex<Option<Session>>,
}

struct Session {
    connection: PgConnection,
    held: HashSet<String>,
}

impl Claims {
    pub(super) fn new(what: String, options: PgConnectOptions) -> Self {
        Self { what, options, session: Mutex::new(None) }
    }

    /// Whether this process leads `name` now. Asking again is cheap and notices a lost session.
    pub(super) async fn try_lead(&self, name: &str) -> Result<bool> {
        let mut slot = self.session.lock().await;
        // A session that does not answer any more holds nothing.
        if let Some(session) = slot.as_mut() {
            let alive = tokio::time::timeout(DEADLINE / 2, session.connection.ping()).await;
            if !matches!(alive, Ok(Ok(()))) {
                *slot = None;
            }
        }
        if slot.is_none() {
            let connection = within(&self.what, Call::Read, self.options.connect()).await?;
            *slot = Some(Session { connection, held: HashSet::new() });
        }
        let Some(session) = slot.as_mut() else { return Ok(false) };
        if session.held.contains(name) {
            return Ok(true);
        }
        let ask = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('casitas:lead:' || $1, 0))").bind(name);
        match within(&self.what, Call::Read, ask.fetch_one(&mut session.connection)).await {
            Ok(true) => {
                session.held.insert(name.to_owned());
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) => {
                // It may have been given and the answer lost: only a fresh session knows what it holds.
                *slot = None;
                Err(error)
            }
        }
    }

    /// Gives a lead back, so that another process can have it while this one goes on.
    pub(super) async fn release(&self, name: &str) -> Result<()> {
        let mut slot = self.session.lock().await;
        let Some(session) = slot.as_mut() else { return Ok(()) };
        if !session.held.remove(name) {
            return Ok(());
        }
        let give = sqlx::query("SELECT pg_advisory_unlock(hashtextextended('casitas:lead:' || $1, 0))").bind(name);
        let given = within(&self.what, Call::Read, give.execute(&mut session.connection)).await;
        if given.is_err() {
            *slot = None;
        }
        given.map(drop)
    }
}
