//! Reads: the product's cached GETs beside constant bytes, Redis, static files and the seed's stack.
//!
//! All serve the same bytes; what answers wrongly, or from another tier than the figure's name says, fails a check.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;
use xtask::net::free_port;
use xtask::process::Program;
use xtask::servers::Server;
use xtask::{http, packages};

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Curve, Stat};
use crate::peers::{Bodies, Peers, venv};
use crate::product::{self, Product, Shelf};
use crate::tally::Tally;
use crate::wire::Wire;
use crate::writer::Writer;
use crate::wrk::{self, Counted, Load};

const SMALL: usize = 1_000;
const LARGE: usize = 100_000;
/// Connections of a search: few, because its time is asked for and not how a full machine queues.
const SEARCHERS: u32 = 8;
const WRITES: u64 = 200;
/// A session that rests tells its counts after ten seconds (PostgreSQL 15's idle_stats_update_timeout).
const TOLD_AT_REST_AFTER: Duration = Duration::from_millis(10_500);
/// What the hits' own polling may differ from the idle one by, in transactions, whatever chance does.
const POLLING_SLACK: u64 = 20;

const ANSWERED: &str = "wrk: no answer of 400 and more, no socket error";
const SIZES: &str = "answers as long as they must be";
const SOURCES: &str = "answers from the tier that the figure names";
const WRITTEN: &str = "commands beside the reads, at their pace and in the log";
const UNTOUCHED: &str = "hits and 304s that Postgres was not asked for (transactions in views_db above idle polling)";

/// What is read.
struct Target {
    label: &'static str,
    path: String,
    body: Bytes,
    token: Option<String>,
    etag: String,
    /// Its name at the peers.
    peer: &'static str,
}

impl Target {
    fn load(&self, port: u16, connections: u32) -> Load {
        let load = Load::of(port, &self.path, connections);
        match &self.token {
            Some(token) => load.header("Authorization", format!("Bearer {token}")),
            None => load,
        }
    }
}

struct Ready {
    // Field order is drop order.
    peers: Peers,
    list_20: Target,
    list_2: Target,
    document_2: Target,
    /// The units on the list of 20 KB.
    listed: Vec<Uuid>,
}

pub struct Read {
    ready: Option<Ready>,
    shelf: Shelf,
    folder: Option<TempDir>,
    connections: Vec<u32>,
    sizes: Vec<usize>,
    tally: Tally,
    notes: Vec<String>,
    /// Makes the next search or miss another one than all before.
    fresh: u64,
}

/// What an answer must look like.
#[derive(Clone, Copy)]
enum Expect {
    Body(usize),
    Head,
    Any,
}

impl Read {
    pub fn new(shelf: Shelf) -> Self {
        Self {
            ready: None,
            shelf,
            folder: None,
            connections: vec![32, 128],
            sizes: vec![SMALL, LARGE],
            tally: Tally::default(),
            notes: Vec::new(),
            fresh: 0,
        }
    }

    fn folder(&self) -> Result<&Path> {
        Ok(self.folder.as_ref().context("setup comes first")?.path())
    }

    fn run(&mut self, round: &mut Round<'_>, name: String, load: &Load, expect: Expect) -> Result<Counted> {
        let (time, folder) = (round.bench.run_time(), self.folder()?.to_owned());
        let mut counted = None;
        round.measure(name.clone(), "requests/s", || {
            let run = wrk::run(load, time, &folder)?;
            counted = Some(run);
            Ok(run.outcome())
        })?;
        let counted = counted.context("nothing was counted")?;
        self.judge(&name, &counted, expect);
        Ok(counted)
    }

    fn judge(&mut self, name: &str, counted: &Counted, expect: Expect) {
        self.tally.add(ANSWERED, counted.requests, counted.fault().map(|fault| format!("{name}: {fault}")));
        let length = counted.bytes_per_answer();
        let fits = match expect {
            Expect::Body(body) => length >= body as f64 * 0.999 && length < body as f64 + 2_000.0,
            Expect::Head => length < 1_500.0,
            Expect::Any => true,
        };
        let wrong = (!fits).then(|| format!("{name}: {length:.0} bytes an answer"));
        self.tally.add(SIZES, counted.requests, wrong);
    }

