//! Freshness: from a command's acknowledgement until a cached GET shows it, asked without a token and as fast as it answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::Method;
use serde_json::json;

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Outcome, Stat, histogram, record};
use crate::product::{Product, Shelf};
use crate::tally::Tally;
use crate::wire::{Wire, Writer};

const UNITS: usize = 1_000;
const PACES: [u64; 2] = [0, 500];
/// An answer that does not show the command after this long is wrong: the promised bound is one second, and one is allowed for
/// a full machine.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// What was changed is on one list; the writer's units are others.
const APART: usize = 100;

/// An area that the unit never had, in this round or another.
static AREAS: AtomicU64 = AtomicU64::new(0);

const SEEN: &str = "commands seen by a GET within two seconds";
const WRITTEN: &str = "commands beside them acknowledged, at their pace";
/// There is no switch for hints: without Redis there are none, and every follower polls.
const POLLING: &str = "acknowledged -> visible, polling alone (Redis stopped), 0 commands/s";

pub struct Freshness {
    shelf: Shelf,
    tally: Tally,
}

impl Freshness {
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, tally: Tally::default() }
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>, product: &mut Product) -> Result<()> {
        let time = bench.run_time() * 2;
        for pace in PACES {
            let token = bench.block(product.token())?;
            let writer = match pace {
                0 => None,
                _ => Some(bench.block(beside(product, &token, pace))?),
            };
            let mut missed = Vec::new();
            let taken = round.measure(name(pace), "ms", || bench.block(follow(product, &token, time, &mut missed)));
            if let Some(writer) = writer {
                let (rate, wrong) = bench.block(writer.stop());
                self.tally.add(WRITTEN, rate as u64, wrong);
            }
            self.seen(taken?, missed);
        }
        let token = bench.block(product.token())?;
        product.stack.redis.stop()?;
        // The product notices that Redis is away; what was cached in process stays.
        std::thread::sleep(Duration::from_secs(1));
        let mut missed = Vec::new();
        let taken = round.measure(POLLING, "ms", || bench.block(follow(product, &token, time, &mut missed)));
        product.stack.redis.start_again()?;
        self.seen(taken?, missed);
        // Everybody is connected again.
        std::thread::sleep(Duration::from_millis(1_500));
        Ok(())
    }

    fn seen(&mut self, outcome: Outcome, missed: Vec<String>) {
        self.tally.add(SEEN, u64::from(outcome.p50_ms.is_some()), missed);
    }
}

fn name(pace: u64) -> String {
    format!("acknowledged -> visible, {pace} commands/s")
}

async fn beside(product: &Product, token: &str, pace: u64) -> Result<Writer> {
    let units: Vec<String> = product.portfolio.ids.iter().skip(APART).take(UNITS).map(ToString::to_string).collect();
    let writer = Writer::start(product.role_port("command-api")?, token, &units, pace);
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(writer)
}

/// One command after the other, each watched until the list of its house shows it.
async fn follow(product: &Product, token: &str, time: Duration, missed: &mut Vec<String>) -> Result<Outcome> {
    let mut commands = Wire::to(product.role_port("command-api")?).await?;
    let mut reads = Wire::to(product.role_port("query-1")?).await?;
    let unit = product.portfolio.ids.first().context("no unit")?;
    let house = product.portfolio.property_of(0).context("no property")?;
    let (patch, list) = (format!("/units/{unit}"), format!("/units/available?property_id={house}&limit=100"));
    let mut ages = histogram();
    let ends = Instant::now() + time;
    while Instant::now() < ends {
        // Beyond what the other parts set, and up to the 100,000 that are allowed.
        let area = 10_000 + AREAS.fetch_add(1, Ordering::Relaxed) % 90_000;
        commands.ask(Method::PATCH, &patch, Some(token), &[], Some(&json!({"area_m2": area}))).await?.expect(200)?;
        let acknowledged = Instant::now();
        let shown = format!("\"area_m2\":{area},");
        loop {
            let answer = reads.get(&list, None).await?.expect(200)?;
            let age = acknowledged.elapsed();
            if contains(&answer.body, shown.as_bytes()) {
                record(&mut ages, age);
                break;
            }
            if age > SEEN_WITHIN {
                missed.push(format!("area {area} was not seen within {} s", SEEN_WITHIN.as_secs()));
                break;
            }
        }
        // Not in step with anybody's polling.
        tokio::time::sleep(Duration::from_micros(200 + area * 7_919 % 4_000)).await;
    }
    Ok(Outcome::latencies(&ages))
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

impl Part for Freshness {
    fn name(&self) -> &'static str {
        "freshness"
    }

    fn compares(&self) -> Vec<Compare> {
        let mut compares: Vec<Compare> =
            PACES.iter().map(|pace| Compare::bound(name(*pace), Stat::P99).at_most(25.0)).collect();
        compares.push(Compare::ratio(name(0), POLLING));
        compares
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        self.shelf.with(bench, UNITS + APART, |_| Ok(()))
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let shelf = self.shelf.clone();
        shelf.with(bench, 0, |product| self.measure(bench, round, product))
    }

    fn checks(&self) -> Vec<Check> {
        self.tally.checks()
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "one client changes a unit and asks query-1 for the list of its house until it shows; the time for the answer is in it"
                .to_owned(),
        ]
    }
}
