//! Makes faults, and tells whether they really happened.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::load::Load;
use super::proxy::{Ways, way};
use super::schedule::Plan;
use crate::http;
use crate::net::wait_until;
use crate::process::alive;
use crate::stack::Stack;

/// The advisory lock of an append, as `casitas_append` takes it.
const APPEND_LOCK: i64 = 7_161_131_779_257_103_137;
/// A metric that tells of so many seconds tells of the stall, and how soon it must (requirement 3 of event-sourcing.md).
const STALL_SHOWN: f64 = 0.5;
const STALL_SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// How long the system may take to answer commands and GETs again after a fault.
const RECOVERS_WITHIN: Duration = Duration::from_secs(90);
/// Acknowledged commands and answered GETs that show that it is back.
const SIGNS_OF_LIFE: u64 = 5;
/// `fail_timeout=1s` in whole seconds of its clock, so up to two, and a little.
const NGINX_FORGIVES_AFTER: Duration = Duration::from_millis(2_500);
/// Which the load never leaves alone.
const BUSY_WAY: (&str, &str) = ("nginx", "command-api");
/// How long it may take until a report was published in vain and the queues are bound again; reports come every second.
const BOUND_AGAIN_WITHIN: Duration = Duration::from_secs(20);
/// Erlang, for `rabbitmqctl eval`: the bindings by which messages come to the job queues.
const BINDINGS: &str = r#"rabbit_binding:list_for_source(rabbit_misc:r(<<"casitas">>, exchange, <<"reports">>))"#;

/// What making a fault came to.
#[derive(Clone, Debug)]
struct Made {
    count: u64,
    what: String,
    on: String,
}

/// A fault that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    pub kind: &'static str,
    /// How often it verifiably happened: processes gone, connections cut. 0: it was not felt.
    pub count: u64,
    pub what: String,
    /// The role or the way on which it was felt, where there is a choice.
    pub on: String,
    /// Since the run began.
    pub from: Duration,
    pub to: Duration,
    /// From the end of the fault to commands and GETs that succeed.
    pub recovered: Duration,
}

/// Everything the faults found out beside the history.
#[derive(Default)]
pub struct Findings {
    pub fired: Vec<Fired>,
    /// GETs that failed while query replicas were stopped in order, one after the other.
    pub drain_failures: Vec<String>,
    pub drained_reads: usize,
    /// Tokens that a replica with a wrong clock accepted and must not.
    pub wrong_tokens: Vec<String>,
    /// Faults that neither a metric nor readiness told of.
    pub unseen_stalls: Vec<String>,
    /// Roles that ended without being told to.
    pub ended: Vec<String>,
    /// What could not be tried here, and why.
    pub absent: BTreeMap<&'static str, String>,
    pub notes: Vec<String>,
}

pub struct Harness<'a> {
    pub stack: &'a mut Stack,
    pub load: &'a Arc<Load>,
    pub ways: &'a Ways,
    pub redis_password: &'a str,
    pub findings: Findings,
}

