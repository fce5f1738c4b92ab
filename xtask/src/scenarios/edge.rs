//! The front door at its documented limits, before the same processes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::client::{Answer, Ask, Http, block, spawn};
use super::system::System;
use super::world;
use crate::net::free_port;
use crate::servers::{Nginx, NginxOptions};
use crate::stack::Stack;

/// No address of this machine.
const ELSEWHERE: &str = "192.0.2.1";
/// `proxy_read_timeout` of commands in nginx/templates, and a little.
const COMMAND_TOLD_WITHIN: Duration = Duration::from_millis(2_500);
/// R14 of reliability-security.md for GETs, and what a busy machine adds to timers and to the way there and back.
const READ_TOLD_WITHIN: Duration = Duration::from_millis(2_000 + 500);
/// A GET that waits two seconds for its position is given up by Nginx a little after them.
const WAITING_READ_TOLD_WITHIN: Duration = Duration::from_millis(2_200 + 500);
/// So long a GET takes at least that met what stands still, be it answered by another replica or not at all.
const MET_AFTER: Duration = Duration::from_millis(1_300);
/// Long enough for caches to be too old, and for GETs that began after that.
const STANDS_STILL: Duration = Duration::from_secs(4);

pub fn default_limits(system: &mut System) -> Result<String> {
    let stack = system.stack()?;
    let ports =
        |prefix: &str| stack.roles.iter().filter(|role| role.name().starts_with(prefix)).map(|role| role.port()).collect();
    let mut options = NginxOptions::new(free_port()?, ports("command-"), ports("query-"));
    options.operator_allow = vec![ELSEWHERE.to_owned()];
    let mut nginx = Nginx::start(&stack.dir().join("nginx-at-defaults"), &options)?;
    let http = Http::new(&nginx.url())?;
    let outcome = (|| -> Result<String> {
        let refused = operator_routes(&http)?;
        own_problems(&http)?;
        let (judged, limited) = logins(&http)?;
        let api = api_limit(&http)?;
        Ok(format!(
            "{limited} of {} logins 429 at {judged} let through, {api} of 400 GETs 429; {refused} operator calls 403; 404 and 413 of Nginx' own",
            limited + judged
        ))
    })();
    nginx.stop()?;
    // The address that is allowed is let in: the rule is about addresses.
    let allowed = system.http()?.get("/metrics").now()?.expect(200)?;
    ensure!(allowed.text().contains("casitas_"), "no metrics: {allowed}");
    outcome
}

/// Every command-api stands still: commands are told so within their bound, and reads go on.
pub fn stopped_commands(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let body = world::unit_body(&property, &world::fresh("U"));
    let stack = system.stack()?;
    let commands = |stack: &Stack, on: bool| {
        for role in stack.roles.iter().filter(|role| role.name().starts_with("command-")) {
            if on { role.pause() } else { role.resume() }
        }
    };
    commands(stack, true);
    let outcome = (|| -> Result<(Duration, Duration)> {
        let began = Instant::now();
        let told = admin.post("/units", &body).key("of-a-stopped-one").now()?.problem(504, "UNAVAILABLE")?;
        let command = began.elapsed();
        ensure!(told["detail"].as_str().is_some_and(|detail| detail.contains("Idempotency-Key")), "{told}");
        let began = Instant::now();
        admin.get("/units?limit=1").now()?.expect(200)?;
        Ok((command, began.elapsed()))
    })();
    commands(stack, false);
    let (command, read) = outcome?;
    ensure!(command < COMMAND_TOLD_WITHIN, "a command was told after {command:?}");
    // The same once more, as it was told to: done once, by whichever of the two came through.
    let [first, second] =
        [0, 1].map(|_| admin.post("/units", &body).key("of-a-stopped-one").now().and_then(Answer::success));
    let (first, second) = (first?.id()?, second?.id()?);
    ensure!(first == second, "done twice: {first} and {second}");
    Ok(format!("a command got 504 after {} ms, a read 200 after {} ms", command.as_millis(), read.as_millis()))
}

