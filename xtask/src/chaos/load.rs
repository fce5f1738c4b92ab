//! The clients: concurrent, through Nginx, each keeping book of all it asked and was told.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::history::{Command, History, Intent, LOGIN, Outcome, Read, Shown, Told, Try};
use crate::scenarios::client::{Answer, Ask, Http, block, spawn};
use crate::scenarios::dates::{day, instant, now};
use crate::scenarios::system::System;
use crate::scenarios::world::{self, fresh};

/// Units that everybody changes and reads.
pub const HOT_UNITS: usize = 4;
/// What a hot unit's area is before the first change; each change has a number of its own.
const FIRST_AREA: u64 = 50;
/// Leases of a unit, one after the other: the business ends with the year 2200.
const LEASES_MAX: i64 = 2_000;
/// A command is repeated with its key until it is answered for good, but not longer.
const PATIENCE: Duration = Duration::from_secs(90);
/// After the last fault nothing is away any more.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(25);
/// Access tokens live for fifteen minutes.
const LOG_IN_EVERY: Duration = Duration::from_secs(240);

/// What is there before the faults begin.
pub struct World {
    pub hot_property: String,
    pub hot: Vec<String>,
    pub cold_property: String,
    pub race: String,
    pub movers: Vec<String>,
    pub party: String,
    pub document: String,
    pub sha256: String,
    /// Leases that are signed, and so have ledgers.
    pub ledgers: Vec<String>,
}

impl World {
    pub fn make(admin: &Http) -> Result<Self> {
        let (hot_property, cold_property) = (world::property(admin)?, world::property(admin)?);
        let unit = |property: &str, name: &str| Ok::<_, anyhow::Error>(world::unit(admin, property, &fresh(name))?.0);
        let hot = (0..HOT_UNITS).map(|_| unit(&hot_property, "hot")).collect::<Result<Vec<_>>>()?;
        let movers = (0..2).map(|_| unit(&cold_property, "move")).collect::<Result<Vec<_>>>()?;
        let party = world::party(admin, &fresh("Chaos"))?;
        let (document, sha256) = world::document(admin, None)?;
        let mut ledgers = Vec::new();
        for from in [0, 400] {
            let leased = unit(&cold_property, "ledger")?;
            let lease = world::lease(admin, &world::lease_body(&leased, &party, from, from + 365))?;
            let (state, code) = block(world::send_lease(admin, &lease, &world::send_body(&document, &party)))?;
            anyhow::ensure!(state == "sent", "the lease of a ledger came to {state} {code}");
            admin.done(&format!("/leases/{lease}/signatures"), &world::sign_body(&party, &sha256))?;
            ledgers.push(lease);
        }
        for lease in &ledgers {
            let read = admin.get(&format!("/ledgers/{lease}"));
            let read = &read;
            block(crate::scenarios::client::until("an opened ledger", world::SETTLES_WITHIN, || async move {
                Ok((read.send().await?.status == 200).then_some(()))
            }))?;
        }
        let race = unit(&cold_property, "race")?;
        Ok(Self { hot_property, hot, cold_property, race, movers, party, document, sha256, ledgers })
    }
}

/// Leases by what was made of them, for the steps that must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveIn {
    pub lease: String,
    pub unit: String,
    /// Signed, or voided.
    pub signed: bool,
}

/// As whom everybody calls.
struct Caller {
    http: Http,
    /// Goes up when logging in ends and when it begins again: odd while nobody logs in.
    turn: u64,
}

pub struct Load {
    pub history: History,
    pub world: World,
    caller: RwLock<Caller>,
    stop: AtomicBool,
    area: AtomicU64,
    /// The latest position in the units log that somebody was told of, with its token.
    latest: Mutex<(u64, String)>,
    pub moved_in: Mutex<Vec<MoveIn>>,
    pub reports: Mutex<Vec<String>>,
}

