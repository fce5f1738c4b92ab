//! The clients: they issue commands, repeat what they do not know the outcome of, and write down what they were told.

mod leases;
mod readers;
mod reports;
mod writers;

use std::time::Duration;

use commands::{CommandError, Done, Issue, Key, Step};
use domain::Timestamp;
use domain::units::UnitCommand;
use ports::{Error, Keep, Position};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;
use uuid::Uuid;

use crate::world::World;

pub use readers::read;
pub use writers::{add_units, unit_id, write};
pub use {leases::rent, reports::order};

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Done(Done),
    Refused(String),
    KeyReused,
    /// Nothing was done: unavailable, full, in flight.
    NotDone(&'static str),
    Unknown,
}

/// One command sent to one process.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub unit: Uuid,
    pub command: UnitCommand,
    pub key: Option<String>,
    /// Its events carry it.
    pub correlation: Uuid,
    pub called_at: Timestamp,
    pub answered_at: Timestamp,
    /// The log's head at the call and at the answer.
    pub heads: (Position, Position),
    pub told: Told,
}

pub fn uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

async fn pause(rng: &mut StdRng, from_ms: u64, to_ms: u64) {
    sleep(Duration::from_millis(rng.random_range(from_ms..=to_ms))).await;
}

fn some_writer(world: &World, rng: &mut StdRng) -> String {
    format!("w{}", rng.random_range(0..world.plan.writers))
}

/// Sends a command to a process; what came back, or that the connection broke.
async fn send(world: &World, writer: &str, issue: &Issue, steps: &[Box<dyn Step>]) -> Told {
    let Some((proc, handler)) = world.writer(writer) else { return Told::NotDone("nobody answers") };
    let outcome = tokio::select! {
        biased;
        () = proc.died.cancelled() => return Told::Unknown,
        outcome = handler.execute(issue, steps) => outcome,
    };
    told(world, outcome)
}

fn told(world: &World, outcome: Result<Done, CommandError>) -> Told {
    match outcome {
        Ok(done) => Told::Done(done),
        Err(CommandError::Refused(refusal)) => Told::Refused(refusal.code),
        Err(CommandError::StaleVersion { .. }) => Told::Refused("STALE_VERSION".into()),
        Err(CommandError::KeyReused) => Told::KeyReused,
        Err(CommandError::KeyInFlight) => Told::NotDone("key in flight"),
        Err(CommandError::Port(Error::Unavailable { .. })) => Told::NotDone("unavailable"),
        Err(CommandError::Port(Error::Full(_))) => Told::NotDone("full"),
        Err(CommandError::Port(Error::Conflict(_))) => Told::NotDone("conflict"),
        Err(CommandError::Port(Error::UnknownOutcome { .. })) => Told::Unknown,
        Err(CommandError::Port(error)) => {
            world.violation(format!("a command failed with {}", error.chain()));
            Told::Unknown
        }
    }
}

fn keyed(key: &str, hash: &str) -> Key {
    Key { scope: "user:sim".into(), key: key.into(), request_hash: hash.into(), keep: Keep::Days30, settles: false }
}

/// Sends a command with a key until its outcome is known.
async fn insist(world: &World, rng: &mut StdRng, key: &str, step: impl Fn() -> Box<dyn Step>) -> Told {
    loop {
        let mut issue = Issue::by("user:sim");
        issue.key = Some(keyed(key, "same"));
        let writer = some_writer(world, rng);
        match send(world, &writer, &issue, &[step()]).await {
            Told::NotDone(_) | Told::Unknown => pause(rng, 20, 300).await,
            told => return told,
        }
    }
}
