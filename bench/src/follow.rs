//! Following: how fast the projector folds events into all read models of a context, live and after a stand-still.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use domain::Context;

use crate::bench::{Bench, Part, Round};
use crate::figure::{Check, Compare, Curve, Outcome};
use crate::portfolio::change;
use crate::product::{Inside, Product, Shelf, chained};
use crate::tally::Tally;

const UNITS: usize = 1_000;
const WITHIN: Duration = Duration::from_secs(600);
const FOLDED: &str = "events of the log folded by every read model of units";

pub struct Follow {
    shelf: Shelf,
    sizes: Vec<usize>,
    tally: Tally,
}

impl Follow {
    pub fn new(shelf: Shelf) -> Self {
        Self { shelf, sizes: vec![10_000, 100_000], tally: Tally::default() }
    }

    fn measure(&mut self, bench: &Bench, round: &mut Round<'_>, product: &mut Product) -> Result<()> {
        let inside = bench.block(async { product.inside(4) })?;
        bench.block(inside.caught_up(Context::Units))?;
        for events in self.sizes.clone() {
            let ids = &product.portfolio.ids[..UNITS];
            let before = bench.block(head(&inside))?;
            round.measure(live(events), "events/s", || {
                let started = Instant::now();
                bench.block(async {
                    change(&inside.handler, ids, events).await?;
                    inside.caught_up(Context::Units).await
                })?;
                Ok(Outcome::plain(events as f64 / started.elapsed().as_secs_f64()))
            })?;
            self.count(bench, &inside, before, events)?;
        }
        for events in self.sizes.clone() {
            let before = bench.block(head(&inside))?;
            product.stack.role("projector")?.stop()?;
            bench.block(change(&inside.handler, &product.portfolio.ids[..UNITS], events))?;
            let projector = product.stack.role("projector")?;
            round.measure(backlog(events), "events/s", || {
                projector.start_unready()?;
                bench.block(from_first_to_last(&inside, before))
            })?;
            self.count(bench, &inside, before, events)?;
        }
        Ok(())
    }

    fn count(&mut self, bench: &Bench, inside: &Inside, before: u64, events: usize) -> Result<()> {
        let appended = bench.block(head(inside))? - before;
        let wrong = (appended != events as u64).then(|| format!("{events} commands, {appended} events"));
        self.tally.add(FOLDED, appended, wrong);
        Ok(())
    }
}

/// From the first moved checkpoint to the last model at the head, so that the process' start is not in it.
async fn from_first_to_last(inside: &Inside, before: u64) -> Result<Outcome> {
    let head = head(inside).await?;
    let asked = Instant::now();
    let mut began: Option<(Instant, u64)> = None;
    loop {
        let heads = inside.views.heads().await.map_err(chained)?;
        let positions: Vec<u64> = models()
            .iter()
            .filter_map(|name| heads.iter().find(|h| h.model == *name))
            .map(|h| h.checkpoint.position)
            .collect();
        let (least, most) = (positions.iter().min().copied().unwrap_or(0), positions.iter().max().copied().unwrap_or(0));
        if began.is_none() && most > before {
            began = Some((
                Instant::now(),
                positions.iter().map(|position| position - before).sum::<u64>() / positions.len() as u64,
            ));
        }
        if least >= head {
            let (at, folded) = began.unwrap_or((asked, 0));
            return Ok(Outcome::plain((head - before - folded) as f64 / at.elapsed().as_secs_f64()));
        }
        ensure!(asked.elapsed() < WITHIN, "a read model is at {least} of {head} after {} s", WITHIN.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The read models of units.
fn models() -> Vec<&'static str> {
    read_models::all()
        .iter()
        .map(|model| model.spec())
        .filter(|spec| spec.context == Context::Units)
        .map(|s| s.name)
        .collect()
}

async fn head(inside: &Inside) -> Result<u64> {
    Ok(inside.logs.get(Context::Units).map_err(chained)?.head().await.map_err(chained)?.position)
}

fn live(events: usize) -> String {
    format!("live: {events} commands of 256 callers, until every view shows them")
}

fn backlog(events: usize) -> String {
    format!("backlog of {events} events, into every view of units")
}

impl Part for Follow {
    fn name(&self) -> &'static str {
        "follow"
    }

    fn compares(&self) -> Vec<Compare> {
        Vec::new()
    }

    fn curves(&self) -> Vec<Curve> {
        let points = |name: fn(usize) -> String| self.sizes.iter().map(|size| (*size as f64, name(*size))).collect();
        vec![Curve {
            file: "follow".to_owned(),
            title: "Events folded into all views of units".to_owned(),
            x: "events",
            y: "events/s",
            series: vec![("live".to_owned(), points(live)), ("backlog".to_owned(), points(backlog))],
        }]
    }

    fn setup(&mut self, bench: &Bench) -> Result<()> {
        self.sizes = bench.size(vec![10_000, 100_000], vec![3_000]);
        self.shelf.with(bench, UNITS, |_| Ok(()))
    }

    fn round(&mut self, bench: &Bench, round: &mut Round<'_>) -> Result<()> {
        let shelf = self.shelf.clone();
        shelf.with(bench, 0, |product| self.measure(bench, round, product))
    }

    fn checks(&self) -> Vec<Check> {
        self.tally.checks()
    }

    fn notes(&self) -> Vec<String> {
        vec![format!("each event is folded by {} read models ({})", models().len(), models().join(", "))]
    }
}
