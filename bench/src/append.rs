//! Part `append`: durable commands on Postgres, through the handler and through HTTP, beside pgbench and postgres-es.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adapters::postgres::PostgresServer;
use anyhow::{Context, Result};
use commands::Handler;
use domain::units::Property;
use rustix::process::Signal;
use uuid::Uuid;
use xtask::net::free_port;
use xtask::process::Program;
use xtask::scenarios::client::Http;
use xtask::scenarios::system::System;
use xtask::scenarios::world;
use xtask::servers::{Postgres, Server};
use xtask::stack::{Options, Stack};

use crate::bench::{Bench, Part, Round};
use crate::drive::{Ack, Caller, Driven, audit, collect, drive};
use crate::figure::{Check, Compare, Curve};
use crate::load::Posts;
use crate::peers_es;
use crate::pgbench;
use crate::twin::Twins;
use crate::workload::{Assigns, Circle, Creates, history_payloads, postgres_handler, seed_histories};

pub const NAME: &str = "append";
const USER: &str = "casitas_command";
const LOG: &str = "units_db";
const CLIENTS: [usize; 3] = [1, 8, 64];
const MANY: usize = 256;
/// Of those, each caller has so many to itself that its history stays about as long as it was.
const EXISTING: usize = 5_120;
const EXISTING_QUICK: usize = 1_280;
const COMMAND_API_READY: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Append {
    world: Option<World>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

struct World {
    // Dropped in this order: what writes, before what it writes to.
    handler: Handler,
    peer: Arc<postgres_es::PostgresCqrs<Property>>,
    _second_api: Server,
    system: System,
    password: String,
    dir: PathBuf,
    ports: Vec<u16>,
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
            Compare::ratio(keyed(1), limit(1)),
            Compare::ratio(keyed(8), limit(8)),
            Compare::ratio(keyed(64), limit(64)).at_least(3.0),
            Compare::ratio(keyed(MANY), limit(64)),
            Compare::ratio(twins(), limit(64)),
            Compare::ratio(existing(), limit(64)),
            Compare::ratio(post(1), limit(1)),
            Compare::ratio(post(8), limit(8)),
            Compare::ratio(post(64), limit(64)).at_least(2.0),
            Compare::ratio(post(MANY), limit(64)),
            Compare::ratio(post_keyed(), limit(64)),
            Compare::ratio(post_two(), limit(64)),
            Compare::ratio(create(1), peer(1)),
            Compare::ratio(create(8), peer(8)),
            Compare::ratio(create(64), peer(64)).at_least(10.0),
            Compare::ratio(existing(), peer_existing()).at_least(15.0),
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
                ("pgbench, 1 row a transaction".to_owned(), over(&CLIENTS, limit)),
                ("postgres-es create".to_owned(), over(&CLIENTS, peer)),
            ],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        let options =
            Options { binary: Some(bench.binary.clone()), login_rate: Some("100r/s".to_owned()), ..Options::default() };
        let mut system = System::distributed(&options)?;
        let token = world::admin(&system)?;
        drop(token);
        let stack = system.stack()?;
        // Only command-api runs beside the servers; what follows the log is measured in parts of its own.
        for idle in ["report-worker", "projector", "query-2", "query-1"] {
            stack.role(idle)?.stop()?;
        }
        pgbench::prepare(&stack.postgres)?;
        peers_es::prepare_postgres(&stack.postgres)?;
        self.notes = settings(&stack.postgres)?;
        let password = stack.secret("db_command")?;
        let server = PostgresServer::new(&stack.postgres.address(), USER, &password)?;
        let mut second_api = command_api(stack)?;
        second_api.start_until(COMMAND_API_READY, |port| {
            Ok(xtask::http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200))
        })?;
        let ports = vec![stack.role("command-api")?.port(), second_api.port()];
        let dir = stack.dir().to_owned();
        let handler = bench.block(async { postgres_handler(&server) });
        let peer = bench.block(peers_es::postgres(&stack.postgres))?;
        self.world = Some(World { handler, peer, _second_api: second_api, system, password, dir, ports });
        Ok(())
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let world = self.world.as_mut().context("no setup")?;
        world.round(bench, round, &mut self.checks)
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
         its whole middleware and a checked token, and the load generator shares the cores."
            .to_owned(),
    ])
}

/// A second command-api beside the stack's own.
fn command_api(stack: &Stack) -> Result<Server> {
    let port = free_port()?;
    let mut program = Program::new("command-api-2", stack.binary(), stack.dir().join("logs/command-api-2.log"));
    for (name, value) in stack.environment() {
        program.set_env(name, value);
    }
    let secrets = stack.dir().join("role-secrets/command");
    program.set_env("CASITAS_SECRETS_DIR", secrets.to_string_lossy());
    program.set_env("CASITAS_LISTEN", format!("127.0.0.1:{port}"));
    program.set_env("CASITAS_SERVED_BY", "command-api-2");
    Ok(Server::new(program.args(["command-api"]), port, Signal::TERM, Duration::from_secs(15)))
}

