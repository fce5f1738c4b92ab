//! `events renew`: a new life of logs that were put back to an earlier moment.

use std::str::FromStr;

use anyhow::Result;
use domain::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::import::Target;
use crate::config::Settings;
use crate::exit;
use crate::operator::chained;
use crate::output::Printer;

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(
    long_about = "Begin a new life of logs whose databases were put back to an earlier moment, from a dump or a snapshot.

Positions behind that moment are given out again, to other events. In a new life nothing that was seen of the old one is taken for \
this one: positions that clients hold are answered 409, cached answers are misses, and read models stand still until they are rebuilt. \
Followers whose checkpoints lie in the log were put back with it and go on.

Stop every role first; afterwards start them and run `casitas projections rebuild --all`. `casitas restore` and `casitas events import` \
do this by themselves.",
    after_help = "Examples:\n  casitas events renew units legal\n  casitas events renew --all"
)]
pub struct RenewArgs {
    /// auth, units, legal, finances or reports.
    #[arg(required_unless_present = "all")]
    pub contexts: Vec<String>,
    /// Every log.
    #[arg(long, conflicts_with = "contexts")]
    pub all: bool,
}

/// Answers the exit code.
pub async fn renew(settings: &Settings, args: &RenewArgs, printer: &mut Printer) -> Result<u8> {
    let contexts = match args.all {
        true => Context::ALL.to_vec(),
        false => {
            let named = args.contexts.iter().map(|name| Context::from_str(name).map_err(anyhow::Error::msg));
            named.collect::<Result<Vec<_>>>()?
        }
    };
    let target = Target::open(settings).await?;
    for log in target.logs.iter().filter(|log| contexts.contains(&log.context())) {
        let position = log.head().await.map_err(chained)?.position;
        let incarnation = log.renew_incarnation().await.map_err(chained)?;
        printer.row(json!({"context": log.context().as_str(), "position": position, "incarnation": incarnation}));
    }
    Ok(exit::OK)
}
