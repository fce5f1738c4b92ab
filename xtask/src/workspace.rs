//! Where things are in this checkout, and how the product is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The workspace's root: the folder above this crate's.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo, the one that runs us if one does.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Release,
    Debug,
}

/// Builds `casitas` and answers where it lies.
pub fn build_casitas(profile: Profile) -> Result<PathBuf> {
    build("casitas", "casitas", profile)
}

/// Builds a binary of one of the workspace's packages and answers where it lies.
pub fn build(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", package, "--bin", name]);
    let folder = match profile {
        Profile::Release => {
            build.arg("--release");
            "release"
        }
        Profile::Debug => "debug",
    };
    let status = build.status().context("cargo could not be started")?;
    ensure!(status.success(), "building {name} failed ({status})");
    let binary = target_dir().join(folder).join(name);
    ensure!(binary.is_file(), "cargo built no {}: is CARGO_BUILD_TARGET set?", binary.display());
    Ok(binary)
}
