//! `casitas backup`: a consistent copy of the logs, beside whatever is going on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use adapters::sqlite::DataFolder;
use anyhow::{Context as _, Result, bail, ensure};
use ports::{EventLog, Import};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cut::cut;
use super::format::ContextHead;
use super::lines::beside;
use crate::operator::chained;
use crate::platform::Platform;

const BATCH: usize = 1_000;
pub const MANIFEST: &str = "backup.json";
pub const MANIFEST_VERSION: u32 = 1;

/// What a backup says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub casitas_backup: u32,
    pub made_at: domain::Timestamp,
    pub contexts: Vec<ContextHead>,
}

/// Copies the logs of one moment, what stands beside them, and the artifacts into a new folder. Answers a row a log.
///
/// The folder is an embedded store without views and, unless asked for, without the master key. It is made beside its place and
/// renamed.
pub async fn backup(platform: &Platform, dest: &Path, with_master_key: bool) -> Result<Vec<Value>> {
    ensure!(!dest.exists(), "{} exists: choose another place, or remove it", dest.display());
    let part = beside(dest, ".part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("{} of an earlier try cannot be removed", part.display()))?;
    }
    let folder = DataFolder::open(&part).map_err(chained)?;
    let logs: Vec<Arc<dyn EventLog>> = domain::Context::ALL
        .into_iter()
        .map(|context| platform.logs.get(context).cloned())
        .collect::<Result<_, _>>()
        .map_err(chained)?;
    let header = cut(&logs).await?;
    let mut rows = vec![];
    for (log, head) in logs.iter().zip(&header.contexts) {
        let copy = folder.log(log.context(), platform.clock.clone()).await.map_err(chained)?;
        let copied = copy_log(&**log, &copy, head).await;
        copy.close().await;
        copied.with_context(|| format!("the backup of the {} log stopped", head.context))?;
        rows.push(json!({"context": head.context, "events": head.position, "incarnation": head.incarnation}));
    }
    // What events name was stored before them.
    let files = copy_files(&platform.artifacts_dir, &part.join("artifacts"))?;
    rows.push(json!({"context": "artifacts", "events": files, "incarnation": null}));
    if with_master_key {
        crate::secrets::keep_master_key(&platform.secrets, &part.join("keys"))?;
    }
    let manifest = Manifest { casitas_backup: MANIFEST_VERSION, made_at: platform.clock.now(), contexts: header.contexts };
    fs::write(part.join(MANIFEST), serde_json::to_string_pretty(&manifest)?)?;
    drop(folder);
    fs::remove_file(part.join("casitas.lock"))?;
    sync_folder(&part)?;
    fs::rename(&part, dest).with_context(|| format!("{} cannot be renamed to {}", part.display(), dest.display()))?;
    Ok(rows)
}

async fn copy_log(from: &dyn EventLog, to: &dyn EventLog, head: &ContextHead) -> Result<()> {
    let import = |after| Import { incarnation: head.incarnation, after, ..Import::default() };
    let mut after = 0;
    while after < head.position {
        let limit = BATCH.min((head.position - after) as usize);
        let events = from.read(after, limit).await.map_err(chained)?;
        let Some(last) = events.last().map(|event| event.position) else {
            bail!("it ends at {after}, before {} where it stood", head.position)
        };
        to.import(&Import { events, ..import(after) }).await.map_err(chained)?;
        after = last;
    }
    let mut place: Option<(String, String)> = None;
    loop {
        let at = place.as_ref().map(|(scope, key)| (scope.as_str(), key.as_str()));
        let mut keys = from.kept_keys(at, BATCH).await.map_err(chained)?;
        let Some(last) = keys.last() else { break };
        place = Some((last.scope.clone(), last.key.clone()));
        keys.retain(|key| key.position <= head.position);
        to.import(&Import { keys, ..import(after) }).await.map_err(chained)?;
    }
    let mut subject: Option<String> = None;
    loop {
        let subjects = from.wrapped_keys(subject.as_deref(), BATCH).await.map_err(chained)?;
        let Some(last) = subjects.last() else { break };
        subject = Some(last.subject.clone());
        to.import(&Import { subjects, ..import(after) }).await.map_err(chained)?;
    }
    to.import(&Import { followers: head.followers(), ..import(after) }).await.map_err(chained)
}

/// Copies a folder of artifacts or of a backup with all that is in it; answers the number of files.
pub fn copy_files(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    let mut count = 0;
    let unreadable = || format!("{} cannot be read", from.display());
    for entry in fs::read_dir(from).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            // Half-written files, on their way to their names.
            true if entry.file_name() == "partial" => {}
            true => count += copy_files(&source, &target)?,
            false => {
                fs::copy(&source, &target).with_context(|| format!("{} cannot be copied", source.display()))?;
                fs::File::open(&target)?.sync_all()?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// What was made in a folder is on the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    fs::File::open(folder).and_then(|file| file.sync_all()).with_context(|| format!("{} cannot be stored", folder.display()))
}
