//! Rebuilding: from the log to a complete, compared and switched view by what `casitas projections rebuild` runs, in one part
//! and in two, beside the plain export of the same rows and cqrs-es' replay of them. Also what a projector does that begins at 0
//! in an empty view store, the bare reading and folding without a store, and the verb as a process, with the memory it takes. And
//! the way back: the same log imported from an export (import.rs).

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adapters::inprocess::{InProcessHints, InProcessQueue};
use adapters::postgres::{Databases, PostgresLog, PostgresServer, PostgresViews, RolePasswords, migrate};
use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use commands::Handler;
use cqrs_es::persist::QueryReplay;
use cqrs_es::{Aggregate, EventEnvelope, Query};
use domain::Context;
use domain::units::Unit;
use ports::{EventLog, Hints, Logs, MasterKey, Sealer, SystemClock, ViewStore};
use postgres_es::PostgresEventRepository;
use projector::{Done, Park, Progress, Projector, Rebuilder, Wish};
use read_models::{ReadModel, Rows};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use xtask::process::{Program, private_dir};
use xtask::servers::{POSTGRES_OWNER, Postgres, Redis};

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Curve, Outcome, Stat};
use crate::import::{self, Import};
use crate::portfolio::{Portfolio, change_many};
use crate::product::chained;
use crate::rows::number;
use crate::size::megabytes;
use crate::tally::Tally;
use crate::verb;

pub const NAME: &str = "rebuild";
const UNITS: usize = 5_000;
/// Events of a unit that is added and listed, its number's claim included; and its house's own.
const EVENTS_A_UNIT: usize = 3;
/// What the bare fold reads at once.
const READ: usize = 5_000;
const UNITS_A_COMMAND: usize = 8;
const GROWN_AT_ONCE: usize = 1_000_000;
const REFUSALS_MAX: usize = 5;
const WITHIN: Duration = Duration::from_secs(900);
/// From a log that is larger no projector begins at 0, and only one read model is rebuilt: that takes minutes each.
const SMALL_MAX: usize = 2_000_000;
/// What the verb may take, whatever the log's size.
const VERB_MB_MAX: f64 = 256.0;
const MODELS: [&dyn ReadModel; 2] = [&read_models::available_units::AvailableUnits, &read_models::units::Units];

const PARTS: [u32; 2] = [1, 2];

const COUNTED: &str = "events of the log folded, exported and replayed";

struct Lab {
    // Field order is drop order.
    portfolio: Portfolio,
    handler: Handler,
    logs: Logs,
    hints: Arc<dyn Hints>,
    sealer: Sealer,
    /// Where the verb looks; folded while the log was small.
    views: Arc<PostgresViews>,
    /// The verb's: it tells the caches.
    redis: Redis,
    postgres: Postgres,
    secrets: Secrets,
    folder: TempDir,
    stores: usize,
}

/// What `casitas secrets init` made.
#[derive(Clone)]
pub struct Secrets(PathBuf);

impl Secrets {
    fn make(binary: &Path, folder: &Path) -> Result<Self> {
        let at = folder.join("secrets");
        Program::new("secrets", binary, folder.join("secrets.log")).args(["secrets", "init", &text(&at)]).run()?;
        Ok(Self(at))
    }

    pub fn of(&self, name: &str) -> Result<String> {
        let secret = fs::read_to_string(self.0.join(name)).with_context(|| format!("no secret {name}"))?;
        Ok(secret.trim().to_owned())
    }

    pub fn folder(&self) -> String {
        text(&self.0)
    }

    pub fn roles(&self) -> Result<RolePasswords> {
        let [command, query, projector, worker] = ["command", "query", "projector", "worker"];
        let of = |role: &str| self.of(&format!("db_{role}"));
        Ok(RolePasswords { command: of(command)?, query: of(query)?, projector: of(projector)?, worker: of(worker)? })
    }

    pub fn server(&self, postgres: &Postgres, user: &str) -> Result<PostgresServer> {
        let secret = if user == POSTGRES_OWNER { "postgres_password" } else { "db_projector" };
        PostgresServer::new(&postgres.address(), user, &self.of(secret)?).map_err(chained)
    }
}