impl World {
    fn round(&mut self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>) -> Result<()> {
        let seconds = bench.run_time().as_secs();
        pgbench::refill(self.postgres()?, 0)?;
        for clients in CLIENTS {
            self.checkpoint()?;
            let (postgres, dir) = (self.postgres()?, self.dir.clone());
            round.measure(limit(clients), "commands/s", || pgbench::insert(postgres, &dir, clients, seconds))?;
            self.ours(bench, round, checks, create(clients), self.creates(clients, false))?;
            // A quick run keeps what has a target.
            if bench.quick && clients != 64 {
                continue;
            }
            self.ours(bench, round, checks, keyed(clients), self.creates(clients, true))?;
            let posts = self.posts(bench, &[0], clients, false)?;
            self.ours(bench, round, checks, post(clients), posts)?;
            self.peers(bench, round, checks, clients)?;
        }
        self.ours(bench, round, checks, create(MANY), self.creates(MANY, false))?;
        if !bench.quick {
            self.ours(bench, round, checks, keyed(MANY), self.creates(MANY, true))?;
            let posts = self.posts(bench, &[0], MANY, false)?;
            self.ours(bench, round, checks, post(MANY), posts)?;
            let posts = self.posts(bench, &[0], 64, true)?;
            self.ours(bench, round, checks, post_keyed(), posts)?;
            let posts = self.posts(bench, &[0, 1], 64, false)?;
            self.ours(bench, round, checks, post_two(), posts)?;
        }
        self.two_processes(bench, round, checks)?;
        self.histories(bench, round, checks)
    }

    fn postgres(&self) -> Result<&Postgres> {
        match &self.system {
            System::Distributed(stack) => Ok(&stack.postgres),
            System::Embedded(_) => anyhow::bail!("the stack is distributed"),
        }
    }

    /// Every run begins at the same place of the checkpoint cycle: the first change of each page after one is written whole.
    fn checkpoint(&self) -> Result<()> {
        self.postgres()?.sql("postgres", "CHECKPOINT").map(drop)
    }

    fn creates(&self, callers: usize, keyed: bool) -> Vec<Creates> {
        vec![Creates { handler: self.handler.clone(), keyed }; callers]
    }

    fn posts(&self, bench: &Bench, apis: &[usize], callers: usize, keyed: bool) -> Result<Vec<Posts>> {
        // A token lasts a quarter of an hour: each run gets its own.
        let http = Http::new(&format!("http://127.0.0.1:{}", self.ports[0]))?;
        let admin = world::log_in(&http, world::ADMIN, world::PASSWORD)?;
        let token = admin.token().context("no token")?;
        let ports: Vec<u16> = apis.iter().map(|api| self.ports[*api]).collect();
        bench.block(Posts::connect(&ports, callers, token, keyed))
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
        Ok(self.postgres()?.sql(LOG, "SELECT coalesce(max(position), 0) FROM events")?.parse()?)
    }

    fn stored_after(&self, position: u64) -> Result<Vec<Ack>> {
        stored(self.postgres()?, LOG, &format!("position > {position}"))
    }

    fn peers(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>, clients: usize) -> Result<()> {
        peers_es::refill_postgres(self.postgres()?, 0)?;
        self.checkpoint()?;
        let callers = vec![peers_es::Creates(self.peer.clone()); clients];
        let mut driven = Driven::default();
        round.measure(peer(clients), "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        collect(checks, audit(peer(clients), &driven, &stored(self.postgres()?, peers_es::DATABASE, "true")?));
        Ok(())
    }

    fn two_processes(&self, bench: &Bench, round: &mut Round<'_>, checks: &mut Vec<Check>) -> Result<()> {
        self.checkpoint()?;
        let head = self.head()?;
        let address = self.postgres()?.address();
        let twins_ready = Twins::start(2, 64, &address, USER, &self.password, bench.run_time())?;
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
        let ids = bench.block(seed_histories(&self.handler, aggregates))?;
        let callers: Vec<Assigns> =
            Circle::deal(ids, 64).into_iter().map(|ids| Assigns { handler: self.handler.clone(), ids }).collect();
        self.ours(bench, round, checks, existing(), callers)?;

        let ids: Vec<Uuid> = peers_es::refill_postgres(self.postgres()?, aggregates)?;
        self.checkpoint()?;
        let callers: Vec<_> =
            Circle::deal(ids, 64).into_iter().map(|ids| peers_es::Assigns { cqrs: self.peer.clone(), ids }).collect();
        let mut driven = Driven::default();
        round.measure(peer_existing(), "commands/s", || {
            driven = bench.block(drive(callers, bench.run_time()));
            Ok(driven.outcome())
        })?;
        let added = stored(self.postgres()?, peers_es::DATABASE, "sequence > 20")?;
        collect(checks, audit(peer_existing(), &driven, &added));
        Ok(())
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
