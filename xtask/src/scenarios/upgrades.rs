//! A release that folds a model otherwise finds the rows of the one before it.

use anyhow::{Context, Result, bail, ensure};

use super::doctor::{MODEL, PROJECTOR, edit, of, standings};
use super::operations::{FINE, found, healthy, told};
use super::system::System;
use super::world::{self, SETTLES_WITHIN, fresh};
use crate::net::wait_until;

/// The rows of an earlier release are served from the first moment on, while they are made anew aside, and then the new ones are.
pub fn earlier_fold(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (unit, position) = world::unit(&admin, &property, &fresh("R"))?;
    let path = format!("/units/{unit}");
    let shown = admin.get(&path).after(&position, 5).now()?.expect(200)?.text();
    healthy(system)?;
    let before = of(&standings(system)?, "live").context("no live generation")?;

    let written =
        edit(system, &format!("UPDATE view_heads SET fold_version = 0 WHERE live AND model = '{MODEL}' RETURNING model"))?;
    ensure!(written == MODEL, "not one head was changed: {written:?}");
    // The running program is the release that does not fold them so any more, and has looked before.
    let line = found(system, MODEL, "an earlier release")?;
    ensure!(line["next"] == format!("casitas projections rebuild {MODEL}"), "{line}");

    system.restart(PROJECTOR, &[])?;
    let mut seen = 0;
    wait_until("rows of this release", SETTLES_WITHIN, || {
        let answer = admin.get(&path).now()?.expect(200)?.text();
        ensure!(answer == shown, "{answer} after {seen} GETs, not {shown}");
        seen += 1;
        Ok(of(&standings(system)?, "live").is_some_and(|live| live > before))
    })?;
    let (_, position) = world::unit(&admin, &property, &fresh("R"))?;
    admin.get(&path).after(&position, 5).now()?.expect(200)?;
    let dropped = told(system, &["projections", "drop", MODEL])?;
    ensure!(dropped.exit == FINE, "the rows of before: {dropped:?}");
    healthy(system)?;
    let [(live, state)] = &standings(system)?[..] else { bail!("more than the live generation is left") };
    ensure!(state == "live", "{state}");
    Ok(format!("generation {before} was served until {live} was: {seen} GETs, all 200 with what was there before"))
}
