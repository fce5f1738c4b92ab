//! GETs, each judged against the history of the view store as soon as it is answered.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{Context, Timestamp};
use ports::{EventLog, ModelSpec, Position, Result, ViewSnapshot};
use query_api::{Body, MinPosition, Query, Served, Sharing, Wish};
use rand::Rng;
use read_models::available_units::{AvailableUnitsFilter, SPEC, available_units};
use read_models::{Answer, PageRequest, Tag, find};
use serde_json::Value;
use web::PositionToken;

use super::{pause, unit_id};
use crate::world::World;

/// The promised bound of a GET without a token.
const BOUND_MS: u64 = 1_000;

static MODELS: [&ModelSpec; 1] = [&SPEC];

#[derive(Clone)]
enum Asked {
    /// Under the key of the list that the projector keeps warm.
    List,
    Unit(String),
}

#[async_trait]
impl Query for Asked {
    fn models(&self) -> &'static [&'static ModelSpec] {
        &MODELS
    }
    fn key(&self) -> String {
        match self {
            Self::List => "list?page.limit=50".into(),
            Self::Unit(id) => format!("unit?id={id}"),
        }
    }
    /// All may be served outdated for a moment: the bound is judged the same.
    fn sharing(&self) -> Sharing {
        Sharing::Public
    }
    async fn run(&self, snapshot: &mut dyn ViewSnapshot, now: Timestamp) -> Result<Option<Body>> {
        match self {
            Self::List => {
                let (filter, page) = (AvailableUnitsFilter::default(), PageRequest::default());
                Body::page(available_units(snapshot, &filter, &page, now).await?)
            }
            Self::Unit(id) => {
                let value: Option<Value> = find(snapshot, SPEC.name, id).await?;
                Body::found(Answer { value, tags: vec![Tag::row(SPEC.name, id.clone())], valid_until: None })
            }
        }
    }
}

pub async fn read(world: Arc<World>, index: usize) {
    let mut rng = world.fate.rng_for(&format!("reader {index}"));
    let incarnation = world.logs[&Context::Units].inner.head().await.map(|head| head.incarnation).ok();
    while world.fate.now_ms() < world.plan.ends_ms() {
        pause(&mut rng, 1, 40).await;
        let asked = match rng.random_range(0..=world.plan.units) {
            0 => Asked::List,
            unit => Asked::Unit(unit_id(unit - 1).to_string()),
        };
        let tokens = world.acknowledged.lock().expect("nothing panics under this lock").clone();
        let token = rng.random_bool(0.4).then(|| tokens.last().copied()).flatten();
        let wish = Wish {
            token: MinPosition::from(Vec::from_iter(token.map(|position| PositionToken {
                context: Context::Units,
                position,
                incarnation,
            }))),
            wait: Duration::from_millis(if rng.random_bool(0.3) { 50 } else { 2_000 }),
        };
        let replica = format!("q{}", rng.random_range(0..world.plan.replicas));
        let Some((proc, reader)) = world.replica(&replica) else { continue };
        let (arrived_ms, arrived_at) = (world.fate.now_ms(), world.clock.now());
        let answer = tokio::select! {
            biased;
            () = proc.died.cancelled() => continue,
            answer = reader.read(Arc::new(asked.clone()), &wish) => answer,
        };
        match answer {
            Ok(served) => {
                count(&world, served.as_ref());
                judge(&world, &asked, served.as_ref(), token.unwrap_or(0), arrived_ms, arrived_at).await;
            }
            Err(_) => world.fate.count("GET failed"),
        }
    }
}

fn count(world: &World, served: Option<&Served>) {
    let source = served.map_or_else(|| "nothing".to_owned(), |served| format!("{:?}", served.source));
    world.fate.count(&format!("GET {source}"));
}

/// The answer must be what the query says of some state that the view store had within the bound, at or after the token.
async fn judge(
    world: &World,
    asked: &Asked,
    served: Option<&Served>,
    token: Position,
    arrived_ms: u64,
    arrived_at: Timestamp,
) {
    let history = world.views.history();
    let oldest = history.iter().rposition(|moment| moment.from_ms + BOUND_MS <= arrived_ms).unwrap_or(0);
    let body = served.map(|served| served.entry.plain.clone());
    let mut instants = vec![arrived_at, world.clock.now()];
    instants.extend(served.map(|served| served.entry.computed_at).filter(|at| *at >= arrived_at));
    let mut tried = Vec::new();
    for moment in history.iter().skip(oldest).filter(|moment| moment.position >= token) {
        tried.push(moment.position);
        let mut snapshot = moment.snapshot.lock().await;
        for now in &instants {
            let expected = asked.run(&mut **snapshot, *now).await;
            if expected.is_ok_and(|expected| expected.map(|body| body.bytes) == body) {
                return;
            }
        }
    }
    let source = served.map(|served| served.source);
    let what = match asked {
        Asked::List => "the list".to_owned(),
        Asked::Unit(id) => format!("unit {id}"),
    };
    world.violation(format!(
        "a GET of {what} (arrived at {arrived_ms}, token {token}, from {source:?}) shows none of the states {tried:?}"
    ));
}
