//! A private Postgres cluster with the durability that production has: fsync on, checksums, scram.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Server, delegate_to_server};
use crate::net::free_port;
use crate::process::{Account, Program, find_program, private_dir, private_file};

/// The superuser; `casitas migrate` connects as it.
pub const OWNER: &str = "casitas_owner";
const READY_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Postgres {
    server: Server,
    bin: PathBuf,
    password: String,
    data: PathBuf,
    // Dropped after the server.
    _disk: Option<SmallDisk>,
}

/// A mounted tmpfs, unmounted when dropped.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32, account: Option<&Account>) -> Result<Self> {
        private_dir(at, account)?;
        let owner = account.map_or_else(String::new, |account| format!(",uid={},gid={}", account.uid, account.gid));
        let options = format!("size={mib}m,mode=0700{owner}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output()?;
        let said = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
        ensure!(mounted.status.success(), "a small disk cannot be mounted here: {said}");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("xtask: {} could not be unmounted", self.0.display());
        }
    }
}

impl Postgres {
    /// Makes a cluster in `dir` with this password for `casitas_owner`, and starts it on a free port.
    ///
    /// # Errors
    /// When Postgres is not installed or does not get ready.
    pub fn start(dir: &Path, password: &str) -> Result<Self> {
        Self::start_with(dir, password, None)
    }

    /// The same with its data on a file system of so many MiB in memory, so that its disk can be filled.
    ///
    /// # Errors
    /// Also when this account may not mount one.
    pub fn start_on_small_disk(dir: &Path, password: &str, mib: u32) -> Result<Self> {
        Self::start_with(dir, password, Some(mib))
    }

    fn start_with(dir: &Path, password: &str, disk_mib: Option<u32>) -> Result<Self> {
        let bin = bin_dir().context("Postgres is not installed")?;
        // Postgres refuses to run as root.
        let account = Account::to_drop_to("postgres");
        private_dir(dir, account.as_ref())?;
        let data = dir.join("data");
        let disk = disk_mib.map(|mib| SmallDisk::mount(&data, mib, account.as_ref())).transpose()?;
        let port = free_port()?;
        let password_file = dir.join("password");
        private_file(&password_file, password.as_bytes(), account.as_ref())?;
        Program::new("initdb", bin.join("initdb"), dir.join("initdb.log"))
            .args(["--username", OWNER, "--auth", "scram-sha-256", "--data-checksums", "--encoding", "UTF8"])
            .args(["--locale", "C.UTF-8", "--pwfile", path_str(&password_file)?, "-D", path_str(&data)?])
            .clean_env()
            .dir(dir)
            .account(account.clone())
            .run()?;
        fs::remove_file(&password_file)?;
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", path_str(&data)?),
            "max_connections=200".to_owned(),
            "fsync=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "full_page_writes=on".to_owned(),
            "password_encryption=scram-sha-256".to_owned(),
            "wal_level=replica".to_owned(),
            "log_min_messages=warning".to_owned(),
            "log_line_prefix=%m [%p] %u@%d ".to_owned(),
        ];
        let program = Program::new("postgres", bin.join("postgres"), dir.join("postgres.log"))
            .args(["-D", path_str(&data)?])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .clean_env()
            .dir(dir)
            .account(account)
            .death_signal("INT");
        // A small disk has no room for the default's gigabyte of log.
        let program = match disk_mib {
            Some(_) => program.args(["-c", "max_wal_size=48MB", "-c", "min_wal_size=32MB"]),
            None => program,
        };
        // SIGINT is Postgres' fast shutdown: open sessions are ended, and the data is left clean.
        let server = Server::new(program, port, Signal::INT, Duration::from_secs(20));
        let mut postgres = Self { server, bin, password: password.to_owned(), data, _disk: disk };
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Starts the stopped or killed server on the same port and data.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        let pg_isready = self.bin.join("pg_isready");
        self.server.start_until(READY_WITHIN, |port| {
            let status = Command::new(&pg_isready)
                .args(["--quiet", "--host=127.0.0.1", &format!("--port={port}"), "--dbname=postgres"])
                .args(["--username", OWNER, "--timeout=2"])
                .stdin(Stdio::null())
                .status()?;
            Ok(status.success())
        })
    }

    /// Fast shutdown.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop().map(drop)
    }

    /// SIGKILL for the postmaster and its backends.
    ///
    /// # Errors
    /// When something of it survives.
    pub fn kill9(&mut self) -> Result<()> {
        self.server.kill9()
    }

    /// The password of `casitas_owner`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// psql as the superuser, for the caller to start.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port().to_string()]);
        command.args(["-U", OWNER, "-d", database]).env("PGPASSWORD", &self.password);
        command
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Runs SQL as the superuser and answers what `psql -At` prints.
    ///
    /// # Errors
    /// When psql or the statement fails.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let output = self.psql(database).args(["-c", sql]).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// `pg_dump`, `pg_basebackup` and the like stand here.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }
}

delegate_to_server!(Postgres);

/// Debian keeps each major version's programs in a folder of its own; the newest wins.
pub fn bin_dir() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .max();
    match newest {
        Some((_, bin)) => Some(bin),
        None => find_program(&["postgres"])?.canonicalize().ok()?.parent().map(Path::to_owned),
    }
}

fn path_str(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