    /// A run at one replica's port, whose counters tell the tier that answered.
    fn at_replica(
        &mut self,
        round: &mut Round<'_>,
        name: String,
        load: &Load,
        expect: Expect,
        tier: &str,
    ) -> Result<Counted> {
        let before = sources(load.port)?;
        let counted = self.run(round, name.clone(), load, expect)?;
        let after = sources(load.port)?;
        let rise = |label: &str| after.get(label).unwrap_or(&0) - before.get(label).unwrap_or(&0);
        let others: u64 = after.keys().filter(|label| *label != tier).map(|label| rise(label)).sum();
        // All connections share one computation when a late change of the writes before is folded, or are served what was there
        // while it is made. Of who shows a token each request looks up its caller, which is a read, too.
        let shared = 2 * u64::from(load.connections);
        let shows_token = load.headers.iter().any(|(name, _)| *name == "Authorization");
        let callers = if shows_token { counted.requests + shared } else { 0 };
        let wrong = (others > counted.requests / 1_000 + shared + callers || rise(tier) + others < counted.requests)
            .then(|| format!("{name}: {} of {} by {tier}, {others} by others", rise(tier), counted.requests));
        self.tally.add(SOURCES, counted.requests, wrong);
        Ok(counted)
    }

    /// A search that nobody asked before: city, bedrooms, highest price and twenty of the cheapest.
    fn search(&mut self, round: &mut Round<'_>, units: usize, connections: u32, port: u16) -> Result<()> {
        let cities: Vec<String> =
            crate::portfolio::CITIES.iter().map(|city| format!("'{}'", city.replace(' ', "%20"))).collect();
        let each = format!(
            "local cities = {{{}}}\n path = '/units/available?limit=20&city=' .. cities[n % {} + 1] .. '&bedrooms=' .. (n % 6) .. \
             '&max_price=' .. (150000 + n * 37 % 200000) .. '&min_price=' .. ({} + n)",
            cities.join(","),
            cities.len(),
            self.fresh
        );
        let load = Load { each: Some(each), ..Load::of(port, "/units/available", connections) };
        let counted = self.at_replica(round, search_name(units, connections), &load, Expect::Any, "miss")?;
        self.fresh += counted.requests + 1_000;
        Ok(())
    }

    /// Targets and peers, once the store has its size.
    fn prepare(&mut self, bench: &Bench, product: &mut Product) -> Result<()> {
        vacuum(product)?;
        let port = product.role_port("query-1")?;
        let (list_20, list_2, document_2, listed) = bench.block(async {
            let token = product.token().await?;
            let mut wire = Wire::to(port).await?;
            let list_20 = list_of(&mut wire, "20 KB list", 20 * 1024, "body-20").await?;
            let list_2 = list_of(&mut wire, "2 KB list", 2 * 1024, "body-2").await?;
            let document_2 = document_of(product, &mut wire, &token).await?;
            let body: Value = serde_json::from_slice(&list_20.body)?;
            let rows = body["data"].as_array().context("no rows")?;
            let listed: Vec<Uuid> = rows.iter().filter_map(|row| row["unit_id"].as_str()?.parse().ok()).collect();
            anyhow::Ok((list_20, list_2, document_2, listed))
        })?;
        for target in [&list_20, &list_2, &document_2] {
            self.notes.push(format!("{}: {} bytes, GET {}", target.label, target.body.len(), without_ids(&target.path)));
        }
        self.notes.push(format!(
            "{} units in the store; Nginx' limits of one address raised, all else as installed; views_db vacuumed after filling",
            product.portfolio.units()
        ));
        let bodies: Bodies = [&list_20, &list_2].into_iter().map(|target| (target.peer, target.body.clone())).collect();
        let peers = Peers::start(bench, self.folder()?, &bodies)?;
        self.ready = Some(Ready { peers, list_20, list_2, document_2, listed });
        Ok(())
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>, product: &mut Product) -> Result<()> {
        let mut ready = self.ready.take().context("setup comes first")?;
        let outcome = self.measure_with(bench, round, product, &mut ready);
        self.ready = Some(ready);
        outcome
    }

