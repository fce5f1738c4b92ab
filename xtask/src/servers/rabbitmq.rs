//! A private RabbitMQ node with an Erlang port mapper of its own, so that nothing of it is shared or left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Server, delegate_to_server};
use crate::net::{accepts, free_port};
use crate::process::{Account, Program, find_program, private_dir, private_file};

const READY_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub struct RabbitMq {
    // Field order is drop order: the node says goodbye to its port mapper.
    server: Server,
    epmd: Server,
    dir: PathBuf,
    account: Option<Account>,
    env: Vec<(String, String)>,
}

impl RabbitMq {
    /// Starts a node on a free port. `config` is the text of a `rabbitmq.conf` without the listener.
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not get ready.
    pub fn start(dir: &Path, config: &str) -> Result<Self> {
        let program = server_program().context("RabbitMQ is not installed")?;
        let epmd_program = find_program(&["epmd"]).context("Erlang's epmd is not installed")?;
        let account = Account::to_drop_to("rabbitmq");
        private_dir(dir, account.as_ref())?;
        for folder in ["mnesia", "log", "conf.d"] {
            private_dir(&dir.join(folder), account.as_ref())?;
        }
        let (port, dist_port, epmd_port) = (free_port()?, free_port()?, free_port()?);
        private_file(&dir.join("rabbitmq.conf"), with_defaults(config).as_bytes(), account.as_ref())?;
        private_file(&dir.join("enabled_plugins"), b"[].\n", account.as_ref())?;
        let folder = dir.to_str().context("a path that is not UTF-8")?;
        let env: Vec<(String, String)> = [
            ("HOME", folder.to_owned()),
            // Debian's own settings file, if any, is about the machine's node.
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_NODENAME", format!("casitas-{port}@localhost")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", dist_port.to_string()),
            ("RABBITMQ_MNESIA_BASE", format!("{folder}/mnesia")),
            ("RABBITMQ_LOG_BASE", format!("{folder}/log")),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_CONFIG_FILE", format!("{folder}/rabbitmq.conf")),
            ("RABBITMQ_CONFIG_FILES", format!("{folder}/conf.d")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", format!("{folder}/enabled_plugins")),
            ("RABBITMQ_PID_FILE", format!("{folder}/pid")),
            // Two schedulers' worth of busy waiting are two cores' worth of noise in every measurement.
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none".to_owned()),
            // Makes the start script become the server, instead of standing between us and it.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
            ("ERL_EPMD_PORT", epmd_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_CRASH_DUMP", "/dev/null".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();

        let epmd_program = Program::new("epmd", epmd_program, dir.join("epmd.log"))
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .clean_env()
            .dir(dir)
            .account(account.clone());
        let mut server_program =
            Program::new("rabbitmq", program, dir.join("rabbitmq.log")).clean_env().dir(dir).account(account.clone());
        for (name, value) in &env {
            server_program.set_env(name, value);
        }
        let mut rabbitmq = Self {
            server: Server::new(server_program, port, Signal::TERM, Duration::from_secs(30)),
            epmd: Server::new(epmd_program, epmd_port, Signal::TERM, Duration::from_secs(5)),
            dir: dir.to_owned(),
            account,
            env,
        };
        rabbitmq.start_again()?;
        Ok(rabbitmq)
    }

    /// Starts a node with the two files of `casitas secrets init`. The definitions are copied into `dir`, which is the
    /// folder that the configuration must name (`CASITAS_SECRETS_MOUNT`).
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not get ready.
    pub fn start_with_definitions(dir: &Path, config: &str, definitions: &str) -> Result<Self> {
        let account = Account::to_drop_to("rabbitmq");
        private_dir(dir, account.as_ref())?;
        private_file(&dir.join("rabbitmq-definitions.json"), definitions.as_bytes(), account.as_ref())?;
        Self::start(dir, config)
    }

    /// Starts the stopped or killed node on the same port and data.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        if self.epmd.pid().is_none() {
            self.epmd.start_until(READY_WITHIN, |port| Ok(accepts(port)))?;
        }
        // The listeners open last: definitions are loaded and queues recovered by then.
        self.server.start_until(READY_WITHIN, |port| Ok(accepts(port)))
    }

    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()?;
        self.epmd.stop()?;
        Ok(())
    }

    /// SIGKILL for the node and its helpers; the port mapper stays for the next start.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// The broker as if newly installed: stopped, its data gone, started again.
    ///
    /// # Errors
    /// When it cannot be stopped or does not get ready.
    pub fn wipe(&mut self) -> Result<()> {
        self.server.stop()?;
        std::fs::remove_dir_all(self.dir.join("mnesia"))?;
        private_dir(&self.dir.join("mnesia"), self.account.as_ref())?;
        self.start_again()
    }

    /// Messages that publishers gave to this node since it was started, by its own count.
    ///
    /// # Errors
    /// When rabbitmqctl fails, or the node counts no such thing.
    pub fn received(&self) -> Result<u64> {
        let told = self.ctl(&["eval", "rabbit_global_counters:overview()."])?;
        let counts = told.split("messages_received_total =>").skip(1);
        let counts: Vec<u64> = counts
            .map(|rest| rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse())
            .collect::<Result<_, _>>()?;
        ensure!(!counts.is_empty(), "the node does not count what it receives: {told}");
        Ok(counts.iter().sum())
    }

    /// Runs `rabbitmqctl` against this node.
    ///
    /// # Errors
    /// When rabbitmqctl fails.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let program = server_program().context("RabbitMQ is not installed")?.with_file_name("rabbitmqctl");
        let mut command = Command::new("setpriv");
        if let Some(account) = &self.account {
            command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
            command.arg("--clear-groups");
        }
        command.arg("--").arg(program).arg("--quiet").args(args);
        command.envs(self.env.iter().cloned()).current_dir(&self.dir).stdin(Stdio::null());
        let output = command.output()?;
        ensure!(output.status.success(), "rabbitmqctl {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

delegate_to_server!(RabbitMq);

/// Adds what a private node needs, unless the configuration says it.
fn with_defaults(config: &str) -> String {
    // A laptop's disk may be fuller than the broker's default wants, and a test must not depend on that.
    let defaults = [("disk_free_limit.absolute", "50MB"), ("log.console", "true"), ("log.console.level", "info")];
    let said = |key: &str| config.lines().filter_map(|line| line.split_once('=')).any(|(name, _)| name.trim() == key);
    let mut text = format!("{config}\n");
    for (key, value) in defaults.iter().filter(|(key, _)| !said(key)) {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

/// The start script itself: Debian's wrapper in sbin only works for root and the machine's own node.
pub fn server_program() -> Option<PathBuf> {
    find_program(&["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"])
}
