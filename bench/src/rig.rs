//! What commands need and nothing more: Postgres, Redis, and command-apis. No follower takes processor time from them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adapters::postgres::PostgresServer;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use xtask::http;
use xtask::net::free_port;
use xtask::process::{Program, private_dir, private_file};
use xtask::scenarios::client::Http;
use xtask::scenarios::world;
use xtask::servers::{Postgres, Redis, Server};
use xtask::stack::ROLE_SECRETS;

pub const USER: &str = "casitas_command";
const READY_WITHIN: Duration = Duration::from_secs(60);
const DRAINS_WITHIN: Duration = Duration::from_secs(15);

pub struct Rig {
    // Dropped in this order: the services, their servers, the folder.
    apis: Vec<Server>,
    _redis: Redis,
    pub postgres: Postgres,
    secrets: PathBuf,
    dir: TempDir,
}

impl Rig {
    /// Migrated by the product, with an administrator, and so many command-apis.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(binary: &Path, apis: usize) -> Result<Self> {
        // Postgres' account must be able to pass through to its folder.
        let passable = fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("casitas-bench-").permissions(passable).tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let secrets = at("secrets");
        Program::new("secrets", binary, at("secrets.log")).args(["secrets", "init", &text(&secrets)]).run()?;
        let own_secrets = at("command-secrets");
        private_dir(&own_secrets, None)?;
        for (_, names) in ROLE_SECRETS.iter().filter(|(kind, _)| *kind == "command") {
            for name in *names {
                private_file(&own_secrets.join(name), &fs::read(secrets.join(name))?, None)?;
            }
        }
        let password = fs::read_to_string(secrets.join("postgres_password"))?;
        let postgres = Postgres::start(&at("postgres"), password.trim())?;
        let redis = Redis::start(&at("redis"), Some(&fs::read_to_string(secrets.join("redis.acl"))?))?;
        private_dir(&at("artifacts"), None)?;
        let environment = [
            ("CASITAS_POSTGRES", postgres.address()),
            ("CASITAS_REDIS", redis.address()),
            ("CASITAS_SECRETS_DIR", text(&secrets)),
            ("CASITAS_ARTIFACTS_DIR", text(&at("artifacts"))),
        ];
        let program = |name: &str, args: &[&str]| {
            let program = Program::new(name, binary, at(&format!("{name}.log"))).args(args).dir(dir.path());
            environment.iter().fold(program, |program, (name, value)| program.env(name, value.clone()))
        };
        program("migrate", &["migrate"]).run()?;
        add_admin(binary, dir.path(), &environment)?;
        let mut running = Vec::new();
        for number in 1..=apis {
            let port = free_port()?;
            let name = format!("command-api-{number}");
            let program = program(&name, &["command-api"])
                .env("CASITAS_SECRETS_DIR", text(&own_secrets))
                .env("CASITAS_LISTEN", format!("127.0.0.1:{port}"));
            let mut server = Server::new(program, port, Signal::TERM, DRAINS_WITHIN);
            let ready = |port| Ok(http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200));
            server.start_until(READY_WITHIN, ready)?;
            running.push(server);
        }
        Ok(Self { apis: running, _redis: redis, postgres, secrets, dir })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port of each command-api.
    pub fn ports(&self) -> Vec<u16> {
        self.apis.iter().map(Server::port).collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.apis.iter().filter_map(Server::pid).collect()
    }

    /// The password of the role that appends.
    ///
    /// # Errors
    /// When the secret is not there.
    pub fn password(&self) -> Result<String> {
        Ok(fs::read_to_string(self.secrets.join("db_command"))?.trim().to_owned())
    }

    /// The server as a command-api uses it.
    ///
    /// # Errors
    /// When the secret is not there.
    pub fn server(&self) -> Result<PostgresServer> {
        Ok(PostgresServer::new(&self.postgres.address(), USER, &self.password()?)?)
    }

    /// A fresh token of the administrator: it lasts a quarter of an hour.
    ///
    /// # Errors
    /// When logging in fails.
    pub fn token(&self) -> Result<String> {
        let port = self.ports().first().copied().context("no command-api")?;
        token(&format!("http://127.0.0.1:{port}"))
    }
}

/// A fresh token of the administrator there.
///
/// # Errors
/// When logging in fails.
pub fn token(url: &str) -> Result<String> {
    let admin = world::log_in(&Http::new(url)?, world::ADMIN, world::PASSWORD)?;
    Ok(admin.token().context("no token")?.to_owned())
}

fn add_admin(binary: &Path, dir: &Path, environment: &[(&str, String)]) -> Result<()> {
    let mut adding = Command::new(binary)
        .args(["users", "add", world::ADMIN, "--role", "admin"])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = adding.stdin.take() {
        writeln!(input, "{}", world::PASSWORD)?;
    }
    let output = adding.wait_with_output()?;
    ensure!(output.status.success(), "casitas users add: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