    fn measure_with(
        &mut self,
        bench: &Bench,
        round: &mut Round<'_>,
        product: &mut Product,
        ready: &mut Ready,
    ) -> Result<()> {
        let token = bench.block(product.token())?;
        ready.document_2.token = Some(token.clone());
        for connections in self.connections.clone() {
            let direct = product.role_port("query-1")?;
            bench.block(refresh(direct, [&mut ready.list_20, &mut ready.list_2, &mut ready.document_2]))?;
            self.beside(round, product, ready, connections, &ready.list_20, bench)?;
            self.beside(round, product, ready, connections, &ready.list_2, bench)?;
            self.document(round, product, &ready.document_2, connections, bench)?;
            if !bench.quick {
                let (list, document) = (&ready.list_20, &ready.document_2);
                let each = format!("path = '{}&min_price=' .. ({} + n)", list.path, self.fresh);
                self.miss(round, list, connections, direct, each, Expect::Any)?;
                let each = every_calendar(&document.path, self.fresh);
                self.miss(round, document, connections, direct, each, Expect::Body(document.body.len()))?;
            }
            self.beside_writes(bench, round, product, ready, connections, &token)?;
        }
        if !bench.quick {
            self.in_redis(bench, round, product, ready)?;
        }
        let units = product.portfolio.units();
        self.search(round, units, SEARCHERS, product.role_port("query-1")?)?;
        if !bench.quick {
            self.search(round, units, 1, product.role_port("query-1")?)?;
            self.search(round, units, 32, product.role_port("query-1")?)?;
        }
        if round.number == 0 {
            self.leaves_postgres_alone(bench, product, ready)?;
        }
        Ok(())
    }

    /// One public list by the product and by every peer, in the order in which they are compared.
    fn beside(
        &mut self,
        round: &mut Round<'_>,
        product: &Product,
        ready: &Ready,
        connections: u32,
        target: &Target,
        bench: &Bench,
    ) -> Result<()> {
        let expect = Expect::Body(target.body.len());
        let (direct, nginx) = (product.role_port("query-1")?, product.stack.nginx.port());
        let (axum, front) = (ready.peers.axum_port(), ready.peers.nginx_port());
        let peer = |port: u16, path: String| Load::of(port, path, connections);
        bench.block(async {
            warm(direct, target).await?;
            warm(product.role_port("query-2")?, target).await
        })?;
        let named = |what: &str| figure(target, what, connections);
        self.at_replica(round, named("hit"), &target.load(direct, connections), expect, "hit_memory")?;
        self.run(round, named("axum constant"), &peer(axum, format!("/constant/{}", target.peer)), expect)?;
        self.run(round, named("axum + Redis"), &peer(axum, format!("/redis/{}", target.peer)), expect)?;
        if target.peer == "body-20" {
            let load = target.load(direct, connections).header("If-None-Match", &target.etag);
            self.at_replica(round, named("304"), &load, Expect::Head, "hit_memory")?;
        }
        self.run(round, named("Nginx"), &target.load(nginx, connections), expect)?;
        if target.peer == "body-20" && !bench.quick {
            let load = target.load(nginx, connections).header("If-None-Match", &target.etag);
            self.run(round, named("304 through Nginx"), &load, Expect::Head)?;
        }
        self.run(round, named("nginx static"), &peer(front, format!("/{}.json", target.peer)), expect)?;
        if !bench.quick {
            self.run(round, named("nginx, axum constant"), &peer(front, format!("/constant/{}", target.peer)), expect)?;
        }
        let seed = peer(front, format!("/cached/{}", target.peer));
        // A first burst of connections after a rest was seen not to be answered within a second; whatever holds gunicorn up
        // then is not counted against the seed.
        let _ = wrk::run(&seed, Duration::from_secs(1), self.folder()?);
        self.run(round, named("seed"), &seed, expect)?;
        Ok(())
    }

