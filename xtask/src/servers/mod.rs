//! The private servers. Each keeps its port, its data and its log in the folder it was given, so that a killed one can be
//! started again as it was; each is ready when `start` returns.

mod nginx;
mod postgres;
mod rabbitmq;
mod redis;

use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use rustix::process::Signal;

pub use nginx::{Nginx, NginxOptions, render_templates};
pub use postgres::{OWNER as POSTGRES_OWNER, Postgres};
pub use rabbitmq::RabbitMq;
pub use redis::Redis;

use crate::net::wait_until;
use crate::process::{Program, Running, find_program};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every start that waits, and every later one, give up: somebody wants us to end.
pub fn interrupt_starts() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Are Postgres' server and tools on this machine?
pub fn postgres_installed() -> bool {
    postgres::bin_dir().is_some()
}

/// Are RabbitMQ's server and Erlang's port mapper on this machine?
pub fn rabbitmq_installed() -> bool {
    rabbitmq::server_program().is_some() && find_program(&["epmd"]).is_some()
}

/// A program that listens: what it takes to start it, and the one running now.
#[derive(Debug)]
pub struct Server {
    program: Program,
    port: u16,
    stop_signal: Signal,
    stop_grace: Duration,
    running: Option<Running>,
}

impl Server {
    pub fn new(program: Program, port: u16, stop_signal: Signal, stop_grace: Duration) -> Self {
        Self { program, port, stop_signal, stop_grace, running: None }
    }

    pub fn name(&self) -> &str {
        self.program.name()
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> &Path {
        self.program.log()
    }

    /// How it is started: changes apply from the next start on.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// `Some` if it ended without being asked to.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn crashed(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.running {
            Some(running) => running.exited(),
            None => Ok(None),
        }
    }

    /// Starts it if it does not run, and waits until `ready`.
    ///
    /// # Errors
    /// When it ends, or is not ready within the bound; the message holds the end of its log.
    pub fn start_until(&mut self, bound: Duration, mut ready: impl FnMut(u16) -> Result<bool>) -> Result<()> {
        let mut running = self.program.start()?;
        let port = self.port;
        let outcome = wait_until(&format!("{} being ready", self.program.name()), bound, || {
            ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
            if let Some(status) = running.exited()? {
                return Err(anyhow!("{} ended while starting ({status})", self.program.name()));
            }
            ready(port)
        });
        outcome.map_err(|error| anyhow!("{error:#}{}", self.program.log_tail()))?;
        self.running = Some(running);
        Ok(())
    }

    /// Stops it in good order; killed when it takes longer than its grace. Stopping a stopped one is fine.
    ///
    /// # Errors
    /// When something of it survives SIGKILL.
    pub fn stop(&mut self) -> Result<Option<ExitStatus>> {
        match self.running.take() {
            Some(mut running) => running.stop(self.stop_signal, self.stop_grace),
            None => Ok(None),
        }
    }

    /// SIGKILL, for it and all it started.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill9(),
            None => Ok(()),
        }
    }

    /// SIGSTOP for the whole tree: it stays connected and answers nothing.
    pub fn pause(&self) {
        if let Some(running) = &self.running {
            running.signal_tree(Signal::STOP);
        }
    }

    /// SIGCONT after `pause`.
    pub fn resume(&self) {
        if let Some(running) = &self.running {
            running.signal_tree(Signal::CONT);
        }
    }

    /// Sends any other signal to the process itself.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.running {
            Some(running) => running.signal(signal),
            None => Err(anyhow!("{} does not run", self.name())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// The methods that every named server has in common.
macro_rules! delegate_to_server {
    ($server:ty) => {
        impl $server {
            /// On 127.0.0.1.
            pub fn port(&self) -> u16 {
                self.server.port()
            }

            /// `host:port`.
            pub fn address(&self) -> String {
                format!("127.0.0.1:{}", self.server.port())
            }

            pub fn pid(&self) -> Option<u32> {
                self.server.pid()
            }

            pub fn log(&self) -> &std::path::Path {
                self.server.log()
            }

            /// SIGSTOP for the whole tree.
            pub fn pause(&self) {
                self.server.pause();
            }

            /// SIGCONT after `pause`.
            pub fn resume(&self) {
                self.server.resume();
            }

            /// `Some` if it ended without being asked to.
            ///
            /// # Errors
            /// When the kernel does not know the child.
            pub fn crashed(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
                self.server.crashed()
            }
        }
    };
}
use delegate_to_server;
