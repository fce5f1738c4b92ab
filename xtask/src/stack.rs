//! The whole distributed system on this machine: private servers, every role of `casitas`, Nginx in front.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::http;
use crate::net::{free_port, wait_until};
use crate::packages;
use crate::process::{Program, private_dir, private_file};
use crate::servers::{Nginx, NginxOptions, Postgres, RabbitMq, Redis, Server};
use crate::workspace::{self, Profile};

/// How long a role may take from its start to `/readyz`.
const ROLE_READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a role may drain after SIGTERM.
const ROLE_DRAINS_WITHIN: Duration = Duration::from_secs(15);
/// How long all views may take to be reachable through Nginx.
const FRONT_READY_WITHIN: Duration = Duration::from_secs(30);

/// What to start, and how. `Options::default()` is the system with its documented limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// Load the demo portfolio and the demo logins, and allow their password.
    pub demo: bool,
    /// Units and years of the demo portfolio, if not the defaults of `casitas seed demo`.
    pub demo_units: Option<u32>,
    pub demo_years: Option<u32>,
    /// Nginx's port; a free one without it.
    pub port: Option<u16>,
    pub profile: Profile,
    /// A `casitas` that is built already.
    pub binary: Option<PathBuf>,
    pub api_rate: Option<String>,
    pub api_burst: Option<u32>,
    pub login_rate: Option<String>,
    pub login_burst: Option<u32>,
    pub connections: Option<u32>,
    /// Who may call the operator routes; loopback if empty.
    pub nginx_allow: Vec<String>,
    /// Keep everything (data, logs) here instead of in a temporary folder.
    pub keep_dir: Option<PathBuf>,
    /// The in-process tier of the query replicas.
    pub memory_cache: bool,
    pub projector_delay_ms: Option<u64>,
    pub worker_slots: Option<u32>,
    /// More environment for every role.
    pub env: Vec<(String, String)>,
    /// What stands between a client and its server, if anything does.
    pub route: Option<Route>,
    /// Postgres' data on a small file system of its own, of so many MiB (needs root).
    pub postgres_disk_mib: Option<u32>,
    /// A Redis user `harness` with this password who may write a snapshot of the cache.
    pub redis_harness: Option<String>,
}

/// Asked for each pair of a client (a role, or `nginx`) and a server (`postgres`, `redis`, `rabbitmq`, or a role) with the
/// server's own port; answers the port that the client is told.
#[derive(Clone)]
pub struct Route(pub Arc<RouteFn>);

type RouteFn = dyn Fn(&str, &str, u16) -> Result<u16> + Send + Sync;

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Route")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            demo: false,
            demo_units: None,
            demo_years: None,
            port: None,
            profile: Profile::Release,
            binary: None,
            api_rate: None,
            api_burst: None,
            login_rate: None,
            login_burst: None,
            connections: None,
            nginx_allow: Vec::new(),
            keep_dir: None,
            memory_cache: true,
            projector_delay_ms: None,
            worker_slots: None,
            env: Vec::new(),
            route: None,
            postgres_disk_mib: None,
            redis_harness: None,
        }
    }
}

impl Options {
    fn port_between(&self, client: &str, server: &str, port: u16) -> Result<u16> {
        match &self.route {
            Some(route) => (route.0)(client, server, port),
            None => Ok(port),
        }
    }

    /// For end-to-end tests: the binary that `cargo xtask test` built (or a fresh debug build), and limits that a test's
    /// own traffic does not reach. A test of the limits sets them itself.
    pub fn for_tests() -> Self {
        Self {
            profile: Profile::Debug,
            binary: std::env::var_os(crate::test::BINARY_VARIABLE).map(PathBuf::from),
            api_rate: Some("100000r/s".to_owned()),
            api_burst: Some(100_000),
            login_rate: Some("10000r/s".to_owned()),
            login_burst: Some(10_000),
            connections: Some(2_000),
            ..Self::default()
        }
    }
}

/// The roles in the order in which they are started; they are stopped in the opposite one.
pub const ROLES: [&str; 5] = ["command-api", "query-1", "query-2", "projector", "report-worker"];

/// The secrets that each kind of role reads, and no others: what a stolen replica does not have, nobody can take from it.
/// docker-compose.yml gives the same to each container (a test compares the two).
pub const ROLE_SECRETS: [(&str, &[&str]); 4] = [
    ("command", &["db_command", "redis_command", "master.key", "jwt.pem", "jwks.json"]),
    ("query", &["db_query", "redis_query", "jwks.json"]),
    ("projector", &["db_projector", "redis_projector", "rabbitmq_projector", "master.key"]),
    ("worker", &["db_worker", "redis_worker", "rabbitmq_worker", "master.key"]),
];