pub struct Rebuild {
    // Before the lab, whose folder it is in.
    import: Option<Import>,
    lab: Option<Lab>,
    sizes: Vec<usize>,
    tally: Tally,
}

impl Rebuild {
    pub fn new() -> Self {
        Self { import: None, lab: None, sizes: vec![100_000, 1_000_000], tally: Tally::default() }
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let lab = self.lab.as_mut().context("setup comes first")?;
        let events = bench.block(lab.head())?;
        let size = nominal(&self.sizes, events);
        for model in models(size) {
            let views = if size > SMALL_MAX {
                bench.block(lab.bring_up(model))?;
                lab.views.clone()
            } else {
                let views = bench.block(lab.empty_views())?;
                round.measure(full(model, size), "events/s", || bench.block(lab.project(model, &views, events)))?;
                views
            };
            for parts in PARTS {
                let mut replayed = 0;
                round.measure(rebuilt(model, parts, size), "events/s", || {
                    bench.block(lab.rebuild(model, &views, parts, &mut replayed))
                })?;
                let units = lab.of_units()?;
                self.tally.add(COUNTED, replayed, (replayed != units).then(|| format!("{replayed} of {units} rebuilt")));
            }
            let mut folded = 0;
            round.measure(bare(model, size), "events/s", || bench.block(lab.fold(model, &mut folded)))?;
            self.tally.add(COUNTED, folded, (folded != events).then(|| format!("{folded} of {events} folded")));
        }
        round.measure(copied(size), "events/s", || lab.copy(events))?;
        let mut replayed = 0;
        round.measure(replay(size), "events/s", || bench.block(lab.replay(&mut replayed)))?;
        let units = lab.of_units()?;
        self.tally.add(COUNTED, replayed, (replayed != units).then(|| format!("{replayed} of {units} replayed")));
        self.measure_verb(bench, round, size)?;
        self.measure_import(bench, round, size)
    }

    /// The process that an operator starts: its pace with all that starting takes, and its memory.
    fn measure_verb(&mut self, bench: &Bench, round: &mut Round<'_>, size: usize) -> Result<()> {
        let lab = self.lab.as_mut().context("setup comes first")?;
        let [model, _] = MODELS;
        // A generation at the head, for the verb to compare with.
        bench.block(lab.bring_up(model))?;
        let (events, units) = (bench.block(lab.head())?, lab.of_units()?);
        for parts in PARTS {
            let mut ran = None;
            round.measure(by_verb(model, parts, size), "events/s", || {
                let ran = ran.insert(lab.verb(bench, model, parts)?);
                Ok(Outcome::plain(events as f64 / ran.took.as_secs_f64()))
            })?;
            let ran = ran.context("it ran")?;
            let taken = round.taken();
            round.keep(memory(model, parts, size), "MB", Outcome::plain(megabytes(ran.peak_bytes)), taken);
            let switched = ran.result["result"] == "switched" && ran.result["events"] == units;
            self.tally.add(COUNTED, units, (!switched).then(|| format!("the verb said {}", ran.result)));
        }
        Ok(())
    }

    /// The log's export into an empty log elsewhere, beside `psql COPY` of the same rows.
    fn measure_import(&mut self, bench: &Bench, round: &mut Round<'_>, size: usize) -> Result<()> {
        if size > SMALL_MAX {
            return Ok(());
        }
        let lab = self.lab.as_ref().context("setup comes first")?;
        let import = self.import.as_mut().context("setup comes first")?;
        let events = bench.block(lab.head())?;
        import.write_out(&lab.postgres, events, |file| lab.casitas(bench, &["events", "export", file, "--without-keys"]))?;
        import.measure(bench, round, size, &mut self.tally)
    }

