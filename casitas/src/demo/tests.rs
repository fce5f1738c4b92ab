//! The demo in memory, with the projector beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use adapters::files::ArtifactFolder;
use adapters::inprocess::{InProcessHints, InProcessQueue};
use adapters::memory::{MemoryLog, MemoryViews};
use commands::Handler;
use domain::auth::{User, UserEvent};
use domain::finances::{Account, Ledger, LedgerEvent};
use domain::legal::{Lease, LeaseEvent, LeaseState};
use domain::units::{Unit, UnitEvent};
use domain::{AggregateKind, Context, DateRange, LeaseId, PartyId, Timestamp, UnitId, today_in};
use ports::{Clock, EventLog, Logs, ManualClock, Recorded};
use projector::Projector;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{NotEmpty, Plan, Summary, seed, seed_if_empty};
use crate::platform::Platform;
use crate::secrets::init_keys;

struct Stage {
    platform: Platform,
    handler: Handler,
    shutdown: CancellationToken,
    /// Removed with the stage.
    _folder: tempfile::TempDir,
}

impl Stage {
    /// Noon UTC of a day that is the same for every stage.
    fn set() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let now: Timestamp = "2026-03-18T12:00:00Z".parse().expect("an instant");
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now));
        let log = |context| Arc::new(MemoryLog::new(context, clock.clone())) as Arc<dyn EventLog>;
        let platform = Platform {
            logs: Logs::new(Context::ALL.map(log)),
            views: Arc::new(MemoryViews::new()),
            generations: None,
            shared: None,
            queue: Some(Arc::new(InProcessQueue::new())),
            dead_letters: None,
            artifacts: Arc::new(ArtifactFolder::open(folder.path().join("artifacts")).expect("artifacts")),
            artifacts_dir: folder.path().join("artifacts"),
            hints: Arc::new(InProcessHints::new()),
            clock,
            secrets: init_keys(&folder.path().join("keys")).expect("keys"),
            distributed: false,
            diagnosis: None,
            files: vec![],
            checks: vec![],
        };
        let handler = platform.handler().expect("a handler");
        Self { platform, handler, shutdown: CancellationToken::new(), _folder: folder }
    }

    async fn seeded(plan: &Plan) -> (Self, Summary) {
        let stage = Self::set();
        let ports = projector::Ports {
            logs: stage.platform.logs.clone(),
            sealer: stage.platform.sealer().expect("a sealer"),
            views: stage.platform.views.clone(),
            queue: stage.platform.queue.clone().expect("a queue"),
            hints: stage.platform.hints.clone(),
            clock: stage.platform.clock.clone(),
            handler: stage.handler.clone(),
            hot: None,
            generations: None,
        };
        let projector = Projector::new(ports, projector::Config::default()).expect("a projector");
        let running = tokio::spawn(projector.run(stage.shutdown.clone()));
        let summary = seed(&stage.platform, &stage.handler, plan, |_, _, _| {}).await.expect("seeded");
        // What the process still has in hand is done before it stops.
        stage.shutdown.cancel();
        running.await.expect("the projector ends");
        (stage, summary)
    }

    /// With personal data opened.
    async fn events(&self, context: Context) -> Vec<Recorded> {
        let log = self.platform.logs.get(context).expect("a log");
        let mut events = log.read(0, 1_000_000).await.expect("events");
        let sealer = self.platform.sealer().expect("a sealer");
        sealer.open_recorded(&**log, &mut events).await.expect("opened");
        events
    }

    /// The events of each stream but those of the process, whose triggers are event ids, without what is drawn anew each time.
    async fn facts(&self) -> BTreeMap<String, Vec<Value>> {
        let mut streams: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for context in Context::ALL {
            for event in self.events(context).await {
                if event.stream.kind == AggregateKind::LeaseProcess {
                    continue;
                }
                let mut payload: Value = event.decode().expect("JSON");
                if let Some(hash) = payload.pointer_mut("/UserRegistered/password_hash") {
                    *hash = Value::Null;
                }
                streams.entry(event.stream.to_string()).or_default().push(payload);
            }
        }
        streams
    }

    async fn decoded<E: serde::de::DeserializeOwned>(&self, kind: AggregateKind) -> Vec<E> {
        let events = self.events(kind.context()).await;
        events.iter().filter(|event| event.stream.kind == kind).map(|event| event.decode().expect("an event")).collect()
    }

    async fn units(&self) -> Vec<Unit> {
        let events = self.events(Context::Units).await;
        let ids: BTreeSet<String> = (events.into_iter())
            .filter(|event| event.stream.kind == AggregateKind::Unit)
            .map(|event| event.stream.id)
            .collect();
        let mut units = vec![];
        for id in ids {
            units.push(self.handler.load::<Unit>(id).await.expect("a unit").state.clone());
        }
        units
    }

    /// Listed, and free from today wherever it stands.
    async fn available(&self) -> Vec<Unit> {
        let now = self.platform.clock.now();
        let is_available = |unit: &Unit| {
            let today = unit.today(now);
            let day = DateRange::new(today, today.tomorrow().ok()).expect("a day");
            let listed = unit.listing().is_some_and(|listing| listing.available_from <= today);
            listed && unit.calendar().is_free(&day, now)
        };
        self.units().await.into_iter().filter(is_available).collect()
    }
}

