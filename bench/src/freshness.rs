//! Freshness: from a command's acknowledgement until a cached GET shows it, asked without a token and as fast as it answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::Method;
use serde_json::json;

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Outcome, Stat, histogram, record};
use crate::product::{Product, Shelf};
use crate::rows::number;
use crate::tally::Tally;
use crate::wire::Wire;
use crate::writer::Writer;

const UNITS: usize = 1_000;
const PACES: [u64; 2] = [0, 500];
/// An answer that does not show the command after this long is wrong: the promised bound is one second, and one is allowed for
/// a full machine.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// What was changed is on one list; the writer's units are others.
const APART: usize = 100;

/// From one GET to the next: a client that asked as fast as it is answered would take a core from those it waits for.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// Commands watched at least, whatever the time: the p99 of fewer would be their worst. With `--quick` a fifth of them, and a fiftieth of those
/// that only polling shows: each waits for it.
const COMMANDS_MIN: u64 = 1_000;
/// Where so many cannot be had, what was had by then counts.
const TIME_MAX: Duration = Duration::from_secs(90);

/// An area that the unit never had, in this round or another.
static AREAS: AtomicU64 = AtomicU64::new(0);

const SEEN: &str = "commands seen by a GET within two seconds";
const WRITTEN: &str = "commands beside them, at their pace and in the log";

pub struct Freshness {
    shelf: Shelf,
    /// In the store: as many as the parts before have made, where others run.
    units: usize,
    tally: Tally,
}

impl Freshness {
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, units: 0, tally: Tally::default() }
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>, product: &mut Product) -> Result<()> {
        let enough = Enough { time: bench.run_time() * 2, commands: bench.size(COMMANDS_MIN, COMMANDS_MIN / 5) };
        for pace in PACES {
            let token = bench.block(product.token())?;
            let writer = match pace {
                0 => None,
                _ => {
                    let ids = &product.portfolio.ids;
                    Some(Writer::start(bench, product, &token, &ids[APART..APART + UNITS], pace)?)
                }
            };
            let mut watched = Watched::default();
            let name = name(pace, self.units);
            let taken = round.measure(name, "ms", || bench.block(follow(product, &token, enough, &mut watched)));
            if let Some(writer) = writer {
                self.tally.collect(writer.stop(bench, product, WRITTEN)?);
            }
            taken?;
            self.tally.add(SEEN, watched.seen, watched.missed);
        }
        let token = bench.block(product.token())?;
        product.stack.redis.stop()?;
        // The product notices that Redis is away; what was cached in process stays.
        std::thread::sleep(Duration::from_secs(1));
        let mut watched = Watched::default();
        let enough = Enough { commands: bench.size(COMMANDS_MIN, COMMANDS_MIN / 50), ..enough };
        let taken = round.measure(polling(self.units), "ms", || bench.block(follow(product, &token, enough, &mut watched)));
        product.stack.redis.start_again()?;
        taken?;
        self.tally.add(SEEN, watched.seen, watched.missed);
        // Everybody is connected again.
        std::thread::sleep(Duration::from_millis(1_500));
        Ok(())
    }
}

/// When to stop.
#[derive(Clone, Copy)]
struct Enough {
    time: Duration,
    commands: u64,
}

#[derive(Default)]
struct Watched {
    seen: u64,
    missed: Vec<String>,
}

fn name(pace: u64, units: usize) -> String {
    format!("acknowledged -> visible, {pace} commands/s, {} units", number(units as f64))
}

/// There is no switch for hints: without Redis there are none, and every follower polls.
fn polling(units: usize) -> String {
    format!("acknowledged -> visible, polling alone (Redis stopped), 0 commands/s, {} units", number(units as f64))
}

/// One command after the other, each watched until the list of its house shows it.
async fn follow(product: &Product, token: &str, enough: Enough, watched: &mut Watched) -> Result<Outcome> {
    let mut commands = Wire::to(product.role_port("command-api")?).await?;
    let mut reads = Wire::to(product.role_port("query-1")?).await?;
    let unit = product.portfolio.ids.first().context("no unit")?;
    let house = product.portfolio.property_of(0).context("no property")?;
    let (patch, list) = (format!("/units/{unit}"), format!("/units/available?property_id={house}&limit=100"));
    let mut ages = histogram();
    let began = Instant::now();
    while began.elapsed() < TIME_MAX && (began.elapsed() < enough.time || ages.len() < enough.commands) {
        // Beyond what the other parts set, and up to the 100,000 that are allowed.
        let area = 10_000 + AREAS.fetch_add(1, Ordering::Relaxed) % 90_000;
        commands.ask(Method::PATCH, &patch, Some(token), &[], Some(&json!({"area_m2": area}))).await?.expect(200)?;
        let acknowledged = Instant::now();
        match shown(&mut reads, &list, area, acknowledged).await? {
            Some(age) => {
                watched.seen += 1;
                record(&mut ages, age);
            }
            None => watched.missed.push(format!("area {area} was not seen within {} s", SEEN_WITHIN.as_secs())),
        }
        // Not in step with anybody's polling.
        tokio::time::sleep(Duration::from_micros(200 + area * 7_919 % 4_000)).await;
    }
    Ok(Outcome::latencies(&ages))
}

/// How long it took until an answer showed the area; `None` when none did.
async fn shown(reads: &mut Wire, list: &str, area: u64, acknowledged: Instant) -> Result<Option<Duration>> {
    let text = format!("\"area_m2\":{area},");
    loop {
        let asked = tokio::time::Instant::now();
        let answer = reads.get(list, None).await?.expect(200)?;
        let age = acknowledged.elapsed();
        if contains(&answer.body, text.as_bytes()) {
            return Ok(Some(age));
        }
        if age > SEEN_WITHIN {
            return Ok(None);
        }
        tokio::time::sleep_until(asked + ASK_EVERY).await;
    }
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
            PACES.iter().map(|pace| Compare::bound(name(*pace, self.units), Stat::P99).at_most(25.0)).collect();
        compares.push(Compare::ratio(name(0, self.units), polling(self.units)));
        compares
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        self.units = self.shelf.with(bench, UNITS + APART, |product| Ok(product.portfolio.units()))?;
        Ok(())
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
            "one client changes a unit and asks query-1 for the list of its house, each millisecond or two, until it shows; the \
             time for the answer, and up to that millisecond or two, is in it"
                .to_owned(),
            format!(
                "each figure is of {COMMANDS_MIN} commands at least (--quick: {}, {} by polling alone), one after the other",
                COMMANDS_MIN / 5,
                COMMANDS_MIN / 50
            ),
        ]
    }
}
