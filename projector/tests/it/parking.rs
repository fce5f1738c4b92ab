//! A stream with an event that a model cannot take is parked in that model alone, and comes back as if nothing had happened.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::legal::{Names, Party, PartyCommand, PartyDetails, PartyKind, PartyRole};
use domain::reports::{Report, ReportCommand, ReportKind};
use domain::{Context, PartyId, StreamId};
use ports::{Ask, EventLog, Logs, ParkedStream, ParkedStreams, Recorded};
use projector::{Outcome, Park, Progress, RebuildError, Rebuilder, Wish};
use read_models::party_card::PartyCard;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Process, Trace, Traced, World, execute, request_report, ten_events, until};

const SICK: &str = "sick";

async fn folded(world: &World, name: &'static str, key: &str) -> Vec<u64> {
    Traced::positions(world.doc(name, key).await)
}

async fn parked(world: &World) -> Vec<ParkedStream> {
    world.views.parked(SICK, 1).await.expect("the view store answers")
}

async fn ask(world: &World, ask: Ask) {
    let found = parked(world).await.remove(0);
    world.views.ask(SICK, 1, &found.stream, found.position, ask).await.expect("asked");
}

/// Waits until the leader has done what was asked for.
async fn answered(world: &World) {
    until("answered", || async { parked(world).await.iter().all(|parked| parked.asked.is_none()) }).await;
}

async fn at(process: &Process, name: &str, position: u64) {
    until("all folded", || async { process.follower(name).position == position }).await;
}

