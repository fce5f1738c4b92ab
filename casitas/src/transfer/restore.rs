//! `casitas restore`: an embedded folder from a backup.

use std::fs;
use std::path::{Path, PathBuf};

use adapters::sqlite::DataFolder;
use anyhow::{Context as _, Result, bail, ensure};
use domain::Context;
use ports::{EventLog, Sealer, SystemClock, Transfer};
use serde_json::json;
use std::sync::Arc;

use super::backup::{MANIFEST, MANIFEST_VERSION, Manifest, copy_files, sync_folder};
use super::lines::beside;
use crate::config::Settings;
use crate::exit;
use crate::operator::chained;
use crate::output::Printer;
use crate::secrets::{Secrets, init_keys};

#[derive(Clone, Debug, clap::Args)]
#[command(
    long_about = "Make the data folder from a backup.

The data folder must not exist, or be empty. Every log begins a new life (incarnation), because what happened after the backup is \
gone: tokens of positions that clients hold are refused, views are made anew at the first start. The master key is taken from the \
backup (`casitas backup --with-master-key`) or from --master-key FILE.",
    after_help = "Example: casitas restore /backups/2026-11-26 --master-key /safe/master.key --data-dir ./casitas-data"
)]
pub struct RestoreArgs {
    /// What `casitas backup` made.
    pub src: PathBuf,
    /// master.key of the system that was backed up.
    #[arg(long)]
    pub master_key: Option<PathBuf>,
}

/// Answers the exit code.
pub async fn restore(settings: &Settings, args: &RestoreArgs, printer: &mut Printer) -> Result<u8> {
    ensure!(
        !settings.is_distributed(),
        "restore makes an embedded folder: for a distributed system, restore one elsewhere, then `casitas events export` and \
         `casitas events import`"
    );
    let src = &args.src;
    let manifest = fs::read_to_string(src.join(MANIFEST))
        .with_context(|| format!("{} is no backup: it has no {MANIFEST}", src.display()))?;
    let manifest: Manifest =
        serde_json::from_str(&manifest).with_context(|| format!("{MANIFEST} of {} cannot be read", src.display()))?;
    ensure!(
        manifest.casitas_backup == MANIFEST_VERSION,
        "the backup has version {}, this casitas reads version {MANIFEST_VERSION}",
        manifest.casitas_backup
    );
    let dest = &settings.data_dir;
    let empty = fs::read_dir(dest).map(|mut entries| entries.next().is_none());
    if matches!(empty, Ok(false)) {
        eprintln!("error: {} is not empty: choose another folder with --data-dir", dest.display());
        return Ok(exit::CONFLICT);
    }
    let part = beside(dest, ".part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("{} of an earlier try cannot be removed", part.display()))?;
    }
    let folder = DataFolder::open(&part).map_err(chained)?;
    copy_files(src, &part)?;
    fs::remove_file(part.join(MANIFEST))?;
    let secrets = take_master_key(args, &part)?;
    let sealer = Sealer::new(secrets.master_key()?);
    for head in &manifest.contexts {
        let row = renew(&folder, head.context, head.position, &sealer).await?;
        printer.row(row);
    }
    drop(folder);
    fs::remove_file(part.join("casitas.lock"))?;
    sync_folder(&part)?;
    if matches!(empty, Ok(true)) {
        fs::remove_dir(dest)?;
    }
    fs::rename(&part, dest).with_context(|| format!("{} cannot be renamed to {}", part.display(), dest.display()))?;
    Ok(exit::OK)
}

fn take_master_key(args: &RestoreArgs, part: &Path) -> Result<Secrets> {
    let keys = part.join("keys");
    let place = keys.join("master.key");
    if let Some(given) = &args.master_key {
        fs::create_dir_all(&keys)?;
        fs::copy(given, &place).with_context(|| format!("{} cannot be copied", given.display()))?;
    }
    if !place.exists() {
        bail!(
            "the backup has no master key, without which nobody can read the personal data: say --master-key FILE, the master.key of \
             the system that was backed up"
        );
    }
    init_keys(&keys)
}

/// Checks a log against the manifest and begins its new life.
async fn renew(folder: &DataFolder, context: Context, position: u64, sealer: &Sealer) -> Result<serde_json::Value> {
    let log = folder.log(context, Arc::new(SystemClock)).await.map_err(chained)?;
    let head = log.head().await.map_err(chained)?;
    ensure!(head.position == position, "the {context} log ends at {}, the backup tells of {position}", head.position);
    let subjects = log.wrapped_keys(None, 1_000).await.map_err(chained)?;
    let first = subjects.iter().find_map(|key| Some((&key.subject, key.wrapped.as_ref()?)));
    if let Some((subject, wrapped)) = first {
        ensure!(sealer.unwraps(subject, wrapped), "this is not the master key of the system that was backed up");
    }
    let incarnation = log.renew_incarnation().await.map_err(chained)?;
    log.close().await;
    Ok(json!({"context": context, "events": position, "incarnation": incarnation}))
}
