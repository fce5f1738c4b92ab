//! schemathesis (PyPI) against the OpenAPI document.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::suite::Size;
use super::system::System;
use super::world;
use crate::process::find_program;
use crate::workspace;

const PACKAGE: &str = "schemathesis>=4.1,<5";

/// `schemathesis` in an environment of its own below `target/`, made at the first use.
fn program() -> Result<PathBuf> {
    let folder = workspace::target_dir().join("schemathesis");
    let program = folder.join("bin").join("schemathesis");
    if program.is_file() {
        return Ok(program);
    }
    let python = find_program(&["python3"]).context("python3 is needed for schemathesis")?;
    let made = Command::new(python).args(["-m", "venv"]).arg(&folder).stdin(Stdio::null()).status()?;
    ensure!(made.success(), "python3 -m venv {} failed: is python3-venv installed?", folder.display());
    let installed = Command::new(folder.join("bin").join("pip"))
        .args(["install", "--quiet", "--disable-pip-version-check", PACKAGE])
        .stdin(Stdio::null())
        .status()?;
    ensure!(installed.success(), "pip could not install {PACKAGE}");
    Ok(program)
}

/// No 5xx and no undocumented status, as an administrator and with a token that is none.
pub fn schemathesis(system: &System, size: Size) -> Result<String> {
    let program = program()?;
    let admin = world::admin(system)?;
    let token = admin.token().context("not logged in")?.to_owned();
    let mut figures = Vec::new();
    for (who, headers) in [
        ("admin", vec![format!("Authorization: Bearer {token}")]),
        ("nobody", vec!["Authorization: Bearer nobody".to_owned()]),
    ] {
        let mut command = Command::new(&program);
        command.args(["run", &format!("{}/openapi.json", system.url())]);
        command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
        command.args(["--phases", size.pick("examples,coverage", "examples,coverage,fuzzing,stateful")]);
        // One worker: CPython 3.11 parses no two lambdas at once.
        command.args(["--max-examples", size.pick("3", "40"), "--seed", "42", "--workers", "1", "--no-color"]);
        command.args(["--generation-database", "none", "--request-timeout", "20", "--continue-on-failure"]);
        // These would end the caller's own session in the middle of the run.
        command.args(["--exclude-path-regex", "/auth/password"]);
        for header in &headers {
            command.args(["--header", header]);
        }
        let output = command.stdin(Stdio::null()).current_dir(workspace::target_dir()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = workspace::target_dir().join(format!("schemathesis-{who}.log"));
        std::fs::write(&log, &said)?;
        let tail: Vec<&str> = said.lines().rev().take(40).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "as {who} (whole in {}):\n{tail}\n{complaint}", log.display());
        let cases = said.lines().rev().find(|line| line.contains("generated") || line.contains("passed"));
        figures.push(format!("as {who}: {}", cases.unwrap_or("no failure").trim()));
    }
    Ok(figures.join("; "))
}
