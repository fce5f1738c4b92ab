//! The commands that are measured, ours and the peers' alike: a property is registered; a property's owners are named anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adapters::inprocess::InProcessHints;
use adapters::postgres::{PostgresLog, PostgresServer};
use commands::{Handler, Issue, Key, step};
use domain::units::{Address, OwnerShare, Property, PropertyCommand, PropertyEvent, PropertyType, RegisterProperty};
use domain::{Context, Currency, Date, PartyId, PropertyId};
use ports::{EventLog, Keep, Logs, MasterKey, Sealer, SystemClock};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::drive::{Ack, Caller};

/// The history that an existing aggregate has when a run begins.
pub const HISTORY: usize = 20;

/// A create whose event is about 300 bytes of JSON; `marker` is its only owner.
pub fn registration(id: Uuid, marker: Uuid) -> RegisterProperty {
    RegisterProperty {
        property_id: PropertyId(id),
        name: "Elm House".into(),
        property_type: PropertyType::Condominium,
        address: Address {
            line1: "1 Elm St".into(),
            line2: None,
            city: "Bogota".into(),
            region: None,
            postal_code: None,
            country: "CO".into(),
        },
        time_zone: "Etc/UTC".into(),
        currency: currency(),
        jurisdiction: "CO".into(),
        owners: vec![OwnerShare { party_id: PartyId(marker), share_bp: 10_000 }],
    }
}

fn currency() -> Currency {
    Currency::new("COP").unwrap_or_else(|| unreachable!("COP is a currency"))
}

/// The same as a request's body.
pub fn registration_body(marker: Uuid) -> Value {
    let mut body = serde_json::to_value(registration(Uuid::nil(), marker)).unwrap_or_default();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("property_id");
    }
    body
}

pub fn register(id: Uuid, marker: Uuid) -> PropertyCommand {
    PropertyCommand::RegisterProperty(registration(id, marker))
}

/// Names three owners, the first of them new, so that it is never a repetition.
pub fn assignment(marker: Uuid) -> (Vec<OwnerShare>, Date) {
    let known = |n| OwnerShare { party_id: PartyId(Uuid::from_u128(n)), share_bp: 3_000 };
    let first = OwnerShare { party_id: PartyId(marker), share_bp: 4_000 };
    (vec![first, known(1), known(2)], Date::constant(2026, 1, 1))
}

/// The same as a request's body.
pub fn assignment_body(marker: Uuid) -> Value {
    let (owners, effective_on) = assignment(marker);
    json!({"owners": owners, "effective_on": effective_on})
}

pub fn assign(marker: Uuid) -> PropertyCommand {
    let (owners, effective_on) = assignment(marker);
    PropertyCommand::AssignOwners { owners, effective_on }
}

/// The events of a stream with a history, as they are stored: the first, and any later one.
pub fn history_payloads(id: Uuid) -> (String, String) {
    let (owners, effective_on) = assignment(Uuid::from_u128(3));
    let text = |event: &PropertyEvent| serde_json::to_string(event).unwrap_or_default();
    (
        text(&PropertyEvent::PropertyRegistered(registration(id, Uuid::from_u128(3)))),
        text(&PropertyEvent::OwnersAssigned { owners, effective_on }),
    )
}

/// The product's write path over a log, wired as the product does it, but for hints: nobody follows.
pub fn handler(log: Arc<dyn EventLog>) -> Handler {
    let sealer = Sealer::new(MasterKey::new([7; 32]));
    Handler::new(Logs::new([log]), sealer, Arc::new(SystemClock), Arc::new(InProcessHints::new()))
}

/// Over the units log of a migrated server. Within a runtime.
pub fn postgres_handler(server: &PostgresServer) -> Handler {
    handler(Arc::new(PostgresLog::connect(Context::Units, server)))
}

const ACTOR: &str = "user:01890000-0000-7000-8000-000000000001";
/// What only prepares a run may take as long as a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registers a property at each call.
#[derive(Clone)]
pub struct Creates {
    handler: Handler,
    keyed: bool,
    timeout: Duration,
}

impl Creates {
    /// As a caller of the API sends them.
    pub fn new(handler: &Handler, keyed: bool) -> Self {
        Self { handler: handler.clone(), keyed, timeout: Issue::TIMEOUT }
    }

    /// To fill a log.
    pub fn filling(handler: &Handler) -> Self {
        Self { timeout: PATIENCE, ..Self::new(handler, false) }
    }
}

