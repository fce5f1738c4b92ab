//! Child processes that cannot outlive us.
//!
//! Each runs in a process group of its own (so that a terminal's Ctrl-C reaches only us, and we stop things in order),
//! under `setpriv --pdeathsig`: the kernel signals it when the thread that started it ends. All of them are started by
//! one thread that lives as long as this process, since a test's thread would take its servers along.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal};

use crate::net::wait_until;

/// A Unix account that a server drops to. `None` elsewhere means: stay who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account to drop to: only root drops, and only to an account that exists.
    pub fn to_drop_to(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
        Some(Self { name: name.to_owned(), uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    }
}

/// Makes a folder that belongs to the account (or to us) and that nobody else may read.
///
/// # Errors
/// When the file system refuses.
pub fn private_dir(path: &Path, account: Option<&Account>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    give(path, account)
}

/// Writes a file that belongs to the account (or to us) and that nobody else may read.
///
/// # Errors
/// When the file system refuses.
pub fn private_file(path: &Path, contents: &[u8], account: Option<&Account>) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(contents)?;
    give(path, account)
}

fn give(path: &Path, account: Option<&Account>) -> Result<()> {
    if let Some(account) = account {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("giving {} to {}", path.display(), account.name))?;
    }
    Ok(())
}

/// What to start. Build it like a `Command`; it is kept, so that the same can be started again.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    clean_env: bool,
    dir: Option<PathBuf>,
    account: Option<Account>,
    log: PathBuf,
    death_signal: &'static str,
}

impl Program {
    /// `name` is for messages; output goes to the end of `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            clean_env: false,
            dir: None,
            account: None,
            log: log.into(),
            death_signal: "TERM",
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    #[must_use]
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set_env(name, value);
        self
    }

    /// Changes the environment of later starts.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        self.env.retain(|(existing, _)| existing != name);
        self.env.push((name.to_owned(), value));
    }

    /// Takes a variable out of the environment of later starts.
    pub fn unset_env(&mut self, name: &str) {
        self.env.retain(|(existing, _)| existing != name);
    }

    /// Starts with nothing of our environment but the path and the locale.
    #[must_use]
    pub fn clean_env(mut self) -> Self {
        self.clean_env = true;
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    #[must_use]
    pub fn account(mut self, account: Option<Account>) -> Self {
        self.account = account;
        self
    }

    /// What the kernel sends when we die suddenly; TERM unless the program takes that for "wait for your clients".
    #[must_use]
    pub fn death_signal(mut self, signal: &'static str) -> Self {
        self.death_signal = signal;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message holds the end of its log.
    pub fn run(&self) -> Result<()> {
        let mut running = self.start()?;
        let status = running.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(anyhow!("{} failed ({status}){}", self.name, self.log_tail()))
    }

    /// # Errors
    /// When the program or its log cannot be opened.
    pub fn start(&self) -> Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(self.death_signal);
        if let Some(account) = &self.account {
            command.arg(format!("--reuid={}", account.uid));
            command.arg(format!("--regid={}", account.gid));
            command.arg("--clear-groups");
        }
        command.arg("--").arg(&self.program).args(&self.args);
        if self.clean_env {
            command.env_clear();
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
            command.env("LANG", "C.UTF-8");
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = spawn(command).with_context(|| format!("starting {} ({})", self.name, self.program.display()))?;
        Ok(Running { name: self.name.clone(), child, exit: None })
    }

    /// The last lines of the log, for an error message.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("; the end of {}:\n{tail}", self.log.display())
    }
}

