//! `casitas events`: looking into the logs, what was when, and history sent on or moved.

mod export;
mod filter;
mod look;
mod masked;
mod replay;
mod sinks;
mod state;
mod stats;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;
use domain::auth::OperatorAction;
use ports::Recorded;
use serde::{Deserialize, Serialize};

pub use self::export::{Export, Format, ResumeAt};
pub use self::filter::EventFilter;
pub(super) use self::filter::stream_id;
use self::masked::Reveal;
pub use self::masked::data as masked_data;
pub(super) use self::masked::whole;
pub use self::replay::Replay;
use super::{Operator, Rows};
use crate::transfer::{ImportArgs, RenewArgs};

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Events {
    /// The latest events, oldest first.
    #[command(after_help = "Example: casitas events list --context legal --type LeaseSigned --since 2026-11-01 --limit 50")]
    List {
        #[command(flatten)]
        filter: EventFilter,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// With what happened, personal data masked.
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        reveal: Reveal,
    },
    /// Events as they come, until interrupted.
    #[command(after_help = "Example: casitas events tail --context units --type HoldPlaced")]
    Tail {
        #[command(flatten)]
        filter: EventFilter,
        /// With what happened, personal data masked.
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        reveal: Reveal,
    },
    /// One event whole: CONTEXT:POSITION or an event id.
    #[command(after_help = "Example: casitas events show legal:1042 --reveal --reason 'question of the tenant'")]
    Show {
        event: String,
        #[command(flatten)]
        reveal: Reveal,
    },
    /// What an aggregate was at a version or a time.
    #[command(after_help = "Example: casitas events state units unit:0192f0c1-… --at 2026-11-01T12:00:00Z")]
    State {
        /// auth, units, legal, finances or reports.
        context: String,
        /// The stream, e.g. unit:0192…; the id alone where one stream of the context has it.
        stream: String,
        /// A version (1, 2, 3 …) or an instant; now when absent.
        #[arg(long)]
        at: Option<String>,
        #[command(flatten)]
        reveal: Reveal,
    },
    /// What changed in an aggregate between two versions or times.
    #[command(after_help = "Example: casitas events diff units unit:0192f0c1-… 3 2026-11-01T12:00:00Z")]
    Diff {
        /// auth, units, legal, finances or reports.
        context: String,
        /// The stream, e.g. unit:0192….
        stream: String,
        /// The earlier version or instant; version 0 is before the first event.
        a: String,
        /// The later one.
        b: String,
        #[command(flatten)]
        reveal: Reveal,
    },
    /// Events by context, month and type, and the largest streams.
    #[command(after_help = "Example: casitas events stats --context finances --top 10 -o table")]
    Stats {
        /// auth, units, legal, finances or reports; all when absent.
        #[arg(long)]
        context: Option<String>,
        /// The largest streams of each context.
        #[arg(long, default_value_t = 5)]
        top: usize,
    },
    /// Deliver history again: to a fold, a webhook or a pipe.
    Replay(Replay),
    /// Write the whole history to a file.
    Export(Export),
    /// Write an export into an empty store.
    Import(ImportArgs),
    /// Begin a new life of logs that were put back to an earlier moment.
    Renew(RenewArgs),
    /// Check that history is what happened: positions, streams, payloads, checkpoints, the hash chain; exit 6 when it is not.
    #[command(after_help = "Example: casitas events verify --anchor /safe/anchors")]
    Verify {
        /// auth, units, legal, finances or reports; all when absent.
        #[arg(long)]
        context: Option<String>,
        /// Heads that `casitas events anchor` has signed: also shows a chain that was computed anew, and a log set back.
        #[arg(long, value_name = "FILE", value_parser = super::verify::absolute)]
        anchor: Option<PathBuf>,
    },
    /// Sign the heads of all logs and add them to a file, to be kept where nobody who can write the databases can.
    #[command(after_help = "Example: casitas events anchor /safe/anchors")]
    Anchor {
        #[arg(value_parser = super::verify::absolute)]
        file: PathBuf,
    },
}

impl Events {
    /// Whether it records what was done.
    pub fn writes(&self) -> bool {
        match self {
            Self::List { reveal, .. }
            | Self::Tail { reveal, .. }
            | Self::Show { reveal, .. }
            | Self::State { reveal, .. }
            | Self::Diff { reveal, .. } => reveal.reveal,
            Self::Stats { .. }
            | Self::Replay(_)
            | Self::Export(_)
            | Self::Import(_)
            | Self::Renew(_)
            | Self::Verify { .. }
            | Self::Anchor { .. } => false,
        }
    }
}

impl Operator {
    pub(super) async fn events(&self, verb: Events, rows: &Rows) -> Result<u8> {
        match verb {
            Events::List { filter, limit, data, reveal } => self.list_events(&filter, limit, data, &reveal, rows).await,
            Events::Tail { filter, data, reveal } => self.tail_events(&filter, data, &reveal, rows).await,
            Events::Show { event, reveal } => self.show_event(&event, &reveal, rows).await,
            Events::State { context, stream, at, reveal } => {
                self.show_state(&context, &stream, at.as_deref(), &reveal, rows).await
            }
            Events::Diff { context, stream, a, b, reveal } => {
                self.show_diff(&context, &stream, [&a, &b], &reveal, rows).await
            }
            Events::Stats { context, top } => self.show_stats(context.as_deref(), top, rows).await,
            Events::Replay(replay) => self.replay(&replay, rows).await,
            Events::Export(export) => self.export(&export, rows).await,
            Events::Import(_) | Events::Renew(_) => bail!("this opens the store itself: nothing may run on it"),
            Events::Verify { context, anchor } => self.verify(context.as_deref(), anchor.as_deref(), rows).await,
            Events::Anchor { file } => self.anchor(&file, rows).await,
        }
    }

    /// Opens the personal data of events of one context, after it was recorded that this is done.
    async fn reveal(&self, verb: &str, reveal: &Reveal, events: &mut [Recorded]) -> Result<()> {
        for events in events.chunks_mut(domain::auth::Operations::REVEALED_MAX) {
            let sealed = events.iter().filter(|event| masked::is_sealed(event));
            let places: Vec<String> = sealed.map(|event| format!("{}:{}", event.stream.context(), event.position)).collect();
            if places.is_empty() {
                continue;
            }
            let action = OperatorAction::RevealPersonalData { verb: verb.to_owned(), events: places };
            self.record(action, reveal.reason.clone()).await?;
            let sealer = self.platform.sealer()?;
            for event in events.iter_mut().filter(|event| masked::is_sealed(event)) {
                let log = self.platform.logs.get(event.stream.context()).map_err(super::chained)?;
                sealer.open_recorded(&**log, std::slice::from_mut(event)).await.map_err(super::chained)?;
            }
        }
        Ok(())
    }
}