    /// Commands until the log has so many events, and a checkpoint and statistics after it as a store at rest has them.
    fn grow(&mut self, bench: &Bench, events: usize) -> Result<()> {
        let lab = self.lab.as_mut().context("setup comes first")?;
        let (started, ids, mut refusals) = (Instant::now(), lab.portfolio.ids.clone(), 0);
        let mut have = bench.block(lab.head())? as usize;
        if have < events {
            while have < events {
                let commands = GROWN_AT_ONCE.min(events - have).div_ceil(UNITS_A_COMMAND);
                let grown = bench.block(change_many(&lab.handler, &ids, commands, UNITS_A_COMMAND));
                // A disk that stalls may cost a command, and minutes of commands meet one that does.
                if let Err(error) = grown {
                    refusals += 1;
                    ensure!(refusals <= REFUSALS_MAX, "{error:#}");
                }
                have = bench.block(lab.head())? as usize;
            }
            eprintln!("bench: a log of {events} events after {:.0} s", started.elapsed().as_secs_f64());
            lab.postgres.sql("units_db", "VACUUM ANALYZE events")?;
        }
        lab.postgres.sql("postgres", "CHECKPOINT").map(drop)
    }
}

impl Lab {
    async fn start(folder: TempDir, secrets: Secrets) -> Result<Self> {
        let postgres = Postgres::start(&folder.path().join("postgres"), &secrets.of("postgres_password")?)?;
        let redis = Redis::start(&folder.path().join("redis"), Some(&secrets.of("redis.acl")?))?;
        private_dir(&folder.path().join("artifacts"), None)?;
        let owner = secrets.server(&postgres, POSTGRES_OWNER)?;
        migrate(&owner, &secrets.roles()?, &Databases::all()).await.map_err(chained)?;
        let server = secrets.server(&postgres, "casitas_projector")?;
        let log = |context| Arc::new(PostgresLog::connect(context, &server)) as Arc<dyn EventLog>;
        let logs = Logs::new(Context::ALL.into_iter().map(log));
        let sealer = Sealer::new(MasterKey::from_base64(&secrets.of("master.key")?).map_err(chained)?);
        let views = Arc::new(PostgresViews::connect(&server));
        let hints: Arc<dyn Hints> = Arc::new(InProcessHints::new());
        let handler = Handler::new(logs.clone(), sealer.clone(), Arc::new(SystemClock), hints.clone());
        let portfolio = Portfolio::default();
        Ok(Self { portfolio, handler, logs, hints, sealer, views, redis, postgres, secrets, folder, stores: 0 })
    }

    fn units(&self) -> Result<&Arc<dyn EventLog>> {
        self.logs.get(Context::Units).map_err(chained)
    }

    async fn head(&self) -> Result<u64> {
        Ok(self.units()?.head().await.map_err(chained)?.position)
    }

    fn of_units(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM events WHERE aggregate_type = 'unit'";
        Ok(self.postgres.sql("units_db", sql)?.parse()?)
    }

    /// A view store that nothing was folded into.
    async fn empty_views(&mut self) -> Result<Arc<PostgresViews>> {
        self.stores += 1;
        let at = |user: &str| -> Result<PostgresServer> {
            Ok(self.secrets.server(&self.postgres, user)?.with_suffix(&format!("_rebuild_{}", self.stores)))
        };
        let databases = Databases { logs: Vec::new(), views: true };
        migrate(&at(POSTGRES_OWNER)?, &self.secrets.roles()?, &databases).await.map_err(chained)?;
        Ok(Arc::new(PostgresViews::connect(&at("casitas_projector")?)))
    }