    /// The document, which only who shows a token may see: Nginx keeps none, so a replica answers every time.
    fn document(
        &mut self,
        round: &mut Round<'_>,
        product: &Product,
        document: &Target,
        connections: u32,
        bench: &Bench,
    ) -> Result<()> {
        let (direct, nginx) = (product.role_port("query-1")?, product.stack.nginx.port());
        bench.block(async {
            warm(direct, document).await?;
            warm(product.role_port("query-2")?, document).await
        })?;
        let named = |what: &str| figure(document, what, connections);
        let known = |port: u16| document.load(port, connections).header("If-None-Match", &document.etag);
        let expect = Expect::Body(document.body.len());
        self.at_replica(round, named("hit"), &document.load(direct, connections), expect, "hit_memory")?;
        if bench.quick {
            return Ok(());
        }
        self.at_replica(round, named("304"), &known(direct), Expect::Head, "hit_memory")?;
        self.run(round, named("Nginx"), &document.load(nginx, connections), expect)?;
        self.run(round, named("304 through Nginx"), &known(nginx), Expect::Head)?;
        Ok(())
    }

    /// What nobody asked for before: the Lua makes another address of it each time.
    fn miss(
        &mut self,
        round: &mut Round<'_>,
        target: &Target,
        connections: u32,
        port: u16,
        each: String,
        expect: Expect,
    ) -> Result<()> {
        let load = Load { each: Some(each), ..target.load(port, connections) };
        let counted = self.at_replica(round, figure(target, "miss", connections), &load, expect, "miss")?;
        self.fresh += counted.requests + 1_000;
        Ok(())
    }

    fn beside_writes(
        &mut self,
        bench: &Bench,
        round: &mut Round<'_>,
        product: &Product,
        ready: &Ready,
        connections: u32,
        token: &str,
    ) -> Result<()> {
        let target = &ready.list_20;
        let mut ports = vec![("hit, 200 commands/s", product.role_port("query-1")?)];
        if !bench.quick {
            ports.push(("Nginx, 200 commands/s", product.stack.nginx.port()));
        }
        for (what, port) in ports {
            let writer = Writer::start(bench, product, token, &ready.listed, WRITES)?;
            // Areas have one digit more or less than before.
            let ran = self.run(round, figure(target, what, connections), &target.load(port, connections), Expect::Any);
            self.tally.collect(writer.stop(bench, product, WRITTEN)?);
            ran?;
        }
        Ok(())
    }

    /// A replica without the in-process tier, that runs only now.
    fn in_redis(&mut self, bench: &Bench, round: &mut Round<'_>, product: &Product, ready: &Ready) -> Result<()> {
        let replica = replica_without_memory(product)?;
        for connections in self.connections.clone() {
            for target in [&ready.list_20, &ready.list_2] {
                bench.block(warm(replica.port(), target))?;
                // What changed beside the writes has other lengths; the bytes are those of this moment.
                let load = target.load(replica.port(), connections);
                self.at_replica(round, figure(target, "hit in Redis", connections), &load, Expect::Any, "hit_shared")?;
            }
        }
        Ok(())
    }

