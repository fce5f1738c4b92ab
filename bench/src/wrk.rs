//! `wrk`, the load of the read part: one thread, keep-alive, closed loop. Its own script interface tells the figures, so that
//! nothing is read off a text made for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use xtask::process::find_program;

use crate::figure::Outcome;

/// What is asked for, again and again.
#[derive(Clone, Debug)]
pub struct Load {
    pub port: u16,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub connections: u32,
    /// Lua statements that make `path` anew for each request from `n`, which counts from 1; without them every request is the
    /// same and `wrk` sends bytes that it made once.
    pub each: Option<String>,
}

impl Load {
    pub fn of(port: u16, path: impl Into<String>, connections: u32) -> Self {
        Self { port, path: path.into(), headers: Vec::new(), connections, each: None }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn script(&self) -> String {
        let mut lua = String::new();
        for (name, value) in &self.headers {
            let _ = writeln!(lua, "wrk.headers[{name:?}] = [==[{value}]==]");
        }
        if let Some(each) = &self.each {
            let _ = writeln!(lua, "local n = 0\nrequest = function()\n n = n + 1\n local path\n {each}");
            let _ = writeln!(lua, " return wrk.format(\"GET\", path)\nend");
        }
        lua.push_str(DONE);
        lua
    }
}

/// `status` counts answers from 400 on; a 3xx is none.
const DONE: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%.0f,"us":%.0f,"bytes":%.0f,"connect":%.0f,"read":%.0f,"write":%.0f,"status":%.0f,"timeout":%.0f,"p50":%.0f,"p99":%.0f,"max":%.0f}\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"#;

/// What `wrk` counted; latencies in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Counted {
    pub requests: u64,
    us: f64,
    pub bytes: u64,
    connect: u64,
    read: u64,
    write: u64,
    status: u64,
    timeout: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Counted {
    pub fn outcome(&self) -> Outcome {
        let ms = |us: f64| Some(us / 1_000.0);
        Outcome {
            value: self.requests as f64 / (self.us / 1_000_000.0),
            p50_ms: ms(self.p50),
            p99_ms: ms(self.p99),
            max_ms: ms(self.max),
        }
    }

    /// Head and body of the mean answer.
    pub fn bytes_per_answer(&self) -> f64 {
        self.bytes as f64 / self.requests.max(1) as f64
    }

    /// What went wrong, or nothing.
    pub fn fault(&self) -> Option<String> {
        let Self { connect, read, write, status, timeout, .. } = self;
        let errors = connect + read + write + status + timeout;
        (errors > 0).then(|| {
            format!("{status} answers of 400 and more; socket errors: connect {connect}, read {read}, write {write}, timeout {timeout}")
        })
    }
}

/// Runs it for whole seconds.
///
/// # Errors
/// When `wrk` cannot run or tells nothing.
pub fn run(load: &Load, time: Duration, folder: &Path) -> Result<Counted> {
    let program = find_program(&["wrk"]).context("wrk is not installed")?;
    let script = folder.join("wrk.lua");
    fs::write(&script, load.script())?;
    let output = Command::new(program)
        .args(["-t1", &format!("-c{}", load.connections), &format!("-d{}s", time.as_secs().max(1)), "--timeout", "10s"])
        .arg("-s")
        .arg(&script)
        .arg(format!("http://127.0.0.1:{}{}", load.port, load.path))
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    let line =
        text.lines().find_map(|line| line.strip_prefix("RESULT ")).with_context(|| format!("wrk told nothing: {text}"))?;
    let counted: Counted = serde_json::from_str(line).with_context(|| line.to_owned())?;
    ensure!(counted.requests > 0, "wrk got no answer: {text}");
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_from_answers() {
        let line = r#"{"requests":100,"us":1000000,"bytes":5000,"connect":0,"read":0,"write":0,"status":3,"timeout":0,"p50":300,"p99":900,"max":2000}"#;
        let counted: Counted = serde_json::from_str(line).expect("parses");
        assert_eq!(counted.outcome().value, 100.0);
        assert_eq!(counted.bytes_per_answer(), 50.0);
        assert!(counted.fault().is_some_and(|fault| fault.starts_with("3 answers")));
    }
}
