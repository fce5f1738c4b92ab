//! The data folder, held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::Context;
use ports::{Clock, Error, Result};

use super::{SqliteLog, SqliteViews};

/// The folder of the embedded mode. It is held as long as this, or a store opened from it, lives.
#[derive(Clone, Debug)]
pub struct DataFolder {
    path: PathBuf,
    held: Arc<File>,
}

impl DataFolder {
    /// Makes the folder (0700) if it is missing and holds it. `Conflict` when another process does.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let failed = |error| Error::unavailable(format!("the data folder {}", path.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let lock = path.join("casitas.lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(lock);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, held: Arc::new(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::Conflict(format!(
                "another casitas holds {}: stop it, or choose another folder with --data-dir",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Whether logs were ever made there.
    pub fn has_store(path: &Path) -> bool {
        Context::ALL.into_iter().any(|context| path.join(format!("{}.sqlite", context.database())).exists())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens (and, if need be, makes or migrates) a context's log, `<database>.sqlite`.
    pub async fn log(&self, context: Context, clock: Arc<dyn Clock>) -> Result<SqliteLog> {
        SqliteLog::open(self, context, clock).await
    }

    /// Opens (and, if need be, makes or migrates) `views.sqlite`.
    pub async fn views(&self) -> Result<SqliteViews> {
        SqliteViews::open(self).await
    }

    pub(super) fn held(&self) -> Arc<File> {
        self.held.clone()
    }
}
