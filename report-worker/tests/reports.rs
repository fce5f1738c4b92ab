//! The reports over logs written by the aggregates and views folded from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use adapters::inprocess::InProcessHints;
use adapters::memory::{MemoryLog, MemoryViews};
use commands::{Handler, Issue, step};
use domain::finances::{AllocationPolicy, ChargeType, Ledger, LedgerCommand, NewPayment, PaymentMethod};
use domain::legal::{Lease, LeaseCommand, LeasePlace, LeaseTerms};
use domain::reports::{ReportFormat, ReportKind, ReportParams};
use domain::{ChargeId, Context, Currency, Date, Decide, LeaseId, Money, PaymentId, PropertyId, ReportId, UnitId};
use ports::{Checkpoint, EventLog, Logs, ManualClock, MasterKey, Sealer, ViewBatch, ViewStore};
use read_models::{ReadModel, Rows};
use report_worker::{Order, Registry};
use serde_json::{Value, json};
use uuid::Uuid;

fn day(text: &str) -> Date {
    text.parse().expect("a date")
}

fn money(amount: i64, code: &str) -> Money {
    Money::new(amount, Currency::new(code).expect("a currency"))
}

fn lease(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(n))
}

struct Books {
    handler: Handler,
    views: MemoryViews,
}

impl Books {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2025-06-01T12:00:00Z".parse().expect("an instant")));
        let log = |context| Arc::new(MemoryLog::new(context, clock.clone())) as Arc<dyn EventLog>;
        let logs = Logs::new([log(Context::Finances), log(Context::Legal)]);
        let handler = Handler::new(logs, Sealer::new(MasterKey::new([1; 32])), clock, Arc::new(InProcessHints::new()));
        Self { handler, views: MemoryViews::new() }
    }

    async fn run<A: Decide>(&self, id: LeaseId, command: A::Command) {
        self.handler.execute(&Issue::by("test"), &[step::<A>(id.to_string(), command)]).await.expect("accepted");
    }

    async fn open(&self, id: LeaseId, currency: &str) {
        let command = LedgerCommand::OpenLedger {
            lease_id: id,
            property_id: PropertyId(Uuid::from_u128(900)),
            unit_id: UnitId(Uuid::from_u128(901)),
            tenants: vec![],
            currency: money(0, currency).currency,
            time_zone: "UTC".into(),
            late_fee_policy: None,
            allocation_policy: AllocationPolicy::Oldest,
        };
        self.run::<Ledger>(id, command).await;
    }

    async fn charge(&self, id: LeaseId, n: u128, money: Money, due_on: &str) {
        let command = LedgerCommand::PostCharge {
            charge_id: ChargeId(Uuid::from_u128(n)),
            kind: ChargeType::Rent,
            money,
            due_on: day(due_on),
            period: None,
            key: n.to_string(),
            memo: None,
        };
        self.run::<Ledger>(id, command).await;
    }

    async fn pay(&self, id: LeaseId, n: u128, money: Money, received_on: &str) {
        let payment = NewPayment {
            payment_id: PaymentId(Uuid::from_u128(n)),
            money,
            method: PaymentMethod::BankTransfer,
            received_on: day(received_on),
            external_ref: None,
            payer: None,
        };
        self.run::<Ledger>(id, LedgerCommand::RecordPayment(payment)).await;
    }

    async fn head(&self, context: Context) -> u64 {
        self.handler.logs().get(context).expect("the log").head().await.expect("its head").position
    }

    /// Folds both logs to their ends.
    async fn fold(&self) {
        let models: [&dyn ReadModel; 3] =
            [&read_models::ledgers::Ledgers, &read_models::ledger_lines::LedgerLines, &read_models::leases::Leases];
        for model in models {
            let spec = model.spec();
            self.views.prepare(&[spec]).await.expect("prepared");
            let claim = self.views.claim(spec).await.expect("answered").expect("free");
            let log = self.handler.logs().get(spec.context).expect("the log");
            let mut from = claim.checkpoint.position;
            for event in log.read(from, 10_000).await.expect("read") {
                let keys = model.keys(&event).expect("keys");
                let mut rows = Rows::default();
                rows.load(&keys, self.views.rows(spec, claim.generation, &keys).await.expect("rows"));
                model.fold(&event, &mut rows).expect("folded");
                let (changes, tags) = rows.take_changes().expect("changes");
                let incarnation = log.head().await.expect("a head").incarnation;
                let to = Checkpoint { incarnation, position: event.position, event_id: Some(event.event_id) };
                let batch = ViewBatch {
                    spec,
                    generation: claim.generation,
                    term: claim.term,
                    from,
                    to,
                    changes,
                    tags,
                    parking: vec![],
                };
                self.views.apply(&batch).await.expect("applied");
                from = event.position;
            }
        }
    }

    async fn render(&self, order: &Order) -> String {
        let registry = Registry::standard();
        let renderer = registry.get(order.kind).expect("a renderer");
        let mut snapshot = self.views.snapshot().await.expect("a snapshot");
        let rendered = renderer.render(order, &mut *snapshot).await.expect("rendered");
        assert_eq!(rendered.media_type, order.format.media_type());
        String::from_utf8(rendered.bytes.to_vec()).expect("text")
    }

    async fn order(&self, kind: ReportKind, format: ReportFormat, as_of: &str, only: Option<LeaseId>) -> Order {
        let context = kind.context();
        Order {
            report_id: ReportId(Uuid::nil()),
            kind,
            params: ReportParams { lease_id: only, ..ReportParams::default() },
            format,
            positions: BTreeMap::from([(context, self.head(context).await)]),
            as_of: day(as_of),
        }
    }
}