    /// The product's projector with one read model, from 0 to the head.
    async fn project(&self, model: &'static dyn ReadModel, views: &Arc<PostgresViews>, events: u64) -> Result<Outcome> {
        let ports = projector::Ports {
            logs: self.logs.clone(),
            sealer: self.sealer.clone(),
            views: views.clone(),
            queue: Arc::new(InProcessQueue::new()),
            hints: self.hints.clone(),
            clock: Arc::new(SystemClock),
            handler: self.handler.clone(),
            hot: None,
            generations: None,
        };
        let config = projector::Config { models: vec![model], ..projector::Config::default() };
        let projector = Projector::new(ports, config).map_err(chained)?;
        let shutdown = CancellationToken::new();
        let started = Instant::now();
        let running = tokio::spawn(projector.run(shutdown.clone()));
        let reached = async {
            loop {
                let at = folded(views, model).await?;
                if at >= events {
                    return Ok(started.elapsed());
                }
                ensure!(started.elapsed() < WITHIN, "{} is at {at} of {events}", model.spec().name);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let took = reached.await;
        shutdown.cancel();
        running.await?;
        Ok(Outcome::plain(events as f64 / took?.as_secs_f64()))
    }

    /// A rebuild beside a live generation that is current, to the switch; all but the start of a process.
    async fn rebuild(
        &self,
        model: &'static dyn ReadModel,
        views: &Arc<PostgresViews>,
        parts: u32,
        replayed: &mut u64,
    ) -> Result<Outcome> {
        let wish = Wish { parallel: parts, manual: false, dry_run: false, force: false, park: Park::Nothing };
        let (events, started) = (self.head().await?, Instant::now());
        let done = self.rebuilt(model, views, wish).await?;
        let took = started.elapsed();
        *replayed = done.events;
        Ok(Outcome::plain(events as f64 / took.as_secs_f64()))
    }

    async fn rebuilt(&self, model: &'static dyn ReadModel, views: &Arc<PostgresViews>, wish: Wish) -> Result<Done> {
        let rebuilder = Rebuilder::new(self.logs.clone(), self.sealer.clone(), views.clone(), self.hints.clone());
        let done = rebuilder.rebuild(model, wish, &Progress::default(), &CancellationToken::new()).await?;
        ensure!(matches!(done.outcome, projector::Outcome::Switched(_)), "{done:?}");
        Ok(done)
    }

    /// The verb's views to the head. By force: where they stand is too far back to be compared with.
    async fn bring_up(&self, model: &'static dyn ReadModel) -> Result<()> {
        if folded(&self.views, model).await? >= self.head().await? {
            return Ok(());
        }
        let wish = Wish { parallel: 2, manual: false, dry_run: false, force: true, park: Park::Nothing };
        self.rebuilt(model, &self.views, wish).await.map(drop)
    }

    fn verb(&self, bench: &Bench, model: &dyn ReadModel, parts: u32) -> Result<verb::Ran> {
        let args = ["projections", "rebuild", model.spec().name, "--parallel", &parts.to_string(), "--json"];
        verb::run(&self.casitas(bench, &args), WITHIN)
    }

    /// An operator's verb on this system.
    fn casitas(&self, bench: &Bench, args: &[&str]) -> Program {
        let at = |name: &str| self.folder.path().join(name);
        Program::new(format!("casitas {}", args[..2].join(" ")), &bench.binary, at("verb.log"))
            .args(args)
            .dir(self.folder.path())
            .env("CASITAS_POSTGRES", self.postgres.address())
            .env("CASITAS_REDIS", self.redis.address())
            .env("CASITAS_SECRETS_DIR", self.secrets.folder())
            .env("CASITAS_ARTIFACTS_DIR", text(&at("artifacts")))
    }

    /// Reading, opening and folding into rows in memory; nothing is stored.
    async fn fold(&self, model: &'static dyn ReadModel, folded: &mut u64) -> Result<Outcome> {
        let (log, started) = (self.units()?, Instant::now());
        let mut rows = Rows::default();
        loop {
            let mut events = log.read(*folded, READ).await.map_err(chained)?;
            self.sealer.open_recorded(&**log, &mut events).await.map_err(chained)?;
            for event in &events {
                rows.load(&model.keys(event).map_err(chained)?, HashMap::new());
                model.fold(event, &mut rows).map_err(chained)?;
            }
            *folded += events.len() as u64;
            if events.len() < READ {
                break;
            }
        }
        let (changes, _) = rows.take_changes().map_err(chained)?;
        ensure!(!changes.is_empty(), "nothing was folded");
        Ok(Outcome::plain(*folded as f64 / started.elapsed().as_secs_f64()))
    }

    fn copy(&self, events: u64) -> Result<Outcome> {
        let started = Instant::now();
        let status = Command::new(self.postgres.bin_dir().join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.postgres.port().to_string()])
            .args(["-U", POSTGRES_OWNER, "-d", "units_db", "-c", "COPY (SELECT * FROM events ORDER BY position) TO STDOUT"])
            .env("PGPASSWORD", self.postgres.password())
            .stdin(Stdio::null())
            .stdout(File::create("/dev/null")?)
            .status()?;
        ensure!(status.success(), "psql failed ({status})");
        Ok(Outcome::plain(events as f64 / started.elapsed().as_secs_f64()))
    }

    /// cqrs-es' own tool over the same table (our first seven columns are its shape), with a query that only counts.
    async fn replay(&self, replayed: &mut u64) -> Result<Outcome> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.postgres.port())
            .username(POSTGRES_OWNER)
            .password(self.postgres.password())
            .database("units_db");
        let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await?;
        let (counter, faults) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut replay =
            QueryReplay::<_, _, Unit>::new(PostgresEventRepository::new(pool.clone()), Counter(counter.clone()));
        let failed = faults.clone();
        replay.use_error_handler(Box::new(move |_| {
            failed.fetch_add(1, Ordering::Relaxed);
        }));
        let started = Instant::now();
        replay.replay_all().await.map_err(|error| anyhow::anyhow!("QueryReplay: {error}"))?;
        let took = started.elapsed();
        pool.close().await;
        ensure!(faults.load(Ordering::Relaxed) == 0, "QueryReplay could not read {} events", faults.load(Ordering::Relaxed));
        *replayed = counter.load(Ordering::Relaxed);
        Ok(Outcome::plain(*replayed as f64 / took.as_secs_f64()))
    }
}

