//! A writer at a steady pace over several connections. Whatever is acknowledged to it is looked up in the log when it has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::bench::Bench;
use crate::drive::{Ack, Driven, audit};
use crate::figure::Check;
use crate::product::Product;
use crate::wire::Wire;

const LOG: &str = "units_db";
/// Lanes of a writer; at 500 commands/s each has 32 ms for a command.
const LANES: u64 = 16;
/// Connections are made and caches filled before anything is measured beside it.
const SETTLE: Duration = Duration::from_millis(500);

/// Commands at a steady pace, until it is stopped: each changes the area of the next of these units. A late command does not
/// delay the others' times, so that the pace holds as long as the product keeps up.
pub struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    started: Instant,
    pace: u64,
    units: Vec<Uuid>,
    /// The head of the log before.
    after: u64,
    lanes: Vec<JoinHandle<Written>>,
}

static AREAS: AtomicU64 = AtomicU64::new(0);

impl Writer {
    /// Starts it at command-api; it is at its pace when this returns.
    ///
    /// # Errors
    /// When there is nothing to write to.
    pub fn start(bench: &Bench, product: &Product, token: &str, units: &[Uuid], pace: u64) -> Result<Self> {
        ensure!(!units.is_empty(), "no units to write to");
        let after: u64 = product.stack.postgres.sql(LOG, "SELECT coalesce(max(position), 0) FROM events")?.parse()?;
        let port = product.role_port("command-api")?;
        let (stop, done, started) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Instant::now());
        let lanes = (0..LANES).map(|number| {
            let lane = Lane {
                number,
                port,
                token: token.to_owned(),
                // A unit belongs to one lane, so that no command waits for another's turn on its stream.
                units: units.iter().skip(number as usize).step_by(LANES as usize).copied().collect(),
                pace,
                started,
                stop: stop.clone(),
                done: done.clone(),
            };
            bench.runtime.spawn(lane.run())
        });
        let lanes = lanes.collect();
        thread::sleep(SETTLE);
        Ok(Self { stop, done, started, pace, units: units.to_vec(), after, lanes })
    }

    /// Stops it, and looks up what was acknowledged. What went wrong with the pace or a command is in the check, too.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stop(self, bench: &Bench, product: &Product, what: &str) -> Result<Check> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = self.done.load(Ordering::Relaxed) as f64 / elapsed;
        self.stop.store(true, Ordering::Relaxed);
        let mut driven = Driven::default();
        for lane in self.lanes {
            match bench.block(lane) {
                Ok(written) => {
                    driven.acks.extend(written.acks);
                    driven.errors.extend(written.failed.map(|error| format!("a command failed: {error}")));
                }
                Err(error) => driven.errors.push(format!("a writer ended: {error}")),
            }
        }
        let mut check = audit(what, &driven, &changes(product, self.after, &self.units)?);
        if rate < self.pace as f64 * 0.95 {
            check.wrong.push(format!("{rate:.0} commands/s were done where {} were meant", self.pace));
        }
        Ok(check)
    }
}

/// One connection and the units that are its own.
struct Lane {
    number: u64,
    port: u16,
    token: String,
    units: Vec<Uuid>,
    pace: u64,
    started: Instant,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

/// What came of a lane; one that failed goes no further.
struct Written {
    acks: Vec<Ack>,
    failed: Option<String>,
}

/// What a command answers; without a position it appended nothing.
#[derive(Deserialize)]
struct Changed {
    position: Option<u64>,
}

impl Lane {
    async fn run(self) -> Written {
        let mut acks = Vec::new();
        let failed = self.write(&mut acks).await.err().map(|error| format!("{error:#}"));
        Written { acks, failed }
    }

    async fn write(&self, acks: &mut Vec<Ack>) -> Result<()> {
        let mut wire = Wire::to(self.port).await?;
        let period = Duration::from_micros(1_000_000 * LANES / self.pace);
        let mut next = tokio::time::Instant::from_std(self.started) + period * self.number as u32 / LANES as u32;
        for unit in self.units.iter().cycle() {
            tokio::time::sleep_until(next).await;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            next += period;
            // Not the area that the unit had before: that would change nothing. Of a run long ago it may be, by chance.
            let area = 300 + AREAS.fetch_add(1, Ordering::Relaxed) % 9_000;
            let (path, body) = (format!("/units/{unit}"), json!({"area_m2": area}));
            let answer = wire.ask(Method::PATCH, &path, Some(&self.token), &[], Some(&body)).await?.expect(200)?;
            self.done.fetch_add(1, Ordering::Relaxed);
            let changed: Changed = serde_json::from_slice(&answer.body).context("what a command answers")?;
            acks.extend(changed.position.map(|position| ack(*unit, position, area)));
        }
        Ok(())
    }
}

/// A change is known by its place in the log and by what it says. An area alone comes again after some thousand commands.
fn ack(unit: Uuid, position: u64, area: u64) -> Ack {
    Ack { aggregate: unit, marker: Uuid::from_u64_pair(position, area) }
}

/// The changes of these units in the log behind a position.
fn changes(product: &Product, after: u64, units: &[Uuid]) -> Result<Vec<Ack>> {
    let ids: Vec<String> = units.iter().map(|id| format!("'{id}'")).collect();
    let rows = product.stack.postgres.sql(
        LOG,
        &format!(
            "SELECT aggregate_id, position, payload #>> '{{UnitUpdated,area_m2}}' FROM events
              WHERE position > {after} AND event_type = 'UnitUpdated' AND aggregate_id IN ({})",
            ids.join(",")
        ),
    )?;
    rows.lines().map(|row| read(row).with_context(|| format!("a row {row:?}"))).collect()
}

fn read(row: &str) -> Result<Ack> {
    let mut fields = row.split('|');
    let mut next = || fields.next().context("a column is missing");
    let (unit, position, area) = (next()?, next()?, next()?);
    Ok(ack(unit.parse()?, position.parse()?, area.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_log_is_the_one_that_was_acknowledged_or_another() {
        let unit = Uuid::from_u128(7);
        let answer = |body| serde_json::from_str::<Changed>(body).expect("an answer").position;
        let position = answer(r#"{"id":"00000000-0000-0000-0000-000000000007","version":3,"position":41}"#);
        let acknowledged = ack(unit, position.expect("appended"), 301);
        assert_eq!(read("00000000-0000-0000-0000-000000000007|41|301").expect("a row"), acknowledged);
        // Elsewhere, or with another area, or of another unit.
        for other in ["00000000-0000-0000-0000-000000000007|42|301", "00000000-0000-0000-0000-000000000007|41|302"] {
            assert_ne!(read(other).expect("a row"), acknowledged, "{other}");
        }
        assert_ne!(read("00000000-0000-0000-0000-000000000008|41|301").expect("a row"), acknowledged);
        assert!(read("00000000-0000-0000-0000-000000000007|41|").is_err(), "an event that changed no area");
        assert_eq!(answer(r#"{"id":"00000000-0000-0000-0000-000000000007","version":3}"#), None, "nothing was appended");
    }
}
