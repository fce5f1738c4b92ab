//! What must hold. The oracles read the stores themselves, past every wrapper, and share no code with what they judge but the
//! pure rules (decide, apply, fold).

mod commands;
mod policy;
mod reports;
mod views;

use crate::world::World;

/// What is not finished yet; empty once the system has come to rest.
pub async fn open(world: &World) -> Vec<String> {
    let mut open = world.missing();
    if world.plan.projectors > 0 {
        open.extend(views::behind(world).await);
        open.extend(policy::open_steps(world).await);
        open.extend(policy::unexpired(world).await);
    }
    if world.plan.workers > 0 {
        open.extend(reports::unfinished(world).await);
    }
    open
}

/// Judges the whole history.
pub async fn judge(world: &World) {
    commands::logs(world).await;
    commands::attempts(world).await;
    commands::calendars(world).await;
    if world.plan.projectors > 0 {
        views::fresh_folds(world).await;
        views::history(world).await;
        policy::once(world).await;
        policy::settled(world).await;
    }
    if world.plan.workers > 0 {
        reports::once(world).await;
    }
}