/// One running role of `casitas`.
#[derive(Debug)]
pub struct Role {
    server: Server,
}

impl Role {
    pub fn name(&self) -> &str {
        self.server.name()
    }

    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// The public listener's; the internal one's for the roles that have no public one. `/livez`, `/readyz` and `/metrics`
    /// are there.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    pub fn log(&self) -> &Path {
        self.server.log()
    }

    /// Changes the environment of later starts.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.server.program_mut().set_env(name, value);
    }

    /// Takes a variable out of the environment of later starts.
    pub fn unset_env(&mut self, name: &str) {
        self.server.program_mut().unset_env(name);
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not get ready; the message holds the end of its log.
    pub fn start(&mut self) -> Result<()> {
        self.server.start_until(ROLE_READY_WITHIN, |port| Ok(is_ready(port)))
    }

    /// Starts it without waiting until it is ready (its servers may be down).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_unready(&mut self) -> Result<()> {
        self.server.start_until(ROLE_READY_WITHIN, |_| Ok(true))
    }

    /// SIGTERM, and waits until it has drained.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.server.stop()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// SIGKILL behind the stack's back, as a crash would: `crashed` tells of it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_kill(&self) -> Result<()> {
        self.server.signal(Signal::KILL)
    }

    /// `stop`, then `start`.
    ///
    /// # Errors
    /// As those two.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// SIGCONT after `pause`.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// True once it answers `/readyz` with 200.
    pub fn is_ready(&self) -> bool {
        is_ready(self.port())
    }

    /// `Some` if it ended without being asked to.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn crashed(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.server.crashed()
    }
}

