//! Part `append`: durable commands on Postgres, through the handler and through HTTP, beside pgbench and postgres-es.

use std::sync::Arc;

use anyhow::{Context, Result};
use commands::Handler;
use domain::units::Property;
use uuid::Uuid;
use xtask::servers::Postgres;

use crate::bench::{Bench, Part, Round};
use crate::drive::{Ack, Caller, Driven, audit, collect, drive, fill};
use crate::figure::{Check, Compare, Curve};
use crate::load::{Owners, Posts};
use crate::peers_es;
use crate::pgbench::{self, Wide};
use crate::rig::{self, Rig};
use crate::twin::Twins;
use crate::workload::{Assigns, Circle, Creates, HISTORY, history_payloads, postgres_handler, seed_histories};

pub const NAME: &str = "append";
const LOG: &str = "units_db";
const CLIENTS: [usize; 3] = [1, 8, 64];
const MANY: usize = 256;
/// Of those, each caller has so many to itself that its history stays about as long as it was.
const EXISTING: usize = 5_120;
const EXISTING_QUICK: usize = 1_280;

#[derive(Default)]
pub struct Append {
    // Before the world, in whose folder it is.
    wide: Option<Wide>,
    world: Option<World>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

struct World {
    // Dropped in this order: what writes, before what it writes to.
    handler: Handler,
    peer: Arc<postgres_es::PostgresCqrs<Property>>,
    rig: Rig,
}

pub fn limit(clients: usize) -> String {
    format!("pgbench, 1 row a transaction, {}", callers(clients))
}

fn create(clients: usize) -> String {
    format!("create, handler, {}", callers(clients))
}

fn keyed(clients: usize) -> String {
    format!("create with a key, handler, {}", callers(clients))
}

fn existing() -> String {
    "change of an existing aggregate (20 events), handler, 64 callers".to_owned()
}

fn twins() -> String {
    "create, two processes, 64 callers in all".to_owned()
}

fn post(clients: usize) -> String {
    format!("POST, HTTP, {}", callers(clients))
}

fn post_keyed() -> String {
    "POST with a key, HTTP, 64 callers".to_owned()
}

fn post_two() -> String {
    "POST, HTTP, two command-apis, 64 callers in all".to_owned()
}

fn post_existing() -> String {
    "POST, change of an existing aggregate (20 events), HTTP, 64 callers".to_owned()
}

fn peer(clients: usize) -> String {
    format!("postgres-es create, {}", callers(clients))
}

fn peer_existing() -> String {
    "postgres-es change of an existing aggregate (20 events), 64 callers".to_owned()
}

pub fn callers(clients: usize) -> String {
    format!("{clients} caller{}", if clients == 1 { "" } else { "s" })
}

impl Part for Append {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compares(&self) -> Vec<Compare> {
        vec![
            Compare::ratio(create(1), limit(1)).at_least(0.7),
            Compare::ratio(create(8), limit(8)).at_least(0.9),
            Compare::ratio(create(64), limit(64)).at_least(4.0),
            Compare::ratio(create(MANY), limit(64)).at_least(6.0),
            Compare::ratio(create(MANY), limit(MANY)),
            Compare::ratio(keyed(1), limit(1)),
            Compare::ratio(keyed(8), limit(8)),
            Compare::ratio(keyed(64), limit(64)).at_least(3.0),
            Compare::ratio(keyed(MANY), limit(64)),
            Compare::ratio(keyed(MANY), limit(MANY)),
            Compare::ratio(twins(), limit(64)),
            Compare::ratio(existing(), limit(64)),
            Compare::ratio(post(1), limit(1)),
            Compare::ratio(post(8), limit(8)),
            Compare::ratio(post(64), limit(64)).at_least(2.0),
            Compare::ratio(post(MANY), limit(64)),
            Compare::ratio(post(MANY), limit(MANY)),
            Compare::ratio(post_keyed(), limit(64)),
            Compare::ratio(post_two(), limit(64)),
            Compare::ratio(post_existing(), limit(64)),
            Compare::ratio(create(1), peer(1)),
            Compare::ratio(create(8), peer(8)),
            Compare::ratio(create(64), peer(64)).at_least(10.0),
            Compare::ratio(create(MANY), peer(MANY)),
            Compare::ratio(existing(), peer_existing()).at_least(15.0),
            Compare::ratio(post_existing(), peer_existing()),
        ]
    }

