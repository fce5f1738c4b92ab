//! What happens to whole processes and servers while the clients work.

use std::time::Duration;

use domain::Context;
use rand::Rng;
use tokio::time::sleep;

use crate::fate::{Outage, Target};
use crate::world::World;

/// Kills, restarts and breaks until the plan's time is over.
pub async fn rage(world: &World) {
    let mut rng = world.fate.rng_for("chaos");
    let raging = rng.random_bool(0.85);
    let every_ms = rng.random_range(80..700);
    while world.fate.now_ms() < world.plan.ends_ms() {
        sleep(Duration::from_millis(rng.random_range(10..=every_ms))).await;
        if !raging {
            continue;
        }
        for name in world.missing() {
            if rng.random_bool(0.5) {
                world.start(&name);
            }
        }
        let names = world.plan.processes();
        let lasts_ms = rng.random_range(20..1_600);
        let outage = if rng.random_bool(0.5) { Outage::Refuses } else { Outage::Hangs };
        match rng.random_range(0..100) {
            0..=39 => world.kill(&names[rng.random_range(0..names.len())]),
            40..=54 => {
                let context = Context::ALL[rng.random_range(0..Context::ALL.len())];
                world.fate.outage(Target::Log(context), outage, lasts_ms);
            }
            55..=66 => world.fate.outage(Target::Views, outage, lasts_ms),
            67..=74 => world.fate.outage(Target::Cache, outage, lasts_ms),
            75..=80 => world.fate.outage(Target::Queue, outage, lasts_ms),
            81..=86 => {
                world.fate.note("the cache is flushed");
                world.fate.count("cache flushed");
                world.cache.flush();
            }
            87..=92 => {
                world.fate.note("the broker comes back empty");
                world.fate.count("broker wiped");
                world.queue.wipe();
            }
            _ => {}
        }
    }
}
