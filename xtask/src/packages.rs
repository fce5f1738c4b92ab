//! The Debian packages that the native stack runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::find_program;
use crate::servers;

/// Debian asks this program before a package's installation starts its service; 101 means: do not.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// (package, is it there?)
type Wanted = Vec<(&'static str, bool)>;

fn wanted() -> Wanted {
    vec![
        ("postgresql", servers::postgres_installed()),
        ("redis-server", find_program(&["redis-server"]).is_some() && find_program(&["redis-cli"]).is_some()),
        ("rabbitmq-server", servers::rabbitmq_installed()),
        ("nginx", find_program(&["nginx"]).is_some()),
        ("util-linux", find_program(&["setpriv"]).is_some()),
        // For schemathesis, and to read SQLite files as a stranger would.
        ("python3-venv", has_venv()),
    ]
}

/// What only the benchmark runs, beside all the others: the load generator of its reads.
fn wanted_for_bench() -> Wanted {
    let mut all = wanted();
    all.push(("wrk", find_program(&["wrk"]).is_some()));
    all
}

/// Installs what is missing. What is there is left alone, whatever its version.
///
/// # Errors
/// When something is missing and cannot be installed: it names the packages, and how to install them by hand.
pub fn install_missing() -> Result<()> {
    install(wanted)
}

/// The same with what only the benchmark needs.
///
/// # Errors
/// As `install_missing`.
pub fn install_for_bench() -> Result<()> {
    install(wanted_for_bench)
}

fn install(wanted: fn() -> Wanted) -> Result<()> {
    let missing: Vec<&str> = wanted().into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("install them by hand: apt-get install --no-install-recommends {}", missing.join(" "));
    let Some(apt_get) = find_program(&["apt-get"]) else {
        bail!(
            "missing: {}; there is no apt-get here. Install their equivalents, with the programs in PATH",
            missing.join(" ")
        );
    };
    let root = root_prefix().with_context(|| format!("missing: {}; {by_hand}", missing.join(" ")))?;
    eprintln!("xtask: installing {}", missing.join(" "));
    let policy = Policy::forbid_starting(&root)?;
    let installed = run(&root, &apt_get, &["update", "-qq"]).and_then(|()| {
        let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
        args.extend(&missing);
        run(&root, &apt_get, &args)
    });
    policy.lift()?;
    installed.with_context(|| by_hand.clone())?;
    let still: Vec<&str> = wanted().into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    ensure!(still.is_empty(), "still missing after apt-get: {}", still.join(" "));
    Ok(())
}

/// Nothing for root, `sudo -n` for others (which never asks), an error without either.
fn root_prefix() -> Result<Vec<PathBuf>> {
    if rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let sudo = find_program(&["sudo"]).context("we are not root and there is no sudo")?;
    let prefix = vec![sudo, PathBuf::from("-n")];
    run(&prefix, Path::new("true"), &[]).context("we are not root and sudo wants a password")?;
    Ok(prefix)
}

fn run(prefix: &[PathBuf], program: &Path, args: &[&str]) -> Result<()> {
    let env = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"].map(PathBuf::from);
    let mut words = prefix.iter().chain(&env);
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words).arg(program).args(args).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().with_context(|| format!("starting {}", program.display()))?;
    ensure!(status.success(), "{} {} failed ({status})", program.display(), args.join(" "));
    Ok(())
}

/// Keeps freshly installed services from starting: we run private ones. A policy that the machine has stays.
struct Policy<'a> {
    root: &'a [PathBuf],
    ours: bool,
}

impl<'a> Policy<'a> {
    fn forbid_starting(root: &'a [PathBuf]) -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { root, ours: false });
        }
        let script = std::env::temp_dir().join(format!("casitas-policy-{}", std::process::id()));
        fs::write(&script, "#!/bin/sh\nexit 101\n")?;
        let source = script.to_str().context("a path that is not UTF-8")?;
        let installed = run(root, Path::new("install"), &["-m", "755", source, POLICY]);
        fs::remove_file(&script)?;
        installed?;
        Ok(Self { root, ours: true })
    }

    fn lift(self) -> Result<()> {
        if self.ours { run(self.root, Path::new("rm"), &["-f", POLICY]) } else { Ok(()) }
    }
}

fn has_venv() -> bool {
    find_program(&["python3"]).is_some_and(|python| {
        Command::new(python)
            .args(["-c", "import venv, ensurepip, sqlite3"])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}