/// How far what is live was folded.
async fn folded(views: &Arc<PostgresViews>, model: &dyn ReadModel) -> Result<u64> {
    let heads = views.heads().await.map_err(chained)?;
    Ok(heads.iter().find(|head| head.model == model.spec().name).map_or(0, |head| head.checkpoint.position))
}

struct Counter(Arc<AtomicU64>);

#[async_trait]
impl<A: Aggregate> Query<A> for Counter {
    async fn dispatch(&self, _: &str, events: &[EventEnvelope<A>]) {
        self.0.fetch_add(events.len() as u64, Ordering::Relaxed);
    }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The size asked for; a log has a few events more.
fn nominal(sizes: &[usize], events: u64) -> usize {
    sizes.iter().copied().filter(|size| events >= *size as u64).max().unwrap_or(0)
}

/// Those that are rebuilt from a log of that size.
fn models(events: usize) -> impl Iterator<Item = &'static dyn ReadModel> {
    MODELS.into_iter().take(if events > SMALL_MAX { 1 } else { MODELS.len() })
}

fn full(model: &dyn ReadModel, events: usize) -> String {
    format!("projector into {}, {events} events", model.spec().name)
}

fn rebuilt(model: &dyn ReadModel, parts: u32, events: usize) -> String {
    format!("rebuild of {} in {parts}, {events} events", model.spec().name)
}

fn by_verb(model: &dyn ReadModel, parts: u32, events: usize) -> String {
    format!("rebuild of {} in {parts} by the verb, {events} events", model.spec().name)
}

fn memory(model: &dyn ReadModel, parts: u32, events: usize) -> String {
    format!("peak memory of the verb rebuilding {} in {parts}, {events} events", model.spec().name)
}

fn bare(model: &dyn ReadModel, events: usize) -> String {
    format!("read and fold of {}, {events} events", model.spec().name)
}

fn copied(events: usize) -> String {
    format!("psql COPY text, {events} events")
}

fn replay(events: usize) -> String {
    format!("cqrs-es QueryReplay, {events} events")
}

impl Part for Rebuild {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compares(&self) -> Vec<Compare> {
        let mut compares = Vec::new();
        for events in self.sizes.clone() {
            let [model, _] = MODELS;
            for parts in PARTS {
                compares.push(Compare::bound(memory(model, parts, events), Stat::Value).at_most(VERB_MB_MAX));
                compares.push(Compare::ratio(by_verb(model, parts, events), copied(events)));
            }
            compares.push(Compare::ratio(by_verb(model, PARTS[1], events), by_verb(model, PARTS[0], events)));
            for model in models(events) {
                for (parts, least) in [(PARTS[0], 0.75), (PARTS[1], 1.1)] {
                    compares.push(Compare::ratio(rebuilt(model, parts, events), copied(events)).at_least(least));
                }
                compares.push(Compare::ratio(rebuilt(model, PARTS[1], events), rebuilt(model, PARTS[0], events)));
                compares.push(Compare::ratio(rebuilt(model, PARTS[0], events), replay(events)).at_least(3.8));
                compares.push(Compare::ratio(full(model, events), copied(events)));
                compares.push(Compare::ratio(bare(model, events), copied(events)));
                compares.push(Compare::ratio(bare(model, events), replay(events)));
            }
            compares.push(Compare::ratio(import::imported(events), import::copied(events)).at_least(0.8));
        }
        compares
    }