    /// Counts Postgres' transactions while nobody asks, and for as long while hits and 304s are served.
    fn leaves_postgres_alone(&mut self, bench: &Bench, product: &Product, ready: &Ready) -> Result<()> {
        let target = &ready.list_20;
        let port = product.role_port("query-1")?;
        bench.block(warm(port, target))?;
        let time = bench.run_time();
        let folder = self.folder()?.to_owned();
        // What an earlier part did is not to be counted here.
        std::thread::sleep(TOLD_AT_REST_AFTER);
        let idle = transactions_during(product, || {
            std::thread::sleep(time);
            Ok(())
        })?
        .0;
        let loads = [("hits", target.load(port, 32)), ("304s", target.load(port, 32).header("If-None-Match", "*"))];
        for (what, load) in loads.into_iter().take(bench.size(2, 1)) {
            let (busy, counted) = transactions_during(product, || wrk::run(&load, time, &folder))?;
            let extra = busy.saturating_sub(idle);
            let wrong = (extra > POLLING_SLACK + idle / 4)
                .then(|| format!("{busy} transactions beside {} {what}, {idle} when idle", counted.requests));
            self.notes.push(format!(
                "views_db: {busy} transactions while {} {what} were served, {idle} in the same time when idle (the feeds' polling)",
                counted.requests
            ));
            self.tally.add(UNTOUCHED, counted.requests, wrong);
        }
        Ok(())
    }
}

fn figure(target: &Target, what: &str, connections: u32) -> String {
    named(target.label, what, connections)
}

fn named(label: &str, what: &str, connections: u32) -> String {
    format!("{label}, {what}, {connections} connections")
}

fn search_name(units: usize, connections: u32) -> String {
    format!("search miss, {units} units, {connections} connections")
}

/// The runs' work of the view store since start, by source, as the replica counts it.
fn sources(port: u16) -> Result<BTreeMap<String, u64>> {
    let answer = http::get(port, "/metrics")?;
    ensure!(answer.status == 200, "/metrics answered {}", answer.status);
    let lines = answer.body.lines().filter_map(|line| line.strip_prefix("casitas_cache_requests_total{result=\""));
    Ok(lines
        .filter_map(|line| line.split_once("\"} "))
        .filter_map(|(label, n)| Some((label.to_owned(), n.parse().ok()?)))
        .collect())
}

/// Two reads: the second finds what the first left.
async fn warm(port: u16, target: &Target) -> Result<()> {
    let mut wire = Wire::to(port).await?;
    for _ in 0..2 {
        wire.get(&target.path, target.token.as_deref()).await?.expect(200)?;
    }
    Ok(())
}

/// The Lua of a calendar within other days each time: from one of 6,720 long past to one of as many to come, so that all holds are
/// on it.
fn every_calendar(path: &str, fresh: u64) -> String {
    format!(
        "local at = {fresh} + n\n local floor = math.floor\n local function day(year, k)\n \
         return string.format('%d-%02d-%02d', year + k % 20, floor(k / 20) % 12 + 1, floor(k / 240) % 28 + 1)\n end\n \
         path = '{path}?from=' .. day(2000, at) .. '&to=' .. day(2060, floor(at / 6720))"
    )
}

/// The writes before have changed the lists: another tag, and some digits more or less.
async fn refresh(port: u16, targets: [&mut Target; 3]) -> Result<()> {
    let mut wire = Wire::to(port).await?;
    for target in targets {
        let answer = wire.get(&target.path, target.token.as_deref()).await?.expect(200)?;
        target.etag = answer.header("etag").context("no ETag")?.to_owned();
        target.body = answer.body;
    }
    Ok(())
}

fn target(label: &'static str, peer: &'static str, path: String, answer: crate::wire::Answer) -> Result<Target> {
    let etag = answer.header("etag").context("no ETag")?.to_owned();
    Ok(Target { label, path, body: answer.body, token: None, etag, peer })
}

