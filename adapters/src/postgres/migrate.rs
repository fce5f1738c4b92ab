//! `casitas migrate`: databases, roles, grants, tables, functions. Run as the owner, as often as one likes; two runs at
//! once wait for each other. Versioned steps are additive and recorded; roles and grants are set at every run.

use domain::Context;
use ports::{Error, Result};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use super::errors::{Call, map};
use super::pool::PostgresServer;

const WHAT: &str = "Postgres";

/// (version, name, SQL); a version is never edited once it was released.
type Step = (i32, &'static str, &'static str);

const LOG_STEPS: &[Step] = &[
    (1, "log", include_str!("../../migrations/postgres/log/0001_log.sql")),
    (2, "append", include_str!("../../migrations/postgres/log/0002_append.sql")),
    (3, "chain", include_str!("../../migrations/postgres/log/0003_chain.sql")),
    (4, "accept", include_str!("../../migrations/postgres/log/0004_accept.sql")),
    (5, "keep", include_str!("../../migrations/postgres/log/0005_keep.sql")),
];
const VIEWS_STEPS: &[Step] = &[
    (1, "views", include_str!("../../migrations/postgres/views/0001_views.sql")),
    (2, "generations", include_str!("../../migrations/postgres/views/0002_generations.sql")),
    (3, "parked", include_str!("../../migrations/postgres/views/0003_parked.sql")),
    (4, "heads", include_str!("../../migrations/postgres/views/0004_heads.sql")),
    (5, "trials", include_str!("../../migrations/postgres/views/0005_trials.sql")),
];

const ROLES: &str = include_str!("../../migrations/postgres/roles.sql");
const LOG_GRANTS: &str = include_str!("../../migrations/postgres/log/grants.sql");
const REPORTS_GRANTS: &str = include_str!("../../migrations/postgres/log/grants_reports.sql");
const EXPIRED_KEYS: &str = include_str!("../../migrations/postgres/log/expired_keys.sql");
const VIEWS_GRANTS: &str = include_str!("../../migrations/postgres/views/grants.sql");

const LOG_READERS: &str = "casitas_command, casitas_projector, casitas_worker";
const VIEW_READERS: &str = "casitas_command, casitas_projector, casitas_worker, casitas_query";

/// The passwords of the service roles.
#[derive(Clone)]
pub struct RolePasswords {
    pub command: String,
    pub query: String,
    pub projector: String,
    pub worker: String,
}

/// Which databases to make.
#[derive(Clone, Debug)]
pub struct Databases {
    pub logs: Vec<Context>,
    pub views: bool,
}

impl Databases {
    pub fn all() -> Self {
        Self { logs: Context::ALL.to_vec(), views: true }
    }
}

/// Brings everything up to date. `owner` logs in as a superuser (`casitas_owner`).
pub async fn migrate(owner: &PostgresServer, passwords: &RolePasswords, databases: &Databases) -> Result<()> {
    let mut maintenance = connect(owner, "postgres").await?;
    // Held by this session until it ends; waits for another migration, but not for ever.
    run(&mut maintenance, "SET lock_timeout = '60s'; SELECT pg_advisory_lock(hashtextextended('casitas:migrate', 0))")
        .await?;
    run(&mut maintenance, ROLES).await?;
    run(&mut maintenance, &password_statements(passwords)).await?;
    #[cfg(feature = "seeded-bugs")]
    let without_lock = super::seeded::append_without_lock(owner);
    for context in &databases.logs {
        let mut each_run = vec![LOG_GRANTS, EXPIRED_KEYS];
        #[cfg(feature = "seeded-bugs")]
        each_run.extend(without_lock.as_deref());
        if *context == Context::Reports {
            each_run.push(REPORTS_GRANTS);
        }
        let name = owner.log_database(*context);
        bring_up(&mut maintenance, owner, &name, LOG_READERS, LOG_STEPS, &each_run).await?;
    }
    if databases.views {
        let name = owner.views_database();
        bring_up(&mut maintenance, owner, &name, VIEW_READERS, VIEWS_STEPS, &[VIEWS_GRANTS]).await?;
    }
    maintenance.close().await.map_err(failed)
}

async fn bring_up(
    maintenance: &mut PgConnection,
    owner: &PostgresServer,
    database: &str,
    readers: &str,
    steps: &[Step],
    each_run: &[&str],
) -> Result<()> {
    let name = quoted_name(database);
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(&mut *maintenance)
        .await
        .map_err(failed)?;
    if !exists {
        // Bytewise order everywhere; the same on every host.
        run(maintenance, &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")).await?;
    }
    run(maintenance, &format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC, {VIEW_READERS}")).await?;
    run(maintenance, &format!("GRANT CONNECT ON DATABASE {name} TO {readers}")).await?;

    let mut connection = connect(owner, database).await?;
    run(
        &mut connection,
        "CREATE TABLE IF NOT EXISTS schema_migrations
             (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .await?;
    for step in steps {
        apply(&mut connection, database, step).await?;
    }
    for sql in each_run {
        run(&mut connection, sql).await?;
    }
    connection.close().await.map_err(failed)
}

async fn apply(connection: &mut PgConnection, database: &str, (version, name, sql): &Step) -> Result<()> {
    let known: Option<String> = sqlx::query_scalar("SELECT name FROM schema_migrations WHERE version = $1")
        .bind(version)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    match known {
        Some(known) if known == *name => return Ok(()),
        Some(known) => {
            return Err(Error::corrupt(format!(
                "{database} has step {version} {known:?}, this program knows it as {name:?}"
            )));
        }
        None => {}
    }
    let mut transaction = connection.begin().await.map_err(failed)?;
    run(&mut transaction, sql).await?;
    sqlx::query("INSERT INTO schema_migrations (version, name) VALUES ($1, $2)")
        .bind(version)
        .bind(name)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

async fn connect(owner: &PostgresServer, database: &str) -> Result<PgConnection> {
    owner.options(database).connect().await.map_err(failed)
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop).map_err(failed)
}

fn password_statements(passwords: &RolePasswords) -> String {
    let roles = [
        ("casitas_command", &passwords.command),
        ("casitas_query", &passwords.query),
        ("casitas_projector", &passwords.projector),
        ("casitas_worker", &passwords.worker),
    ];
    // Neither the server's log nor its statistics shall see a password.
    let mut sql = String::from("SET log_statement = 'none'; SET log_min_error_statement = 'panic';");
    for (role, password) in roles {
        sql.push_str(&format!("ALTER ROLE {role} PASSWORD {};", quoted_text(password.trim())));
    }
    sql
}

fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn failed(error: sqlx::Error) -> Error {
    map(WHAT, Call::Read, error)
}
