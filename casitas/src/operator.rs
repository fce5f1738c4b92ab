//! The operator's verbs. Each sends rows; how they are shown is `output`'s business.

mod backup;
mod doctor;
mod events;
mod jobs;
mod parked;
mod projections;
mod users;
mod verify;
mod who;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Result;
use clap::Subcommand;
use commands::{CommandError, Handler};
use domain::Context;
use ports::{EventLog, ViewSnapshot};
use projector::{Board, Rebuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::backup::Backup;
pub use self::doctor::unopened;
pub use self::events::{Events, Export, Format, Replay, ResumeAt, masked_data};
pub use self::jobs::Jobs;
pub use self::parked::Parked;
pub use self::projections::Projections;
pub use self::users::Users;
pub use self::who::account;
use crate::platform::Platform;

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Verb {
    /// Check every server and follower, and what is parked, given up, stuck, overdue or blocked.
    ///
    /// Each line is fine, wrong with the next command, or could not be checked. Exit 7 when a server is down, 6 when something else
    /// is wrong.
    #[command(
        after_help = "Examples:\n  casitas doctor\n  casitas doctor --quick && echo every server answers\n  casitas doctor --rows"
    )]
    Doctor {
        /// Only whether this process's servers answer.
        #[arg(long)]
        quick: bool,
        /// Fold every read model anew and compare its rows, too: a dry run of each rebuild, one after the other.
        #[arg(long, conflicts_with = "quick")]
        rows: bool,
    },
    /// A consistent copy of the logs.
    Backup(Backup),
    /// Look into the event logs, replay and export them.
    #[command(subcommand)]
    Events(Events),
    /// Read models and other followers.
    #[command(subcommand)]
    Projections(Projections),
    /// Streams that a read model does not fold, because one of their events could not be taken.
    #[command(subcommand)]
    Parked(Parked),
    /// Report jobs: what waits, what failed, what was given up.
    #[command(subcommand)]
    Jobs(Jobs),
    /// Users.
    #[command(subcommand)]
    Users(Users),
}

#[derive(Clone)]
pub struct Operator {
    platform: Platform,
    handler: Option<Handler>,
    /// Of the followers in this process.
    board: Option<Board>,
    /// Who operates, as recorded with what is done.
    by: String,
    /// Where this process may write the views.
    rebuilder: Option<Rebuilder>,
}

/// Why a verb did not do what was asked, with the exit code that says so.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: u8,
    message: String,
}

impl Refusal {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

type Rows = mpsc::Sender<Value>;

impl Verb {
    /// Whether its rows are shown as they come, until interrupted.
    pub fn is_endless(&self) -> bool {
        matches!(self, Self::Events(Events::Tail { .. } | Events::Replay(_)))
    }

    /// Whether it is a first step in an empty folder.
    pub fn begins_a_store(&self) -> bool {
        matches!(self, Self::Users(_))
    }

    /// Whether it needs the write path.
    pub fn writes(&self) -> bool {
        match self {
            Self::Users(_) => true,
            Self::Events(verb) => verb.writes(),
            Self::Parked(_) | Self::Jobs(_) => true,
            Self::Backup(_) | Self::Doctor { .. } | Self::Projections(_) => false,
        }
    }
}

impl Operator {
    pub fn new(platform: Platform, handler: Option<Handler>, board: Option<Board>, by: String) -> Self {
        let Platform { logs, hints, .. } = &platform;
        let rebuilder = platform.generations.clone().zip(platform.sealer().ok());
        let rebuilder = rebuilder.map(|(views, sealer)| Rebuilder::new(logs.clone(), sealer, views, hints.clone()));
        Self { platform, handler, board, by, rebuilder }
    }

    /// The same for another who operates: what is under way is known to all.
    pub fn by(self, by: String) -> Self {
        Self { by, ..self }
    }

    /// Runs a verb; answers the exit code.
    pub async fn run(&self, verb: Verb, rows: Rows) -> Result<u8> {
        match verb {
            Verb::Backup(verb) => self.backup(&verb, &rows).await,
            Verb::Doctor { quick, rows: compare } => self.doctor(quick, compare, &rows).await,
            Verb::Events(verb) => self.events(verb, &rows).await,
            Verb::Projections(verb) => self.projections(verb, &rows).await,
            Verb::Parked(verb) => self.parked(verb, &rows).await,
            Verb::Jobs(verb) => self.jobs(verb, &rows).await,
            Verb::Users(verb) => self.users(verb, &rows).await,
        }
    }

    /// A moment of the views. A folder that was never served has none yet: they are made, empty.
    async fn read(&self) -> Result<Box<dyn ViewSnapshot>> {
        self.prepare().await?;
        self.platform.views.snapshot().await.map_err(chained)
    }

    async fn prepare(&self) -> Result<()> {
        if self.platform.distributed {
            return Ok(());
        }
        let specs: Vec<_> = read_models::all().iter().map(|model| model.spec()).collect();
        self.platform.views.prepare(&specs).await.map_err(chained)
    }

    fn logs(&self, context: Option<&str>) -> Result<Vec<Arc<dyn EventLog>>> {
        let contexts = match context {
            None => Context::ALL.to_vec(),
            Some(name) => vec![Context::from_str(name).map_err(|error| misunderstood(error.to_string()))?],
        };
        contexts.into_iter().map(|context| self.platform.logs.get(context).cloned().map_err(chained)).collect()
    }
}

/// A path as a word of a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:@+,".contains(letter);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// With the exit code that tells an outage from a failure.
pub fn chained(error: ports::Error) -> anyhow::Error {
    match error {
        ports::Error::Unavailable { .. } => Refusal::new(crate::exit::DEPENDENCY_DOWN, error.chain()).into(),
        error => anyhow::anyhow!("{}", error.chain()),
    }
}

/// Of a command that was not done: with the exit code that tells an outage from a refusal.
fn undone(error: CommandError) -> anyhow::Error {
    match error {
        CommandError::Port(error) => chained(error),
        error => error.into(),
    }
}

/// Of an argument that is not understood.
pub fn misunderstood(message: impl Into<String>) -> anyhow::Error {
    Refusal::new(crate::exit::USAGE, message).into()
}