/// The public list with as many rows as come nearest to a size.
async fn list_of(wire: &mut Wire, label: &'static str, bytes: usize, peer: &'static str) -> Result<Target> {
    let path = |limit: usize| format!("/units/available?limit={limit}");
    let (mut low, mut high) = (1, 1_000);
    while low < high {
        let middle = (low + high) / 2;
        match wire.get(&path(middle), None).await?.expect(200)?.body.len() < bytes {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    let upper = wire.get(&path(low), None).await?.expect(200)?;
    let lower = wire.get(&path(low.max(2) - 1), None).await?.expect(200)?;
    match upper.body.len().abs_diff(bytes) < lower.body.len().abs_diff(bytes) {
        true => target(label, peer, path(low), upper),
        false => target(label, peer, path(low.max(2) - 1), lower),
    }
}

/// The calendar of a unit with as many holds as come nearest to 2 KB; whoever reads it shows a token.
async fn document_of(product: &Product, wire: &mut Wire, token: &str) -> Result<Target> {
    let unit = product.portfolio.ids.last().context("no unit")?;
    let mut commands = Wire::to(product.role_port("command-api")?).await?;
    let day =
        |after: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * after)).to_string()[..10].to_owned();
    let expires = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 14)).to_string();
    let path = format!("/units/{unit}/calendar");
    let mut answer = wire.get(&path, Some(token)).await?.expect(200)?;
    let mut step = 0;
    for hold in 0..60 {
        if answer.body.len() + step / 2 >= 2 * 1024 {
            break;
        }
        let body = json!({"party_id": uuid::Uuid::now_v7(), "from": day(40 + 3 * hold), "to": day(42 + 3 * hold), "expires_at": expires});
        let held = commands.post(&format!("/units/{unit}/holds"), Some(token), &body).await?.expect(201)?;
        let position = held.header("casitas-position").context("no position")?.to_owned();
        let after = [("casitas-min-position", position.as_str()), ("prefer", "wait=5")];
        let longer = wire.ask(hyper::Method::GET, &path, Some(token), &after, None).await?.expect(200)?;
        step = longer.body.len().saturating_sub(answer.body.len());
        answer = longer;
    }
    let mut target = target("2 KB document", "body-2", path, answer)?;
    target.token = Some(token.to_owned());
    Ok(target)
}

fn replica_without_memory(product: &Product) -> Result<Server> {
    let (stack, port) = (&product.stack, free_port()?);
    let secrets = stack.dir().join("role-secrets/query");
    let mut program =
        Program::new("query-redis", stack.binary(), stack.dir().join("logs/query-redis.log")).args(["query-api"]);
    for (name, value) in stack.environment() {
        program.set_env(name, value);
    }
    let program = program
        .env("CASITAS_SECRETS_DIR", secrets.to_str().context("a path that is not UTF-8")?)
        .env("CASITAS_SERVED_BY", "query-redis")
        .env("CASITAS_LISTEN", format!("127.0.0.1:{port}"))
        .env("CASITAS_MEMORY_CACHE", "off");
    let mut server = Server::new(program, port, Signal::TERM, Duration::from_secs(15));
    server.start_until(Duration::from_secs(60), |port| {
        Ok(http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200))
    })?;
    Ok(server)
}

/// Postgres' counters are told by each session at most once a second: before and after we wait for that.
fn transactions_during<T>(product: &Product, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
    const TOLD_AFTER: Duration = Duration::from_millis(1_200);
    let count = || -> Result<u64> {
        std::thread::sleep(TOLD_AFTER);
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'views_db'";
        Ok(product.stack.postgres.sql("postgres", sql)?.trim().parse()?)
    };
    let before = count()?;
    let done = work()?;
    Ok((count()? - before, done))
}

fn vacuum(product: &Product) -> Result<()> {
    product.stack.postgres.sql("views_db", "VACUUM ANALYZE").map(drop)
}

/// Ids differ from run to run.
fn without_ids(path: &str) -> String {
    path.split('/').map(|part| if part.len() == 36 { "{id}" } else { part }).collect::<Vec<_>>().join("/")
}

