//! Databases of a test's own on the private server that `cargo xtask test` starts. The roles are shared by all tests.

use std::sync::Arc;

use adapters::postgres::{Databases, PostgresLog, PostgresServer, PostgresViews, RolePasswords, migrate};
use domain::Context;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor};

pub struct Cluster {
    address: String,
    password: String,
    suffix: String,
}

#[allow(dead_code, reason = "each test file uses a part")]
impl Cluster {
    pub async fn with_logs(logs: &[Context]) -> Self {
        Self::with(Databases { logs: logs.to_vec(), views: false }).await
    }

    pub async fn with_views() -> Self {
        Self::with(Databases { logs: vec![], views: true }).await
    }

    async fn with(databases: Databases) -> Self {
        let cluster = Self::bare();
        cluster.migrate(&databases).await;
        cluster
    }

    /// Nothing is made yet.
    pub fn bare() -> Self {
        let variable = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask test`, which starts a private Postgres"))
        };
        Self {
            address: variable("CASITAS_TEST_POSTGRES"),
            password: variable("CASITAS_TEST_POSTGRES_PASSWORD"),
            suffix: format!("_{}", uuid::Uuid::now_v7().simple()),
        }
    }

    pub async fn migrate(&self, databases: &Databases) {
        migrate(&self.server("casitas_owner"), &self.passwords(), databases).await.unwrap_or_else(|error| {
            panic!("migration: {}", error.chain());
        });
    }

    pub fn passwords(&self) -> RolePasswords {
        let [command, query, projector, worker] =
            ["command", "query", "projector", "worker"].map(|role| self.password_of(&format!("casitas_{role}")));
        RolePasswords { command, query, projector, worker }
    }

    fn password_of(&self, user: &str) -> String {
        match user {
            "casitas_owner" => self.password.clone(),
            other => format!("{other} of '{}'", self.password),
        }
    }

    pub fn server(&self, user: &str) -> PostgresServer {
        self.server_at(&self.address, user)
    }

    /// The same server behind another address (a proxy).
    pub fn server_at(&self, address: &str, user: &str) -> PostgresServer {
        PostgresServer::new(address, user, &self.password_of(user)).expect("host:port").with_suffix(&self.suffix)
    }

    pub fn log(&self, context: Context) -> Arc<PostgresLog> {
        Arc::new(PostgresLog::connect(context, &self.server("casitas_projector")))
    }

    pub fn views(&self) -> Arc<PostgresViews> {
        Arc::new(PostgresViews::connect(&self.server("casitas_projector")))
    }

    pub fn host_and_port(&self) -> (String, u16) {
        let (host, port) = self.address.rsplit_once(':').expect("host:port");
        (host.to_owned(), port.parse().expect("a port"))
    }

    /// A connection beside the adapters'; `database` without suffix.
    pub async fn try_connect(&self, user: &str, database: &str) -> Result<PgConnection, sqlx::Error> {
        let (host, port) = self.host_and_port();
        PgConnectOptions::new_without_pgpass()
            .host(&host)
            .port(port)
            .username(user)
            .password(&self.password_of(user))
            .database(&format!("{database}{}", self.suffix))
            .connect()
            .await
    }

    pub async fn connect(&self, user: &str, database: &str) -> PgConnection {
        self.try_connect(user, database).await.expect("connected")
    }

    /// What the server says to a statement that must fail.
    pub async fn refusal(&self, user: &str, database: &str, sql: &str) -> String {
        let mut connection = self.connect(user, database).await;
        match connection.execute(sql).await {
            Ok(_) => panic!("{user} may run {sql}"),
            Err(error) => error.to_string(),
        }
    }
}
