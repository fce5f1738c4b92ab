//! Deterministic simulation of the write path, the caches, the followers, the policies and the relay (R20).
//!
//! One seed is one history: processes over the in-memory adapters in virtual time, with every port call in the hands of a seeded
//! scheduler ([`fate`]) that delays, refuses, loses, doubles and reorders, while processes are killed and servers fail. Then the
//! weather calms down, the system has to come to rest, and [`oracle`] judges what it did and what it said.
//!
//! Not part of the product: nothing depends on it.

mod chaos;
mod clients;
mod fate;
mod oracle;
mod plan;
mod ports;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use crate::plan::{Part, Plan};
pub use crate::ports::Sabotage;

use crate::world::World;

/// Virtual time that the system may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a seed led to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Of every call with its time, its outcome and its place: the same for the same seed.
    pub trace: u64,
    pub violations: Vec<String>,
    /// What happened how often.
    pub counts: BTreeMap<String, u64>,
    /// The end of the history.
    pub lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub sabotage: Option<Sabotage>,
    /// Prints the history as it happens.
    pub prints: bool,
}

/// Plays one seed of one part.
///
/// # Panics
/// When no runtime can be made.
pub fn play(part: Part, seed: u64, options: Options) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime.block_on(async {
        // Spawned, so that it takes turns with the others like everybody else.
        let played = tokio::spawn(history(part, seed, options));
        played.await.unwrap_or_else(|error| Verdict {
            trace: 0,
            violations: vec![format!("the simulation panicked: {error}")],
            counts: BTreeMap::new(),
            lines: vec![],
        })
    })
}

async fn history(part: Part, seed: u64, options: Options) -> Verdict {
    let plan = Plan::of(part, seed, options.sabotage);
    let world = World::new(plan, seed, options.sabotage, options.prints);
    let scheduler = tokio::spawn(world.fate.clone().run());
    let weather = world.fate.current_weather();
    world.fate.calm();
    for name in world.missing() {
        world.start(&name);
    }
    if timeout(REST_MAX, prepare(&world)).await.is_err() {
        world.violation("the stage could not be set");
    }
    world.fate.weather(weather);
    let mut clients = JoinSet::new();
    for index in 0..world.plan.writing_clients {
        clients.spawn(clients::write(world.clone(), index));
    }
    for index in 0..world.plan.reading_clients {
        clients.spawn(clients::read(world.clone(), index));
    }
    for index in 0..world.plan.leases {
        clients.spawn(clients::rent(world.clone(), index));
    }
    for index in 0..world.plan.reports {
        clients.spawn(clients::order(world.clone(), index));
    }
    chaos::rage(&world).await;
    world.fate.calm();
    world.missing().iter().for_each(|name| world.start(name));
    come_to_rest(&world, &mut clients).await;
    scheduler.abort();
    oracle::judge(&world).await;
    Verdict {
        trace: world.fate.trace(),
        violations: world.violations(),
        counts: world.fate.counts(),
        lines: world.fate.lines(),
    }
}

/// Units, and views that know them.
async fn prepare(world: &World) {
    clients::add_units(world).await;
    while !oracle::open(world).await.is_empty() {
        sleep(LOOK_EVERY).await;
    }
}

async fn come_to_rest(world: &World, clients: &mut JoinSet<()>) {
    let ended = timeout(REST_MAX, async {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                world.violation(format!("a client ended: {error}"));
            }
        }
    });
    if ended.await.is_err() {
        world.violation(format!("{} clients wait for an answer", clients.len()));
    }
    rest(world).await;
    // Whatever still wants to happen twice; meanwhile another hold may have run out.
    sleep(Duration::from_secs(1)).await;
    rest(world).await;
}

async fn rest(world: &World) {
    let resting = timeout(REST_MAX, async {
        while !oracle::open(world).await.is_empty() {
            sleep(LOOK_EVERY).await;
        }
    });
    if resting.await.is_err() {
        world.violation(format!("no rest: {:?}", oracle::open(world).await));
    }
}
