//! Where the server is, as whom to log in, and the bounded pools.

use std::time::Duration;

use domain::Context;
use ports::Result;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Postgres};

use super::errors::{Call, map};
use crate::address::host_and_port;

/// The database of all read models.
pub const VIEWS_DATABASE: &str = "views_db";

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection idle for longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_CONNECTIONS: u32 = 4;

/// A server and who we are there.
#[derive(Clone)]
pub struct PostgresServer {
    host: String,
    port: u16,
    user: String,
    password: String,
    suffix: String,
    connections: u32,
}

impl PostgresServer {
    /// `address` is `host:port`; `Rejected` when it is not.
    pub fn new(address: &str, user: &str, password: &str) -> Result<Self> {
        let (host, port) = host_and_port("Postgres", address)?;
        let (user, password) = (user.to_owned(), password.trim().to_owned());
        Ok(Self { host, port, user, password, suffix: String::new(), connections: DEFAULT_CONNECTIONS })
    }

    /// Databases are called `<name><suffix>`: several systems, or tests, on one server.
    pub fn with_suffix(mut self, suffix: &str) -> Self {
        self.suffix = suffix.to_owned();
        self
    }

    /// The most connections that each pool (one a log, one for the views) holds; 4 unless set.
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
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

    /// Needs a runtime, connects at the first use.
    pub(super) fn pool(&self, database: &str) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(self.options(database))
    }
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
