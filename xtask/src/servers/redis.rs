//! A private Redis, as disposable as in production: nothing is written to disk.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Server, delegate_to_server};
use crate::net::free_port;
use crate::process::{Account, Program, find_program, private_dir, private_file};

const READY_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Redis {
    server: Server,
}

impl Redis {
    /// Starts a server on a free port. `acl` is the text of an ACL file; without one anybody on loopback may do anything.
    ///
    /// # Errors
    /// When Redis is not installed or does not get ready.
    pub fn start(dir: &Path, acl: Option<&str>) -> Result<Self> {
        let program = find_program(&["redis-server"]).context("Redis is not installed")?;
        let account = Account::to_drop_to("redis");
        private_dir(dir, account.as_ref())?;
        let port = free_port()?;
        let folder = dir.to_str().context("a path that is not UTF-8")?;
        let mut config = format!(
            "bind 127.0.0.1\nport {port}\nprotected-mode yes\ndaemonize no\ndir \"{folder}\"\nsave \"\"\nappendonly no\n\
             maxmemory 256mb\nmaxmemory-policy allkeys-lfu\n"
        );
        if let Some(acl) = acl {
            let file = dir.join("users.acl");
            private_file(&file, acl.as_bytes(), account.as_ref())?;
            config.push_str(&format!("aclfile \"{folder}/users.acl\"\n"));
        }
        let config_file = dir.join("redis.conf");
        private_file(&config_file, config.as_bytes(), account.as_ref())?;
        let program = Program::new("redis", program, dir.join("redis.log"))
            .args([config_file.to_str().context("a path that is not UTF-8")?])
            .clean_env()
            .dir(dir)
            .account(account);
        let mut redis = Self { server: Server::new(program, port, Signal::TERM, Duration::from_secs(10)) };
        redis.start_again()?;
        Ok(redis)
    }

    /// Starts the stopped or killed server, empty, on the same port.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.start_until(READY_WITHIN, |port| {
            let answer = redis_cli(port, None, &["PING"])?;
            // A server that asks for a password is up.
            Ok(answer.contains("PONG") || answer.contains("NOAUTH"))
        })
    }

    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop().map(drop)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// Runs `redis-cli` as (user, password), or as the default user.
    ///
    /// # Errors
    /// When redis-cli fails or Redis answers an error.
    pub fn cli(&self, user: Option<(&str, &str)>, args: &[&str]) -> Result<String> {
        let answer = redis_cli(self.port(), user, args)?;
        let error = ["ERR ", "NOAUTH ", "NOPERM ", "WRONGPASS "].iter().any(|kind| answer.starts_with(kind));
        ensure!(!error, "redis-cli {args:?}: {answer}");
        Ok(answer)
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }
}

delegate_to_server!(Redis);

fn redis_cli(port: u16, user: Option<(&str, &str)>, args: &[&str]) -> Result<String> {
    let mut command = Command::new(find_program(&["redis-cli"]).context("redis-cli is not installed")?);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
    if let Some((name, password)) = user {
        // The password goes by the environment: arguments are visible to every user of the machine.
        command.args(["--user", name]).env("REDISCLI_AUTH", password);
    }
    let output = command.args(args).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
