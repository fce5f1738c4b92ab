//! Part `append-growth`: the same create at growing logs, so that the curve shows and not one point.

use adapters::postgres::{Databases, PostgresServer, RolePasswords, migrate};
use anyhow::{Context, Result};
use commands::Handler;
use tempfile::TempDir;
use xtask::net::random_password;
use xtask::servers::{POSTGRES_OWNER, Postgres};

use crate::append::{settings, stored};
use crate::bench::{Bench, Part, Round};
use crate::drive::{Driven, audit, collect, drive, fill};
use crate::figure::{Check, Compare, Curve};
use crate::pgbench;
use crate::rows::number;
use crate::workload::{Creates, postgres_handler};

pub const NAME: &str = "append-growth";

const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];
const SIZES_QUICK: [u64; 2] = [5_000, 20_000];
const CALLERS: usize = 64;
/// How the log is brought to its size.
const FILLERS: usize = 256;

#[derive(Default)]
pub struct Growth {
    // Dropped in this order: the server before its folder.
    postgres: Option<Postgres>,
    dir: Option<TempDir>,
    password: String,
    sizes: Vec<u64>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

fn ours(size: u64) -> String {
    format!("create, handler, {CALLERS} callers, {} events in the log", number(size as f64))
}

fn limit(size: u64) -> String {
    format!("pgbench, 1 row a transaction, {CALLERS} callers, {} rows in the table", number(size as f64))
}

impl Part for Growth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compares(&self) -> Vec<Compare> {
        let mut compares: Vec<Compare> = self.sizes.iter().map(|size| Compare::ratio(ours(*size), limit(*size))).collect();
        if let (Some(first), Some(last)) = (self.sizes.first(), self.sizes.last()) {
            compares.push(Compare::ratio(ours(*last), ours(*first)));
            compares.push(Compare::ratio(limit(*last), limit(*first)));
        }
        compares
    }

    fn curves(&self) -> Vec<Curve> {
        let over = |name: fn(u64) -> String| self.sizes.iter().map(|size| (*size as f64, name(*size))).collect();
        vec![Curve {
            file: "append-growth".to_owned(),
            title: "Create commands a second by the log's size, 64 callers (Postgres)".to_owned(),
            x: "events in the log",
            y: "commands/s",
            series: vec![
                ("create, handler".to_owned(), over(ours)),
                ("pgbench, 1 row a transaction".to_owned(), over(limit)),
            ],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.sizes = bench.size(SIZES.to_vec(), SIZES_QUICK.to_vec());
        // Postgres' account must be able to pass through to its folder.
        let passable = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new().prefix("bench-growth-").permissions(passable).tempdir()?;
        self.password = random_password()?;
        let postgres = Postgres::start(&dir.path().join("postgres"), &self.password)?;
        pgbench::prepare(&postgres)?;
        self.notes = settings(&postgres)?;
        self.postgres = Some(postgres);
        self.dir = Some(dir);
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let postgres = self.postgres.as_ref().context("no setup")?;
        let dir = self.dir.as_ref().context("no setup")?.path();
        // A log of its own for each round: a log is never emptied.
        let suffix = format!("_growth_{}", round.number);
        let database = format!("units_db{suffix}");
        let handler = bench.block(open(postgres, &self.password, &suffix))?;
        for size in &self.sizes {
            let head: u64 = postgres.sql(&database, "SELECT coalesce(max(position), 0) FROM events")?.parse()?;
            let fillers = vec![Creates::filling(&handler); FILLERS];
            let filled = bench.block(fill(fillers, size.saturating_sub(head)));
            let added = stored(postgres, &database, &format!("position > {head}"))?;
            collect(&mut self.checks, audit("the log being filled, 256 callers", &filled, &added));
            pgbench::refill(postgres, *size)?;
            // Autovacuum would come at some point of the run; better before it.
            postgres.sql(&database, "VACUUM ANALYZE events")?;

            postgres.sql("postgres", "CHECKPOINT")?;
            let seconds = bench.run_time().as_secs();
            round.measure(limit(*size), "commands/s", || pgbench::insert(postgres, dir, CALLERS, seconds))?;
            postgres.sql("postgres", "CHECKPOINT")?;
            let head: u64 = postgres.sql(&database, "SELECT max(position) FROM events")?.parse()?;
            let callers = vec![Creates::new(&handler, false); CALLERS];
            let mut driven = Driven::default();
            round.measure(ours(*size), "commands/s", || {
                driven = bench.block(drive(callers, bench.run_time()));
                Ok(driven.outcome())
            })?;
            let added = stored(postgres, &database, &format!("position > {head}"))?;
            collect(&mut self.checks, audit(ours(*size), &driven, &added));
        }
        Ok(())
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The write path over a fresh log, migrated by the product's own migration.
async fn open(postgres: &Postgres, password: &str, suffix: &str) -> Result<Handler> {
    let owner = PostgresServer::new(&postgres.address(), POSTGRES_OWNER, password)?.with_suffix(suffix);
    let passwords = RolePasswords {
        command: password.to_owned(),
        query: random_password()?,
        projector: random_password()?,
        worker: random_password()?,
    };
    migrate(&owner, &passwords, &Databases { logs: vec![domain::Context::Units], views: false }).await?;
    let server = PostgresServer::new(&postgres.address(), "casitas_command", password)?.with_suffix(suffix);
    Ok(postgres_handler(&server))
}