/// A replica stands still, then Postgres does: each GET is answered in time, with what was asked for or with a problem that says when
/// to ask again.
pub fn stopped_reads(system: &mut System) -> Result<String> {
    let admin = world::admin(system)?;
    let property = world::property(&admin)?;
    let (_, position) = world::unit(&admin, &property, &world::fresh("U"))?;
    admin.get("/units?limit=1").after(&position, 10).now()?.expect(200)?;
    let stack = system.stack()?;
    stack.role("query-1")?.pause();
    let replica = reads_meanwhile(&admin, &position);
    stack.role("query-1")?.resume();
    let replica = replica.context("a replica that stands still")?;
    ensure!(replica.answered > 0, "the other replica answered none: {replica}");
    answered_again(&admin)?;
    stack.postgres.pause();
    let postgres = reads_meanwhile(&admin, &position);
    stack.postgres.resume();
    let postgres = postgres.context("Postgres standing still")?;
    ensure!(postgres.told > 0, "nobody was told of it: {postgres}");
    answered_again(&admin)?;
    system.caught_up()?;
    Ok(format!("a replica stopped: {replica}; Postgres stopped: {postgres}"))
}

/// What GETs came to.
#[derive(Default)]
struct Reads {
    answered: usize,
    /// With a problem.
    told: usize,
    slowest: Duration,
    slowest_waiting: Duration,
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { answered, told, slowest, slowest_waiting } = self;
        let (slowest, waiting) = (slowest.as_millis(), slowest_waiting.as_millis());
        write!(f, "{answered} GETs 200, {told} a problem, the slowest {slowest} ms, {waiting} ms with a position")
    }
}

