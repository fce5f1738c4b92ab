//! What is played: which processes, which clients, how long.

use domain::Context;
use read_models::ReadModel;

use crate::ports::Sabotage;

/// A part of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Two processes on one log: group commit, aggregate cache, idempotency.
    Appender,
    /// Two replicas with a shared cache.
    Caches,
    /// Two projectors that compete for every model.
    Followers,
    /// The move-in process and the timer of holds.
    Policies,
    /// Dispatcher, queue, workers.
    Relay,
    /// Everything at once.
    Whole,
}

impl Part {
    pub const ALL: [Self; 6] = [Self::Appender, Self::Caches, Self::Followers, Self::Policies, Self::Relay, Self::Whole];

    /// The parts of which a seed is one history. Who reads waits in a `watch` channel, and tokio wakes its listeners in an order
    /// of its own: with readers, one seed in ten or so has more than one history, and is played again until it fails again.
    pub const ONE_HISTORY: [Self; 4] = [Self::Appender, Self::Followers, Self::Policies, Self::Relay];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Appender => "appender",
            Self::Caches => "caches",
            Self::Followers => "followers",
            Self::Policies => "policies",
            Self::Relay => "relay",
            Self::Whole => "whole",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == name)
    }
}

#[derive(Clone)]
pub struct Plan {
    pub writers: usize,
    pub replicas: usize,
    pub projectors: usize,
    pub workers: usize,
    pub models: Vec<&'static dyn ReadModel>,
    pub units: usize,
    pub writing_clients: usize,
    pub client_pause_ms: u64,
    pub reading_clients: usize,
    pub leases: usize,
    pub reports: usize,
    pub lasts_ms: u64,
    /// The logs that a sabotage is about.
    pub broken_logs: Vec<Context>,
}

impl Plan {
    /// The same part is played in two sizes.
    pub fn of(part: Part, seed: u64, sabotage: Option<Sabotage>) -> Self {
        let is_large = seed % 4 == 3;
        let models = |names: &[&str]| {
            let wanted = |model: &&'static dyn ReadModel| names.contains(&model.spec().name);
            read_models::all().into_iter().filter(wanted).collect::<Vec<_>>()
        };
        let nothing = Self {
            writers: 2,
            replicas: 0,
            projectors: 0,
            workers: 0,
            models: vec![],
            units: if is_large { 4 } else { 2 },
            writing_clients: 0,
            client_pause_ms: 120,
            reading_clients: 0,
            leases: 0,
            reports: 0,
            lasts_ms: if is_large { 5_000 } else { 2_500 },
            broken_logs: Context::ALL.into_iter().filter(|_| sabotage.is_some()).collect(),
        };
        match part {
            Part::Appender => Self { writing_clients: if is_large { 16 } else { 6 }, ..nothing },
            Part::Caches => Self {
                replicas: 2,
                projectors: 1,
                models: models(&["available_units"]),
                writing_clients: 2,
                reading_clients: 6,
                ..nothing
            },
            Part::Followers => Self {
                projectors: 2,
                models: models(&["available_units", "units", "unit_calendar", "hold_expiries"]),
                writing_clients: 3,
                ..nothing
            },
            Part::Policies => Self {
                projectors: 2,
                models: models(&["hold_expiries", "lease_starts", "processes"]),
                writing_clients: 1,
                client_pause_ms: 600,
                leases: if is_large { 8 } else { 4 },
                ..nothing
            },
            Part::Relay => Self {
                projectors: 2,
                workers: 2,
                models: models(&["reports", "leases"]),
                reports: if is_large { 16 } else { 6 },
                ..nothing
            },
            Part::Whole => Self {
                replicas: 2,
                projectors: 2,
                workers: 2,
                models: read_models::all(),
                writing_clients: 3,
                reading_clients: 3,
                leases: 3,
                reports: 4,
                ..nothing
            },
        }
    }

    pub fn processes(&self) -> Vec<String> {
        let kinds = [("w", self.writers), ("q", self.replicas), ("p", self.projectors), ("j", self.workers)];
        kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |index| format!("{kind}{index}"))).collect()
    }

    /// When the weather calms down.
    pub fn ends_ms(&self) -> u64 {
        self.lasts_ms + 1_000
    }
}
