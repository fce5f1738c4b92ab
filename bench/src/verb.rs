//! An operator's verb as a process of its own: how long it takes from its start to its end, and the most memory it held.
//!
//! The kernel's `ru_maxrss` would count what the parent held when it forked; the high-water mark of the process itself does not.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::process::Program;

/// The mark only rises, so that no more is missed than what is taken in the last of these.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

pub struct Ran {
    pub took: Duration,
    pub peak_bytes: u64,
    /// The last line of its output.
    pub result: Value,
}

/// # Errors
/// When it cannot be started, fails, takes longer than that, or its output does not end in a line of JSON.
pub fn run(program: &Program, within: Duration) -> Result<Ran> {
    let (started, mut peak_bytes) = (Instant::now(), 0);
    let mut running = program.start()?;
    let status = loop {
        peak_bytes = peak(running.pid()).unwrap_or(0).max(peak_bytes);
        if let Some(status) = running.exited()? {
            break status;
        }
        ensure!(started.elapsed() < within, "{} runs for longer than {} s", program.name(), within.as_secs());
        thread::sleep(LOOK_PERIOD);
    };
    let took = started.elapsed();
    ensure!(status.success(), "{} failed ({status}){}", program.name(), program.log_tail());
    ensure!(peak_bytes > 0, "{} was never seen", program.name());
    let output = std::fs::read_to_string(program.log())?;
    let last = output.lines().last().with_context(|| format!("{} said nothing", program.name()))?;
    let result = serde_json::from_str(last).with_context(|| format!("{} said {last:?}", program.name()))?;
    Ok(Ran { took, peak_bytes, result })
}

/// The highest resident set that a process ever had, in bytes; none once it has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_held_for_a_moment_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); unset x; sleep 0.1; echo '{\"rows\": 7}'";
        let program = Program::new("sh", "/bin/sh", folder.path().join("log")).args(["-c", script]);
        let ran = run(&program, Duration::from_secs(30)).expect("runs");
        assert!(ran.peak_bytes > 40_000_000, "{}", ran.peak_bytes);
        assert_eq!(ran.result["rows"], 7);
    }
}
