//! Settings: flag, then `CASITAS_*`, then `casitas.toml`, then the default. The only place that reads the environment is clap,
//! here.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, ValueEnum};

use crate::operator::quoted;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Test only: what `cargo xtask chaos --bugs` must find.
#[cfg(feature = "seeded-bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SeededBug {
    NoLock,
    CheckpointBeforeView,
    AckBeforeAppend,
}

#[cfg(feature = "seeded-bugs")]
impl SeededBug {
    /// The mistakes that the adapters make.
    pub fn of_postgres(self) -> Option<adapters::postgres::SeededBug> {
        match self {
            Self::NoLock => Some(adapters::postgres::SeededBug::NoLock),
            Self::CheckpointBeforeView => Some(adapters::postgres::SeededBug::CheckpointBeforeView),
            Self::AckBeforeAppend => None,
        }
    }
}

/// What every role can be told.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Folder of the embedded mode: everything is in it.
    #[arg(long, env = "CASITAS_DATA_DIR", default_value = "./casitas-data", global = true)]
    pub data_dir: PathBuf,
    /// Public listener, host:port.
    #[arg(long, env = "CASITAS_LISTEN", default_value = "127.0.0.1:8080", global = true)]
    pub listen: String,
    /// Listener of /livez, /readyz and /metrics for the roles that have no public one.
    #[arg(long, env = "CASITAS_OPS_LISTEN", global = true)]
    pub ops_listen: Option<String>,
    /// The name in X-Served-By.
    #[arg(long, env = "CASITAS_SERVED_BY", global = true)]
    pub served_by: Option<String>,
    /// host:port of Postgres; makes the mode distributed.
    #[arg(long, env = "CASITAS_POSTGRES", global = true)]
    pub postgres: Option<String>,
    /// The folder made by `casitas secrets init`.
    #[arg(long, env = "CASITAS_SECRETS_DIR", global = true)]
    pub secrets_dir: Option<PathBuf>,
    /// host:port of Redis.
    #[arg(long, env = "CASITAS_REDIS", global = true)]
    pub redis: Option<String>,
    /// host:port of RabbitMQ.
    #[arg(long, env = "CASITAS_RABBITMQ", global = true)]
    pub rabbitmq: Option<String>,
    /// Folder of finished reports and documents, shared by all roles.
    #[arg(long, env = "CASITAS_ARTIFACTS_DIR", global = true)]
    pub artifacts_dir: Option<PathBuf>,
    /// `1`, `true`, or a list with `demo` in it: the demo logins may log in.
    #[arg(long = "demo-logins", env = "CASITAS_DEMO", default_value = "", hide = true, global = true)]
    pub demo_logins: String,
    /// The container flag: allows the demo logins on other addresses than loopback, because the port is published on loopback.
    #[arg(long, env = "CASITAS_DEMO_CONTAINER", default_value = "", hide = true, global = true)]
    pub demo_container: String,
    /// The in-process cache tier.
    #[arg(long, env = "CASITAS_MEMORY_CACHE", value_enum, default_value = "on", global = true)]
    pub memory_cache: Switch,
    /// Reports that a worker works on at once (default 128, embedded 8); the projector must be told the same number. With 1 they
    /// go strictly one after the other.
    #[arg(long, env = "CASITAS_WORKER_SLOTS", global = true)]
    pub worker_slots: Option<usize>,
    /// Reports among these that are rendered at once (default 8, embedded 2).
    #[arg(long, env = "CASITAS_WORKER_RENDERINGS", global = true)]
    pub worker_renderings: Option<usize>,
    /// Test aid: delays every projection batch.
    #[arg(long, env = "CASITAS_PROJECTOR_DELAY_MS", default_value_t = 0, hide = true, global = true)]
    pub projector_delay_ms: u64,
    /// Test aid: delays every rendering.
    #[arg(long, env = "CASITAS_RENDER_DELAY_MS", default_value_t = 0, hide = true, global = true)]
    pub render_delay_ms: u64,
    /// Test aid: `render`, `store` or `append`, with `:N`: the worker kills itself after that step of its Nth report.
    #[arg(long, env = "CASITAS_CRASH_AT", hide = true, global = true)]
    pub crash_at: Option<String>,
    /// Test only: the mistake to make.
    #[cfg(feature = "seeded-bugs")]
    #[arg(long, env = "CASITAS_SEEDED_BUG", value_enum, hide = true, global = true)]
    pub seeded_bug: Option<SeededBug>,
    #[arg(long = "log", env = "CASITAS_LOG", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or tracing directives.
    #[arg(long, env = "CASITAS_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// Those of these that the command line said, as the end of a command that says them again.
    #[arg(skip)]
    pub said: String,
}

impl Settings {
    pub fn slots(&self) -> usize {
        let default = if self.postgres.is_some() { report_worker::WorkerConfig::SLOTS } else { 8 };
        self.worker_slots.unwrap_or(default)
    }

    /// Embedded, renderings share the few readers of the views with the API.
    pub fn renderings(&self) -> usize {
        let default = if self.postgres.is_some() { report_worker::WorkerConfig::RENDERINGS } else { 2 };
        self.worker_renderings.unwrap_or(default).min(self.slots())
    }

    pub fn is_distributed(&self) -> bool {
        self.postgres.is_some()
    }

    pub fn demo_logins_on(&self) -> bool {
        is_on(&self.demo_logins)
    }

    pub fn served_by(&self, role: &str) -> String {
        self.served_by.clone().unwrap_or_else(|| role.to_owned())
    }

    /// The demo password may only be had from this machine.
    pub fn check_demo_bind(&self) -> Result<()> {
        let host = self.listen.rsplit_once(':').map_or("", |(host, _)| host);
        let loopback = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
        if loopback || is_on(&self.demo_container) {
            return Ok(());
        }
        bail!(
            "the demo logins have a known password, so {} must not be listened on with them: use a loopback address, or leave the demo out",
            self.listen
        )
    }
}

fn is_on(text: &str) -> bool {
    text.split(',').any(|part| matches!(part.trim(), "1" | "true" | "demo"))
}

/// What the command line said of what every verb takes, as the end of a command that says it again. The environment and
/// `casitas.toml` say their part by themselves.
pub fn said(command: &Command, matches: &ArgMatches) -> String {
    let mut said = String::new();
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        let id = arg.get_id().as_str();
        let (Some(long), Some(ValueSource::CommandLine)) = (arg.get_long(), matches.value_source(id)) else { continue };
        said.push_str(&format!(" --{long}"));
        if arg.get_action().takes_values() {
            for value in matches.get_raw(id).into_iter().flatten() {
                said.push_str(&format!(" {}", quoted(Path::new(value))));
            }
        }
    }
    said
}

/// Makes the values of `casitas.toml`, if there is one, the defaults of the command line.
pub fn with_file(command: Command, file: &Path) -> Result<Command> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(command),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
    };
    let table: toml::Table = toml::from_str(&text).with_context(|| format!("{} is not TOML", file.display()))?;
    let known: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let mut command = command;
    for (name, value) in table {
        if !known.contains(&name) {
            bail!("{}: there is no setting {name:?}", file.display());
        }
        let text = match value {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        // clap keeps defaults for the life of the program; this runs once.
        let text: &'static str = Box::leak(text.into_boxed_str());
        command = command.mut_arg(name, |arg| arg.default_value(text));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_on_only_when_it_was_asked_for() {
        for on in ["1", "true", "demo", "a,demo"] {
            assert!(is_on(on), "{on}");
        }
        for off in ["", "0", "false", "production", "demolition"] {
            assert!(!is_on(off), "{off}");
        }
    }
}
