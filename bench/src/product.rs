//! The product as several parts need it: the native distributed stack with its default middleware, and a portfolio of units made
//! through the command handler.
//!
//! Nginx' limits for one address are raised, because all load comes from one; nothing else differs from the defaults.

use std::cell::RefCell;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapters::postgres::{PostgresLog, PostgresServer, PostgresViews};
use adapters::redis::{RedisConfig, RedisHints};
use anyhow::{Context as _, Result, ensure};
use commands::Handler;
use domain::Context;
use ports::{EventLog, Hints, Logs, MasterKey, Sealer, SystemClock, ViewStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::stack::{Options, Stack};

use crate::bench::Bench;
use crate::portfolio::Portfolio;
use crate::wire::Wire;

const ADMIN: &str = "bench";
const PASSWORD: &str = "a-password-of-the-benchmark";
/// How long views may take to come to the head of a log that nobody writes.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(600);
/// Connections of a process that runs commands here, as the command-api's.
const CONNECTIONS: u32 = 4;

/// The stack that several parts use one after the other; it stops when the last of them is dropped.
#[derive(Clone, Default)]
pub struct Shelf(Rc<RefCell<Option<Product>>>);

impl Shelf {
    /// Starts the stack if it does not run, and adds units until there are so many.
    ///
    /// # Errors
    /// When the stack does not come up or refuses a command.
    pub fn with<T>(&self, bench: &Bench, units: usize, work: impl FnOnce(&mut Product) -> Result<T>) -> Result<T> {
        let mut shelf = self.0.borrow_mut();
        let product = match &mut *shelf {
            Some(product) => product,
            empty @ None => empty.insert(Product::start(bench)?),
        };
        product.grow(bench, units)?;
        work(product)
    }
}

pub struct Product {
    pub stack: Stack,
    pub portfolio: Portfolio,
}

impl Product {
    fn start(bench: &Bench) -> Result<Self> {
        let stack = Stack::start(&Options {
            binary: Some(bench.binary.clone()),
            api_rate: Some("10000000r/s".to_owned()),
            api_burst: Some(1_000_000),
            login_rate: Some("10000r/s".to_owned()),
            login_burst: Some(10_000),
            connections: Some(10_000),
            ..Options::default()
        })?;
        let mut product = Self { stack, portfolio: Portfolio::default() };
        product.make_admin()?;
        Ok(product)
    }

    /// The first administrator, by the documented step.
    fn make_admin(&mut self) -> Result<()> {
        let mut child = Command::new(self.stack.binary())
            .args(["users", "add", ADMIN, "--role", "admin"])
            .envs(self.stack.environment().iter().cloned())
            .current_dir(self.stack.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no standard input")?.write_all(format!("{PASSWORD}\n").as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "casitas users add: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A token of the administrator's, which reads accept too.
    ///
    /// # Errors
    /// When the log-in is refused, or reads do not know the user within 30 s.
    pub async fn token(&self) -> Result<String> {
        let mut commands = Wire::to(self.role_port("command-api")?).await?;
        let answer = commands.post("/login", None, &json!({"username": ADMIN, "password": PASSWORD})).await?;
        let body: Value = serde_json::from_slice(&answer.expect(200)?.body)?;
        let token = body["token"].as_str().context("no token")?.to_owned();
        for role in ["query-1", "query-2"] {
            let mut reads = Wire::to(self.role_port(role)?).await?;
            let started = Instant::now();
            while reads.get("/auth/me", Some(&token)).await?.status != 200 {
                ensure!(started.elapsed() < Duration::from_secs(30), "{role} does not know the new user");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(token)
    }

    /// # Errors
    /// When there is no such role.
    pub fn role_port(&self, name: &str) -> Result<u16> {
        let role = self.stack.roles.iter().find(|role| role.name() == name);
        Ok(role.with_context(|| format!("no role {name}"))?.port())
    }

    /// The product's own parts in this process, as the command-api has them. Needs a runtime.
    ///
    /// # Errors
    /// When a secret is missing.
    pub fn inside(&self, connections: u32) -> Result<Inside> {
        Inside::of(&self.stack, "casitas_command", "db_command", ("command", "redis_command"), connections)
    }

    /// Adds listed units through the command handler with 256 callers until there are so many, and waits for the views.
    fn grow(&mut self, bench: &Bench, units: usize) -> Result<()> {
        if self.portfolio.units() >= units {
            return Ok(());
        }
        bench.block(async {
            let inside = self.inside(CONNECTIONS)?;
            let started = Instant::now();
            let before = self.portfolio.units();
            self.portfolio.grow(&inside.handler, units).await?;
            let added = started.elapsed();
            inside.caught_up(Context::Units).await?;
            eprintln!(
                "bench: {} units added by 256 callers in {:.1} s, seen by the views after {:.1} s",
                units - before,
                added.as_secs_f64(),
                started.elapsed().as_secs_f64()
            );
            Ok(())
        })
    }
}

/// What a process of the product has, here.
pub struct Inside {
    pub logs: Logs,
    pub handler: Handler,
    pub views: Arc<dyn ViewStore>,
    pub hints: Arc<dyn Hints>,
    pub sealer: Sealer,
}

impl Inside {
    /// As this database user and this user of Redis, each with the secret that has the password. Needs a runtime.
    ///
    /// # Errors
    /// When a secret is missing.
    pub fn of(stack: &Stack, user: &str, secret: &str, redis: (&str, &str), connections: u32) -> Result<Self> {
        let server = PostgresServer::new(&stack.postgres.address(), user, &stack.secret(secret)?)
            .map_err(chained)?
            .with_connections(connections);
        let logs = Logs::new(
            Context::ALL.into_iter().map(|context| Arc::new(PostgresLog::connect(context, &server)) as Arc<dyn EventLog>),
        );
        let sealer = Sealer::new(MasterKey::from_base64(&stack.secret("master.key")?).map_err(chained)?);
        let redis = RedisConfig::new(&stack.redis.address(), redis.0, stack.secret(redis.1)?).map_err(chained)?;
        let hints: Arc<dyn Hints> = Arc::new(RedisHints::start(&redis).map_err(chained)?);
        let handler = Handler::new(logs.clone(), sealer.clone(), Arc::new(SystemClock), hints.clone());
        let views = Arc::new(PostgresViews::connect(&server));
        Ok(Self { logs, handler, views, hints, sealer })
    }

    /// Waits until every read model of a context is at its log's head.
    ///
    /// # Errors
    /// When that takes ten minutes.
    pub async fn caught_up(&self, context: Context) -> Result<()> {
        let head = self.logs.get(context).map_err(chained)?.head().await.map_err(chained)?.position;
        let names: Vec<&str> = read_models::all()
            .iter()
            .map(|model| model.spec())
            .filter(|spec| spec.context == context)
            .map(|s| s.name)
            .collect();
        self.reached(&names, head, CAUGHT_UP_WITHIN).await
    }

    /// Waits until these models have folded that position; looks every 2 ms.
    ///
    /// # Errors
    /// When they have not within the bound.
    pub async fn reached(&self, models: &[&str], position: u64, bound: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let heads = self.views.heads().await.map_err(chained)?;
            let behind: Vec<String> = models
                .iter()
                .filter_map(|name| match heads.iter().find(|head| head.model == *name) {
                    Some(head) if head.checkpoint.position >= position => None,
                    Some(head) => Some(format!("{name} is at {}", head.checkpoint.position)),
                    None => Some(format!("{name} is not there")),
                })
                .collect();
            if behind.is_empty() {
                return Ok(());
            }
            ensure!(started.elapsed() < bound, "not at {position} after {} s: {}", bound.as_secs(), behind.join(", "));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A folder of ours; others may pass through to the folders in it that are theirs.
///
/// # Errors
/// When there is no room for temporary files.
pub fn folder() -> Result<TempDir> {
    let passable = Permissions::from_mode(0o711);
    Ok(tempfile::Builder::new().prefix("casitas-bench-").permissions(passable).tempdir()?)
}

pub fn chained(error: ports::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}
