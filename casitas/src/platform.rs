//! The adapters behind the ports, chosen by the settings: SQLite and in-process parts when embedded, Postgres, Redis and RabbitMQ
//! when distributed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adapters::files::ArtifactFolder;
use adapters::inprocess::{InProcessHints, InProcessQueue};
use adapters::postgres::{Diagnosis, PostgresLog, PostgresServer, PostgresViews};
use adapters::rabbitmq::{RabbitConfig, RabbitQueue};
use adapters::redis::{RedisCache, RedisConfig, RedisHints};
use adapters::sqlite::{DataFolder, SqliteLog};
use anyhow::{Context as _, Result};
use commands::Handler;
use domain::Context;
use ports::{
    Artifacts, Clock, DeadLetters, EventLog, Generations, Hints, JobQueue, Logs, Sealer, SharedCache, SystemClock, ViewStore,
};
use query_api::QueryApi;
use report_worker::WorkerStatus;

use crate::config::Settings;
use crate::secrets::{Secrets, init_keys};

/// What a process is, and so what it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    CommandApi,
    QueryApi,
    Projector,
    ReportWorker,
    /// The operator's CLI.
    Operator,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CommandApi => "command-api",
            Self::QueryApi => "query-api",
            Self::Projector => "projector",
            Self::ReportWorker => "report-worker",
            Self::Operator => "operator",
        }
    }

    /// Postgres role and the secret with its password.
    fn database_user(self) -> (&'static str, &'static str) {
        match self {
            Self::CommandApi => ("casitas_command", "db_command"),
            Self::QueryApi => ("casitas_query", "db_query"),
            Self::Projector => ("casitas_projector", "db_projector"),
            Self::ReportWorker => ("casitas_worker", "db_worker"),
            Self::Operator => ("casitas_command", "db_command"),
        }
    }

    fn redis_user(self) -> (&'static str, &'static str) {
        match self {
            Self::CommandApi | Self::Operator => ("command", "redis_command"),
            Self::QueryApi => ("query", "redis_query"),
            Self::Projector => ("projector", "redis_projector"),
            Self::ReportWorker => ("worker", "redis_worker"),
        }
    }

    fn broker_user(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Projector => Some((adapters::rabbitmq::PROJECTOR, "rabbitmq_projector")),
            Self::ReportWorker => Some((adapters::rabbitmq::WORKER, "rabbitmq_worker")),
            // Looks at what was given up; only the projector may do that, and publish.
            Self::Operator => Some((adapters::rabbitmq::PROJECTOR, "rabbitmq_projector")),
            Self::CommandApi | Self::QueryApi => None,
        }
    }
}

/// The outside of one process.
#[derive(Clone)]
pub struct Platform {
    /// Empty for a query replica: it has no way to an event log.
    pub logs: Logs,
    pub views: Arc<dyn ViewStore>,
    /// The same views with the right to write them: for who folds or rebuilds.
    pub generations: Option<Arc<dyn Generations>>,
    /// `None` when embedded: the in-process tier alone.
    pub shared: Option<Arc<dyn SharedCache>>,
    /// `None` for roles that have nothing to do with jobs.
    pub queue: Option<Arc<dyn JobQueue>>,
    /// Of the queue, where there is one.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
    pub artifacts: Arc<dyn Artifacts>,
    pub artifacts_dir: PathBuf,
    pub hints: Arc<dyn Hints>,
    pub clock: Arc<dyn Clock>,
    pub secrets: Secrets,
    pub distributed: bool,
    /// What Postgres knows of its sessions; only for the operator's CLI.
    pub diagnosis: Option<Arc<Diagnosis>>,
    /// The logs of an embedded store, whose files somebody may hold.
    pub files: Vec<Arc<SqliteLog>>,
    /// What answers `doctor` and readiness, by name.
    pub checks: Vec<Check>,
}

/// A server that this process needs.
#[derive(Clone)]
pub enum Check {
    Log(Arc<dyn EventLog>),
    Views(Arc<dyn ViewStore>),
    Redis(Arc<RedisCache>),
    RabbitMq(Arc<RabbitQueue>),
    /// Whether this report worker takes jobs just now.
    Consumer(WorkerStatus),
    /// Whether the change feed is read; without it the view store answers alone.
    Reads(QueryApi),
    /// Whether a log takes what this process appends: it may answer, and its lock be held.
    Appends(Handler, Context),
}

/// A log that takes nothing for longer is said to be stalled.
const STALLED_AFTER: Duration = Duration::from_secs(2);