impl Caller for Creates {
    async fn call(&mut self) -> Result<Ack, String> {
        let ack = Ack { aggregate: Uuid::now_v7(), marker: Uuid::now_v7() };
        let mut issue = Issue::by(ACTOR);
        issue.timeout = self.timeout;
        if self.keyed {
            issue.key = Some(Key {
                scope: format!("{ACTOR} POST /properties"),
                key: ack.marker.to_string(),
                // As long as the SHA-256 of a request.
                request_hash: format!("{:032x}{:032x}", ack.marker.as_u128(), ack.aggregate.as_u128()),
                keep: Keep::Days30,
                settles: false,
            });
            issue.remember = json!({"id": ack.aggregate});
        }
        let command = register(ack.aggregate, ack.marker);
        let done = self.handler.execute(&issue, &[step::<Property>(ack.aggregate.to_string(), command)]).await;
        done.map(|_| ack).map_err(|error| error.to_string())
    }
}

/// Names the owners of one property after the other, in a circle that it shares with no other caller.
#[derive(Clone)]
pub struct Assigns {
    handler: Handler,
    ids: Circle,
    timeout: Duration,
}

impl Assigns {
    /// A caller for each circle.
    pub fn deal(handler: &Handler, ids: Vec<Uuid>, callers: usize) -> Vec<Self> {
        let circles = Circle::deal(ids, callers).into_iter();
        circles.map(|ids| Self { handler: handler.clone(), ids, timeout: Issue::TIMEOUT }).collect()
    }
}

impl Caller for Assigns {
    async fn call(&mut self) -> Result<Ack, String> {
        let ack = Ack { aggregate: self.ids.next(), marker: Uuid::now_v7() };
        let steps = [step::<Property>(ack.aggregate.to_string(), assign(ack.marker))];
        let mut issue = Issue::by(ACTOR);
        issue.timeout = self.timeout;
        let done = self.handler.execute(&issue, &steps).await;
        done.map(|_| ack).map_err(|error| error.to_string())
    }
}

/// Every nth of some ids, round and round.
#[derive(Clone)]
pub struct Circle {
    ids: Arc<Vec<Uuid>>,
    first: usize,
    every: usize,
    at: usize,
}

impl Circle {
    /// One circle for each caller; there must be at least as many ids as callers.
    pub fn deal(ids: Vec<Uuid>, callers: usize) -> Vec<Self> {
        let ids = Arc::new(ids);
        (0..callers).map(|first| Self { ids: ids.clone(), first, every: callers, at: first }).collect()
    }

    pub fn next(&mut self) -> Uuid {
        let id = self.ids[self.at];
        self.at += self.every;
        if self.at >= self.ids.len() {
            self.at = self.first;
        }
        id
    }
}

/// Makes properties with a history of so many events through the handler; answers their ids.
///
/// # Errors
/// When a command fails.
pub async fn seed_histories(handler: &Handler, aggregates: usize, events: usize) -> anyhow::Result<Vec<Uuid>> {
    let callers = 256.min(aggregates.max(1));
    let made = crate::drive::fill(vec![Creates::filling(handler); callers], aggregates as u64).await;
    anyhow::ensure!(made.errors.is_empty(), "seeding: {:?}", made.errors.first());
    let ids: Vec<Uuid> = made.acks.iter().map(|ack| ack.aggregate).collect();
    let mut callers = Assigns::deal(handler, ids.clone(), callers);
    callers.iter_mut().for_each(|caller| caller.timeout = PATIENCE);
    // Every circle goes round whole: as many aggregates as are a multiple of the callers.
    let again = crate::drive::fill(callers, (ids.len() * (events - 1)) as u64).await;
    anyhow::ensure!(again.errors.is_empty(), "seeding: {:?}", again.errors.first());
    let mut lengths: BTreeMap<Uuid, usize> = ids.iter().map(|id| (*id, 1)).collect();
    for ack in &again.acks {
        *lengths.entry(ack.aggregate).or_default() += 1;
    }
    anyhow::ensure!(lengths.values().all(|length| *length == events), "not every history has {events} events");
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_as_long_as_the_limits_rows() {
        let (first, later) = history_payloads(Uuid::now_v7());
        assert!((293..=320).contains(&first.len()), "{} {first}", first.len());
        assert!((240..=310).contains(&later.len()), "{} {later}", later.len());
    }

    #[test]
    fn circles_share_no_id_and_come_round() {
        let ids: Vec<Uuid> = (0..7).map(Uuid::from_u128).collect();
        let mut circles = Circle::deal(ids.clone(), 3);
        let mut seen: Vec<Uuid> = (0..3).flat_map(|_| circles.iter_mut().map(Circle::next).collect::<Vec<_>>()).collect();
        assert_eq!(seen[..7], ids[..], "the first round");
        seen.drain(..7);
        assert_eq!(seen, [1, 2].map(Uuid::from_u128), "the shorter circles begin again");
    }
}
