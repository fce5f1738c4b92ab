//! What the figures were taken on, as the programs themselves tell it. No names: the report is public.

use std::fs;
use std::process::Command;

use serde::Serialize;
use xtask::servers::postgres_installed;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub kernel: String,
    pub system: String,
    /// Program and what it says of its version.
    pub versions: Vec<(String, String)>,
}

/// The resident set of a process, in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(value_of(&status, "VmRSS")?.split(' ').next()?.parse::<u64>().ok()? * 1_024)
}

impl Machine {
    pub fn ask() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kb: f64 = value_of(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0.0);
        Self {
            cpu: value_of(&cpu, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: (kb / 1_048_576.0 * 10.0).round() / 10.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            system: system(),
            versions: versions(),
        }
    }

    pub fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("processor".to_owned(), format!("{}, {} cores", self.cpu, self.cores)),
            ("memory".to_owned(), format!("{} GB", self.memory_gb)),
            ("system".to_owned(), format!("{}, Linux {}", self.system, self.kernel)),
        ];
        lines.extend(self.versions.iter().cloned());
        lines
    }
}

/// `label : value` of a file of the kernel's.
fn value_of(text: &str, label: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(label))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn system() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn versions() -> Vec<(String, String)> {
    let mut asked: Vec<(&str, String, Vec<&str>)> = vec![
        ("Redis", "redis-server".to_owned(), vec!["--version"]),
        ("RabbitMQ", "dpkg-query".to_owned(), vec!["-W", "-f", "${Version}", "rabbitmq-server"]),
        ("Nginx", "nginx".to_owned(), vec!["-v"]),
        ("Rust", "rustc".to_owned(), vec!["--version"]),
        ("Python", "python3".to_owned(), vec!["--version"]),
    ];
    if postgres_installed() {
        let psql = "psql".to_owned();
        asked.insert(0, ("PostgreSQL", psql, vec!["--version"]));
    }
    asked
        .into_iter()
        .filter_map(|(name, program, args)| {
            let found = ["", "/usr/sbin/", "/usr/local/sbin/"].iter().find_map(|folder| {
                Command::new(format!("{folder}{program}")).args(&args).output().ok().filter(|output| output.status.success())
            })?;
            // nginx answers on its standard error.
            let said = [found.stdout, found.stderr].concat();
            Some((name.to_owned(), String::from_utf8_lossy(&said).lines().next()?.trim().to_owned()))
        })
        .collect()
}