    fn curves(&self) -> Vec<Curve> {
        let over = |clients: &[usize], name: fn(usize) -> String| clients.iter().map(|c| (*c as f64, name(*c))).collect();
        let all = [1, 8, 64, MANY];
        vec![Curve {
            file: "append-callers".to_owned(),
            title: "Durable commands a second by callers (Postgres)".to_owned(),
            x: "callers",
            y: "commands/s",
            series: vec![
                ("create, handler".to_owned(), over(&all, create)),
                ("create with a key, handler".to_owned(), over(&all, keyed)),
                ("POST, HTTP".to_owned(), over(&all, post)),
                ("pgbench, 1 row a transaction".to_owned(), over(&all, limit)),
                ("postgres-es create".to_owned(), over(&all, peer)),
            ],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        let rig = Rig::start(&bench.binary, 2)?;
        pgbench::prepare(&rig.postgres)?;
        peers_es::prepare_postgres(&rig.postgres)?;
        self.notes = settings(&rig.postgres)?;
        let server = rig.server()?;
        let handler = bench.block(async { postgres_handler(&server) });
        let peer = bench.block(peers_es::postgres(&rig.postgres))?;
        if !bench.quick {
            self.wide = Some(Wide::prepare(rig.dir())?);
            self.notes.push(format!(
                "pgbench with {MANY} clients has a server of its own with max_connections {} and else the same settings: the \
                 product's takes 200.",
                pgbench::CONNECTIONS_MANY
            ));
        }
        self.world = Some(World { handler, peer, rig });
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let world = self.world.as_ref().context("no setup")?;
        world.round(bench, round, &mut self.checks, self.wide.as_mut())
    }

    fn checks(&self) -> Vec<Check> {
        self.checks.clone()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// The settings on which the figures stand, as the server tells them.
pub fn settings(postgres: &Postgres) -> Result<Vec<String>> {
    let names = [
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "data_checksums",
        "shared_buffers",
        "max_wal_size",
        "commit_delay",
    ];
    let mut found = Vec::new();
    for name in names {
        found.push(format!("{name} {}", postgres.sql("postgres", &format!("SHOW {name}"))?));
    }
    let (first, later) = history_payloads(Uuid::nil());
    Ok(vec![
        format!("Postgres, the same private server for all: {}.", found.join(", ")),
        format!(
            "pgbench -M prepared, {} bytes of JSON in postgres-es' table, random ids; a tenth of its transactions is timed one \
             by one.",
            pgbench::PAYLOAD
        ),
        format!(
            "Ours and postgres-es' run the same aggregate (a property: its registration, {} bytes; its owners named anew, {} \
             bytes) with time-ordered ids; postgres-es has a pool of 16.",
            first.len(),
            later.len()
        ),
        "The handler runs in the benchmark's process on two worker threads; POSTs go straight to `casitas command-api` with \
         its whole middleware and a checked token (no follower runs), and the load generator shares the cores."
            .to_owned(),
    ])
}

impl World {
    fn round(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>, wide: Option<&mut Wide>) -> Result<()> {
        let seconds = bench.run_time().as_secs();
        pgbench::refill(self.postgres(), 0)?;
        // A quick run keeps the heart of it.
        for clients in CLIENTS.into_iter().filter(|clients| !bench.quick || *clients != 8) {
            self.checkpoint()?;
            let (postgres, dir) = (self.postgres(), self.rig.dir());
            round.measure(limit(clients), "commands/s", || pgbench::insert(postgres, dir, clients, seconds))?;
            self.ours(bench, round, checks, create(clients), self.creates(clients, false))?;
            if bench.quick && clients != 64 {
                continue;
            }
            self.ours(bench, round, checks, keyed(clients), self.creates(clients, true))?;
            let posts = self.posts(bench, &[0], clients, false)?;
            self.ours(bench, round, checks, post(clients), posts)?;
            self.peers(bench, round, checks, clients)?;
        }
        if let Some(wide) = wide {
            let (postgres, dir) = (wide.start()?, self.rig.dir());
            round.measure(limit(MANY), "commands/s", || pgbench::insert(postgres, dir, MANY, seconds))?;
            wide.stop()?;
        }
        self.ours(bench, round, checks, create(MANY), self.creates(MANY, false))?;
        if !bench.quick {
            self.peers(bench, round, checks, MANY)?;
            self.ours(bench, round, checks, keyed(MANY), self.creates(MANY, true))?;
            let posts = self.posts(bench, &[0], MANY, false)?;
            self.ours(bench, round, checks, post(MANY), posts)?;
            let posts = self.posts(bench, &[0], 64, true)?;
            self.ours(bench, round, checks, post_keyed(), posts)?;
            let posts = self.posts(bench, &[0, 1], 64, false)?;
            self.ours(bench, round, checks, post_two(), posts)?;
            self.two_processes(bench, round, checks)?;
        }
        self.histories(bench, round, checks)?;
        if bench.quick { Ok(()) } else { self.histories_by_http(bench, round, checks) }
    }

    fn postgres(&self) -> &Postgres {
        &self.rig.postgres
    }

    /// Every run begins at the same place of the checkpoint cycle: the first change of each page after one is written whole.
    fn checkpoint(&self) -> Result<()> {
        self.postgres().sql("postgres", "CHECKPOINT").map(drop)
    }

    fn creates(&self, callers: usize, keyed: bool) -> Vec<Creates> {
        vec![Creates::new(&self.handler, keyed); callers]
    }

    fn posts(&self, bench: &Bench, apis: &[usize], callers: usize, keyed: bool) -> Result<Vec<Posts>> {
        let all = self.rig.ports();
        let ports: Vec<u16> = apis.iter().filter_map(|api| all.get(*api).copied()).collect();
        let token = self.rig.token()?;
        bench.block(Posts::connect(&ports, callers, &token, keyed))
    }

    /// Drives callers of our own log, then looks every acknowledged command up.
    fn ours<C: Caller>(
        &self,
        bench: &Bench,
        round: &mut Round<'_>,
        checks: &mut Vec<Check>,
        name: String,
        callers: Vec<C>,
    ) -> Result<()> {
        self.checkpoint()?;
        let head = self.head()?;
        let mut driven = Driven::default();
        round.measure(&name, "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        collect(checks, audit(name, &driven, &self.stored_after(head)?));
        Ok(())
    }

    fn head(&self) -> Result<u64> {
        Ok(self.postgres().sql(LOG, "SELECT coalesce(max(position), 0) FROM events")?.parse()?)
    }

    fn stored_after(&self, position: u64) -> Result<Vec<Ack>> {
        stored(self.postgres(), LOG, &format!("position > {position}"))
    }

    fn peers(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>, clients: usize) -> Result<()> {
        peers_es::refill_postgres(self.postgres(), 0)?;
        self.checkpoint()?;
        let callers = vec![peers_es::Creates(self.peer.clone()); clients];
        let mut driven = Driven::default();
        round.measure(peer(clients), "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        collect(checks, audit(peer(clients), &driven, &stored(self.postgres(), peers_es::DATABASE, "true")?).of_peer());
        Ok(())
    }

    fn two_processes(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>) -> Result<()> {
        self.checkpoint()?;
        let head = self.head()?;
        let address = self.postgres().address();
        let twins_ready = Twins::start(2, 64, &address, rig::USER, &self.rig.password()?, bench.run_time())?;
        let mut driven = Driven::default();
        round.measure(twins(), "commands/s", || {
            driven = twins_ready.go()?;
            Ok(driven.outcome())
        })?;
        collect(checks, audit(twins(), &driven, &self.stored_after(head)?));
        Ok(())
    }

    /// Changes of aggregates that have 20 events when the run begins, ours and postgres-es'.
    fn histories(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>) -> Result<()> {
        let aggregates = bench.size(EXISTING, EXISTING_QUICK);
        let ids = bench.block(seed_histories(&self.handler, aggregates, HISTORY))?;
        let callers = Assigns::deal(&self.handler, ids, 64);
        self.ours(bench, round, checks, existing(), callers)?;

        let ids: Vec<Uuid> = peers_es::refill_postgres(self.postgres(), aggregates)?;
        self.checkpoint()?;
        let callers: Vec<_> =
            Circle::deal(ids, 64).into_iter().map(|ids| peers_es::Assigns { cqrs: self.peer.clone(), ids }).collect();
        let mut driven = Driven::default();
        round.measure(peer_existing(), "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        let added = stored(self.postgres(), peers_es::DATABASE, "sequence > 20")?;
        collect(checks, audit(peer_existing(), &driven, &added).of_peer());
        Ok(())
    }

    /// The same through HTTP. The api has had each of the aggregates once before, as the handler has that seeded its own.
    fn histories_by_http(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>) -> Result<()> {
        let ids = bench.block(seed_histories(&self.handler, EXISTING, HISTORY - 1))?;
        let (port, token) = (self.rig.ports().first().copied().context("no command-api")?, self.rig.token()?);
        let owners = |ids: Vec<Uuid>| bench.block(Owners::connect(port, Circle::deal(ids, 64), &token));
        let (loading, head) = (owners(ids.clone())?, self.head()?);
        let loaded = bench.block(fill(loading, EXISTING as u64));
        collect(checks, audit("POST, each existing aggregate once before", &loaded, &self.stored_after(head)?));
        self.ours(bench, round, checks, post_existing(), owners(ids)?)
    }
}

/// The events of a log: each one's aggregate, and the first party named in it.
pub fn stored(postgres: &Postgres, database: &str, which: &str) -> Result<Vec<Ack>> {
    let rows = postgres.sql(
        database,
        &format!(
            "SELECT aggregate_id, substring(payload::text FROM '\"party_id\" *: *\"([0-9a-f-]{{36}})\"') FROM events WHERE {which}"
        ),
    )?;
    rows.lines()
        .map(|row| {
            let (aggregate, marker) = row.split_once('|').with_context(|| format!("a row {row:?}"))?;
            Ok(Ack { aggregate: aggregate.parse()?, marker: marker.parse()? })
        })
        .collect()
}
