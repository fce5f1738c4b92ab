//! `casitas projections`: the read models, and how they are made anew.

mod rebuild;
mod show;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use ports::Standing;
use projector::{Park, RebuildError, Rebuilder};
use read_models::ReadModel;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(super) use self::rebuild::told;
use super::{Operator, Refusal, Rows};
use crate::exit;

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Projections {
    /// Every read model and every other follower: version, position, lag.
    ///
    /// `lag_seconds` is the age of the first event that is not folded yet.
    #[command(after_help = "Example: casitas projections list -o table")]
    List,
    /// Every generation of a read model (of all, without a name): standing, position, progress.
    #[command(after_help = "Example: casitas projections status available_units")]
    Status { name: Option<String> },
    /// Make read models anew from the log beside the live ones, compare, and switch; goes on where it was stopped.
    #[command(after_help = "Example: casitas projections rebuild available_units --parallel 2")]
    Rebuild {
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// Every read model, one after the other.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Streams are divided into so many parts that are folded beside each other (1 to 16).
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
        parallel: u32,
        /// `manual` leaves it ready for `casitas projections switch`.
        #[arg(long, value_enum, default_value_t = SwitchMode::Auto)]
        switch: SwitchMode,
        /// Compare with what readers see, and drop it: nothing stays.
        #[arg(long)]
        dry_run: bool,
        /// Switch although rows differ under the same fold version.
        #[arg(long)]
        force: bool,
        /// Park streams with an event that cannot be folded (`casitas parked`) instead of stopping at the first.
        #[arg(long)]
        park: bool,
        /// Progress and result as JSON lines on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Make the generation that is ready live.
    #[command(after_help = "Example: casitas projections switch available_units")]
    Switch {
        name: String,
        /// Although rows differ under the same fold version.
        #[arg(long)]
        force: bool,
    },
    /// Stop folding a read model until `casitas projections resume`; readers keep what there is.
    #[command(after_help = "Example: casitas projections pause available_units")]
    Pause { name: String },
    /// Let a paused read model be folded on.
    #[command(after_help = "Example: casitas projections resume available_units")]
    Resume { name: String },
    /// Drop the generation that is being built or is ready.
    #[command(after_help = "Example: casitas projections abort available_units")]
    Abort { name: String },
    /// Make the generation that was live before the last switch live again.
    #[command(after_help = "Example: casitas projections rollback available_units")]
    Rollback { name: String },
    /// Drop the generation on standby: there is no rollback after this.
    #[command(after_help = "Example: casitas projections drop available_units")]
    Drop { name: String },
    /// The rows in which the generation that is ready (or else on standby) differs from the live one.
    #[command(after_help = "Example: casitas projections diff available_units --limit 50")]
    Diff {
        name: String,
        /// Rows shown at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum SwitchMode {
    Auto,
    Manual,
}

impl Projections {
    /// The command that goes on with a rebuild that was stopped, under the settings that were said; none for a trial, of which
    /// nothing stays.
    pub fn again(&self, settings: &str) -> Option<String> {
        let Self::Rebuild { names, all, parallel, switch, dry_run: false, force, park, json } = self else { return None };
        let mut call = format!("casitas projections rebuild {}", if *all { "--all".to_owned() } else { names.join(" ") });
        if *parallel > 1 {
            call.push_str(&format!(" --parallel {parallel}"));
        }
        let manual = *switch == SwitchMode::Manual;
        for (flag, is_set) in [("--switch manual", manual), ("--force", *force), ("--park", *park), ("--json", *json)] {
            if is_set {
                call.push_str(&format!(" {flag}"));
            }
        }
        call.push_str(settings);
        Some(call)
    }
}

impl Operator {
    pub(super) async fn projections(&self, verb: Projections, rows: &Rows) -> Result<u8> {
        match verb {
            Projections::List => self.list_projections(rows).await,
            Projections::Status { name } => self.projection_status(name.as_deref(), rows).await,
            Projections::Rebuild { names, all, parallel, switch, dry_run, force, park, json: _ } => {
                let models = if all { read_models::all() } else { named(&names)? };
                let manual = switch == SwitchMode::Manual;
                let park = if park { Park::Any(self.platform.clock.now()) } else { Park::Nothing };
                self.rebuild(&models, projector::Wish { parallel, manual, dry_run, force, park }, rows).await
            }
            Projections::Switch { name, force } => self.switch(model(&name)?, force, rows).await,
            Projections::Pause { name } => self.pause(model(&name)?, true, rows).await,
            Projections::Resume { name } => self.pause(model(&name)?, false, rows).await,
            Projections::Abort { name } => {
                self.drop_one(model(&name)?, &[Standing::Building, Standing::Ready], "aborted", rows).await
            }
            Projections::Rollback { name } => self.rollback(model(&name)?, rows).await,
            Projections::Drop { name } => self.drop_one(model(&name)?, &[Standing::Standby], "dropped", rows).await,
            Projections::Diff { name, limit } => self.diff(model(&name)?, limit, rows).await,
        }
    }

    fn rebuilder(&self) -> Result<&Rebuilder> {
        self.rebuilder.as_ref().context(
            "this needs the projector's rights on the views: the secret `db_projector` in CASITAS_SECRETS_DIR cannot be read",
        )
    }

    async fn switch(&self, model: &'static dyn ReadModel, force: bool, rows: &Rows) -> Result<u8> {
        let (head, comparison) = self.rebuilder()?.switch(model, force).await.map_err(refusal)?;
        let result = if head.is_some() { rebuild::SWITCHED } else { "refused" };
        rows.send(rebuild::result_row(model, result, &comparison)).await?;
        if head.is_none() {
            return Err(rebuild::differs_from_live(model, &comparison).into());
        }
        Ok(exit::OK)
    }

    async fn rollback(&self, model: &'static dyn ReadModel, rows: &Rows) -> Result<u8> {
        let head = self.rebuilder()?.rollback(model).await.map_err(refusal)?;
        let (name, generation) = (model.spec().name, head.generation);
        rows.send(
            json!({"name": name, "result": "rolled back", "generation": generation, "position": head.checkpoint.position}),
        )
        .await?;
        Ok(exit::OK)
    }

    async fn pause(&self, model: &'static dyn ReadModel, paused: bool, rows: &Rows) -> Result<u8> {
        let name = model.spec().name;
        let changed = self.rebuilder()?.views().set_paused(name, paused).await.map_err(super::chained)?;
        let result = match (paused, changed) {
            (true, true) => "paused",
            (true, false) => "was paused already",
            (false, true) => "resumed",
            (false, false) => "was not paused",
        };
        rows.send(json!({"name": name, "result": result})).await?;
        Ok(exit::OK)
    }

    async fn drop_one(
        &self,
        model: &'static dyn ReadModel,
        standings: &[Standing],
        result: &str,
        rows: &Rows,
    ) -> Result<u8> {
        let (rebuilder, name) = (self.rebuilder()?, model.spec().name);
        let mut dropped = 0;
        for standing in standings {
            let Some(found) = rebuilder.standing(model, *standing).await.map_err(refusal)? else { continue };
            rebuilder.drop(model, found.head.generation).await.map_err(refusal)?;
            rows.send(json!({"name": name, "result": result, "generation": found.head.generation})).await?;
            dropped += 1;
        }
        if dropped > 0 {
            return Ok(exit::OK);
        }
        let standings: Vec<&str> = standings.iter().map(|standing| standing.as_str()).collect();
        let message = format!(
            "no generation of {name} is {}: `casitas projections status {name}` shows what there is",
            standings.join(" or ")
        );
        Err(Refusal::new(exit::NOT_FOUND, message).into())
    }
}

fn named(names: &[String]) -> Result<Vec<&'static dyn ReadModel>> {
    names.iter().map(|name| model(name)).collect()
}

/// A read model by its name.
pub(super) fn model(name: &str) -> Result<&'static dyn ReadModel> {
    let found = read_models::all().into_iter().find(|model| model.spec().name == name);
    found.ok_or_else(|| {
        let all: Vec<&str> = read_models::all().iter().map(|model| model.spec().name).collect();
        Refusal::new(exit::NOT_FOUND, format!("there is no read model {name:?}: there are {}", all.join(", "))).into()
    })
}

pub(super) fn refusal(error: RebuildError) -> anyhow::Error {
    let code = match &error {
        RebuildError::Busy(_) | RebuildError::Unfinished { .. } => exit::CONFLICT,
        RebuildError::Nothing(_) => exit::NOT_FOUND,
        RebuildError::Apart(_) => exit::CHECK_FAILED,
        RebuildError::Stopped => exit::INTERRUPTED,
        RebuildError::Port(ports::Error::Conflict(_)) => exit::CONFLICT,
        RebuildError::Port(ports::Error::Unavailable { .. }) => exit::DEPENDENCY_DOWN,
        RebuildError::Poison(_) | RebuildError::Port(_) => exit::FAILED,
    };
    let message = match &error {
        RebuildError::Poison(reason) => {
            format!("{reason}; nothing was switched. `--park` leaves such a stream out (but not one that needs an upgrade)")
        }
        other => other.to_string(),
    };
    Refusal::new(code, message).into()
}