fn small() -> Plan {
    Plan { units: 12, years: 1, seed: 42 }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_data_and_another_one_other_data() {
    let (first, summary) = Stage::seeded(&small()).await;
    let (second, again) = Stage::seeded(&small()).await;
    let (other, _) = Stage::seeded(&Plan { seed: 43, ..small() }).await;
    let (first, second, other) = (first.facts().await, second.facts().await, other.facts().await);
    assert_eq!(summary, again);
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    for (stream, events) in &first {
        assert_eq!(events, &second[stream], "{stream}");
    }
    let logins = |streams: &BTreeMap<String, Vec<Value>>| {
        streams.keys().filter(|stream| stream.starts_with("user")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(logins(&first), logins(&other), "logins are of no seed");
    let shared = first.keys().filter(|stream| other.contains_key(*stream)).count();
    assert_eq!(shared, logins(&first).len() + 1, "and so is the tenant's party; nothing else is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_units_show_every_kind_of_lease_and_free_units_in_several_cities() {
    let (stage, summary) = Stage::seeded(&small()).await;
    assert_eq!((summary.units, summary.properties), (12, 9));
    let available = stage.available().await;
    let cities: BTreeSet<_> = available.iter().filter_map(Unit::facts).map(|facts| facts.property.city.clone()).collect();
    assert!(available.len() * 3 >= summary.units, "{} of {}", available.len(), summary.units);
    assert!(cities.len() >= 3, "{cities:?}");
    let has = |events: &[UnitEvent], wanted: fn(&UnitEvent) -> bool| events.iter().any(wanted);
    let events = stage.decoded::<UnitEvent>(AggregateKind::Unit).await;
    assert!(has(&events, |event| matches!(event, UnitEvent::HoldPlaced { .. })));
    assert!(has(&events, |event| matches!(event, UnitEvent::OccupancyEnded { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_login_has_an_active_lease_and_a_ledger() {
    let (stage, _) = Stage::seeded(&small()).await;
    let mut party = None;
    for event in stage.decoded::<UserEvent>(AggregateKind::User).await {
        if let UserEvent::UserRegistered { username, party_id, demo, .. } = event {
            assert!(demo, "{username}");
            assert_eq!(party_id.is_some(), username == "test_tenant");
            party = party.or(party_id);
        }
    }
    let party: PartyId = party.expect("the tenant's party");
    let mut leases: Vec<LeaseId> = vec![];
    for event in stage.decoded::<LedgerEvent>(AggregateKind::Ledger).await {
        if let LedgerEvent::LedgerOpened { lease_id, tenants, .. } = event
            && tenants.contains(&party)
        {
            leases.push(lease_id);
        }
    }
    let [lease_id] = leases[..] else { panic!("one ledger, not {leases:?}") };
    let lease = stage.handler.load::<Lease>(lease_id.to_string()).await.expect("the lease");
    assert_eq!(lease.state.state(), Some(LeaseState::Active));
    assert!(lease.state.is_signer(party));
    for (_, login) in [(0, "test_admin"), (1, "test_auditor")] {
        let claim = stage.handler.load::<domain::auth::UserNameClaim>(login).await.expect("a claim");
        let user_id = claim.state.user_id().expect("registered");
        assert!(stage.handler.load::<User>(user_id.to_string()).await.expect("a user").version > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_portfolio_keeps_the_rules_of_the_business() {
    let (stage, summary) = Stage::seeded(&Plan { units: 60, years: 3, seed: 7 }).await;
    let events = stage.decoded::<LeaseEvent>(AggregateKind::Lease).await;
    let mut states: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut drafted = vec![];
    for event in &events {
        assert!(
            !matches!(event, LeaseEvent::LeaseSendRefused { .. } | LeaseEvent::LeaseActivationFailed { .. }),
            "{event:?}"
        );
        if let LeaseEvent::LeaseDrafted { lease_id, terms, place } = event {
            assert!(place.jurisdiction != "CO" || terms.deposit.is_none(), "no deposits in Colombia");
            drafted.push((*lease_id, terms.unit_id));
        }
    }
    assert_eq!(drafted.len(), summary.leases);
    let (mut owing, mut held) = (0, 0);
    for (lease_id, _) in &drafted {
        let lease = stage.handler.load::<Lease>(lease_id.to_string()).await.expect("a lease");
        *states.entry(lease.state.state().expect("a state").as_str()).or_default() += 1;
        let ledger = stage.handler.load::<Ledger>(lease_id.to_string()).await.expect("a ledger");
        owing += usize::from(ledger.state.balance(Account::TenantReceivable) > 0);
        held += usize::from(ledger.state.balance(Account::DepositsHeld) < 0);
        assert_eq!(ledger.state.balance(Account::DepositsHeld), -ledger.state.balance(Account::DepositTrustBank));
    }
    for wanted in ["draft", "sent", "signed", "active", "terminated"] {
        assert!(states.contains_key(wanted), "{wanted}: {states:?}");
    }
    assert!(owing > 2 && held > 10, "{owing} owe, {held} deposits held");
    let money = stage.decoded::<LedgerEvent>(AggregateKind::Ledger).await;
    assert!(money.iter().any(|event| matches!(event, LedgerEvent::PaymentReversed { .. })), "a payment bounced");
    let booked = money
        .iter()
        .filter(|event| matches!(event, LedgerEvent::PaymentReceived { .. } | LedgerEvent::PaymentReversed { .. }));
    assert!(booked.count() < summary.entries);
    let known: BTreeSet<UnitId> = drafted.iter().map(|(_, unit_id)| *unit_id).collect();
    assert!(known.len() > 30);
    assert_eq!(stage.units().await.len(), 60);
    let now = stage.platform.clock.now();
    assert_eq!(today_in("UTC", now).to_string(), "2026-03-18");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_something_in_it_is_left_alone() {
    let (stage, summary) = Stage::seeded(&Plan { units: 1, ..small() }).await;
    assert_eq!((summary.units, summary.properties), (1, 1));
    let before = stage.facts().await;
    let refused = seed(&stage.platform, &stage.handler, &small(), |_, _, _| {}).await.expect_err("not empty");
    assert!(refused.is::<NotEmpty>(), "{refused:#}");
    let passed = seed_if_empty(&stage.platform, &stage.handler, &small()).await.expect("no error");
    assert_eq!(passed, None);
    assert_eq!(before, stage.facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_an_interrupted_seeding_stay_and_the_rest_is_completed() {
    let stage = Stage::set();
    let silent = |_: &str, _: u64, _: u64| {};
    let writer = super::Writer::new(&stage.handler, &*stage.platform.artifacts, &silent);
    writer.users().await.expect("the logins");
    let before = stage.events(Context::Auth).await.len();
    writer.users().await.expect("again");
    assert_eq!(stage.events(Context::Auth).await.len(), before);
    assert_eq!(before, 12);
}
