//! Which fault comes when: a pure function of the seed.

use std::fmt;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::proxy::Weather;

/// Every kind of fault but `disk`, which needs a system of its own.
pub const KINDS: [&str; 30] = [
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
    "unbind",
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
const BEHIND_THE_SCENES: [&str; 12] = [
    "kill-worker",
    "kill-redis",
    "flush-redis",
    "rewind-redis",
    "kill-rabbitmq",
    "close-connections",
    "alarm",
    "unbind",
    "stop-worker",
    "stop-rabbitmq",
    "drain",
    "slow",
];
/// Postgres' disk is filled: never among others, because the whole system stands on a small disk then.
pub const DISK: &str = "disk";
/// Whose clock is wrong. Most often that of who takes commands: what it writes down stays.
const CLOCKS: [&str; 5] = ["command-api", "command-api", "query-1", "query-2", "projector"];

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

impl Plan {
    pub fn is_weather(&self) -> bool {
        self.weather != Weather::Fair
    }

    /// Whether clients are between, so that one of them must lack an answer.
    pub fn is_felt(&self) -> bool {
        match self.kind {
            // Replicas go one at a time, and nobody calls the projector.
            "skew" => self.target == "command-api",
            kind => !BEHIND_THE_SCENES.contains(&kind),
        }
    }
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

/// From so many rounds on some of a kind may last longer.
const LONG_ROUNDS: usize = 100;

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
            plans.push(plan(kind, rounds >= LONG_ROUNDS, &mut rng));
        }
    }
    Ok(plans)
}

fn plan(kind: &'static str, is_long: bool, rng: &mut StdRng) -> Plan {
    let one_of = |rng: &mut StdRng, names: &[&'static str]| names.choose(rng).copied().unwrap_or_default();
    let (mut target, mut server, mut weather) = ("", "", Weather::Fair);
    let mut lasts_ms = rng.random_range(200..1_500);
    match kind {
        "kill-query" | "stop-query" => target = one_of(rng, &["query-1", "query-2"]),
        "skew" => target = one_of(rng, &CLOCKS),
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
        // Some as long as requirement 3 of event-sourcing.md says, where there are many.
        "lock" if is_long && rng.random_ratio(1, 3) => lasts_ms = 30_000,
        "lock" => lasts_ms = rng.random_range(4_000..6_000),
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

    #[test]
    fn every_clock_is_set_wrong_and_clients_feel_that_of_who_takes_commands() {
        let skews = schedule(7, 100, &["skew".into()]).expect("a schedule");
        for clock in CLOCKS {
            let mut of_it = skews.iter().filter(|plan| plan.target == clock).peekable();
            assert!(of_it.peek().is_some(), "{clock}");
            assert!(of_it.all(|plan| plan.is_felt() == (clock == "command-api")));
        }
    }

    #[test]
    fn weather_is_what_has_a_way() {
        let plans = schedule(7, KINDS.len(), &[]).expect("a schedule");
        assert!(plans.iter().all(|plan| plan.is_weather() != plan.server.is_empty()));
    }
}
