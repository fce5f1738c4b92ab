//! Is anybody else using the processors? A figure taken beside a build says nothing, be the build on this machine or on another one
//! of the same host.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// A figure taken beside more foreign work than this is marked.
pub const DISTURBED_ABOVE_CORES: f64 = 0.3;
/// So is one during which the hypervisor gave more than this to others. Less is allowed than of foreign work, because it is missing
/// whole: the machine waits for it with all that runs.
pub const STOLEN_ABOVE_CORES: f64 = 0.1;
const LOOK_FOR: Duration = Duration::from_millis(300);
const WAIT_AT_MOST: Duration = Duration::from_secs(120);

/// What others took of the processors while something ran, in mean cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    /// By processes that are not ours.
    pub foreign_cores: f64,
    /// By the hypervisor, while we had work for them.
    pub stolen_cores: f64,
}

impl Taken {
    /// For what no work beside it changes: how large a file is, say.
    pub const NOTHING: Self = Self { foreign_cores: 0.0, stolen_cores: 0.0 };

    pub fn disturbs(self) -> bool {
        self.foreign_cores > DISTURBED_ABOVE_CORES || self.stolen_cores > STOLEN_ABOVE_CORES
    }
}

/// The processor time of all processes but us and what we started, and of the host's other machines, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    ticks: u64,
    stolen: u64,
    at: Instant,
}

struct Process {
    parent: u32,
    /// Its own time and that of the children it has waited for, so that nothing is lost when a short-lived one ends.
    ticks: u64,
}

impl Foreign {
    pub fn now() -> Self {
        let processes = processes();
        let us = std::process::id();
        let ticks = processes.iter().filter(|(pid, _)| !is_ours(**pid, us, &processes)).map(|(_, p)| p.ticks).sum();
        // Where the kernel does not tell, nothing is known to be stolen.
        let stolen = fs::read_to_string("/proc/stat").ok().and_then(|stat| stolen(&stat)).unwrap_or(0);
        Self { ticks, stolen, at: Instant::now() }
    }

    /// What was taken since then.
    pub fn since(self) -> Taken {
        let now = Self::now();
        let elapsed = now.at.duration_since(self.at).as_secs_f64().max(0.001);
        let cores = |now: u64, then: u64| now.saturating_sub(then) as f64 / ticks_per_second() / elapsed;
        Taken { foreign_cores: cores(now.ticks, self.ticks), stolen_cores: cores(now.stolen, self.stolen) }
    }
}

/// The processor time of a process and all it started, in seconds.
pub fn tree_seconds(root: u32) -> f64 {
    let processes = processes();
    let ticks: u64 = processes.iter().filter(|(pid, _)| descends(**pid, root, &processes)).map(|(_, p)| p.ticks).sum();
    ticks as f64 / ticks_per_second()
}

/// Ours, or a thread of the kernel: what those do, flushing say, they do for whoever writes, and that is us.
fn is_ours(pid: u32, us: u32, processes: &HashMap<u32, Process>) -> bool {
    const KERNEL: u32 = 2;
    descends(pid, us, processes) || descends(pid, KERNEL, processes)
}

/// Is it that process, or started by it or by what it started?
fn descends(pid: u32, root: u32, processes: &HashMap<u32, Process>) -> bool {
    let mut at = pid;
    for _ in 0..64 {
        if at == root {
            return true;
        }
        match processes.get(&at) {
            Some(process) if process.parent != 0 => at = process.parent,
            _ => return false,
        }
    }
    false
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse(&stat)?))
        })
        .collect()
}

/// proc(5): after the name in parentheses come state, ppid, …, utime (14), stime, cutime, cstime.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Process { parent: fields.get(1)?.parse().ok()?, ticks })
}

/// proc(5): a line of all processors together: user, nice, system, idle, iowait, irq, softirq, steal (8), guest, …
fn stolen(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    all.split_ascii_whitespace().nth(7)?.parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Waits for a quiet machine; gives up after two minutes. Of what the hypervisor takes nothing can be seen in advance: it is counted
/// only while there is work.
///
/// # Errors
/// When it stays busy.
pub fn wait_until_quiet() -> Result<()> {
    let started = Instant::now();
    let mut said = false;
    loop {
        let before = Foreign::now();
        thread::sleep(LOOK_FOR);
        let cores = before.since().foreign_cores;
        if cores <= DISTURBED_ABOVE_CORES {
            return Ok(());
        }
        ensure!(
            started.elapsed() < WAIT_AT_MOST,
            "other processes use {cores:.1} cores; no figure taken beside them means anything (--force measures all the same)"
        );
        if !said {
            eprintln!("bench: waiting, other processes use {cores:.1} cores");
            said = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b)) S 3 7 7 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 1 0 5";
        let process = parse(stat).expect("parses");
        assert_eq!((process.parent, process.ticks), (3, 110));
    }

    #[test]
    fn what_the_hypervisor_took_is_the_eighth_number_of_all_processors_together() {
        let stat = "cpu  95905 1 15352 17616 638 2 231 998 3 4\ncpu0 47550 0 7147 10004 170 0 17 459 0 0\nintr 7 8 9\n";
        assert_eq!(stolen(stat), Some(998));
        // A kernel of before it was told, and one that tells of single processors only.
        assert_eq!(stolen("cpu  1 2 3 4 5 6 7\n"), None);
        assert_eq!(stolen("cpu0 1 2 3 4 5 6 7 8\n"), None);
    }

    #[test]
    fn work_beside_it_disturbs_and_so_does_time_that_was_stolen() {
        let taken = |foreign_cores, stolen_cores| Taken { foreign_cores, stolen_cores };
        assert!(!Taken::NOTHING.disturbs() && !taken(0.3, 0.1).disturbs());
        assert!(taken(0.31, 0.0).disturbs() && taken(0.0, 0.11).disturbs());
    }

    #[test]
    fn our_own_work_and_that_of_our_children_is_not_foreign() {
        let me = |parent| Process { parent, ticks: 1 };
        let processes =
            HashMap::from([(1, me(0)), (2, me(0)), (9, me(2)), (10, me(1)), (11, me(10)), (12, me(11)), (20, me(1))]);
        let ours: Vec<u32> = [9, 10, 11, 12].into_iter().filter(|pid| is_ours(*pid, 10, &processes)).collect();
        assert_eq!(ours, [9, 10, 11, 12]);
        assert!(!is_ours(20, 10, &processes) && !is_ours(1, 10, &processes));
    }
}
