//! Logs and acknowledged commands.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use domain::units::{Entry, Unit, UnitEvent};
use domain::{Aggregate, AggregateKind, Context, Date, Decide, HoldId, Moment, Refusal, StreamId, Timestamp};
use ports::{EventLog, Position, Recorded};
use uuid::Uuid;

use crate::clients::{Attempt, Told};
use crate::world::World;

/// Positions and sequences are dense, ids are unique, time does not go back, reading by stream shows the same.
pub async fn logs(world: &World) {
    for (context, log) in &world.logs {
        let events = world.events(*context).await;
        let mut versions: BTreeMap<&StreamId, u64> = BTreeMap::new();
        let mut ids = HashSet::new();
        let mut last = None;
        for (event, expected) in events.iter().zip(1..) {
            let version = versions.entry(&event.stream).or_default();
            *version += 1;
            let sound = event.position == expected
                && event.sequence == *version
                && ids.insert(event.event_id)
                && last.is_none_or(|last| last <= event.recorded_at);
            last = Some(event.recorded_at);
            if !sound {
                world.violation(format!("{context}:{expected} ({} of {}) stands wrongly", event.event_type, event.stream));
            }
        }
        for (stream, version) in versions {
            let loaded = log.inner.load(stream, 0).await.map_or(0, |events| events.len() as u64);
            if loaded != version {
                world.violation(format!("{stream} loads {loaded} events, the log has {version}"));
            }
        }
    }
}

/// The history of one unit: its state from each position on.
type States = Vec<(Position, Unit)>;

struct Units {
    events: Vec<Recorded>,
    states: BTreeMap<String, States>,
    by_correlation: BTreeMap<Uuid, Vec<usize>>,
}

impl Units {
    async fn of(world: &World) -> Self {
        let events = world.events(Context::Units).await;
        let mut states: BTreeMap<String, States> = BTreeMap::new();
        let mut by_correlation: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            by_correlation.entry(event.metadata.correlation_id).or_default().push(index);
            if event.stream.kind != AggregateKind::Unit {
                continue;
            }
            let history = states.entry(event.stream.id.clone()).or_default();
            let mut unit = history.last().map(|(_, unit)| unit.clone()).unwrap_or_default();
            match event.decode::<UnitEvent>() {
                Ok(fact) => unit.apply(fact),
                Err(error) => world.violation(format!("units:{} cannot be read: {error}", event.position)),
            }
            history.push((event.position, unit));
        }
        Self { events, states, by_correlation }
    }

    /// The states that the unit had from one position to another.
    fn between(&self, unit: Uuid, (from, to): (Position, Position)) -> Vec<Unit> {
        let Some(history) = self.states.get(&unit.to_string()) else { return vec![Unit::default()] };
        let first = history.iter().rposition(|(position, _)| *position <= from);
        let mut states = Vec::new();
        if first.is_none() {
            states.push(Unit::default());
        }
        let inside = history.iter().skip(first.unwrap_or(0)).take_while(|(position, _)| *position <= to);
        states.extend(inside.map(|(_, unit)| unit.clone()));
        states
    }
}

/// The instants at which a decision between two instants may differ.
fn instants(unit: &Unit, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let expiries = unit.calendar().entries().iter().filter_map(Entry::expires_at);
    let mut instants: Vec<Timestamp> = expiries.filter(|at| (from..=to).contains(at)).collect();
    instants.extend([from, to]);
    instants
}

pub async fn attempts(world: &World) {
    let units = Units::of(world).await;
    let attempts = world.attempts.lock().expect("nothing panics under this lock").clone();
    let mut by_key: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in &attempts {
        if let Some(key) = &attempt.key {
            by_key.entry(key).or_default().push(attempt);
        }
        let found = units.by_correlation.get(&attempt.correlation).map(Vec::as_slice).unwrap_or_default();
        told_the_truth(world, &units, attempt, found);
        if !found.is_empty() {
            decided_on_its_state(world, &units, attempt, found);
        }
    }
    for (key, attempts) in by_key {
        one_effect(world, &units, key, &attempts);
    }
}

fn told_the_truth(world: &World, units: &Units, attempt: &Attempt, found: &[usize]) {
    let wrong = |what: &str| {
        world.violation(format!(
            "{:?} on {} (key {:?}, heads {:?}) was answered {:?}: {what}",
            attempt.command, attempt.unit, attempt.key, attempt.heads, attempt.told
        ));
    };
    match &attempt.told {
        Told::Done(done) if done.replayed => {
            if !found.is_empty() {
                wrong("a repetition left events of its own");
            }
        }
        Told::Done(done) if done.no_op => {
            let held = units.between(attempt.unit, attempt.heads).iter().any(|unit| {
                let decide = |now| unit.decide(&attempt.command, &Moment { now });
                instants(unit, attempt.called_at, attempt.answered_at)
                    .into_iter()
                    .any(|now| decide(now).is_ok_and(|events| events.is_empty()))
            });
            if !held {
                wrong("the fact held at no moment between call and answer");
            }
        }
        Told::Done(done) => match found.last().map(|last| &units.events[*last]) {
            None => wrong("it is not in the log"),
            Some(last) if last.position != done.position || last.sequence != done.version => {
                wrong(&format!("it stands at {} as {}", last.position, last.sequence));
            }
            Some(_) => {}
        },
        Told::Refused(code) => {
            if !found.is_empty() {
                wrong("it left events");
            }
            let was_true = units.between(attempt.unit, attempt.heads).iter().any(|unit| {
                let decide = |now| unit.decide(&attempt.command, &Moment { now });
                instants(unit, attempt.called_at, attempt.answered_at)
                    .into_iter()
                    .any(|now| decide(now).is_err_and(|refused| Refusal::of(&refused).code == *code))
            });
            if !was_true {
                wrong("it was true at no moment between call and answer");
            }
        }
        Told::KeyReused | Told::NotDone(_) => {
            if !found.is_empty() {
                wrong("it left events");
            }
        }
        Told::Unknown => {}
    }
}