    fn curves(&self) -> Vec<Curve> {
        let points = |name: &dyn Fn(usize) -> String| self.sizes.iter().map(|size| (*size as f64, name(*size))).collect();
        let [model, _] = MODELS;
        vec![Curve {
            file: "rebuild".to_owned(),
            title: "From the log to a view".to_owned(),
            x: "events",
            y: "events/s",
            series: vec![
                ("rebuild in one part".to_owned(), points(&|size| rebuilt(model, PARTS[0], size))),
                ("rebuild in two parts".to_owned(), points(&|size| rebuilt(model, PARTS[1], size))),
                ("rebuild in one part by the verb".to_owned(), points(&|size| by_verb(model, PARTS[0], size))),
                ("projector from 0".to_owned(), points(&|size| full(model, size))),
                ("read and fold alone".to_owned(), points(&|size| bare(model, size))),
                ("psql COPY text".to_owned(), points(&copied)),
                ("cqrs-es QueryReplay".to_owned(), points(&replay)),
            ],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        self.sizes = bench.events.map_or_else(|| bench.size(vec![100_000, 1_000_000], vec![10_000]), |events| vec![events]);
        let units = bench.units.unwrap_or(bench.size(UNITS, UNITS / 5));
        ensure!(units * EVENTS_A_UNIT < self.sizes[0], "{units} units alone have more events than asked for");
        let folder = crate::product::folder()?;
        let secrets = Secrets::make(&bench.binary, folder.path())?;
        let mut lab = bench.block(Lab::start(folder, secrets))?;
        bench.block(lab.portfolio.grow(&lab.handler, units))?;
        let [model, _] = MODELS;
        let events = bench.block(lab.head())?;
        bench.block(lab.project(model, &lab.views, events))?;
        if self.sizes.iter().any(|size| *size <= SMALL_MAX) {
            self.import = Some(Import::start(bench, lab.folder.path(), &lab.secrets)?);
        }
        self.lab = Some(lab);
        let first = self.sizes[0];
        self.grow(bench, first)
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let (first, last) = (self.sizes[0], self.sizes[self.sizes.len() - 1]);
        // Only while the log is small; three times, as the large one is measured in three rounds.
        if round.number == 0 && first < last {
            for _ in 0..3 {
                self.measure(bench, round)?;
            }
        }
        self.grow(bench, last)?;
        self.measure(bench, round)
    }

    fn checks(&self) -> Vec<Check> {
        self.tally.checks()
    }

    fn notes(&self) -> Vec<String> {
        let [model, _] = MODELS;
        let mut notes = vec![
            "the same table for all: our events, whose first columns have postgres-es' shape; COPY ordered by position"
                .to_owned(),
            "QueryReplay reads the units' events only (it knows one aggregate), and its rate is of those".to_owned(),
            "the verb is `casitas projections rebuild` as a process, from its start to its end; its memory is the high-water mark \
             of its resident set, the program's own pages included"
                .to_owned(),
            "the import is `casitas events import` as a process, of a native export of the same log (plain lines of JSON, which it \
             checks whole before it writes) into the empty log of another server; psql COPY FROM has the rows' text, and a table with \
             the log's columns, constraints and indexes there; what both leave is compared with the log, row by row's hash"
                .to_owned(),
        ];
        if self.sizes.iter().any(|size| *size > SMALL_MAX) {
            notes.push(format!(
                "from more than {} events only {} is rebuilt, beside a generation that was rebuilt by force: no projector begins at \
                 0 there, which would take minutes",
                number(SMALL_MAX as f64),
                model.spec().name
            ));
        }
        notes
    }
}
