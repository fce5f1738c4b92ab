//! The write path over the in-memory log, with faults put in front of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adapters::inprocess::InProcessHints;
use adapters::memory::MemoryLog;
use async_trait::async_trait;
use commands::{CommandError, Handler, Issue, Key, step};
use cqrs_es::persist::SerializedEvent;
use domain::auth::{RegisterUser, Role, User, UserCommand, UserDetails, UserNameClaim, UserNameClaimCommand};
use domain::legal::{Names, Party, PartyCommand, PartyDetails, PartyKind, PartyRole};
use domain::units::{AddUnit, Bathrooms, Unit, UnitCommand};
use domain::units::{Address, OwnerShare, Property, PropertyCommand, PropertyType, RegisterProperty};
use domain::{Context, Currency, Date, HoldId, LeaseId, PartyId, PropertyId, StreamId, Timestamp, UnitId, UserId};
use ports::{
    AppendOutcome, AppendRequest, ChainHead, Checkpoint, Error, EventLog, FollowerCheckpoints, HashChain, Keep, KeyRecord,
    KeyUse, Link, LogHead, Logs, MasterKey, Position, Recorded, Result, Sealer, StoredEvent, SubjectKeys, SystemClock,
    Transfer,
};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

/// What goes wrong with the next appends.
#[derive(Default)]
struct Weather {
    /// So many appends are committed, and then the connection is lost.
    lose_reply: AtomicUsize,
    /// Appends with an event on this stream are refused.
    poison: Mutex<Option<String>>,
    /// Appends wait for a permit, when there is such a gate.
    gate: Mutex<Option<Arc<Semaphore>>>,
    appends: AtomicUsize,
    loads: AtomicUsize,
    /// Streams cannot be loaded.
    is_away: AtomicBool,
}

struct FaultyLog {
    log: MemoryLog,
    weather: Arc<Weather>,
}

impl Transfer for FaultyLog {}

#[async_trait]
impl EventLog for FaultyLog {
    fn context(&self) -> Context {
        self.log.context()
    }
    async fn load(&self, stream: &StreamId, after: u64) -> Result<Vec<SerializedEvent>> {
        self.weather.loads.fetch_add(1, Ordering::SeqCst);
        if self.weather.is_away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the log", "the connection was refused"));
        }
        self.log.load(stream, after).await
    }
    async fn append(&self, batch: &[AppendRequest]) -> Result<Vec<AppendOutcome>> {
        self.weather.appends.fetch_add(1, Ordering::SeqCst);
        let gate = self.weather.gate.lock().expect("not poisoned").clone();
        if let Some(gate) = gate {
            gate.acquire().await.expect("never closed").forget();
        }
        let poison = self.weather.poison.lock().expect("not poisoned").clone();
        if let Some(poison) = poison
            && batch.iter().flat_map(|request| &request.streams).any(|append| append.stream.id == poison)
        {
            return Err(Error::rejected("the log", "a bad value"));
        }
        let outcomes = self.log.append(batch).await?;
        let lose = self.weather.lose_reply.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match lose {
            Ok(_) => Err(Error::unknown_outcome("the log", "the connection was cut")),
            Err(_) => Ok(outcomes),
        }
    }
    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Recorded>> {
        self.log.read(after, limit).await
    }
    async fn head(&self) -> Result<LogHead> {
        self.log.head().await
    }
    async fn find_key(&self, scope: &str, key: &str) -> Result<Option<KeyRecord>> {
        self.log.find_key(scope, key).await
    }
    async fn keep_key(&self, key: &KeyUse) -> Result<Option<KeyRecord>> {
        self.log.keep_key(key).await
    }
}

#[async_trait]
impl SubjectKeys for FaultyLog {
    async fn subject_key(&self, subject: &str) -> Result<Option<Vec<u8>>> {
        self.log.subject_key(subject).await
    }
    async fn destroy_subject_key(&self, subject: &str) -> Result<()> {
        self.log.destroy_subject_key(subject).await
    }
}