/// The events are what the rules say of the state right before them.
fn decided_on_its_state(world: &World, units: &Units, attempt: &Attempt, found: &[usize]) {
    let first = &units.events[found[0]];
    let contiguous = found.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let before = units.between(attempt.unit, (first.position - 1, first.position - 1));
    let state = before.last().cloned().unwrap_or_default();
    let stored: Vec<_> = found.iter().filter_map(|index| units.events[*index].decode::<UnitEvent>().ok()).collect();
    let latest = attempt.answered_at.max(first.recorded_at);
    let same = instants(&state, attempt.called_at, latest).into_iter().any(|now| {
        let decided = state.decide(&attempt.command, &Moment { now });
        decided.is_ok_and(|events| events == stored)
    });
    if !contiguous || !same {
        world.violation(format!(
            "{:?} on {} stands at {} on a state that does not lead to it",
            attempt.command, attempt.unit, first.position
        ));
    }
}

/// All attempts with one key have one effect, and every answer is about that one.
fn one_effect(world: &World, units: &Units, key: &str, attempts: &[&Attempt]) {
    let effects: Vec<&Vec<usize>> =
        attempts.iter().filter_map(|attempt| units.by_correlation.get(&attempt.correlation)).collect();
    if effects.len() > 1 {
        world.violation(format!("key {key} has {} effects", effects.len()));
    }
    let position = effects.first().and_then(|found| Some(units.events[*found.last()?].position));
    for attempt in attempts {
        match &attempt.told {
            Told::Done(done) if !done.no_op && Some(done.position) != position => {
                world.violation(format!("key {key} was answered with {}, its effect is at {position:?}", done.position));
            }
            Told::Refused(_) | Told::Done(_)
                if position.is_some_and(|position| position <= attempt.heads.0)
                    && !matches!(&attempt.told, Told::Done(done) if done.replayed) =>
            {
                world.violation(format!("key {key} had its effect at {position:?} and was answered {:?}", attempt.told));
            }
            _ => {}
        }
    }
}

/// What takes days of a unit, as simple as can be.
struct Taken {
    id: Uuid,
    from: Date,
    to: Option<Date>,
    expires_at: Option<Timestamp>,
}

impl Taken {
    fn meets(&self, from: Date, to: Option<Date>, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
            && to.is_none_or(|end| self.from < end)
            && self.to.is_none_or(|end| from < end)
    }
}

/// No two holds or reservations that count share a day of a unit. Not judged by the domain's own calendar.
pub async fn calendars(world: &World) {
    let mut taken: BTreeMap<String, Vec<Taken>> = BTreeMap::new();
    for event in world.events(Context::Units).await {
        if event.stream.kind != AggregateKind::Unit {
            continue;
        }
        let Ok(fact) = event.decode::<UnitEvent>() else { continue };
        let entries = taken.entry(event.stream.id.clone()).or_default();
        let new = match &fact {
            UnitEvent::HoldPlaced { hold_id, from, to, expires_at, .. } => {
                Taken { id: hold_id.0, from: *from, to: Some(*to), expires_at: Some(*expires_at) }
            }
            UnitEvent::UnitReserved { lease_id, from, to, consumed_holds } => {
                let consumed: BTreeSet<Uuid> = consumed_holds.iter().map(|hold| hold.0).collect();
                entries.retain(|entry| !consumed.contains(&entry.id));
                Taken { id: lease_id.0, from: *from, to: *to, expires_at: None }
            }
            UnitEvent::HoldReleased { hold_id } | UnitEvent::HoldExpired { hold_id, .. } => {
                let before = entries.len();
                entries.retain(|entry| entry.id != hold_id.0);
                if entries.len() + 1 != before {
                    world.violation(format!("units:{} ends a hold that does not stand", event.position));
                }
                continue;
            }
            UnitEvent::ReservationReleased { lease_id } => {
                entries.retain(|entry| entry.id != lease_id.0);
                continue;
            }
            _ => continue,
        };
        if let Some(other) = entries.iter().find(|entry| entry.meets(new.from, new.to, event.recorded_at)) {
            world.violation(format!("units:{} takes days of {} that {} has", event.position, event.stream, other.id));
        }
        entries.push(new);
    }
}

/// The holds that ran out and still stand.
pub async fn lapsed(world: &World, now: Timestamp) -> Vec<Uuid> {
    let mut standing: BTreeMap<Uuid, Timestamp> = BTreeMap::new();
    for event in world.events(Context::Units).await {
        match event.decode::<UnitEvent>() {
            Ok(UnitEvent::HoldPlaced { hold_id, expires_at, .. }) => {
                standing.insert(hold_id.0, expires_at);
            }
            Ok(UnitEvent::HoldReleased { hold_id } | UnitEvent::HoldExpired { hold_id, .. }) => {
                standing.remove(&hold_id.0);
            }
            Ok(UnitEvent::UnitReserved { consumed_holds, .. }) => {
                standing.retain(|hold, _| !consumed_holds.contains(&HoldId(*hold)));
            }
            Ok(_) | Err(_) => {}
        }
    }
    standing.into_iter().filter(|(_, at)| *at <= now).map(|(hold, _)| hold).collect()
}