type SpawnRequest = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<SpawnRequest>>> = LazyLock::new(|| {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits for the reply only if the asking thread panicked; the child then dies with its handle.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(requests)
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .map_err(|_| anyhow!("the spawning thread is gone"))?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

/// A started program. Dropping it kills its whole tree.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    exit: Option<ExitStatus>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `Some` once it has ended, whoever ended it.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?;
        }
        Ok(self.exit)
    }

    /// Sends a signal to the program itself.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.as_pid()?, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Sends a signal to the program and everything it started (SIGSTOP and SIGCONT, say).
    pub fn signal_tree(&self, signal: Signal) {
        for pid in tree(self.pid()) {
            signal_pid(pid, signal);
        }
    }

    /// Asks it to stop by `signal`, waits at most `grace`, then kills what is left of its tree.
    ///
    /// # Errors
    /// When even SIGKILL leaves something behind.
    pub fn stop(&mut self, signal: Signal, grace: Duration) -> Result<Option<ExitStatus>> {
        let family = tree(self.pid());
        if self.exited()?.is_none() {
            self.signal(signal)?;
            // A stopped process does not see any other signal.
            self.signal_tree(Signal::CONT);
            let name = self.name.clone();
            let waited = wait_until(&name, grace, || Ok(self.child_exited()));
            if waited.is_err() {
                eprintln!("xtask: {} did not stop within {} s and is killed", self.name, grace.as_secs());
            }
        }
        self.kill_all(family)?;
        self.exited()
    }

    /// SIGKILL for the program, then for whatever of its tree remains.
    ///
    /// # Errors
    /// When something survives it.
    pub fn kill9(&mut self) -> Result<()> {
        let family = tree(self.pid());
        self.kill_all(family)
    }

    fn kill_all(&mut self, family: Vec<u32>) -> Result<()> {
        if self.exited()?.is_none() {
            self.signal(Signal::KILL)?;
            let name = self.name.clone();
            wait_until(&name, Duration::from_secs(10), || Ok(self.child_exited()))?;
        }
        let others: Vec<(u32, String)> = family
            .into_iter()
            .chain(orphans_of_group(self.pid()))
            .filter(|pid| *pid != self.child.id())
            .filter_map(|pid| Some((pid, start_time(pid)?)))
            .collect();
        // What the program started ends by itself when its parent is gone, or is told to.
        wait_until("the processes it started", Duration::from_secs(10), || {
            let alive = others.iter().filter(|(pid, started)| start_time(*pid).as_ref() == Some(started));
            let mut any = false;
            for (pid, _) in alive {
                signal_pid(*pid, Signal::KILL);
                any = true;
            }
            Ok(!any)
        })
        .with_context(|| format!("killing {}", self.name))
    }

    fn child_exited(&mut self) -> bool {
        matches!(self.exited(), Ok(Some(_)))
    }

    fn as_pid(&self) -> Result<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no such process id")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("xtask: {error:#}");
        }
    }
}

fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended in between, which is what we want.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A process and all its descendants, parents first, as the kernel shows them now.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let below = children.remove(pid).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    found
}

/// What an ended group leader left in its group: a program that crashed took no leave of its children, and they are in no
/// tree any more. If somebody leads that group now, the kernel has given its number away, and it is not ours.
fn orphans_of_group(leader: u32) -> Vec<u32> {
    let group = leader.to_string();
    let all = processes().into_iter().map(|(pid, _)| pid);
    let members: Vec<u32> = all.filter(|pid| stat_field(*pid, 5).as_ref() == Some(&group)).collect();
    if members.contains(&leader) { Vec::new() } else { members }
}

fn processes() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_field(pid, 4)?.parse().ok()?)))
        .collect()
}

/// True while the process runs. One that ended and waits to be reaped by its parent runs no more.
pub fn alive(pid: u32) -> bool {
    start_time(pid).is_some()
}

/// The kernel's start time of a process: with the id, it names one process for ever. Zombies count as gone.
fn start_time(pid: u32) -> Option<String> {
    if stat_field(pid, 3)? == "Z" {
        return None;
    }
    stat_field(pid, 22)
}

/// Field `number` (from 1, as in proc(5)) of `/proc/PID/stat`, from the third on.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the command, may hold spaces and brackets: the last bracket ends it.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number - 3).map(str::to_owned)
}

/// The first of these that is an executable file; plain names are looked up in PATH and in Debian's sbin folders.
pub fn find_program<S: AsRef<OsStr>>(candidates: &[S]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
    candidates.iter().find_map(|candidate| {
        let candidate = Path::new(candidate);
        if candidate.is_absolute() {
            return candidate.is_file().then(|| candidate.to_owned());
        }
        folders.iter().map(|folder| folder.join(candidate)).find(|file| file.is_file())
    })
}