impl Check {
    pub fn name(&self) -> String {
        match self {
            Self::Log(log) => log.context().database().to_owned(),
            Self::Views(_) => "views_db".to_owned(),
            Self::Redis(_) => "redis".to_owned(),
            Self::RabbitMq(_) => "rabbitmq".to_owned(),
            Self::Consumer(_) => "job consumer".to_owned(),
            Self::Reads(_) => "change feed".to_owned(),
            Self::Appends(_, context) => format!("appends to {}", context.database()),
        }
    }

    /// Whether the process is of no use without it.
    pub fn is_vital(&self) -> bool {
        match self {
            Self::Log(_) | Self::Views(_) | Self::Consumer(_) => true,
            Self::Redis(_) | Self::RabbitMq(_) | Self::Reads(_) | Self::Appends(..) => false,
        }
    }

    /// What can be told without asking anybody, as metrics.
    pub fn export(&self) {
        if let Self::Appends(handler, context) = self {
            let stalled = handler.stalled_for(*context).unwrap_or_default();
            metrics::gauge!("casitas_append_stalled_seconds", "context" => context.as_str()).set(stalled.as_secs_f64());
        }
    }

    pub async fn run(&self) -> ports::Result<()> {
        match self {
            Self::Log(log) => log.head().await.map(drop),
            Self::Views(views) => views.heads().await.map(drop),
            Self::Redis(redis) => redis.ping().await,
            Self::RabbitMq(queue) => queue.ping().await,
            Self::Consumer(status) if status.is_consuming() => Ok(()),
            Self::Consumer(_) => Err(ports::Error::Unavailable { what: "the job queue".to_owned(), source: None }),
            Self::Reads(api) if api.is_ready() => Ok(()),
            Self::Reads(_) => Err(ports::Error::Unavailable { what: "the change feed".to_owned(), source: None }),
            Self::Appends(handler, context) => match handler.stalled_for(*context) {
                Some(stalled) if stalled > STALLED_AFTER => Err(ports::Error::unavailable(
                    format!("the {context} log"),
                    format!("nothing was appended for {} s; `casitas doctor` names who holds its lock", stalled.as_secs()),
                )),
                Some(_) | None => Ok(()),
            },
        }
    }
}

fn chained(error: ports::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}

impl Platform {
    pub async fn open(settings: &Settings, role: Role) -> Result<Self> {
        match &settings.postgres {
            None => Self::embedded(settings).await,
            Some(address) => Self::distributed(settings, address, role),
        }
    }

    async fn embedded(settings: &Settings) -> Result<Self> {
        let folder = DataFolder::open(&settings.data_dir).map_err(chained)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut files: Vec<Arc<SqliteLog>> = vec![];
        for context in Context::ALL {
            files.push(Arc::new(folder.log(context, clock.clone()).await.map_err(chained)?));
        }
        let logs: Vec<Arc<dyn EventLog>> = files.iter().map(|log| log.clone() as Arc<dyn EventLog>).collect();
        let generations: Arc<dyn Generations> = Arc::new(folder.views().await.map_err(chained)?);
        let views: Arc<dyn ViewStore> = generations.clone();
        let artifacts = settings.artifacts_dir.clone().unwrap_or_else(|| folder.path().join("artifacts"));
        let mut checks: Vec<Check> = logs.iter().cloned().map(Check::Log).collect();
        checks.push(Check::Views(views.clone()));
        let queue = Arc::new(InProcessQueue::new());
        Ok(Self {
            logs: Logs::new(logs),
            views,
            generations: Some(generations),
            shared: None,
            queue: Some(queue.clone()),
            dead_letters: Some(queue),
            artifacts: Arc::new(ArtifactFolder::open(&artifacts).map_err(chained)?),
            artifacts_dir: artifacts,
            hints: Arc::new(InProcessHints::new()),
            clock,
            secrets: init_keys(&folder.path().join("keys"))?,
            distributed: false,
            diagnosis: None,
            files,
            checks,
        })
    }