fn is_ready(port: u16) -> bool {
    http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// The running system. Dropping it stops everything in order and removes its folder.
#[derive(Debug)]
pub struct Stack {
    // Field order is drop order: the front first, the servers last, and their folder after all.
    pub nginx: Nginx,
    pub roles: Vec<Role>,
    pub rabbitmq: RabbitMq,
    pub redis: Redis,
    pub postgres: Postgres,
    binary: PathBuf,
    environment: Vec<(String, String)>,
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

impl Stack {
    /// Builds, starts and seeds everything, and returns when it answers through Nginx.
    ///
    /// # Errors
    /// When any part does not come up; what had been started is stopped again.
    pub fn start(options: &Options) -> Result<Self> {
        packages::install_missing()?;
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => workspace::build_casitas(options.profile)?,
        };
        let (dir, temporary) = working_dir(options)?;
        let secrets = dir.join("secrets");
        let logs = dir.join("logs");
        let artifacts = dir.join("artifacts");
        for folder in [&logs, &artifacts] {
            private_dir(folder, None)?;
        }
        // The files keep their 0600: each server gets a copy of its own, readable by it alone.
        Program::new("secrets", &binary, logs.join("secrets.log"))
            .args(["secrets", "init", utf8(&secrets)?])
            .env("CASITAS_SECRETS_MOUNT", utf8(&dir.join("rabbitmq"))?)
            .run()?;
        for (kind, names) in ROLE_SECRETS {
            private_dir(&dir.join("role-secrets").join(kind), None)?;
            for name in names {
                let copy = dir.join("role-secrets").join(kind).join(name);
                let text = fs::read(secrets.join(name)).with_context(|| format!("casitas made no secret {name}"))?;
                private_file(&copy, &text, None)?;
            }
        }
        let secret = |name: &str| {
            let path = secrets.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };

        let mut redis_acl = secret("redis.acl")?;
        if let Some(password) = &options.redis_harness {
            redis_acl.push_str(&format!("user harness on >{password} -@all +save +dbsize +ping\n"));
        }
        let postgres_dir = dir.join("postgres");
        let password = secret("postgres_password")?;
        let postgres = match options.postgres_disk_mib {
            None => Postgres::start(&postgres_dir, password.trim())?,
            Some(mib) => Postgres::start_on_small_disk(&postgres_dir, password.trim(), mib)?,
        };
        let redis = Redis::start(&dir.join("redis"), Some(&redis_acl))?;
        let rabbitmq = RabbitMq::start_with_definitions(
            &dir.join("rabbitmq"),
            &secret("rabbitmq.conf")?,
            &secret("rabbitmq-definitions.json")?,
        )?;

        let mut environment: Vec<(String, String)> = [
            ("CASITAS_POSTGRES", postgres.address()),
            ("CASITAS_REDIS", redis.address()),
            ("CASITAS_RABBITMQ", rabbitmq.address()),
            ("CASITAS_SECRETS_DIR", utf8(&secrets)?.to_owned()),
            ("CASITAS_ARTIFACTS_DIR", utf8(&artifacts)?.to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if options.demo {
            environment.push(("CASITAS_DEMO".to_owned(), "demo".to_owned()));
        }
        environment.extend(options.env.iter().cloned());

        with_env(Program::new("migrate", &binary, logs.join("migrate.log")).args(["migrate"]), &environment).run()?;

        let mut roles = Vec::new();
        for name in ROLES {
            let mut role = role(name, &binary, &dir, &environment, options)?;
            for (variable, server, port) in [
                ("CASITAS_POSTGRES", "postgres", postgres.port()),
                ("CASITAS_REDIS", "redis", redis.port()),
                ("CASITAS_RABBITMQ", "rabbitmq", rabbitmq.port()),
            ] {
                let uses_it = server != "rabbitmq" || ["projector", "report-worker"].contains(&name);
                if uses_it {
                    role.set_env(variable, format!("127.0.0.1:{}", options.port_between(name, server, port)?));
                }
            }
            role.start()?;
            roles.push(role);
        }
        if options.demo {
            let mut seed = Program::new("seed", &binary, logs.join("seed.log")).args(["seed", "demo"]);
            if let Some(units) = options.demo_units {
                seed = seed.args(["--units", &units.to_string()]);
            }
            if let Some(years) = options.demo_years {
                seed = seed.args(["--years", &years.to_string()]);
            }
            with_env(seed, &environment).run()?;
        }
        let nginx = Nginx::start(&dir.join("nginx"), &nginx_options(options, &roles)?)?;
        let port = nginx.port();
        wait_until("an answer through Nginx", FRONT_READY_WITHIN, || {
            Ok(http::get(port, "/units/available").is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(Self { nginx, roles, rabbitmq, redis, postgres, binary, environment, dir, _temporary: temporary })
    }

    /// Nginx's: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        self.nginx.url()
    }

    /// Where data, logs and secrets are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn secrets_dir(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// One secret of `casitas secrets init`, by its file's name.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn secret(&self, name: &str) -> Result<String> {
        let path = self.secrets_dir().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// A role by its name in `ROLES`.
    ///
    /// # Errors
    /// When there is no such role.
    pub fn role(&mut self, name: &str) -> Result<&mut Role> {
        self.roles.iter_mut().find(|role| role.name() == name).with_context(|| format!("no role {name}"))
    }

    /// The `casitas` that runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// What the operator's `casitas` needs in its environment.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Runs an operator's verb: `stack.casitas(&["projections", "list"])`.
    ///
    /// # Errors
    /// When it cannot be started; its exit status is the caller's to judge.
    pub fn casitas(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(args).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command.current_dir(&self.dir).output().context("starting casitas")
    }

    /// Everything that runs: name, process id, port, log.
    pub fn inventory(&self) -> Vec<(String, Option<u32>, u16, PathBuf)> {
        let mut rows = vec![
            ("nginx".to_owned(), self.nginx.pid(), self.nginx.port(), self.nginx.log().to_owned()),
            ("postgres".to_owned(), self.postgres.pid(), self.postgres.port(), self.postgres.log().to_owned()),
            ("redis".to_owned(), self.redis.pid(), self.redis.port(), self.redis.log().to_owned()),
            ("rabbitmq".to_owned(), self.rabbitmq.pid(), self.rabbitmq.port(), self.rabbitmq.log().to_owned()),
        ];
        let roles = self.roles.iter();
        rows.extend(roles.map(|role| (role.name().to_owned(), role.pid(), role.port(), role.log().to_owned())));
        rows
    }

    /// The parts that ended without being asked to, each with how.
    ///
    /// # Errors
    /// When the kernel does not know a child.
    pub fn crashed(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for role in &mut self.roles {
            if let Some(status) = role.crashed()? {
                found.push(format!("{} ended ({status}); see {}", role.name(), role.log().display()));
            }
        }
        let servers = [
            ("nginx", self.nginx.crashed()?),
            ("postgres", self.postgres.crashed()?),
            ("redis", self.redis.crashed()?),
            ("rabbitmq", self.rabbitmq.crashed()?),
        ];
        found.extend(servers.iter().filter_map(|(name, status)| Some(format!("{name} ended ({})", (*status)?))));
        Ok(found)
    }

    /// Stops everything in order: the front, the roles, the servers.
    ///
    /// # Errors
    /// The first failure; what comes after it is stopped all the same.
    pub fn stop(mut self) -> Result<()> {
        let mut outcomes = vec![self.nginx.stop()];
        for role in self.roles.iter_mut().rev() {
            outcomes.push(role.stop().map(drop));
        }
        outcomes.extend([self.rabbitmq.stop(), self.redis.stop(), self.postgres.stop()]);
        outcomes.into_iter().collect()
    }
}

fn working_dir(options: &Options) -> Result<(PathBuf, Option<TempDir>)> {
    use std::os::unix::fs::PermissionsExt;
    // Others may pass through to the folders that are theirs (postgres, rabbitmq), and read nothing here.
    let passable = fs::Permissions::from_mode(0o711);
    if let Some(dir) = &options.keep_dir {
        fs::create_dir_all(dir)?;
        ensure!(fs::read_dir(dir)?.next().is_none(), "{} is not empty", dir.display());
        fs::set_permissions(dir, passable)?;
        return Ok((dir.canonicalize()?, None));
    }
    let temporary = tempfile::Builder::new().prefix("casitas-stack-").permissions(passable).tempdir()?;
    Ok((temporary.path().canonicalize()?, Some(temporary)))
}

fn role(name: &str, binary: &Path, dir: &Path, environment: &[(String, String)], options: &Options) -> Result<Role> {
    let (subcommand, kind, public) = match name {
        "command-api" => ("command-api", "command", true),
        "query-1" | "query-2" => ("query-api", "query", true),
        "projector" => ("projector", "projector", false),
        "report-worker" => ("report-worker", "worker", false),
        other => bail!("no role {other}"),
    };
    let port = free_port()?;
    let program = Program::new(name, binary, dir.join("logs").join(format!("{name}.log"))).args([subcommand]);
    let mut program = with_env(program, environment)
        .env("CASITAS_SECRETS_DIR", utf8(&dir.join("role-secrets").join(kind))?)
        .env("CASITAS_SERVED_BY", name);
    // The public listeners answer for themselves; the roles without one have a listener of the operator's only.
    let listener = if public { "CASITAS_LISTEN" } else { "CASITAS_OPS_LISTEN" };
    program.set_env(listener, format!("127.0.0.1:{port}"));
    if !options.memory_cache {
        program.set_env("CASITAS_MEMORY_CACHE", "off");
    }
    if let Some(delay_ms) = options.projector_delay_ms {
        program.set_env("CASITAS_PROJECTOR_DELAY_MS", delay_ms.to_string());
    }
    if let Some(slots) = options.worker_slots {
        program.set_env("CASITAS_WORKER_SLOTS", slots.to_string());
    }
    Ok(Role { server: Server::new(program, port, Signal::TERM, ROLE_DRAINS_WITHIN) })
}

fn with_env(mut program: Program, environment: &[(String, String)]) -> Program {
    for (name, value) in environment {
        program.set_env(name, value);
    }
    program
}

fn nginx_options(options: &Options, roles: &[Role]) -> Result<NginxOptions> {
    let ports = |prefix: &str| -> Result<Vec<u16>> {
        let behind = roles.iter().filter(|role| role.name().starts_with(prefix));
        behind.map(|role| options.port_between("nginx", role.name(), role.port())).collect()
    };
    let port = match options.port {
        Some(port) => port,
        None => free_port()?,
    };
    let mut nginx = NginxOptions::new(port, ports("command-")?, ports("query-")?);
    nginx.api_rate = options.api_rate.clone().unwrap_or(nginx.api_rate);
    nginx.api_burst = options.api_burst.unwrap_or(nginx.api_burst);
    nginx.login_rate = options.login_rate.clone().unwrap_or(nginx.login_rate);
    nginx.login_burst = options.login_burst.unwrap_or(nginx.login_burst);
    nginx.connections = options.connections.unwrap_or(nginx.connections);
    if !options.nginx_allow.is_empty() {
        nginx.operator_allow = options.nginx_allow.clone();
    }
    Ok(nginx)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