#[async_trait]
impl FollowerCheckpoints for FaultyLog {
    async fn follower_checkpoint(&self, name: &str) -> Result<Option<Checkpoint>> {
        self.log.follower_checkpoint(name).await
    }
    async fn follower_checkpoints(&self) -> Result<Vec<(String, Checkpoint)>> {
        self.log.follower_checkpoints().await
    }
    async fn claim_follower(&self, name: &str) -> Result<Option<u64>> {
        self.log.claim_follower(name).await
    }
    async fn advance_follower(&self, name: &str, term: u64, from: Option<Position>, to: &Checkpoint) -> Result<()> {
        self.log.advance_follower(name, term, from, to).await
    }
}

#[async_trait]
impl HashChain for FaultyLog {
    async fn scan(&self, after: i64, limit: usize) -> Result<Vec<StoredEvent>> {
        self.log.scan(after, limit).await
    }
    async fn last_link(&self) -> Result<Option<Link>> {
        self.log.last_link().await
    }
    async fn links(&self, after: Position, limit: usize) -> Result<Vec<Link>> {
        self.log.links(after, limit).await
    }
    async fn add_link(&self, after: Position, head: &ChainHead, marks: &[u8]) -> Result<()> {
        self.log.add_link(after, head, marks).await
    }
}

struct Bench {
    log: Arc<FaultyLog>,
    weather: Arc<Weather>,
    handler: Handler,
}

fn handler(log: &Arc<FaultyLog>) -> Handler {
    let sealer = Sealer::new(MasterKey::new([7; 32]));
    Handler::new(
        Logs::new([log.clone() as Arc<dyn EventLog>]),
        sealer,
        Arc::new(SystemClock),
        Arc::new(InProcessHints::new()),
    )
}

fn bench(context: Context) -> Bench {
    let weather = Arc::new(Weather::default());
    let log = Arc::new(FaultyLog { log: MemoryLog::new(context, Arc::new(SystemClock)), weather: weather.clone() });
    Bench { handler: handler(&log), log, weather }
}

impl Bench {
    async fn events(&self) -> Vec<Recorded> {
        self.log.read(0, 10_000).await.expect("readable")
    }
}

fn register(id: Uuid) -> PropertyCommand {
    PropertyCommand::RegisterProperty(RegisterProperty {
        property_id: PropertyId(id),
        name: "Elm House".into(),
        property_type: PropertyType::ApartmentBuilding,
        address: Address {
            line1: "1 Elm Street".into(),
            line2: None,
            city: "New York".into(),
            region: None,
            postal_code: None,
            country: "US".into(),
        },
        time_zone: "America/New_York".into(),
        currency: Currency::new("USD").expect("a currency"),
        jurisdiction: "US-NY".into(),
        owners: vec![OwnerShare { party_id: PartyId(Uuid::now_v7()), share_bp: 10_000 }],
    })
}

/// A property and a unit in it, in two appends.
async fn unit(handler: &Handler) -> Uuid {
    let (property, unit) = (Uuid::now_v7(), Uuid::now_v7());
    handler
        .execute(&Issue::by("test"), &[step::<Property>(property.to_string(), register(property))])
        .await
        .expect("registered");
    let facts = handler.load::<Property>(property.to_string()).await.expect("loads").state.facts().expect("registered");
    let add = UnitCommand::AddUnit(AddUnit {
        property: facts,
        unit_number: "1A".into(),
        bedrooms: 1,
        bathrooms: Bathrooms::from_x2(2).expect("one"),
        area_m2: 50,
        amenities: BTreeSet::new(),
    });
    let claim = PropertyCommand::ClaimUnitNumber { unit_id: UnitId(unit), unit_number: "1A".into() };
    let steps = [step::<Unit>(unit.to_string(), add), step::<Property>(property.to_string(), claim)];
    handler.execute(&Issue::by("test"), &steps).await.expect("added");
    unit
}

fn hold() -> UnitCommand {
    let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
    UnitCommand::PlaceHold {
        hold_id: HoldId(Uuid::now_v7()),
        party_id: PartyId(Uuid::now_v7()),
        from: Date::constant(2030, 1, 1),
        to: Date::constant(2030, 2, 1),
        expires_at: tomorrow,
    }
}