/// Two ledgers: one in dollars that owes since March, one in yen that paid ahead.
async fn two_ledgers() -> Books {
    let books = Books::new();
    let (usd, jpy) = (lease(1), lease(2));
    books.open(jpy, "JPY").await;
    books.open(usd, "USD").await;
    books.charge(usd, 10, money(82_258, "USD"), "2025-02-15").await;
    books.charge(usd, 11, money(150_000, "USD"), "2025-03-01").await;
    books.charge(usd, 12, money(150_000, "USD"), "2025-04-01").await;
    books.pay(usd, 20, money(100_000, "USD"), "2025-02-20").await;
    books.pay(jpy, 21, money(77_419, "JPY"), "2025-01-02").await;
    books.fold().await;
    books
}

const ONE: &str = "00000000-0000-0000-0000-000000000001";
const TWO: &str = "00000000-0000-0000-0000-000000000002";

#[tokio::test]
async fn the_ledger_statement_tells_what_is_owed_since_when() {
    let books = two_ledgers().await;
    let order = books.order(ReportKind::LedgerStatement, ReportFormat::Csv, "2025-03-31", None).await;
    let expected = format!(
        "lease_id,currency,charged,paid,balance,oldest_due\r\n\
         {ONE},USD,2322.58,1000.00,1322.58,2025-03-01\r\n\
         {TWO},JPY,0,77419,-77419,\r\n"
    );
    assert_eq!(books.render(&order).await, expected);
    let json = Order { format: ReportFormat::Json, ..order };
    let json: Value = serde_json::from_str(&books.render(&json).await).expect("JSON");
    assert_eq!(json["kind"], "ledger_statement");
    assert_eq!(json["as_of"], "2025-03-31");
    let line = json!({
        "lease_id": ONE, "currency": "USD", "charged": "2322.58", "paid": "1000.00", "balance": "1322.58",
        "oldest_due": "2025-03-01",
    });
    assert_eq!(json["lines"][0], line);
}