fn reads_meanwhile(admin: &Http, position: &str) -> Result<Reads> {
    let began = Instant::now();
    let mut reads = Reads::default();
    let mut turn = 0;
    while began.elapsed() < STANDS_STILL {
        turn += 1;
        // Nginx answers a repeated address of the public list by itself.
        let list = format!("/units/available?max_price={}", 4_000_000 + turn);
        // At first so many that each replica gets some, and none that waits: whichever meets what stands still sends the next
        // ones elsewhere for a while, and one that waits would take longer to.
        let mut asked: Vec<(Ask, bool)> = vec![(admin.get("/units?limit=1"), false), (admin.anonymous().get(&list), false)];
        if turn == 1 {
            asked.extend((0..8).map(|_| (admin.get("/units?limit=1"), false)));
        } else {
            asked.push((admin.get("/units?limit=1").after(position, 2), true));
        }
        let tasks: Vec<_> = asked.into_iter().map(|(ask, waits)| (spawn(timed(ask)), waits)).collect();
        for (task, waits) in tasks {
            let (answer, took) = block(task)?;
            let answer = answer?;
            let within = if waits { WAITING_READ_TOLD_WITHIN } else { READ_TOLD_WITHIN };
            ensure!(took < within, "{took:?} for {answer}");
            let slowest = if waits { &mut reads.slowest_waiting } else { &mut reads.slowest };
            *slowest = took.max(*slowest);
            match answer.status {
                200 => reads.answered += 1,
                502..=504 => {
                    answer.any_problem()?;
                    ensure!(answer.header("retry-after").is_some(), "no Retry-After: {:?}", answer.headers);
                    reads.told += 1;
                }
                _ => bail!("{answer}"),
            }
        }
        // Not as many as the machine takes: what is slow must not be slow for that.
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(reads.slowest >= MET_AFTER, "no GET met what stands still: {reads}");
    Ok(reads)
}

async fn timed(ask: Ask) -> (Result<Answer>, Duration) {
    let began = Instant::now();
    (ask.send().await, began.elapsed())
}

/// By both replicas, for all that can be told: several in a row.
fn answered_again(admin: &Http) -> Result<()> {
    let ask = admin.get("/units?limit=1");
    let ask = &ask;
    block(super::client::until("GETs answered again", Duration::from_secs(20), || async move {
        for _ in 0..6 {
            if ask.send().await?.status != 200 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }))
}

fn forged(turn: usize) -> [(&'static str, String); 4] {
    let address = format!("10.0.{}.{}", turn / 250, turn % 250);
    [
        ("x-forwarded-for", address.clone()),
        ("x-real-ip", address.clone()),
        ("forwarded", format!("for={address}")),
        ("x-forwarded-for", "127.0.0.1".to_owned()),
    ]
}

/// A login a time from ever new forged addresses: the limit is about the real one.
fn logins(http: &Http) -> Result<(usize, usize)> {
    let body = json!({"username": "nobody-here", "password": "wrong-password"});
    let (mut judged, mut limited) = (0, 0);
    for turn in 0..30 {
        // Both names of the route, in both versions, are one limit.
        let path = ["/login", "/auth/login", "/v1/login", "/v1/auth/login"][turn % 4];
        let mut ask = http.post(path, &body);
        for (name, value) in forged(turn) {
            ask = ask.header(name, &value);
        }
        let answer = ask.now()?;
        match answer.status {
            429 => {
                answer.problem(429, "RATE_LIMITED").with_context(|| path.to_owned())?;
                ensure!(answer.header("retry-after").is_some(), "no Retry-After: {:?}", answer.headers);
                limited += 1;
            }
            _ => {
                answer.problem(401, "INVALID_CREDENTIALS")?;
                judged += 1;
            }
        }
    }
    // Ten at once and one more, ten a minute after that.
    ensure!((11..=14).contains(&judged), "{judged} of 30 logins were let through");
    Ok((judged, limited))
}

fn operator_routes(http: &Http) -> Result<usize> {
    let mut refused = 0;
    for path in ["/metrics", "/readyz", "/readyz?verbose", "/ops/parked", "/v1/metrics", "/v1/readyz?verbose"] {
        http.get(path).now()?.problem(403, "FORBIDDEN").with_context(|| path.to_owned())?;
        let lies = ["x-forwarded-for", "x-real-ip", "forwarded", "x-client-ip", "true-client-ip"];
        for claim in [ELSEWHERE, "127.0.0.1"] {
            let ask = lies.iter().fold(http.get(path), |ask, name| ask.header(name, claim));
            ask.now()?.problem(403, "FORBIDDEN").with_context(|| format!("{path} claiming {claim}"))?;
        }
        refused += 3;
    }
    // What a load balancer asks is no secret.
    http.get("/livez").now()?.expect(200)?;
    Ok(refused)
}

fn own_problems(http: &Http) -> Result<()> {
    http.get("/.problems/bad_request").now()?.problem(404, "NOT_FOUND")?;
    let large = vec![b' '; 70 * 1024];
    http.request("POST", "/properties").raw("application/json", large).now()?.problem(413, "PAYLOAD_TOO_LARGE")?;
    let long = format!("/units/available?city={}", "a".repeat(10_000));
    http.get(&long).now()?.problem(414, "URI_TOO_LONG")?;
    Ok(())
}

/// More than the burst at once.
fn api_limit(http: &Http) -> Result<usize> {
    let tasks: Vec<_> = (0..400)
        .map(|turn| {
            let mut ask = http.get("/units/available?limit=1");
            for (name, value) in forged(turn) {
                ask = ask.header(name, &value);
            }
            spawn(async move { ask.send().await })
        })
        .collect();
    let mut limited = 0;
    for task in tasks {
        let answer: Answer = block(task)??;
        match answer.status {
            429 => {
                answer.problem(429, "RATE_LIMITED")?;
                limited += 1;
            }
            _ => drop(answer.expect(200)?),
        }
    }
    ensure!(limited > 100, "only {limited} of 400 GETs at once were refused");
    // And it passes.
    let probe = http.get("/units/available?limit=1");
    let probe = &probe;
    block(super::client::until("an answer again", Duration::from_secs(10), || async move {
        Ok((probe.send().await?.status == 200).then_some(()))
    }))?;
    Ok(limited)
}
