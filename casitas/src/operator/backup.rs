//! `casitas backup`.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Operator, Rows};
use crate::{exit, transfer};

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(
    long_about = "Make a consistent copy of the logs, beside whatever is going on.

DEST becomes an embedded data folder without views: the five logs as of one moment, the wrapped keys of data subjects, uploaded \
documents and finished reports. `casitas restore` makes a store of it. It works on a running embedded folder, and on a distributed \
system too.

The master key is left out unless --with-master-key: whoever has both can read all personal data, whoever has only the copy cannot \
read any. Keep master.key elsewhere. Token keys are not copied: after a restore everybody logs in again.",
    after_help = "Example: casitas backup /backups/2026-11-26"
)]
pub struct Backup {
    /// The folder to make.
    #[arg(value_parser = super::verify::absolute)]
    pub dest: PathBuf,
    /// Copy master.key, too.
    #[arg(long)]
    pub with_master_key: bool,
}

impl Operator {
    pub(super) async fn backup(&self, backup: &Backup, rows: &Rows) -> Result<u8> {
        // It copies files: on a thread of its own.
        let (platform, verb) = (self.platform.clone(), backup.clone());
        let runtime = tokio::runtime::Handle::current();
        let work = move || runtime.block_on(transfer::backup(&platform, &verb.dest, verb.with_master_key));
        for row in tokio::task::spawn_blocking(work).await?? {
            rows.send(row).await?;
        }
        Ok(exit::OK)
    }
}