impl Part for Read {
    fn name(&self) -> &'static str {
        "read"
    }

    fn compares(&self) -> Vec<Compare> {
        let mut compares = Vec::new();
        for connections in self.connections.clone() {
            // Targets are for 32 connections; what 128 do is told.
            let aim = |compare: Compare, target: f64| if connections == 32 { compare.at_least(target) } else { compare };
            let ratio = |label: &str, what: &str, to: &str, at: &str| {
                Compare::ratio(named(label, what, connections), named(to, at, connections))
            };
            for (label, by_redis, by_seed) in [("2 KB list", 1.5, 16.0), ("20 KB list", 1.8, 11.0)] {
                compares.push(aim(ratio(label, "hit", label, "axum constant"), 0.95));
                compares.push(aim(ratio(label, "hit", label, "axum + Redis"), by_redis));
                compares.push(aim(ratio(label, "Nginx", label, "seed"), by_seed));
                compares.push(aim(ratio(label, "Nginx", label, "nginx static"), 0.8));
                compares.push(ratio(label, "Nginx", label, "nginx, axum constant"));
                compares.push(ratio(label, "hit in Redis", label, "axum + Redis"));
            }
            compares.push(aim(ratio("2 KB document", "hit", "2 KB list", "axum constant"), 0.95));
            compares.push(ratio("2 KB document", "hit", "2 KB list", "axum + Redis"));
            compares.push(ratio("2 KB document", "miss", "2 KB list", "axum constant"));
            compares.push(ratio("2 KB document", "304", "2 KB list", "axum constant"));
            compares.push(ratio("2 KB document", "Nginx", "2 KB list", "seed"));
            compares.push(ratio("2 KB document", "304 through Nginx", "2 KB list", "seed"));
            compares.push(aim(ratio("20 KB list", "304", "20 KB list", "axum constant"), 1.25));
            compares.push(ratio("20 KB list", "304 through Nginx", "20 KB list", "seed"));
            compares.push(aim(ratio("20 KB list", "hit, 200 commands/s", "20 KB list", "hit"), 0.8));
            compares.push(aim(ratio("20 KB list", "Nginx, 200 commands/s", "20 KB list", "Nginx"), 0.8));
        }
        for units in &self.sizes {
            compares.push(Compare::bound(search_name(*units, SEARCHERS), Stat::P99).at_most(10.0));
        }
        compares
    }

    fn curves(&self) -> Vec<Curve> {
        let points = |what: &str| self.connections.iter().map(|c| (f64::from(*c), named("20 KB list", what, *c))).collect();
        let series = [
            ("hit", "hit"),
            ("axum constant", "axum constant"),
            ("axum + Redis", "axum + Redis"),
            ("through Nginx", "Nginx"),
            ("nginx static", "nginx static"),
            ("the seed", "seed"),
            ("hit beside 200 commands/s", "hit, 200 commands/s"),
        ];
        vec![Curve {
            file: "read".to_owned(),
            title: "GET of a 20 KB list".to_owned(),
            x: "connections",
            y: "requests/s",
            series: series.iter().map(|(label, what)| ((*label).to_owned(), points(what))).collect(),
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        packages::install_for_bench()?;
        venv()?;
        self.connections = bench.size(vec![32, 128], vec![32]);
        self.sizes = bench.size(vec![SMALL, LARGE], vec![SMALL]);
        self.folder = Some(product::folder()?);
        self.shelf.with(bench, SMALL, |product| vacuum(product))
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let shelf = self.shelf.clone();
        if self.ready.is_none() {
            let smallest = self.sizes[0];
            shelf.with(bench, smallest, |product| {
                // Only while the store is small; three times, as the others are measured in three rounds.
                for _ in 0..bench.size(3, 0) {
                    if product.portfolio.units() == smallest {
                        self.search(round, smallest, SEARCHERS, product.role_port("query-1")?)?;
                    }
                }
                Ok(())
            })?;
            shelf.with(bench, bench.size(LARGE, SMALL), |product| self.prepare(bench, product))?;
        }
        shelf.with(bench, 0, |product| self.measure(bench, round, product))
    }

    fn checks(&self) -> Vec<Check> {
        self.tally.checks()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