impl Harness<'_> {
    /// One round: the fault, its end, and life after it.
    ///
    /// # Errors
    /// When something cannot be started again, or the system does not come back.
    pub fn round(&mut self, plan: &Plan) -> Result<Fired> {
        let history = &self.load.history;
        let from = history.now();
        let made = self.make(plan);
        let to = self.load.history.now();
        let recovered = self.restart_what_ended().and_then(|()| self.recovery(plan));
        let Made { count, what, on } = match &made {
            Ok(made) => made.clone(),
            Err(error) => Made { count: 0, what: format!("{error:#}"), on: plan.target.to_owned() },
        };
        // Also one that went wrong: GETs during it are no calm ones.
        let recovery = recovered.as_ref().copied().unwrap_or(RECOVERS_WITHIN);
        let fired = Fired { kind: plan.kind, count, what, on, from, to, recovered: recovery };
        self.findings.fired.push(fired.clone());
        made?;
        recovered?;
        sleep(Duration::from_millis(plan.quiet_ms));
        Ok(fired)
    }

    fn make(&mut self, plan: &Plan) -> Result<Made> {
        if plan.is_weather() {
            return self.weather(plan);
        }
        let (count, what) = self.fire(plan)?;
        Ok(Made { count, what, on: plan.target.to_owned() })
    }

    fn fire(&mut self, plan: &Plan) -> Result<(u64, String)> {
        let lasts = Duration::from_millis(plan.lasts_ms);
        match plan.kind {
            "kill-command-api" => self.kill_role("command-api", lasts),
            "kill-query" => self.kill_role(plan.target, lasts),
            "kill-projector" => self.kill_role("projector", lasts),
            "kill-worker" => self.kill_role("report-worker", lasts),
            "kill-nginx" => {
                let pid = self.stack.nginx.pid();
                self.stack.nginx.kill9()?;
                let gone = gone(pid);
                self.stack.nginx.start_again()?;
                Ok((gone, "Nginx killed".into()))
            }
            "kill-postgres" => {
                let pid = self.stack.postgres.pid();
                self.stack.postgres.kill9()?;
                let gone = gone(pid);
                sleep(lasts);
                self.stack.postgres.start_again()?;
                Ok((gone, "the postmaster and its backends killed".into()))
            }
            "kill-backend" => self.kill_backend(plan.dice),
            "end-backends" => {
                let sql = format!(
                    "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) AS ended FROM pg_stat_activity
                      WHERE application_name = 'casitas' AND pid % 2 = {}) x WHERE ended",
                    plan.dice % 2
                );
                let ended = self.stack.postgres.sql("postgres", &sql)?.parse()?;
                Ok((ended, format!("{ended} backends terminated")))
            }
            "kill-redis" => {
                let pid = self.stack.redis.pid();
                self.stack.redis.kill9()?;
                let gone = gone(pid);
                sleep(lasts);
                self.stack.redis.start_again()?;
                Ok((gone, "Redis killed, and empty again".into()))
            }
            "flush-redis" => {
                let before = self.redis_keys()?;
                self.stack.redis.cli(Some(("operator", &self.stack.secret("ops_token")?)), &["FLUSHALL"])?;
                Ok((before, format!("{before} entries flushed")))
            }
            "rewind-redis" => self.rewind_redis(lasts),
            "kill-rabbitmq" => {
                let pid = self.stack.rabbitmq.pid();
                self.stack.rabbitmq.kill9()?;
                let gone = gone(pid);
                self.stack.rabbitmq.start_again()?;
                Ok((gone, "RabbitMQ killed".into()))
            }
            "close-connections" => {
                let listed = self.stack.rabbitmq.ctl(&["list_connections", "--no-table-headers", "pid"])?;
                self.stack.rabbitmq.ctl(&["close_all_connections", "the harness asks"])?;
                let closed = listed.lines().filter(|line| !line.trim().is_empty()).count() as u64;
                Ok((closed, format!("{closed} broker connections closed")))
            }
            "alarm" => self.disk_alarm(lasts),
            "unbind" => self.unbind(),
            "stop-postgres" => self.pause(self.stack.postgres.pid(), lasts, |stack, on| match on {
                true => stack.postgres.pause(),
                false => stack.postgres.resume(),
            }),
            "stop-redis" => self.pause(self.stack.redis.pid(), lasts, |stack, on| match on {
                true => stack.redis.pause(),
                false => stack.redis.resume(),
            }),
            "stop-rabbitmq" => self.pause(self.stack.rabbitmq.pid(), lasts, |stack, on| match on {
                true => stack.rabbitmq.pause(),
                false => stack.rabbitmq.resume(),
            }),
            "stop-command-api" => self.pause_role("command-api", lasts),
            "stop-query" => self.pause_role(plan.target, lasts),
            "stop-projector" => self.pause_role("projector", lasts),
            "stop-worker" => self.pause_role("report-worker", lasts),
            "lock" => self.hold_lock(lasts),
            "drain" => self.drain(),
            "skew" => self.skew(plan),
            super::schedule::DISK => self.fill_disk(lasts),
            other => anyhow::bail!("no fault {other}"),
        }
    }

    /// On the planned way; if nobody spoke there just then, once more where somebody always does.
    fn weather(&self, plan: &Plan) -> Result<Made> {
        let planned = way(plan.target, plan.server);
        let (count, what) = self.weather_on(plan, (plan.target, plan.server))?;
        if count > 0 {
            return Ok(Made { count, what, on: planned });
        }
        let (count, again) = self.weather_on(plan, BUSY_WAY)?;
        let on = format!("{} (nothing passed {planned})", way(BUSY_WAY.0, BUSY_WAY.1));
        Ok(Made { count, what: format!("{what}; not felt, so {again}"), on })
    }

    /// A way's weather, and how often it was felt.
    fn weather_on(&self, plan: &Plan, (client, server): (&str, &str)) -> Result<(u64, String)> {
        let lasts = Duration::from_millis(plan.lasts_ms);
        let proxy = self.ways.get(client, server)?;
        let before = proxy.done();
        proxy.make(plan.weather);
        // The listener needs a moment to close.
        sleep(lasts / 2);
        if plan.kind == "refused" {
            proxy.knock();
        }
        sleep(lasts / 2);
        proxy.make(super::proxy::Weather::Fair);
        sleep(Duration::from_millis(50));
        let felt = proxy.done().felt_since(&before);
        Ok((felt, format!("{} {}: {}", way(client, server), plan.weather.name(), proxy.done())))
    }

    fn kill_role(&mut self, name: &str, down: Duration) -> Result<(u64, String)> {
        let role = self.stack.role(name)?;
        let pid = role.pid();
        role.kill9()?;
        let gone = gone(pid);
        sleep(down);
        role.start()?;
        Ok((gone, format!("{name} killed, away for {down:?}")))
    }

    /// SIGKILL of one backend: the postmaster ends all others, recovers from its log, and goes on.
    fn kill_backend(&mut self, dice: u64) -> Result<(u64, String)> {
        let postgres = &self.stack.postgres;
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'casitas' ORDER BY pid";
        let pids = postgres.sql("postgres", sql)?;
        let pids: Vec<i32> = pids.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ensure!(!pids.is_empty(), "nobody is connected to Postgres");
        let pid = pids[dice as usize % pids.len()];
        kill_process(Pid::from_raw(pid).context("no process id")?, Signal::KILL)?;
        wait_until("Postgres' recovery", RECOVERS_WITHIN, || Ok(postgres.sql("postgres", "SELECT 1").is_ok()))?;
        Ok((gone(u32::try_from(pid).ok()), format!("backend {pid} killed, so all {} ended", pids.len())))
    }

    fn redis_keys(&self) -> Result<u64> {
        let answer = self.stack.redis.cli(Some(("harness", self.redis_password)), &["DBSIZE"])?;
        answer.trim_start_matches("(integer)").trim().parse().with_context(|| format!("DBSIZE: {answer}"))
    }

    /// Redis comes back with what it held some time ago.
    fn rewind_redis(&mut self, lasts: Duration) -> Result<(u64, String)> {
        let entries = self.redis_keys()?;
        self.stack.redis.cli(Some(("harness", self.redis_password)), &["SAVE"])?;
        let acked = self.load.history.acked.load(Ordering::Relaxed);
        sleep(lasts + Duration::from_secs(2));
        self.stack.redis.kill9()?;
        self.stack.redis.start_again()?;
        let dump = self.stack.dir().join("redis").join("dump.rdb");
        let since = self.load.history.acked.load(Ordering::Relaxed) - acked;
        let restored = if dump.exists() { self.redis_keys()? } else { 0 };
        // Only this once.
        fs::remove_file(&dump).with_context(|| format!("removing {}", dump.display()))?;
        Ok((restored, format!("{restored} of {entries} entries back from before {since} commands")))
    }

    /// A broker that takes no messages.
    fn disk_alarm(&mut self, lasts: Duration) -> Result<(u64, String)> {
        let rabbitmq = &self.stack.rabbitmq;
        let alarms = || rabbitmq.ctl(&["eval", "rabbit_alarm:get_alarms()."]);
        rabbitmq.ctl(&["set_disk_free_limit", "900GB"])?;
        let mut said = String::new();
        let raised = wait_until("the disk alarm", Duration::from_secs(15), || {
            said = alarms()?;
            Ok(said.contains("disk"))
        });
        sleep(lasts);
        rabbitmq.ctl(&["set_disk_free_limit", "50MB"])?;
        raised?;
        wait_until("the end of the disk alarm", Duration::from_secs(30), || Ok(!alarms()?.contains("disk")))?;
        Ok((1, format!("publishers blocked: {}", said.replace('\n', " "))))
    }

    /// No job queue is bound any more: what is published comes back, and whoever published it has to bind them again.
    fn unbind(&mut self) -> Result<(u64, String)> {
        let port = self.stack.role("projector")?.port();
        let declared = || http::metric(port, "casitas_queue_redeclared_total");
        let before = declared()?;
        let rabbitmq = &self.stack.rabbitmq;
        let remove = format!(r#"[rabbit_binding:remove(B, <<"chaos">>) || B <- {BINDINGS}]."#);
        // An `ok` for each.
        let removed = rabbitmq.ctl(&["eval", &remove])?.matches("ok").count() as u64;
        let began = Instant::now();
        wait_until("a report without a queue", BOUND_AGAIN_WITHIN, || Ok(declared().is_ok_and(|now| now > before)))?;
        let count = format!("length({BINDINGS}).");
        wait_until("the queues being bound again", BOUND_AGAIN_WITHIN, || {
            Ok(rabbitmq.ctl(&["eval", &count])?.trim().parse::<u64>()? >= removed)
        })?;
        let seconds = began.elapsed().as_secs_f64();
        Ok((removed, format!("{removed} queues unbound, and bound again within {seconds:.1} s")))
    }

    fn pause_role(&mut self, name: &str, lasts: Duration) -> Result<(u64, String)> {
        let pid = self.stack.role(name)?.pid();
        let name = name.to_owned();
        self.pause(pid, lasts, move |stack, on| {
            if let Ok(role) = stack.role(&name) {
                if on { role.pause() } else { role.resume() }
            }
        })
    }

    fn pause(&mut self, pid: Option<u32>, lasts: Duration, switch: impl Fn(&mut Stack, bool)) -> Result<(u64, String)> {
        switch(self.stack, true);
        sleep(lasts);
        let stopped = pid.is_some_and(is_stopped);
        switch(self.stack, false);
        Ok((u64::from(stopped), format!("stopped for {lasts:?}")))
    }

    /// Somebody's transaction holds the append lock of the units log: a metric or readiness must tell.
    fn hold_lock(&mut self, lasts: Duration) -> Result<(u64, String)> {
        let port = self.stack.role("command-api")?.port();
        let stalled = || http::metric(port, "casitas_append_stalled_seconds{context=\"units\"}").unwrap_or_default();
        let is_named = || {
            let answer = http::get(port, "/readyz?verbose=1").ok();
            let report = answer.and_then(|answer| serde_json::from_str::<serde_json::Value>(&answer.body).ok());
            let checks = report.as_ref().and_then(|report| report["checks"].as_array()).into_iter().flatten();
            checks.into_iter().any(|check| check["name"] == "appends to units_db" && check["ok"] == false)
        };
        let seconds = lasts.as_secs_f64();
        let mut holder = self
            .stack
            .postgres
            .psql("units_db")
            .args(["-c", &format!("SELECT pg_advisory_xact_lock({APPEND_LOCK}), pg_sleep({seconds})")])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        let (mut waited, mut shown, mut named, began) = (0_u64, None, None, Instant::now());
        while holder.try_wait()?.is_none() {
            waited = waited.max(self.stack.postgres.sql("units_db", waiting)?.parse()?);
            if shown.is_none() && stalled() > STALL_SHOWN {
                shown = Some(began.elapsed());
            }
            if named.is_none() && is_named() {
                named = Some(began.elapsed());
            }
            sleep(Duration::from_millis(100));
        }
        let in_time = |at: Option<Duration>| at.is_some_and(|at| at <= STALL_SHOWN_WITHIN);
        let told = format!("held for {lasts:?}: {waited} waited, metric after {shown:?}, readiness after {named:?}");
        // Where nobody waited, there was no stall.
        if waited > 0 && !(in_time(shown) && in_time(named)) {
            self.findings.unseen_stalls.push(told.clone());
        }
        Ok((waited, told))
    }

    /// One replica after the other is stopped in order and started: no GET may fail.
    fn drain(&mut self) -> Result<(u64, String)> {
        let mut stopped = 0;
        let mut slowest = Duration::ZERO;
        // The round before may have restarted the other one.
        sleep(NGINX_FORGIVES_AFTER);
        for name in ["query-1", "query-2"] {
            let from = self.load.history.now();
            let role = self.stack.role(name)?;
            let began = Instant::now();
            let status = role.stop()?;
            slowest = slowest.max(began.elapsed());
            stopped += u64::from(status.is_some_and(|status| status.success()));
            role.start()?;
            // Nginx leaves a replica that refused it alone for so long: the next one must not go before that is over.
            sleep(NGINX_FORGIVES_AFTER);
            let (reads, failed) = self.load.history.reads_between(from, self.load.history.now());
            self.findings.drained_reads += reads;
            self.findings.drain_failures.extend(failed);
        }
        ensure!(slowest < Duration::from_secs(10), "a replica took {slowest:?} to drain");
        Ok((stopped, format!("two replicas stopped in order, the slower in {slowest:?}")))
    }

    /// Not a byte is left on Postgres' disk.
    fn fill_disk(&mut self, lasts: Duration) -> Result<(u64, String)> {
        use std::io::Write;
        let ballast = self.stack.postgres.data_dir().join("ballast");
        let mut file = fs::File::create(&ballast)?;
        let block = vec![1_u8; 64 * 1024];
        let (mut written, mut full, began) = (0_u64, 0, Instant::now());
        // What Postgres frees meanwhile is taken too.
        while began.elapsed() < lasts {
            match file.write(&block) {
                Ok(count) => written += count as u64,
                Err(_) => {
                    full += 1;
                    sleep(Duration::from_millis(20));
                }
            }
        }
        drop(file);
        fs::remove_file(&ballast)?;
        let mut ended = String::new();
        if let Some(status) = self.stack.postgres.crashed()? {
            ended = format!(", which ended ({status})");
            self.stack.postgres.kill9()?;
            self.stack.postgres.start_again()?;
        }
        Ok((u64::from(full > 0), format!("{} MiB taken from Postgres{ended}", written >> 20)))
    }

    /// What a supervisor does.
    fn restart_what_ended(&mut self) -> Result<()> {
        for role in &mut self.stack.roles {
            if let Some(status) = role.crashed()? {
                self.findings.ended.push(format!("{} ended by itself ({status})", role.name()));
                role.kill9()?;
                role.start()?;
            }
        }
        Ok(())
    }

    fn recovery(&mut self, plan: &Plan) -> Result<Duration> {
        let history = &self.load.history;
        let read = || (history.acked.load(Ordering::Relaxed), history.reads_ok.load(Ordering::Relaxed));
        let (acked, reads) = read();
        let began = Instant::now();
        wait_until(&format!("commands and GETs after {plan}"), RECOVERS_WITHIN, || {
            let (acked_now, reads_now) = read();
            Ok(acked_now >= acked + SIGNS_OF_LIFE && reads_now >= reads + SIGNS_OF_LIFE)
        })?;
        Ok(began.elapsed())
    }
}

fn gone(pid: Option<u32>) -> u64 {
    u64::from(pid.is_some_and(|pid| !alive(pid)))
}

/// By the kernel's word.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Whether Postgres can be given a small disk of its own here.
///
/// # Errors
/// Why not.
pub fn small_disk() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root mounts a small disk");
    let folder = tempfile::tempdir()?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).output()?;
    let said = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
    ensure!(mounted.status.success(), "a small disk cannot be mounted here: {said}");
    let unmounted = Command::new("umount").arg(folder.path()).status()?;
    ensure!(unmounted.success(), "{} could not be unmounted", folder.path().display());
    Ok(())
}