    fn distributed(settings: &Settings, address: &str, role: Role) -> Result<Self> {
        let secrets = Secrets::at(
            settings.secrets_dir.clone().context("set CASITAS_SECRETS_DIR: the folder of `casitas secrets init`")?,
        );
        let (user, secret) = role.database_user();
        let server = PostgresServer::new(address, user, &secrets.read(secret)?).map_err(chained)?;
        let server = match role {
            // Models fold beside each other.
            Role::Projector => server.with_connections(8),
            // Each rendering holds a connection while it reads; two more ask how far the views are.
            Role::ReportWorker => server.with_connections((settings.renderings() as u32).clamp(2, 30) + 2),
            _ => server,
        };
        #[cfg(feature = "seeded-bugs")]
        let server = server.with_seeded_bug(settings.seeded_bug.and_then(crate::config::SeededBug::of_postgres));
        let logs: Vec<Arc<dyn EventLog>> = match role {
            Role::QueryApi => vec![],
            _ => Context::ALL
                .into_iter()
                .map(|context| Arc::new(PostgresLog::connect(context, &server)) as Arc<dyn EventLog>)
                .collect(),
        };
        let own = Arc::new(PostgresViews::connect(&server));
        // An operator rebuilds as the projector folds, and leaves it word of parked streams, where its secret is to be had.
        let projectors = match role {
            Role::Operator => secrets.read("db_projector").ok().and_then(|password| {
                let server = PostgresServer::new(address, "casitas_projector", &password).ok()?;
                Some(Arc::new(PostgresViews::connect(&server)))
            }),
            Role::Projector => Some(own.clone()),
            Role::CommandApi | Role::QueryApi | Role::ReportWorker => None,
        };
        let generations = projectors.clone().map(|views| views as Arc<dyn Generations>);
        let views: Arc<dyn ViewStore> = projectors.unwrap_or(own);
        let diagnosis = (role == Role::Operator).then(|| Arc::new(Diagnosis::connect(&server)));
        let redis_address = settings.redis.as_deref().context("set CASITAS_REDIS: host:port of Redis")?;
        let (user, secret) = role.redis_user();
        let redis = RedisConfig::new(redis_address, user, secrets.read(secret)?).map_err(chained)?;
        let cache = Arc::new(RedisCache::new(&redis).map_err(chained)?);
        let mut checks: Vec<Check> = logs.iter().cloned().map(Check::Log).collect();
        checks.extend([Check::Views(views.clone()), Check::Redis(cache.clone())]);
        let queue = match role.broker_user() {
            None => None,
            // Most of the operator's verbs have nothing to do with jobs.
            Some(_) if role == Role::Operator && settings.rabbitmq.is_none() => None,
            Some((user, secret)) => {
                let address = settings.rabbitmq.as_deref().context("set CASITAS_RABBITMQ: host:port of RabbitMQ")?;
                let config = RabbitConfig::new(address, user, secrets.read(secret)?, role.as_str()).map_err(chained)?;
                let queue = Arc::new(RabbitQueue::new(config));
                checks.push(Check::RabbitMq(queue.clone()));
                Some(queue)
            }
        };
        let artifacts =
            settings.artifacts_dir.clone().context("set CASITAS_ARTIFACTS_DIR: the shared folder of artifacts")?;
        Ok(Self {
            logs: Logs::new(logs),
            views,
            generations,
            shared: Some(cache),
            dead_letters: queue.clone().map(|queue| queue as Arc<dyn DeadLetters>),
            queue: queue.map(|queue| queue as Arc<dyn JobQueue>),
            diagnosis,
            files: vec![],
            artifacts: Arc::new(ArtifactFolder::open(&artifacts).map_err(chained)?),
            artifacts_dir: artifacts,
            hints: Arc::new(RedisHints::start(&redis).map_err(chained)?),
            clock: Arc::new(SystemClock),
            secrets,
            distributed: true,
            checks,
        })
    }

    pub fn sealer(&self) -> Result<Sealer> {
        Ok(Sealer::new(self.secrets.master_key()?))
    }

    /// The one write path of this process.
    pub fn handler(&self) -> Result<Handler> {
        Ok(Handler::new(self.logs.clone(), self.sealer()?, self.clock.clone(), self.hints.clone()))
    }

    /// Only over the reports log: a worker writes no other.
    pub fn reports_handler(&self) -> Result<Handler> {
        let reports = self.logs.get(Context::Reports).map_err(chained)?.clone();
        Ok(Handler::new(Logs::new([reports]), self.sealer()?, self.clock.clone(), self.hints.clone()))
    }

    pub fn verifier(&self) -> Result<web::TokenVerifier> {
        web::TokenVerifier::new(&self.secrets.read("jwks.json")?).map_err(anyhow::Error::msg)
    }

    pub fn signer(&self) -> Result<web::TokenSigner> {
        let kid = self.verifier()?.first_kid().context("the JWKS has no key")?;
        web::TokenSigner::new(&self.secrets.read("jwt.pem")?, kid).map_err(anyhow::Error::msg)
    }
}