#[tokio::test]
async fn one_lease_can_be_asked_for_and_an_earlier_day_knows_less() {
    let books = two_ledgers().await;
    let order = books.order(ReportKind::LedgerStatement, ReportFormat::Csv, "2025-02-16", Some(lease(1))).await;
    let text = books.render(&order).await;
    assert_eq!(text.lines().nth(1), Some(format!("{ONE},USD,822.58,0.00,822.58,2025-02-15").as_str()));
    assert_eq!(text.lines().count(), 2);
    let unknown = Order { params: ReportParams { lease_id: Some(lease(99)), ..ReportParams::default() }, ..order };
    assert_eq!(books.render(&unknown).await.lines().count(), 1, "only the header");
}

#[tokio::test]
async fn the_same_order_gives_the_same_bytes_whatever_happened_since() {
    let books = two_ledgers().await;
    for format in [ReportFormat::Csv, ReportFormat::Json] {
        let order = books.order(ReportKind::LedgerStatement, format, "2025-05-31", None).await;
        let before = books.render(&order).await;
        // A payment recorded late, effective before the business date, and one more ledger.
        let n = if format == ReportFormat::Csv { 30 } else { 40 };
        books.pay(lease(1), n, money(5_000, "USD"), "2025-03-15").await;
        books.open(lease(n), "USD").await;
        books.fold().await;
        assert_eq!(books.render(&order).await, before);
        let fresh = books.order(ReportKind::LedgerStatement, format, "2025-05-31", None).await;
        assert_ne!(books.render(&fresh).await, before);
    }
}

fn terms(tenant: u128, rent: i64) -> LeaseTerms {
    serde_json::from_value(json!({
        "unit_id": Uuid::from_u128(50),
        "tenants": [{"party_id": Uuid::from_u128(tenant)}, {"party_id": Uuid::from_u128(tenant + 1)}],
        "start_date": "2025-07-01",
        "end_date": "2026-06-30",
        "term_type": "fixed",
        "rent": {"money": {"amount": rent, "currency": "USD"}, "frequency": "monthly", "due_day": 1},
    }))
    .expect("terms")
}

fn place() -> LeasePlace {
    LeasePlace {
        property_id: PropertyId(Uuid::from_u128(900)),
        time_zone: "UTC".into(),
        currency: money(0, "USD").currency,
        jurisdiction: "US-NY".into(),
    }
}

#[tokio::test]
async fn the_lease_register_tells_each_lease_as_it_was_at_the_pinned_position() {
    let books = Books::new();
    for (n, rent) in [(1, 150_000), (2, 99_999)] {
        let command = LeaseCommand::DraftLease { lease_id: lease(n), terms: terms(n * 100, rent), place: place() };
        books.run::<Lease>(lease(n), command).await;
    }
    books.fold().await;
    let order = books.order(ReportKind::LeaseRegister, ReportFormat::Csv, "2025-06-30", None).await;
    let before = books.render(&order).await;
    let line = format!(
        "{ONE},{property},{unit},{first} {second},,draft,2025-07-01,2026-06-30,1500.00,USD,0,,,,",
        property = Uuid::from_u128(900),
        unit = Uuid::from_u128(50),
        first = Uuid::from_u128(100),
        second = Uuid::from_u128(101),
    );
    assert_eq!(before.lines().nth(1), Some(line.as_str()));
    assert_eq!(before.lines().count(), 3);
    let edit = LeaseCommand::EditDraft { terms: terms(100, 160_000), place: place() };
    books.run::<Lease>(lease(1), edit).await;
    books.run::<Lease>(lease(2), LeaseCommand::VoidLease { reason: "withdrawn".into() }).await;
    books.fold().await;
    assert_eq!(books.render(&order).await, before);
    let fresh = books.order(ReportKind::LeaseRegister, ReportFormat::Csv, "2025-06-30", None).await;
    let fresh = books.render(&fresh).await;
    assert!(fresh.contains("1600.00") && fresh.contains("voided"), "{fresh}");
}
