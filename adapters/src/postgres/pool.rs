//! Where the server is, as whom to log in, and the bounded pools.

use std::time::Duration;

use domain::Context;
use ports::Result;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};

use super::errors::{Call, map};
use super::shelf::Shelf;
use crate::address::host_and_port;

/// The database of all read models.
pub const VIEWS_DATABASE: &str = "views_db";

pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection idle for longer is asked whether it still lives before it is used.
pub(super) const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// A connection that nobody needed for so long is not used again.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);
const DEFAULT_CONNECTIONS: u32 = 4;
const LOG_READERS: u32 = 2;

/// A server and who we are there.
#[derive(Clone)]
pub struct PostgresServer {
    host: String,
    port: u16,
    user: String,
    password: String,
    suffix: String,
    connections: u32,
    #[cfg(feature = "seeded-bugs")]
    pub(super) bug: Option<super::seeded::SeededBug>,
}

impl PostgresServer {
    /// `address` is `host:port`; `Rejected` when it is not.
    pub fn new(address: &str, user: &str, password: &str) -> Result<Self> {
        let (host, port) = host_and_port("Postgres", address)?;
        let (user, password) = (user.to_owned(), password.trim().to_owned());
        Ok(Self {
            host,
            port,
            user,
            password,
            suffix: String::new(),
            connections: DEFAULT_CONNECTIONS,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        })
    }

    /// Databases are called `<name><suffix>`: several systems, or tests, on one server.
    pub fn with_suffix(mut self, suffix: &str) -> Self {
        self.suffix = suffix.to_owned();
        self
    }

    /// The most connections that each pool (one a log) and each shelf of the views (one for what is always the same, one for
    /// queries) holds; 4 unless set.
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// Test only: whatever is made from this handle makes the mistake.
    #[cfg(feature = "seeded-bugs")]
    pub fn with_seeded_bug(mut self, bug: Option<super::seeded::SeededBug>) -> Self {
        self.bug = bug;
        self
    }

    /// The role that is logged in as.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn log_database(&self, context: Context) -> String {
        format!("{}{}", context.database(), self.suffix)
    }

    pub(super) fn views_database(&self) -> String {
        format!("{VIEWS_DATABASE}{}", self.suffix)
    }

    pub(super) fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(&self.password)
            .database(database)
            .application_name("casitas")
            // Short statements on plans that are kept: compiling them costs more than it ever saves.
            .options([("jit", "off")])
            .disable_statement_logging()
    }

    /// For a log, whose few statements are prepared once and always go through an index: their plans are kept, and made
    /// without regard to how small the tables were then.
    pub(super) fn log_options(&self, context: Context) -> PgConnectOptions {
        kept_plans(self.options(&self.log_database(context)))
    }

    /// Needs a runtime, connects at the first use.
    ///
    /// Without sqlx's own upkeep: each minute that puts every idle connection back as if it had just been used, and for a second
    /// after it one that died with its server would be trusted.
    pub(super) fn log_pool(&self, context: Context) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= IDLE_MAX {
                        return Ok(false);
                    }
                    if meta.idle_for >= TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(self.log_options(context))
    }

    /// For reading a log: by the tailer, and ahead of who catches up.
    pub(super) fn log_shelf(&self, context: Context, what: &str) -> Shelf {
        Shelf::new(what, self.log_options(context), LOG_READERS)
    }

    /// For statements on the views that are the same each time, planned once like a log's.
    pub(super) fn views_shelf(&self, what: &str) -> Shelf {
        Shelf::new(what, kept_plans(self.options(&self.views_database())), self.connections)
    }

    /// For queries whose plan depends on what is asked for: parsed once, planned anew for the values of each. A plan for any value
    /// would take a rare city for a common one.
    pub(super) fn query_shelf(&self, what: &str) -> Shelf {
        let options = self.options(&self.views_database()).options([("plan_cache_mode", "force_custom_plan")]);
        Shelf::new(what, options, self.connections)
    }

    /// For rebuilds: the server waits as long as they take, but not for locks.
    pub(super) fn unhurried_shelf(&self, what: &str) -> Shelf {
        let options = self.options(&self.views_database());
        let patient = [("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0"), ("lock_timeout", "5s")];
        Shelf::new(what, options.options(patient), self.connections)
    }
}

/// Whatever the values: through an index, however small the table is now.
fn kept_plans(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("enable_seqscan", "off"), ("plan_cache_mode", "force_generic_plan")])
}

impl std::fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}", self.user, self.host, self.port)
    }
}

/// A connection for a call that writes. Nothing was sent yet, so failing here is plain `Unavailable`.
pub(super) async fn acquire(pool: &PgPool, what: &str) -> Result<PoolConnection<Postgres>> {
    pool.acquire().await.map_err(|error| map(what, Call::Read, error))
}
