//! The dependency rules of ARCHITECTURE.md, held by a test and by `cargo xtask tidy`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// What reads a socket, a disk or a clock by itself.
const IO_CRATES: [&str; 9] = ["tokio", "sqlx", "axum", "redis", "lapin", "postgres-es", "sqlite-es", "reqwest", "hyper"];
const STORE_CRATES: [&str; 5] = ["sqlx", "postgres-es", "sqlite-es", "redis", "lapin"];

/// (member, dependency) pairs that break a rule, each with the rule.
///
/// # Errors
/// When cargo or a source file cannot be read.
pub fn violations() -> Result<Vec<String>> {
    let root = workspace::root();
    let members = members(&root)?;
    ensure!(members.len() > 5, "cargo metadata shows {} members only", members.len());
    let mut found = dependency_violations(&members);
    found.extend(source_violations(&root, &members)?);
    Ok(found)
}

/// What is built into the product. Development dependencies are the tests' own business.
fn members(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let output = workspace::cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo could not be started")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().context("a package without a name")?;
            let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
            let built_in = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
            let kept = built_in.filter_map(|dependency| dependency["name"].as_str());
            Ok((name.to_owned(), kept.map(str::to_owned).collect()))
        })
        .collect()
}

fn dependency_violations(members: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (member, dependencies) in members {
        for dependency in dependencies {
            if let Some(rule) = broken_rule(member, dependency) {
                found.push(format!("{member} depends on {dependency}: {rule}"));
            }
        }
    }
    found
}

fn broken_rule(member: &str, dependency: &str) -> Option<&'static str> {
    let pure = ["domain", "read-models"].contains(&member);
    if pure && IO_CRATES.contains(&dependency) {
        return Some("domain and read-models do no I/O");
    }
    // The benchmark is no part of the product: it drives the product's crates and the stores' own drivers side by side.
    if member == "bench" && dependency != "casitas" {
        return None;
    }
    if STORE_CRATES.contains(&dependency) && member != "adapters" {
        return Some("only adapters names the stores' drivers");
    }
    // The simulation plays the product over the adapters in memory; it is a test that happens to be a crate.
    if dependency == "adapters" && !["casitas", "xtask", "simulation"].contains(&member) {
        return Some("only casitas and xtask name adapters");
    }
    // casitas serves the routers that the others make: the one exception.
    if dependency == "axum" && !["web", "command-api", "query-api", "casitas"].contains(&member) {
        return Some("only web, command-api and query-api know axum (casitas wires them)");
    }
    if ["casitas", "xtask", "bench", "simulation"].contains(&dependency) {
        return Some("nothing depends on the binaries, and nothing on the simulation");
    }
    None
}

/// What no dependency edge shows: who reads the environment, and who reads a clock.
fn source_violations(root: &Path, members: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for member in members.keys() {
        for file in rust_files(&root.join(member).join("src"))? {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            for (at, line) in text.lines().enumerate() {
                if let Some(rule) = broken_source_rule(member, line) {
                    found.push(format!("{shown}:{}: {rule}", at + 1));
                }
            }
        }
    }
    Ok(found)
}

fn broken_source_rule(member: &str, line: &str) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    let names = |calls: &[&str]| calls.iter().any(|call| code.contains(call));
    if !["casitas", "xtask"].contains(&member) && names(&["env::var", "option_env!"]) {
        return Some("only casitas reads the environment");
    }
    let clocks = ["Timestamp::now(", "Zoned::now(", "SystemTime::now(", "Instant::now(", "Uuid::now_v7("];
    if ["domain", "read-models"].contains(&member) && names(&clocks) {
        return Some("domain and read-models read no clock");
    }
    None
}

fn rust_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_catches_what_breaks_it() {
        for (member, dependency) in [
            ("domain", "tokio"),
            ("read-models", "reqwest"),
            ("web", "redis"),
            ("projector", "adapters"),
            ("report-worker", "axum"),
            ("web", "casitas"),
            ("casitas", "simulation"),
            ("bench", "casitas"),
            ("casitas", "bench"),
        ] {
            assert!(broken_rule(member, dependency).is_some(), "{member} -> {dependency}");
        }
    }

    #[test]
    fn what_the_architecture_wants_is_allowed() {
        for (member, dependency) in [
            ("adapters", "sqlx"),
            ("casitas", "adapters"),
            ("casitas", "axum"),
            ("query-api", "axum"),
            ("domain", "serde"),
            ("bench", "sqlx"),
            ("bench", "xtask"),
        ] {
            assert_eq!(broken_rule(member, dependency), None, "{member} -> {dependency}");
        }
    }

    #[test]
    fn a_comment_about_the_environment_is_not_a_read() {
        assert!(broken_source_rule("web", "let x = std::env::var(\"X\");").is_some());
        assert_eq!(broken_source_rule("web", "// std::env::var is casitas' business"), None);
        assert_eq!(broken_source_rule("casitas", "let x = std::env::var(\"X\");"), None);
    }

    #[test]
    fn a_clock_read_in_the_domain_is_caught() {
        assert!(broken_source_rule("domain", "let now = jiff::Timestamp::now();").is_some());
        assert_eq!(broken_source_rule("casitas", "let now = jiff::Timestamp::now();"), None);
    }
}