/// On one thread, with a log in memory: after so many turns every task stands at the gate or in the queue behind it.
async fn all_wait() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

fn keyed(key: &str, hash: &str) -> Issue {
    let mut issue = Issue::by("test");
    issue.key =
        Some(Key { scope: "test".into(), key: key.into(), request_hash: hash.into(), keep: Keep::Days30, settles: false });
    issue.remember = json!({"id": Uuid::now_v7()});
    issue.timeout = Duration::from_secs(10);
    issue
}

#[tokio::test]
async fn a_step_of_one_aggregate_that_is_refused_leaves_nothing_of_the_other() {
    let bench = bench(Context::Units);
    let before = {
        unit(&bench.handler).await;
        bench.events().await.len()
    };
    let property = bench.events().await[0].stream.id.clone();
    let other = Uuid::now_v7();
    let facts = bench.handler.load::<Property>(&property).await.expect("loads").state.facts().expect("there");
    let add = UnitCommand::AddUnit(AddUnit {
        property: facts,
        unit_number: "1A".into(),
        bedrooms: 1,
        bathrooms: Bathrooms::from_x2(2).expect("one"),
        area_m2: 50,
        amenities: BTreeSet::new(),
    });
    let claim = PropertyCommand::ClaimUnitNumber { unit_id: UnitId(other), unit_number: "1A".into() };
    let steps = [step::<Unit>(other.to_string(), add), step::<Property>(property, claim)];
    let refused = bench.handler.execute(&Issue::by("test"), &steps).await.expect_err("refused");
    assert_eq!(refused.refusal().expect("a refusal").code, "DUPLICATE_UNIT_NUMBER");
    assert_eq!(bench.events().await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_holds_from_two_handlers_leave_exactly_one() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let second = handler(&bench.log);
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let handler = if n % 2 == 0 { bench.handler.clone() } else { second.clone() };
        tasks.spawn(async move { handler.execute(&Issue::by("test"), &[step::<Unit>(id.to_string(), hold())]).await });
    }
    let mut won = 0;
    while let Some(outcome) = tasks.join_next().await {
        match outcome.expect("no panic") {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.refusal().expect("a refusal").code, "UNIT_NOT_AVAILABLE"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(bench.events().await.iter().filter(|event| event.event_type == "HoldPlaced").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_duplicates_with_one_key_are_one_effect_and_one_answer() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let second = handler(&bench.log);
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let handler = if n % 2 == 0 { bench.handler.clone() } else { second.clone() };
        tasks.spawn(async move {
            let issue = keyed("k1", "h1");
            handler.execute(&issue, &[step::<Unit>(id.to_string(), hold())]).await
        });
    }
    let mut answers = vec![];
    while let Some(outcome) = tasks.join_next().await {
        answers.push(outcome.expect("no panic").expect("the same answer for all"));
    }
    assert_eq!(answers.iter().filter(|done| !done.replayed).count(), 1);
    let first = &answers[0];
    assert!(
        answers.iter().all(
            |done| (done.position, done.version, &done.remembered) == (first.position, first.version, &first.remembered)
        )
    );
    assert_eq!(bench.events().await.iter().filter(|event| event.event_type == "HoldPlaced").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_two_seconds_for_the_first_and_is_then_told_that_it_is_in_flight() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let gate = Arc::new(Semaphore::new(0));
    *bench.weather.gate.lock().expect("not poisoned") = Some(gate.clone());
    let send = || {
        let (handler, issue) = (bench.handler.clone(), keyed("k", "h"));
        tokio::spawn(async move { handler.execute(&issue, &[step::<Unit>(id.to_string(), hold())]).await })
    };
    let appends = bench.weather.appends.load(Ordering::SeqCst);
    let first = send();
    all_wait().await;
    assert_eq!(bench.weather.appends.load(Ordering::SeqCst), appends + 1, "the first stands at the gate");

    let began = tokio::time::Instant::now();
    let duplicate = send().await.expect("no panic");
    assert!(matches!(duplicate, Err(CommandError::KeyInFlight)), "{duplicate:?}");
    let waited_ms = began.elapsed().as_millis();
    assert!((2_000..2_100).contains(&waited_ms), "{waited_ms} ms");
    // One that has time left when the first is done is answered as the first.
    let patient = send();
    all_wait().await;
    assert!(!patient.is_finished() && !first.is_finished());
    gate.add_permits(1_000);
    let first = first.await.expect("no panic").expect("done");
    let patient = patient.await.expect("no panic").expect("the same answer");
    assert!(!first.replayed && patient.replayed);
    assert_eq!((patient.position, patient.version, &patient.remembered), (first.position, first.version, &first.remembered));
    assert_eq!(bench.events().await.iter().filter(|event| event.event_type == "HoldPlaced").count(), 1);
}

#[tokio::test]
async fn a_key_used_with_another_request_is_refused() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let first = bench.handler.execute(&keyed("k", "h1"), &[step::<Unit>(id.to_string(), hold())]).await;
    assert!(first.is_ok());
    let second = bench.handler.execute(&keyed("k", "h2"), &[step::<Unit>(id.to_string(), UnitCommand::UnlistUnit)]).await;
    assert!(matches!(second, Err(CommandError::KeyReused) | Err(CommandError::Refused(_))), "{second:?}");
    let third = bench.handler.execute(&keyed("k", "h2"), &[step::<Unit>(id.to_string(), hold())]).await;
    assert!(matches!(third, Err(CommandError::KeyReused)), "{third:?}");
}

#[tokio::test]
async fn a_reply_lost_after_the_commit_is_not_a_second_commit() {
    let bench = bench(Context::Units);
    bench.weather.lose_reply.store(3, Ordering::SeqCst);
    let id = unit(&bench.handler).await;
    bench.weather.lose_reply.store(2, Ordering::SeqCst);
    let done = bench.handler.execute(&Issue::by("test"), &[step::<Unit>(id.to_string(), hold())]).await.expect("done");
    let events = bench.events().await;
    assert_eq!(events.len(), 4, "property, unit, claim, hold");
    assert_eq!(done.position, 4);
    assert_eq!(bench.weather.lose_reply.load(Ordering::SeqCst), 0, "the fault has fired");
}

#[tokio::test]
async fn a_bad_command_fails_alone_and_its_neighbours_are_stored() {
    let bench = bench(Context::Units);
    let gate = Arc::new(Semaphore::new(0));
    *bench.weather.gate.lock().expect("not poisoned") = Some(gate.clone());
    let ids: Vec<Uuid> = (0..20).map(|_| Uuid::now_v7()).collect();
    *bench.weather.poison.lock().expect("not poisoned") = Some(ids[7].to_string());
    let mut tasks = JoinSet::new();
    for id in ids.clone() {
        let handler = bench.handler.clone();
        tasks.spawn(async move {
            let outcome = handler.execute(&Issue::by("test"), &[step::<Property>(id.to_string(), register(id))]).await;
            (id, outcome.is_ok())
        });
    }
    all_wait().await;
    gate.add_permits(1_000);
    let mut stored = 0;
    while let Some(outcome) = tasks.join_next().await {
        let (id, ok) = outcome.expect("no panic");
        assert_eq!(ok, id != ids[7]);
        stored += usize::from(ok);
    }
    assert_eq!(stored, 19);
    assert_eq!(bench.events().await.len(), 19);
}

#[tokio::test]
async fn waiting_commands_share_an_append() {
    let bench = bench(Context::Units);
    let gate = Arc::new(Semaphore::new(0));
    *bench.weather.gate.lock().expect("not poisoned") = Some(gate.clone());
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let handler = bench.handler.clone();
        tasks.spawn(async move {
            let id = Uuid::now_v7();
            handler.execute(&Issue::by("test"), &[step::<Property>(id.to_string(), register(id))]).await
        });
    }
    all_wait().await;
    gate.add_permits(1_000);
    while let Some(outcome) = tasks.join_next().await {
        outcome.expect("no panic").expect("stored");
    }
    assert_eq!(bench.events().await.len(), 64);
    let appends = bench.weather.appends.load(Ordering::SeqCst);
    assert!(appends <= 2, "{appends} appends: the first may go alone, the others go together");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_an_unknown_outcome_within_the_deadline() {
    let bench = bench(Context::Units);
    *bench.weather.gate.lock().expect("not poisoned") = Some(Arc::new(Semaphore::new(0)));
    let id = Uuid::now_v7();
    let started = tokio::time::Instant::now();
    let outcome = bench.handler.execute(&Issue::by("test"), &[step::<Property>(id.to_string(), register(id))]).await;
    assert!(matches!(outcome, Err(CommandError::Port(Error::UnknownOutcome { .. }))), "{outcome:?}");
    assert!(started.elapsed() <= Duration::from_millis(2_100));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_takes_nothing_is_said_to_be_stalled_until_it_takes_something() {
    let bench = bench(Context::Units);
    let done = || async {
        let id = Uuid::now_v7();
        bench.handler.execute(&Issue::by("test"), &[step::<Property>(id.to_string(), register(id))]).await
    };
    done().await.expect("stored");
    assert_eq!(bench.handler.stalled_for(Context::Units), None, "an idle log is not stalled");
    let gate = Arc::new(Semaphore::new(0));
    *bench.weather.gate.lock().expect("not poisoned") = Some(gate.clone());
    // Each command gives up at its deadline, the call of the first stays under way.
    for _ in 0..3 {
        done().await.expect_err("nothing is taken");
    }
    let stalled = bench.handler.stalled_for(Context::Units).expect("stalled");
    assert!(stalled >= Duration::from_secs(5), "{stalled:?}");
    gate.add_permits(10);
    done().await.expect("stored");
    assert_eq!(bench.handler.stalled_for(Context::Units), None);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_even_be_read_is_said_to_be_stalled_too() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    // A process that knows nothing of the unit: it has to load it before there is anything to append.
    let fresh = handler(&bench.log);
    let done = || async { fresh.execute(&Issue::by("test"), &[step::<Unit>(id.to_string(), hold())]).await };
    bench.weather.is_away.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        done().await.expect_err("it is away");
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    let stalled = fresh.stalled_for(Context::Units).expect("stalled");
    assert!(stalled >= Duration::from_secs(6), "{stalled:?}");
    // Who only reads a stream in order to judge by it finds it out as well.
    let other = handler(&bench.log);
    other.load::<Unit>(id.to_string()).await.expect_err("it is away");
    assert!(other.stalled_for(Context::Units).is_some());
    bench.weather.is_away.store(false, Ordering::SeqCst);
    done().await.expect("held");
    assert_eq!(fresh.stalled_for(Context::Units), None);
    // What nobody has tried for a while is not said to be wrong.
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(other.stalled_for(Context::Units), None);
}

#[tokio::test]
async fn a_state_read_by_other_means_saves_the_load_and_an_old_one_does_no_harm() {
    let bench = bench(Context::Units);
    let unit = unit(&bench.handler).await;
    let read = bench.handler.load::<Unit>(unit.to_string()).await.expect("loads");
    // Another process, which knows nothing of the unit.
    let other = handler(&bench.log);
    let loads = || bench.weather.loads.swap(0, Ordering::SeqCst);
    loads();
    other.keep::<Unit>(unit.to_string(), (*read).clone());
    let done = other.execute(&Issue::by("test"), &[step::<Unit>(unit.to_string(), hold())]).await.expect("held");
    assert_eq!((done.version, loads()), (read.version + 1, 0));

    // What is known already is newer, and the hold stands in the way of a second one.
    other.keep::<Unit>(unit.to_string(), (*read).clone());
    let refused = other.execute(&Issue::by("test"), &[step::<Unit>(unit.to_string(), hold())]).await;
    assert!(matches!(refused, Err(CommandError::Refused(_))), "{refused:?}");
    // In a process that knows no better, the append's version check tells.
    let third = handler(&bench.log);
    third.keep::<Unit>(unit.to_string(), (*read).clone());
    let refused = third.execute(&Issue::by("test"), &[step::<Unit>(unit.to_string(), hold())]).await;
    assert!(matches!(refused, Err(CommandError::Refused(_))), "{refused:?}");
    assert_eq!(bench.events().await.iter().filter(|event| event.event_type == "HoldPlaced").count(), 1);
}

#[tokio::test]
async fn a_stale_if_match_is_told_the_version() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let mut issue = Issue::by("test");
    issue.if_match = Some(9);
    let outcome = bench.handler.execute(&issue, &[step::<Unit>(id.to_string(), hold())]).await;
    assert!(matches!(outcome, Err(CommandError::StaleVersion { expected: 9, actual: 1 })), "{outcome:?}");
}

fn zebulon(id: Uuid) -> PartyCommand {
    let personal = PartyDetails {
        names: Names { full: "Zebulon Quackenbush".into(), ..Names::default() },
        emails: vec!["zebulon@example.com".into()],
        ..PartyDetails::default()
    };
    let roles = BTreeSet::from([PartyRole::Tenant]);
    PartyCommand::RegisterParty { party_id: PartyId(id), kind: PartyKind::Person, roles, personal }
}

async fn has_key(bench: &Bench, subject: &str) -> bool {
    bench.log.subject_key(subject).await.expect("read").is_some()
}

#[tokio::test]
async fn a_command_that_is_not_done_leaves_no_key_of_a_person() {
    let bench = bench(Context::Legal);
    let register = async |issue: &Issue| {
        let id = Uuid::now_v7();
        let done = bench.handler.execute(issue, &[step::<Party>(id.to_string(), zebulon(id))]).await;
        (done, has_key(&bench, &format!("party:{id}")).await)
    };
    let (done, is_kept) = register(&keyed("k", "h")).await;
    assert!(!done.expect("registered").replayed && is_kept);
    let (again, is_kept) = register(&keyed("k", "h")).await;
    assert!(again.expect("the same answer").replayed && !is_kept);
    let (other, is_kept) = register(&keyed("k", "another")).await;
    assert!(matches!(other, Err(CommandError::KeyReused)) && !is_kept, "{other:?}");
    let mut issue = Issue::by("test");
    issue.if_match = Some(3);
    let (stale, is_kept) = register(&issue).await;
    assert!(matches!(stale, Err(CommandError::StaleVersion { .. })) && !is_kept, "{stale:?}");
}

#[tokio::test]
async fn a_refused_step_leaves_no_key_of_the_person_of_another() {
    let bench = bench(Context::Auth);
    let register = async |username: &str| {
        let user_id = UserId(Uuid::now_v7());
        let register = UserCommand::RegisterUser(RegisterUser {
            user_id,
            username: username.into(),
            roles: BTreeSet::from([Role::Units]),
            party_id: None,
            personal: UserDetails { email: "ana@example.org".into(), name: "Ana".into() },
            password_hash: None,
            demo: false,
        });
        let claim = UserNameClaimCommand::ClaimUserName { user_id };
        let steps = [step::<User>(user_id.0.to_string(), register), step::<UserNameClaim>(username, claim)];
        let done = bench.handler.execute(&Issue::by("test"), &steps).await;
        (done, has_key(&bench, &format!("user:{user_id}")).await)
    };
    let (first, is_kept) = register("ana").await;
    assert!(first.is_ok() && is_kept, "{first:?}");
    let (second, is_kept) = register("ana").await;
    assert!(matches!(second, Err(CommandError::Refused(_))) && !is_kept, "{second:?}");
}

#[tokio::test]
async fn a_person_is_sealed_in_the_log_and_gone_with_the_key() {
    let bench = bench(Context::Legal);
    let id = Uuid::now_v7();
    bench.handler.execute(&Issue::by("test"), &[step::<Party>(id.to_string(), zebulon(id))]).await.expect("registered");
    let stored = bench.events().await[0].payload.get().to_owned();
    assert!(!stored.contains("Zebulon") && !stored.contains("zebulon"), "{stored}");
    assert!(stored.contains("sealed"));

    let mut opened = bench.events().await;
    let sealer = Sealer::new(MasterKey::new([7; 32]));
    sealer.open_recorded(&*bench.log, &mut opened).await.expect("opens");
    assert!(opened[0].payload.get().contains("Zebulon Quackenbush"));

    let foreign = Sealer::new(MasterKey::new([8; 32]));
    assert!(
        foreign.open_recorded(&*bench.log, &mut bench.events().await).await.is_err(),
        "another master key opens nothing"
    );

    bench.log.destroy_subject_key(&format!("party:{id}")).await.expect("destroyed");
    let mut erased = bench.events().await;
    Sealer::new(MasterKey::new([7; 32])).open_recorded(&*bench.log, &mut erased).await.expect("reads on");
    assert!(erased[0].payload.get().contains("\"personal\":null"), "{}", erased[0].payload.get());
}

fn reserve(lease_id: LeaseId) -> UnitCommand {
    let (from, to) = (Date::constant(2030, 1, 1), Some(Date::constant(2031, 1, 1)));
    UnitCommand::ReserveUnit { lease_id, from, to, parties: vec![PartyId(Uuid::now_v7())] }
}

/// What a deposed process runner meets: its step was taken by the new one, and refused; the reason for that is gone by now.
#[tokio::test]
async fn a_step_that_was_refused_is_refused_whenever_it_comes_again() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let late = handler(&bench.log);
    let (first, second) = (LeaseId(Uuid::now_v7()), LeaseId(Uuid::now_v7()));
    let on_unit = |command| [step::<Unit>(id.to_string(), command)];
    let as_step = Issue::step("policy", "event:reserve_unit", (Uuid::now_v7(), Uuid::now_v7()));
    bench.handler.execute(&Issue::by("test"), &on_unit(reserve(first))).await.expect("free");
    let refused = bench.handler.execute(&as_step, &on_unit(reserve(second))).await.expect_err("taken");
    let release = UnitCommand::ReleaseReservation { lease_id: first };
    bench.handler.execute(&Issue::by("test"), &on_unit(release)).await.expect("released");
    let before = bench.events().await.len();
    let again = late.execute(&as_step, &on_unit(reserve(second))).await.expect_err("settled");
    assert_eq!(again.refusal().expect("a refusal"), refused.refusal().expect("a refusal"));
    assert_eq!(bench.events().await.len(), before);
    // Another event's step is another attempt.
    let other = Issue::step("policy", "another:reserve_unit", (Uuid::now_v7(), Uuid::now_v7()));
    late.execute(&other, &on_unit(reserve(second))).await.expect("free again");
}

#[tokio::test]
async fn a_step_that_had_nothing_to_do_does_nothing_whenever_it_comes_again() {
    let bench = bench(Context::Units);
    let id = unit(&bench.handler).await;
    let late = handler(&bench.log);
    let on_unit = |command| [step::<Unit>(id.to_string(), command)];
    let as_step = Issue::step("policy", "event:reserve_unit", (Uuid::now_v7(), Uuid::now_v7()));
    let lease_id = LeaseId(Uuid::now_v7());
    bench.handler.execute(&Issue::by("test"), &on_unit(reserve(lease_id))).await.expect("free");
    let done = bench.handler.execute(&as_step, &on_unit(reserve(lease_id))).await.expect("it is so already");
    assert!(done.no_op && !done.replayed, "{done:?}");
    let release = UnitCommand::ReleaseReservation { lease_id };
    bench.handler.execute(&Issue::by("test"), &on_unit(release)).await.expect("released");
    let before = bench.events().await.len();
    let done = late.execute(&as_step, &on_unit(reserve(lease_id))).await.expect("settled");
    assert!(done.no_op && done.replayed, "{done:?}");
    assert_eq!(bench.events().await.len(), before);
}
