//! The process manager and the timers: every step once, nothing forgotten, nothing left behind.

use std::collections::BTreeMap;

use domain::legal::move_in::{AfterRefusal, after_refusal, steps};
use domain::legal::{Lease, LeaseEvent, LeaseState, ProcessEvent, ProcessStep, StepOutcome};
use domain::units::{EntryKind, Unit, UnitEvent};
use domain::{Aggregate, AggregateKind, Context};
use uuid::Uuid;

use super::commands::lapsed;
use crate::world::World;

type Steps = BTreeMap<(Uuid, &'static str), Vec<StepOutcome>>;

struct Legal {
    triggers: Vec<(Uuid, LeaseEvent)>,
    recorded: Steps,
    leases: BTreeMap<String, Lease>,
}

async fn legal(world: &World) -> Legal {
    let mut legal = Legal { triggers: Vec::new(), recorded: Steps::new(), leases: BTreeMap::new() };
    for event in world.events(Context::Legal).await {
        match event.stream.kind {
            AggregateKind::Lease => {
                let Ok(fact) = event.decode::<LeaseEvent>() else { continue };
                legal.leases.entry(event.stream.id.clone()).or_default().apply(fact.clone());
                if !steps(&fact).is_empty() {
                    legal.triggers.push((event.event_id, fact));
                }
            }
            AggregateKind::LeaseProcess => {
                if let Ok(ProcessEvent::StepRecorded { trigger, step, outcome, .. }) = event.decode::<ProcessEvent>() {
                    legal.recorded.entry((trigger, step.as_str())).or_default().push(outcome);
                }
            }
            _ => {}
        }
    }
    legal
}

impl Legal {
    /// The steps that an event led to, as far as they are recorded, and the one that is open.
    fn way(&self, trigger: Uuid, fact: &LeaseEvent) -> (Vec<ProcessStep>, Option<ProcessStep>) {
        let (mut plan, mut taken): (&'static [ProcessStep], _) = (steps(fact), Vec::new());
        while let Some((step, rest)) = plan.split_first() {
            let Some(outcome) = self.recorded.get(&(trigger, step.as_str())).and_then(|outcomes| outcomes.first()) else {
                return (taken, Some(*step));
            };
            taken.push(*step);
            plan = rest;
            if let StepOutcome::Refused(refusal) = outcome
                && let AfterRefusal::Instead(instead) = after_refusal(*step, &refusal.code)
            {
                plan = instead;
            }
        }
        (taken, None)
    }
}

/// The steps that are still to be taken.
pub async fn open_steps(world: &World) -> Vec<String> {
    let legal = legal(world).await;
    let open = legal.triggers.iter().filter_map(|(trigger, fact)| {
        let step = legal.way(*trigger, fact).1?;
        let outline = fact.outline()?;
        Some(format!("step {} of lease {} is open", step.as_str(), outline.lease_id))
    });
    open.collect()
}

/// Holds that ran out, and no timer has said so.
pub async fn unexpired(world: &World) -> Vec<String> {
    let timed = world.plan.models.iter().any(|model| model.spec().name == read_models::hold_expiries::SPEC.name);
    match timed {
        true => lapsed(world, world.clock.now()).await.iter().map(|hold| format!("hold {hold} ran out")).collect(),
        false => vec![],
    }
}

/// Each step is recorded once and had its effect once; no step was taken that nothing asked for.
pub async fn once(world: &World) {
    let legal = legal(world).await;
    let mut allowed = BTreeMap::new();
    for (trigger, fact) in &legal.triggers {
        let (taken, _) = legal.way(*trigger, fact);
        allowed.extend(taken.into_iter().map(|step| ((*trigger, step.as_str()), ())));
    }
    for (step, outcomes) in &legal.recorded {
        world.fate.count(match outcomes.first() {
            Some(StepOutcome::Refused(_)) => "step refused",
            _ => "step done",
        });
        if outcomes.len() != 1 {
            world.violation(format!("step {step:?} is recorded {} times", outcomes.len()));
        }
        if !allowed.contains_key(step) {
            world.violation(format!("step {step:?} ({:?}) was taken and nothing asked for it", outcomes.first()));
        }
    }
    for context in [Context::Units, Context::Legal, Context::Finances] {
        let mut effects: BTreeMap<(Uuid, String), usize> = BTreeMap::new();
        for event in world.events(context).await {
            if event.metadata.actor == "policy:move-in" && event.stream.kind != AggregateKind::LeaseProcess {
                let cause = event.metadata.causation_id.unwrap_or_default();
                *effects.entry((cause, event.event_type.clone())).or_default() += 1;
            }
        }
        for ((cause, what), count) in effects.into_iter().filter(|(_, count)| *count > 1) {
            world.violation(format!("{what} happened {count} times because of {cause}"));
        }
    }
}

/// A lease and its unit agree, and a hold that ran out was ended once, not before its time.
pub async fn settled(world: &World) {
    let mut units: BTreeMap<String, Unit> = BTreeMap::new();
    for event in world.events(Context::Units).await {
        if event.stream.kind != AggregateKind::Unit {
            continue;
        }
        let Ok(fact) = event.decode::<UnitEvent>() else { continue };
        if let UnitEvent::HoldExpired { hold_id, expires_at } = &fact
            && event.recorded_at < *expires_at
        {
            world.violation(format!("hold {hold_id} was ended before its time"));
        }
        if let UnitEvent::HoldExpired { .. } = &fact {
            world.fate.count("hold expired");
        }
        units.entry(event.stream.id.clone()).or_default().apply(fact);
    }
    for (id, lease) in legal(world).await.leases {
        let (Some(state), Some(terms)) = (lease.state(), lease.terms()) else { continue };
        let Ok(lease_id) = id.parse::<Uuid>() else { continue };
        let reserved = units
            .get(&terms.unit_id.to_string())
            .is_some_and(|unit| unit.calendar().find(EntryKind::Reservation, lease_id).is_some());
        let wanted = match state {
            LeaseState::Sent | LeaseState::Signed => true,
            LeaseState::Draft | LeaseState::Voided => false,
            LeaseState::Sending | LeaseState::Active | LeaseState::Terminated => continue,
        };
        if reserved != wanted {
            world.violation(format!("lease {id} is {}, its unit is reserved for it: {reserved}", state.as_str()));
        }
    }
}
