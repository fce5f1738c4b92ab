//! Artifacts as files, `ab/cd/<sha-256>`, on a local or shared folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::Sha256;
use ports::{Artifacts, Error, Result};

/// Holds the files being written; what a crash leaves there is never read.
const PARTIAL: &str = "partial";
/// Age at which an unfinished file is a crash's leftover for sure and not another process' work.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone)]
pub struct ArtifactFolder {
    root: PathBuf,
    /// Folders whose own names are durable, by the digest's first bytes: only what is new in them has to be synced.
    named: Arc<Mutex<HashSet<[u8; 2]>>>,
}

impl ArtifactFolder {
    /// Opens the folder, making it if it is missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let folder = Self { root, named: Arc::default() };
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
        let folder = self.clone();
        blocking(move || {
            let digest = Sha256::of(&bytes);
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
        let made = make(folder)?;
        let partial = self.root.join(PARTIAL).join(uuid::Uuid::now_v7().to_string());
        let written = write_durably(&partial, bytes).and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            // The error that matters is the one above.
            let _ = fs::remove_file(&partial);
        }
        written?;
        sync(folder)?;
        self.sync_names(folder, digest, made)
    }

    /// The names of the folders above, which may be new: made here, or by others who have not come so far.
    fn sync_names(&self, folder: &Path, digest: Sha256, made: bool) -> io::Result<()> {
        let [first, second, ..] = *digest.bytes();
        if !made && self.named().contains(&[first, second]) {
            return Ok(());
        }
        sync(folder.parent().unwrap_or(&self.root))?;
        sync(&self.root)?;
        self.named().insert([first, second]);
        Ok(())
    }

    fn named(&self) -> MutexGuard<'_, HashSet<[u8; 2]>> {
        self.named.lock().expect("nothing panics under this lock")
    }
}

/// Whether it was not there.
fn make(folder: &Path) -> io::Result<bool> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(_) => fs::create_dir_all(folder).map(|()| true),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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
