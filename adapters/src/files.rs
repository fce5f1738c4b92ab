//! Artifacts as files, `ab/cd/<sha-256>`, on a local or shared folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::Sha256;
use ports::{Artifacts, Error, Result};

/// Holds the files being written; what a crash leaves there is never read.
const PARTIAL: &str = "partial";
/// Age at which an unfinished file is a crash's leftover for sure and not another process' work.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub struct ArtifactFolder {
    root: PathBuf,
}

impl ArtifactFolder {
    /// Opens the folder, making it if it is missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let folder = Self { root };
        folder.prepare().map_err(|error| Error::unavailable("the artifacts folder", error))?;
        Ok(folder)
    }

    fn prepare(&self) -> io::Result<()> {
        let partial = self.root.join(PARTIAL);
        fs::create_dir_all(&partial)?;
        for entry in fs::read_dir(&partial)? {
            let entry = entry?;
            if entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > LEFTOVER_AGE) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: Sha256) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(&name[2..4]).join(name)
    }
}

#[async_trait]
impl Artifacts for ArtifactFolder {
    async fn put(&self, bytes: Bytes) -> Result<String> {
        let root = self.root.clone();
        blocking(move || {
            let digest = Sha256::of(&bytes);
            let folder = Self { root };
            folder.store(digest, &bytes).map_err(|error| Error::unavailable("the artifacts folder", error))?;
            Ok(digest.to_string())
        })
        .await
    }

    async fn get(&self, sha256: &str) -> Result<Option<Bytes>> {
        // A name that is no digest names no artifact; it never reaches the file system.
        let Ok(digest) = sha256.parse::<Sha256>() else { return Ok(None) };
        let path = self.path(digest);
        blocking(move || match fs::read(path) {
            Ok(bytes) if Sha256::of(&bytes) == digest => Ok(Some(Bytes::from(bytes))),
            Ok(_) => Err(Error::corrupt(format!("the artifact {digest} has other bytes than its name says"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::unavailable("the artifacts folder", error)),
        })
        .await
    }
}

impl ArtifactFolder {
    /// Written aside, made durable, then renamed: a reader sees all or nothing, and after a power cut too.
    fn store(&self, digest: Sha256, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        if is_intact(&path, digest) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let partial = self.root.join(PARTIAL).join(uuid::Uuid::now_v7().to_string());
        let written = write_durably(&partial, bytes).and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            // The error that matters is the one above.
            let _ = fs::remove_file(&partial);
        }
        written?;
        // The name, and the names of the folders that may be new.
        for folder in [folder, folder.parent().unwrap_or(&self.root), &self.root] {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// A damaged file is written anew, so its bytes are looked at and not only its name.
fn is_intact(path: &Path, digest: Sha256) -> bool {
    fs::read(path).is_ok_and(|bytes| Sha256::of(&bytes) == digest)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::unavailable("the artifacts folder", error))?
}
