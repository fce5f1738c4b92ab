//! Reports: none lost, none finished twice.

use std::collections::BTreeMap;

use domain::reports::ReportEvent;
use domain::{AggregateKind, Context};

use crate::world::World;

async fn streams(world: &World) -> BTreeMap<String, Vec<ReportEvent>> {
    let mut streams: BTreeMap<String, Vec<ReportEvent>> = BTreeMap::new();
    for event in world.events(Context::Reports).await {
        if event.stream.kind == AggregateKind::Report
            && let Ok(fact) = event.decode()
        {
            streams.entry(event.stream.id).or_default().push(fact);
        }
    }
    streams
}

fn ends(fact: &ReportEvent) -> bool {
    match fact {
        ReportEvent::ReportCompleted { .. }
        | ReportEvent::ReportDead { .. }
        | ReportEvent::ReportCancelled { .. }
        | ReportEvent::ReportAttemptFailed { retryable: false, .. } => true,
        ReportEvent::ReportRequested { .. }
        | ReportEvent::ReportAttemptStarted { .. }
        | ReportEvent::ReportRetried { .. }
        | ReportEvent::ReportAttemptFailed { retryable: true, .. } => false,
    }
}

pub async fn unfinished(world: &World) -> Vec<String> {
    let open = streams(world).await.into_iter().filter(|(_, facts)| !facts.iter().any(ends));
    open.map(|(id, _)| format!("report {id} is open")).collect()
}

/// One end each, with a document that is there; nobody's failure but the weather's, so none is dead.
pub async fn once(world: &World) {
    for (id, facts) in streams(world).await {
        let ended: Vec<&ReportEvent> = facts.iter().filter(|fact| ends(fact)).collect();
        match ended.as_slice() {
            [ReportEvent::ReportCompleted { sha256, .. }] => {
                world.fate.count("report completed");
                if !world.shelf.holds(&sha256.to_string()) {
                    world.violation(format!("report {id} is completed without its document"));
                }
            }
            [ReportEvent::ReportCancelled { .. }] => world.fate.count("report cancelled"),
            [] => {}
            others => world.violation(format!("report {id} ended as {others:?}")),
        }
        if !matches!(facts.last(), Some(last) if ended.is_empty() || ends(last)) {
            world.violation(format!("report {id} went on after its end: {facts:?}"));
        }
        let attempts = facts.iter().filter_map(|fact| match fact {
            ReportEvent::ReportAttemptStarted { attempt, .. } => Some(*attempt),
            _ => None,
        });
        if !attempts
            .eq(1..=facts.iter().filter(|fact| matches!(fact, ReportEvent::ReportAttemptStarted { .. })).count() as u32)
        {
            world.violation(format!("the attempts of report {id} are not 1, 2, 3: {facts:?}"));
        }
    }
}