fn sick_and_sound() -> (&'static Trace, &'static Trace) {
    (Trace::over(Context::Reports, SICK), Trace::over(Context::Reports, "sound"))
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_a_poison_event_alone_is_parked_and_a_retry_after_a_fixed_fold_heals_it() {
    for panics in [false, true] {
        let world = World::new();
        let (sick, sound) = sick_and_sound();
        sick.is_poisoned_by(Some((4, panics)));
        let ids = ten_events(&world).await;
        let fourth = ids[3].to_string();
        let process = world.start(vec![sick, sound]);
        at(&process, SICK, 10).await;
        at(&process, "sound", 10).await;

        let found = parked(&world).await;
        let culprit = &world.events(Context::Reports).await[3];
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].stream, StreamId::of::<Report>(ids[3]));
        assert_eq!((found[0].position, found[0].sequence, found[0].event_id), (4, 1, culprit.event_id));
        assert!(found[0].reason.contains("the test"), "{}", found[0].reason);
        assert!(world.views.parked("sound", 1).await.expect("answered").is_empty());
        // Everything else is current, and nothing stands still.
        assert_eq!(folded(&world, SICK, "all").await, [1, 2, 3, 5, 6, 7, 8, 10]);
        assert_eq!(folded(&world, SICK, &fourth).await, [0; 0]);
        assert_eq!(folded(&world, SICK, &ids[4].to_string()).await, [5, 10]);
        assert!(process.board.is_healthy());
        assert_eq!((process.follower(SICK).parked_streams, process.follower("sound").parked_streams), (1, 0));

        // Nothing is healed by itself, nor by a retry with the same fold.
        ask(&world, Ask::Retry).await;
        answered(&world).await;
        assert_eq!(parked(&world).await, found);
        assert_eq!(folded(&world, SICK, &fourth).await, [0; 0]);

        sick.is_poisoned_by(None);
        ask(&world, Ask::Retry).await;
        answered(&world).await;
        assert_eq!(parked(&world).await, []);
        assert_eq!(folded(&world, SICK, "all").await, [1, 2, 3, 5, 6, 7, 8, 10, 4, 9]);
        assert_eq!(process.follower(SICK).parked_streams, 0);
        // The stream goes on, on the rows as they are.
        execute::<Report>(&world.client(), ids[3], ReportCommand::CancelReport).await;
        at(&process, SICK, 11).await;
        for id in &ids {
            let key = id.to_string();
            assert_eq!(folded(&world, SICK, &key).await, folded(&world, "sound", &key).await);
        }
        assert_eq!(folded(&world, SICK, &fourth).await, [4, 9, 11]);
        process.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_stream_stays_parked_and_in_order_whoever_leads() {
    let world = World::new();
    world.views.fail_every.store(3, std::sync::atomic::Ordering::SeqCst);
    let (sick, _) = sick_and_sound();
    sick.is_poisoned_by(Some((4, false)));
    let ids = ten_events(&world).await;
    for round in 0..6 {
        let process = world.start(vec![sick]);
        if round == 3 {
            at(&process, SICK, 10).await;
        }
        process.kill().await;
    }
    let process = world.start(vec![sick]);
    at(&process, SICK, 10).await;
    // Even a fold that could take it by now does not overtake what waits.
    sick.is_poisoned_by(None);
    execute::<Report>(&world.client(), ids[3], ReportCommand::CancelReport).await;
    at(&process, SICK, 11).await;
    assert_eq!(parked(&world).await.len(), 1);
    assert_eq!(folded(&world, SICK, "all").await, [1, 2, 3, 5, 6, 7, 8, 10]);
    ask(&world, Ask::Retry).await;
    process.kill().await;
    let process = world.start(vec![sick]);
    until("healed", || async { parked(&world).await.is_empty() }).await;
    assert_eq!(folded(&world, SICK, &ids[3].to_string()).await, [4, 9, 11]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_skip_gives_up_one_event_and_stops_at_the_next_that_cannot_be_taken() {
    let world = World::new();
    let (sick, _) = sick_and_sound();
    sick.is_poisoned_by(Some((4, false)));
    let ids = ten_events(&world).await;
    let fourth = ids[3].to_string();
    let process = world.start(vec![sick]);
    at(&process, SICK, 10).await;
    execute::<Report>(&world.client(), ids[3], ReportCommand::CancelReport).await;
    at(&process, SICK, 11).await;
    let since = parked(&world).await[0].since;

    sick.is_poisoned_by(Some((11, false)));
    world.clock.set(since + jiff::SignedDuration::from_mins(5));
    ask(&world, Ask::Skip).await;
    answered(&world).await;
    let found = parked(&world).await;
    assert_eq!((found.len(), found[0].position, found[0].sequence, found[0].since), (1, 11, 3, since));
    assert_eq!(folded(&world, SICK, &fourth).await, [9]);

    ask(&world, Ask::Skip).await;
    answered(&world).await;
    assert_eq!(parked(&world).await, []);
    assert_eq!(folded(&world, SICK, &fourth).await, [9]);
    assert_eq!(folded(&world, SICK, "all").await, [1, 2, 3, 5, 6, 7, 8, 10, 9]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_leads_the_operators_process_stands_in() {
    let world = World::new();
    let (sick, _) = sick_and_sound();
    sick.is_poisoned_by(Some((4, false)));
    let ids = ten_events(&world).await;
    let process = world.start(vec![sick]);
    at(&process, SICK, 10).await;
    process.stop().await;

    sick.is_poisoned_by(None);
    ask(&world, Ask::Retry).await;
    let (log, views) = (world.log(Context::Reports).inner.clone(), world.views.inner.clone());
    let stood_in =
        projector::attend_parked(sick, log, world.sealer.clone(), views, &*world.hints, world.clock.clone()).await;
    assert!(stood_in.expect("the stores answer"));
    assert_eq!(parked(&world).await, []);
    assert_eq!(folded(&world, SICK, &ids[3].to_string()).await, [4, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_fold_that_can_take_nothing_stops_the_model_instead_of_parking_everything() {
    let world = World::new();
    let (sick, _) = sick_and_sound();
    sick.is_poisoned_by(Some((0, false)));
    let client = world.client();
    for _ in 0..1_003 {
        request_report(&client, ReportKind::LeaseRegister).await;
    }
    let process = world.start(vec![sick]);
    until("stalled", || async { process.stalled(SICK).is_some() }).await;
    let reason = process.stalled(SICK).expect("stalled");
    assert!(reason.contains("1000 streams are parked already") && reason.contains("reports:1001"), "{reason}");
    assert_eq!((process.follower(SICK).position, parked(&world).await.len()), (1_000, 1_000));
    sick.is_poisoned_by(None);
    at(&process, SICK, 1_003).await;
    process.stop().await;
}

async fn three_parties(world: &World) -> Vec<Uuid> {
    let mut ids = vec![];
    for name in ["Ada Lovelace", "Zebulon Quackenbush", "Grace Hopper"] {
        let id = Uuid::now_v7();
        let personal = PartyDetails { names: Names { full: name.into(), ..Names::default() }, ..PartyDetails::default() };
        let (party_id, kind, roles) = (PartyId(id), PartyKind::Person, BTreeSet::from([PartyRole::Tenant]));
        execute::<Party>(&world.client(), id, PartyCommand::RegisterParty { party_id, kind, roles, personal }).await;
        ids.push(id);
    }
    ids
}

/// Puts the sealed value of the first event into the second, as it is stored.
async fn swap_sealed(world: &World) {
    let personal = |event: &Recorded| event.json().expect("JSON")["PartyRegistered"]["personal"].clone();
    let first = personal(&world.events(Context::Legal).await[0]);
    assert!(first["sealed"]["subject"].is_string(), "{first}");
    let edit = move |event: &mut Recorded| {
        if event.position == 2 {
            let mut payload: Value = event.json().expect("JSON");
            payload["PartyRegistered"]["personal"] = first.clone();
            event.payload = RawValue::from_string(payload.to_string()).expect("JSON").into();
        }
    };
    *world.log(Context::Legal).edit.lock().expect("unpoisoned") = Some(Box::new(edit));
}

#[tokio::test(start_paused = true)]
async fn a_sealed_value_that_cannot_be_opened_parks_its_stream_alone() {
    let world = World::new();
    let ids = three_parties(&world).await;
    swap_sealed(&world).await;
    let sound = Trace::over(Context::Legal, "sound");
    let process = world.start(vec![&PartyCard, sound]);
    at(&process, "party_card", 3).await;
    at(&process, "sound", 3).await;
    let parked = || async { world.views.parked("party_card", 1).await.expect("answered") };
    let found = parked().await;
    assert_eq!(found.iter().map(|parked| parked.position).collect::<Vec<_>>(), [2]);
    let reason = &found[0].reason;
    assert!(reason.contains("cannot be opened") && reason.contains("events verify") && !reason.contains("Ada"), "{reason}");
    assert!(process.board.is_healthy() && world.views.parked("sound", 1).await.expect("answered").is_empty());
    assert_eq!(folded(&world, "sound", "all").await, [1, 2, 3]);
    let card = |id: Uuid| {
        let world = world.clone();
        async move { world.doc("party_card", &id.to_string()).await.map(|card| card.to_string()) }
    };
    assert!(card(ids[1]).await.is_none());
    assert!(card(ids[2]).await.is_some_and(|card| card.contains("Grace Hopper")));

    // A rebuild stops at it, names it, and leaves it out when it is told to.
    let logs = Logs::new(world.logs.iter().map(|log| log.clone() as Arc<dyn EventLog>));
    let rebuilder = Rebuilder::new(logs, world.sealer.clone(), world.generations.clone(), world.hints.clone());
    let wish = |park| Wish { parallel: 1, manual: false, dry_run: false, force: false, park };
    let stop = CancellationToken::new();
    let stopped = rebuilder.rebuild(&PartyCard, wish(Park::Nothing), &Progress::default(), &stop).await.expect_err("poison");
    assert!(
        matches!(&stopped, RebuildError::Poison(told) if told.contains("legal:2") && told.contains("cannot be opened")),
        "{stopped}"
    );
    let park = Park::Any(found[0].since);
    let done = rebuilder.rebuild(&PartyCard, wish(park), &Progress::default(), &stop).await.expect("rebuilt");
    assert!(matches!(done.outcome, Outcome::Switched(_)) && done.parked == 1, "{done:?}");

    // Put right where it is stored, it is folded as if nothing had happened.
    *world.log(Context::Legal).edit.lock().expect("unpoisoned") = None;
    world.views.ask("party_card", 2, &found[0].stream, 2, Ask::Retry).await.expect("asked");
    until("healed", || async { world.views.parked("party_card", 2).await.expect("answered").is_empty() }).await;
    assert!(card(ids[1]).await.is_some_and(|card| card.contains("Zebulon Quackenbush")));
    process.stop().await;
}
