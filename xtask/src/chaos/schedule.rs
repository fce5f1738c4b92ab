//! Which fault comes when: a pure function of the seed.

use std::fmt;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::proxy::Weather;

/// Every kind of fault but `disk`, which needs a system of its own.
pub const KINDS: [&str; 29] = [
    "kill-command-api",
    "kill-query",
    "kill-projector",
    "kill-worker",
    "kill-nginx",
    "kill-postgres",
    "kill-backend",
    "end-backends",
    "kill-redis",
    "flush-redis",
    "rewind-redis",
    "kill-rabbitmq",
    "close-connections",
    "alarm",
    "stop-command-api",
    "stop-query",
    "stop-projector",
    "stop-worker",
    "stop-postgres",
    "stop-redis",
    "stop-rabbitmq",
    "slow",
    "blackhole",
    "reset",
    "cut-reply",
    "refused",
    "lock",
    "drain",
    "skew",
];
/// Faults that no client is between: its calls are answered all the same.
pub const BEHIND_THE_SCENES: [&str; 11] = [
    "kill-worker",
    "kill-redis",
    "flush-redis",
    "rewind-redis",
    "kill-rabbitmq",
    "close-connections",
    "alarm",
    "stop-worker",
    "stop-rabbitmq",
    "drain",
    "slow",
];
/// Postgres' disk is filled: chosen by name only.
pub const DISK: &str = "disk";

/// Which client talks to which server, and so where a proxy stands.
pub const WAYS: [(&str, &str); 15] = [
    ("nginx", "command-api"),
    ("nginx", "query-1"),
    ("nginx", "query-2"),
    ("command-api", "postgres"),
    ("command-api", "redis"),
    ("query-1", "postgres"),
    ("query-1", "redis"),
    ("query-2", "postgres"),
    ("query-2", "redis"),
    ("projector", "postgres"),
    ("projector", "redis"),
    ("projector", "rabbitmq"),
    ("report-worker", "postgres"),
    ("report-worker", "redis"),
    ("report-worker", "rabbitmq"),
];

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub kind: &'static str,
    /// The role, the server, or the client's end of the way.
    pub target: &'static str,
    /// The server's end of the way, for weather.
    pub server: &'static str,
    pub weather: Weather,
    pub lasts_ms: u64,
    /// Before the next round.
    pub quiet_ms: u64,
    /// For whatever else has to be chosen.
    pub dice: u64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match (self.target, self.server) {
            ("", _) => {}
            (target, "") => write!(f, " {target}")?,
            (target, server) => write!(f, " {target} -> {server} ({:?})", self.weather)?,
        }
        write!(f, " for {} ms", self.lasts_ms)
    }
}

/// Every chosen kind comes before any comes again.
///
/// # Errors
/// When there is no such kind.
pub fn schedule(seed: u64, rounds: usize, only: &[String]) -> Result<Vec<Plan>> {
    let mut kinds: Vec<&'static str> = KINDS.to_vec();
    if !only.is_empty() {
        let known: Vec<&'static str> = KINDS.iter().chain([&DISK]).copied().collect();
        kinds = Vec::new();
        for name in only {
            match known.iter().find(|kind| *kind == name) {
                Some(kind) => kinds.push(kind),
                None => bail!("there is no fault {name:?}; there are {}", known.join(", ")),
            }
        }
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plans = Vec::new();
    while plans.len() < rounds {
        kinds.shuffle(&mut rng);
        for kind in kinds.iter().take(rounds - plans.len()) {
            plans.push(plan(kind, &mut rng));
        }
    }
    Ok(plans)
}

fn plan(kind: &'static str, rng: &mut StdRng) -> Plan {
    let one_of = |rng: &mut StdRng, names: &[&'static str]| names.choose(rng).copied().unwrap_or_default();
    let (mut target, mut server, mut weather) = ("", "", Weather::Fair);
    let mut lasts_ms = rng.random_range(200..1_500);
    match kind {
        "kill-query" | "stop-query" | "skew" => target = one_of(rng, &["query-1", "query-2"]),
        "slow" | "blackhole" | "reset" | "cut-reply" | "refused" => {
            (target, server) = WAYS.choose(rng).copied().unwrap_or(WAYS[0]);
            weather = match kind {
                "slow" => Weather::Slow { ms: rng.random_range(5..150), jitter_ms: rng.random_range(0..100) },
                "blackhole" => Weather::Hole { late: rng.random_ratio(1, 2) },
                "reset" => Weather::Reset,
                // Often nothing at all: the command is done and its answer lost.
                "cut-reply" if rng.random_ratio(1, 2) => Weather::Cut { after: 0 },
                "cut-reply" => Weather::Cut { after: rng.random_range(1..900) },
                _ => Weather::Refused,
            };
            lasts_ms = rng.random_range(500..3_000);
        }
        _ => {}
    }
    if kind.starts_with("stop-") {
        lasts_ms = rng.random_range(1_000..3_000);
    }
    match kind {
        "alarm" | DISK => lasts_ms = rng.random_range(2_000..4_000),
        "lock" => lasts_ms = rng.random_range(3_000..5_000),
        _ => {}
    }
    Plan { kind, target, server, weather, lasts_ms, quiet_ms: rng.random_range(100..600), dice: rng.random_range(0..1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_every_kind_has_its_turn() {
        let rounds = 3 * KINDS.len();
        let first = schedule(7, rounds, &[]).expect("a schedule");
        assert_eq!(first, schedule(7, rounds, &[]).expect("a schedule"));
        assert_ne!(first, schedule(8, rounds, &[]).expect("a schedule"));
        for kind in KINDS {
            assert_eq!(first.iter().filter(|plan| plan.kind == kind).count(), 3, "{kind}");
        }
        let some = schedule(7, 5, &["reset".into(), "disk".into()]).expect("a schedule");
        assert!(some.iter().all(|plan| ["reset", "disk"].contains(&plan.kind)));
        assert!(schedule(7, 5, &["earthquake".into()]).is_err());
    }
}