impl Load {
    pub fn new(system: &System) -> Result<Self> {
        let admin = world::admin(system)?;
        let me = admin.get("/auth/me");
        let me = &me;
        block(crate::scenarios::client::until("the caller is known to reads", world::SETTLES_WITHIN, || async move {
            Ok((me.send().await?.status == 200).then_some(()))
        }))?;
        Ok(Self {
            history: History::new(),
            world: World::make(&admin)?,
            caller: RwLock::new(Caller { http: admin, turn: 0 }),
            stop: AtomicBool::new(false),
            area: AtomicU64::new(FIRST_AREA),
            latest: Mutex::default(),
            moved_in: Mutex::default(),
            reports: Mutex::default(),
        })
    }

    /// Logged in not long ago.
    pub fn caller(&self) -> Http {
        self.caller.read().unwrap_or_else(PoisonError::into_inner).http.clone()
    }

    /// From now on everybody calls with this token, and nobody logs in: who dates tokens has a wrong clock.
    pub fn keep_token(&self, token: &str) {
        let mut caller = self.caller.write().unwrap_or_else(PoisonError::into_inner);
        caller.http = caller.http.with(token);
        caller.turn += 1;
    }

    /// After `keep_token`: its token is kept until the next login.
    pub fn log_in_again(&self) {
        self.caller.write().unwrap_or_else(PoisonError::into_inner).turn += 1;
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn patience(&self) -> Duration {
        if self.stopped() { PATIENCE_AT_THE_END } else { PATIENCE }
    }

    /// The clients, each with its own part of the seed.
    pub fn start(self: &Arc<Self>, seed: u64) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![spawn(self.clone().stay_logged_in())];
        let mut client = 0;
        let mut add = |task: fn(Client) -> Running, count: usize| {
            for _ in 0..count {
                client += 1;
                let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(client));
                tasks.push(spawn(task(Client { load: self.clone(), number: client, issued: 0, rng })));
            }
        };
        // Not as many as the machine takes: what is away must have room to come back.
        add(|client| Box::pin(client.edit()), 3);
        add(|client| Box::pin(client.hold()), 3);
        add(|client| Box::pin(client.pay()), 2);
        add(|client| Box::pin(client.move_in()), 1);
        add(|client| Box::pin(client.request_reports()), 2);
        add(|client| Box::pin(client.create()), 1);
        add(|client| Box::pin(client.look()), 3);
        tasks
    }

    /// Lets every client finish what it is at.
    pub fn finish(&self, tasks: Vec<JoinHandle<()>>) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            block(task).context("a client panicked")?;
        }
        Ok(())
    }

    async fn stay_logged_in(self: Arc<Self>) {
        let mut due = Instant::now() + LOG_IN_EVERY;
        while !self.stopped() {
            sleep(Duration::from_millis(200)).await;
            // Whatever fault is on, it passes.
            if Instant::now() >= due && self.log_in().await {
                due = Instant::now() + LOG_IN_EVERY;
            }
        }
    }

    /// One login, booked; whether everybody calls with its token from now on.
    async fn log_in(&self) -> bool {
        let (http, turn) = {
            let caller = self.caller.read().unwrap_or_else(PoisonError::into_inner);
            (caller.http.anonymous(), caller.turn)
        };
        if turn % 2 == 1 {
            return false;
        }
        let body = json!({"username": world::ADMIN, "password": world::PASSWORD});
        let (one, answer) = self.send(&http.post("/login", &body)).await;
        self.history.count(&one);
        let (marker, content) = (String::new(), "POST /login".to_owned());
        let intent = Intent { what: LOGIN, marker, context: "auth", content };
        self.history.command(Command { intent, tries: vec![one], told: Vec::new() });
        let token = answer.ok().and_then(|answer| answer.json().ok()?["token"].as_str().map(str::to_owned));
        let Some(token) = token else { return false };
        let mut caller = self.caller.write().unwrap_or_else(PoisonError::into_inner);
        // A wrong clock may have dated it meanwhile.
        if caller.turn != turn {
            return false;
        }
        caller.http = caller.http.with(&token);
        true
    }

    async fn send(&self, ask: &Ask) -> (Try, Result<Answer>) {
        let begun = self.history.now();
        let answer = ask.send().await;
        (Try::of(begun, self.history.now() - begun, &answer), answer)
    }

    fn learn(&self, context: &str, told: &Told) {
        if context == "units" {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            if told.position > latest.0 {
                *latest = (told.position, told.token.clone());
            }
        }
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

struct Client {
    load: Arc<Load>,
    number: u64,
    issued: u64,
    rng: StdRng,
}

/// What a client makes of a command.
struct Order {
    what: &'static str,
    context: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    if_match: Option<u64>,
    /// Never given up before an answer that settles it.
    must: bool,
}

impl Order {
    fn new(what: &'static str, context: &'static str, method: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self { what, context, method, path: path.into(), body, if_match: None, must: false }
    }

    fn must(self) -> Self {
        Self { must: true, ..self }
    }
}

impl Client {
    async fn rest(&mut self, ms: u64) {
        sleep(Duration::from_millis(self.rng.random_range(ms / 2..=ms))).await;
    }

    /// One command under one key, until it is settled or given up: what its answer said, if it was done.
    async fn issue(&mut self, order: Order) -> Option<Told> {
        self.issued += 1;
        let key = fresh("key");
        // Valid as a trace context, and kept with every event of the command.
        let marker = format!("00-{:032x}-{:016x}-01", u128::from(self.number) << 64 | 0xc4a05, self.issued);
        let Order { what, context, method, path, body, if_match, must } = order;
        let content = format!("{method} {path} {body}");
        let intent = Intent { what, marker: marker.clone(), context, content };
        let mut command = Command { intent, tries: Vec::new(), told: Vec::new() };
        let began = Instant::now();
        // Some clients give up, and some are told twice.
        let (gives_up, asks_again) = (!must && self.rng.random_ratio(1, 8), self.rng.random_ratio(1, 12));
        let mut again = false;
        loop {
            let mut ask = self.load.caller().request(method, &path).json(&body).key(&key).header("traceparent", &marker);
            if let Some(version) = if_match {
                ask = ask.header("if-match", &format!("\"{version}\""));
            }
            let (one, answer) = self.load.send(&ask).await;
            let (outcome, code) = (one.outcome, one.code.clone());
            self.load.history.count(&one);
            command.tries.push(one);
            let told = answer.ok().filter(|_| outcome == Outcome::Ok).and_then(|answer| told(&answer));
            if let Some(told) = told {
                self.load.learn(context, &told);
                command.told.push(told);
                if asks_again && !again {
                    again = true;
                    continue;
                }
                break;
            }
            let transient = outcome == Outcome::Unknown || ["UNAVAILABLE", "OVERLOADED", "CONTENDED"].contains(&&*code);
            let settled = outcome == Outcome::Ok || !transient;
            if settled || again || gives_up || began.elapsed() > self.load.patience() || (self.load.stopped() && !must) {
                break;
            }
            self.rest(200).await;
        }
        let result = command.told.first().cloned();
        if must && result.is_none() && began.elapsed() > self.load.patience() {
            self.load.history.fault(format!("{} was not answered for {:?}", command.intent.content, began.elapsed()));
        }
        self.load.history.command(command);
        result
    }

    /// Changes hot units by what it read of them.
    async fn edit(mut self) {
        while !self.load.stopped() {
            let unit = self.load.world.hot[self.rng.random_range(0..HOT_UNITS)].clone();
            let path = format!("/units/{unit}");
            let with_token = self.rng.random_ratio(1, 2);
            let version = self.read(&path, with_token).await;
            let Some(version) = version else {
                self.rest(50).await;
                continue;
            };
            let area = self.load.area.fetch_add(1, Ordering::Relaxed) + 1;
            let mut order = Order::new("edit", "units", "PATCH", path, json!({"area_m2": area % 100_000 + 1}));
            order.if_match = Some(version).filter(|_| self.rng.random_ratio(3, 4));
            self.issue(order).await;
            self.rest(150).await;
        }
    }

    /// Wants days that others want too.
    async fn hold(mut self) {
        let mut round = 0;
        while !self.load.stopped() {
            round += 1;
            let path = format!("/units/{}/holds", self.load.world.race);
            let from = 12 * (round / 40) + self.rng.random_range(0..8);
            let to = from + self.rng.random_range(1..5);
            let expires = instant(now() + Duration::from_secs(6 * 3_600));
            let party = self.load.world.party.clone();
            let body = json!({"party_id": party, "from": day(from), "to": day(to), "expires_at": expires});
            if let Some(told) = self.issue(Order::new("hold", "units", "POST", &*path, body)).await {
                self.rest(150).await;
                self.issue(Order::new("release", "units", "DELETE", format!("{path}/{}", told.id), json!({})).must()).await;
            }
            self.rest(150).await;
        }
    }

    async fn pay(mut self) {
        while !self.load.stopped() {
            let ledger = self.load.world.ledgers[self.rng.random_range(0..self.load.world.ledgers.len())].clone();
            let amount = world::money(self.rng.random_range(100..10_000));
            let order = if self.rng.random_ratio(1, 2) {
                let body = json!({"money": amount, "method": "cash", "received_on": day(0)});
                Order::new("payment", "finances", "POST", format!("/ledgers/{ledger}/payments"), body)
            } else {
                let body = json!({"type": "utility", "money": amount, "due_on": day(1)});
                Order::new("charge", "finances", "POST", format!("/ledgers/{ledger}/charges"), body)
            };
            self.issue(order).await;
            self.rest(200).await;
        }
    }

    /// A lease from its draft to its signature or its end: the process manager does the rest.
    async fn move_in(mut self) {
        let unit = self.load.world.movers[self.number as usize % 2].clone();
        let (party, document) = (self.load.world.party.clone(), self.load.world.document.clone());
        let mut round = 0;
        while !self.load.stopped() && round < LEASES_MAX {
            // Each lease has days of its own.
            let from = 10 + 31 * round;
            round += 1;
            let body = world::lease_body(&unit, &party, from, from + 29);
            let Some(drafted) = self.issue(Order::new("draft", "legal", "POST", "/leases", body).must()).await else {
                return;
            };
            let lease = drafted.id;
            let path = format!("/leases/{lease}");
            let body = world::send_body(&document, &party);
            if self.issue(Order::new("send", "legal", "POST", format!("{path}/send"), body).must()).await.is_none() {
                return;
            }
            if !self.wait_sent(&path).await {
                self.load.history.fault(format!("lease {lease} was not sent in time"));
                return;
            }
            let signed = round % 2 == 0;
            let order = match signed {
                true => {
                    let body = world::sign_body(&party, &self.load.world.sha256);
                    Order::new("sign", "legal", "POST", format!("{path}/signatures"), body)
                }
                false => Order::new("void", "legal", "POST", format!("{path}/void"), json!({"reason": "as planned"})),
            };
            if self.issue(order.must()).await.is_none() {
                return;
            }
            let done = MoveIn { lease, unit: unit.clone(), signed };
            self.load.moved_in.lock().unwrap_or_else(PoisonError::into_inner).push(done);
            self.rest(200).await;
        }
    }

    async fn wait_sent(&mut self, path: &str) -> bool {
        let began = Instant::now();
        while began.elapsed() < self.load.patience() {
            let (one, answer) = self.load.send(&self.load.caller().get(path)).await;
            let read = Read { path: path.to_owned(), one, token: None, shown: vec![], missing: vec![] };
            self.load.history.read(read);
            let lease = answer.ok().filter(|answer| answer.status == 200).and_then(|answer| answer.json().ok());
            if lease.is_some_and(|lease| lease["status"] == "sent") {
                return true;
            }
            self.rest(60).await;
        }
        false
    }

    /// A report is of all there is, and that grows as long as the load runs: they come ever more slowly, or in a long run the workers
    /// would never be done with them.
    async fn request_reports(mut self) {
        let mut pause_ms = 900;
        while !self.load.stopped() {
            let path = if self.rng.random_ratio(1, 2) { "/finances/generate_report" } else { "/legal/generate_report" };
            if let Some(told) = self.issue(Order::new("report", "reports", "POST", path, json!({}))).await {
                self.load.reports.lock().unwrap_or_else(PoisonError::into_inner).push(told.id);
            }
            self.rest(pause_ms).await;
            pause_ms += 12;
        }
    }

    /// New aggregates.
    async fn create(mut self) {
        while !self.load.stopped() {
            let body = world::unit_body(&self.load.world.cold_property, &fresh("new"));
            self.issue(Order::new("create", "units", "POST", "/units", body)).await;
            self.issue(Order::new("register", "legal", "POST", "/parties", world::party_body(&fresh("New")))).await;
            self.rest(200).await;
        }
    }

    async fn look(mut self) {
        while !self.load.stopped() {
            let property = &self.load.world.hot_property;
            let path = match self.rng.random_range(0..3) {
                0 => format!("/units/{}", self.load.world.hot[self.rng.random_range(0..HOT_UNITS)]),
                1 => format!("/units?property_id={property}&limit=100"),
                _ => format!("/units/available?property_id={property}&limit=100"),
            };
            let with_token = self.rng.random_ratio(1, 2);
            self.read(&path, with_token).await;
            self.rest(60).await;
        }
    }

    /// A GET, booked; the version it showed, of one unit.
    async fn read(&mut self, path: &str, with_token: bool) -> Option<u64> {
        let (position, token) = self.load.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let with_token = with_token && position > 0;
        let mut ask = self.load.caller().get(path);
        if with_token {
            ask = ask.after(&token, 2);
        }
        let (one, answer) = self.load.send(&ask).await;
        let mut read =
            Read { path: path.to_owned(), one, token: with_token.then_some(position), shown: vec![], missing: vec![] };
        if let Some(body) = answer.ok().filter(|answer| answer.status == 200).and_then(|answer| answer.json().ok()) {
            note(&mut read, &body, &self.load.world.hot);
        } else if read.one.status == 404 {
            read.missing.extend(self.load.world.hot.iter().filter(|unit| path.ends_with(unit.as_str())).cloned());
        }
        let version = match read.shown.as_slice() {
            [(_, Shown::Version(version))] => Some(*version),
            _ => None,
        };
        self.load.history.read(read);
        version
    }
}

/// What an answer shows of the hot units.
fn note(read: &mut Read, body: &Value, hot: &[String]) {
    let date = |row: &Value| match (row["version"].as_u64(), row["area_m2"].as_u64()) {
        (Some(version), _) => Some(Shown::Version(version)),
        (None, Some(area)) => Some(Shown::Area(area)),
        (None, None) => None,
    };
    match body["data"].as_array() {
        None => {
            let unit = body["unit_id"].as_str().unwrap_or_default();
            read.shown.extend(date(body).map(|shown| (unit.to_owned(), shown)));
        }
        Some(rows) => {
            for unit in hot {
                match rows.iter().find(|row| row["unit_id"] == unit.as_str()).and_then(date) {
                    Some(shown) => read.shown.push((unit.clone(), shown)),
                    None => read.missing.push(unit.clone()),
                }
            }
        }
    }
}

fn told(answer: &Answer) -> Option<Told> {
    let body = answer.json().ok()?;
    Some(Told {
        id: body["id"].as_str()?.to_owned(),
        version: body["version"].as_u64()?,
        position: body["position"].as_u64().unwrap_or(0),
        token: answer.header("casitas-position").unwrap_or_default().to_owned(),
    })
}
