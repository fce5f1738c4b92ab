//! Leadership: session advisory locks on one dedicated connection. When the connection dies the server frees them, and the
//! terms (bumped at every claim, compared at every step) keep a deposed leader from writing.
//!
//! A leader with nothing to write would not notice that its lock is gone, and others would see a follower that nobody leads. So
//! the session is looked after while there is a lead, and its locks are taken again in a new one. That gives no right back: who
//! was deposed meanwhile is refused by the term at its next step.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ports::Result;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;

use super::errors::{Call, DEADLINE, within};

/// How long a lost session may go unnoticed while nobody claims anything.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

pub(super) struct Claims {
    leads: Arc<Leads>,
    is_looked_after: AtomicBool,
}

struct Leads {
    what: String,
    options: PgConnectOptions,
    /// Held during a claim's own round trips only; claims are rare.
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    connection: Option<PgConnection>,
    /// What this process leads as far as it knows, and whether this session has the lock of it.
    held: HashMap<String, bool>,
}

impl Claims {
    pub(super) fn new(what: String, options: PgConnectOptions) -> Self {
        let leads = Leads { what, options, session: Mutex::default() };
        Self { leads: Arc::new(leads), is_looked_after: AtomicBool::new(false) }
    }

    /// Whether this process leads `name` now. Asking again is cheap and notices a lost session.
    pub(super) async fn try_lead(&self, name: &str) -> Result<bool> {
        let mut session = self.leads.session.lock().await;
        self.leads.connect(&mut session).await?;
        let leads = match session.held.get(name) {
            Some(true) => true,
            Some(false) | None => self.leads.ask(&mut session, name).await?,
        };
        if leads && !self.is_looked_after.swap(true, Ordering::Relaxed) {
            tokio::spawn(look_after(Arc::downgrade(&self.leads)));
        }
        Ok(leads)
    }

    /// Gives a lead back, so that another process can have it while this one goes on.
    pub(super) async fn release(&self, name: &str) -> Result<()> {
        let mut session = self.leads.session.lock().await;
        if session.held.remove(name) != Some(true) {
            return Ok(());
        }
        let Some(connection) = session.connection.as_mut() else { return Ok(()) };
        let give = sqlx::query("SELECT pg_advisory_unlock(hashtextextended('casitas:lead:' || $1, 0))").bind(name);
        let given = within(&self.leads.what, Call::Read, give.execute(connection)).await;
        if given.is_err() {
            session.end();
        }
        given.map(drop)
    }
}

/// As long as somebody may claim.
async fn look_after(leads: Weak<Leads>) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let Some(leads) = leads.upgrade() else { return };
        let mut session = leads.session.lock().await;
        if let Err(error) = leads.renew(&mut session).await {
            tracing::debug!(error = error.chain(), "leads cannot be looked after");
        }
    }
}

impl Leads {
    /// A session that answers.
    async fn connect(&self, session: &mut Session) -> Result<()> {
        if let Some(connection) = session.connection.as_mut() {
            // One that does not answer any more holds nothing.
            let alive = tokio::time::timeout(DEADLINE / 2, connection.ping()).await;
            if matches!(alive, Ok(Ok(()))) {
                return Ok(());
            }
            session.end();
        }
        session.connection = Some(within(&self.what, Call::Read, self.options.connect()).await?);
        Ok(())
    }

    /// Takes again what a lost session held.
    async fn renew(&self, session: &mut Session) -> Result<()> {
        self.connect(session).await?;
        let lost: Vec<String> =
            session.held.iter().filter(|(_, is_locked)| !**is_locked).map(|(name, _)| name.clone()).collect();
        for name in lost {
            self.ask(session, &name).await?;
        }
        Ok(())
    }

    async fn ask(&self, session: &mut Session, name: &str) -> Result<bool> {
        let Some(connection) = session.connection.as_mut() else { return Ok(false) };
        let ask = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('casitas:lead:' || $1, 0))").bind(name);
        match within(&self.what, Call::Read, ask.fetch_one(connection)).await {
            Ok(true) => {
                session.held.insert(name.to_owned(), true);
                Ok(true)
            }
            Ok(false) => {
                // Another process has it, or a session of ours that the server does not know to be lost yet.
                Ok(false)
            }
            Err(error) => {
                // It may have been given and the answer lost: only a fresh session knows what it holds.
                session.end();
                Err(error)
            }
        }
    }
}

impl Session {
    fn end(&mut self) {
        self.connection = None;
        self.held.values_mut().for_each(|is_locked| *is_locked = false);
    }
}
