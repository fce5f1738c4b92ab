//! Writes a blueprint: many streams beside each other, so that they share the log's commits, but never one stream from two sides.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use commands::{CommandError, Done, Handler, Issue, Step, step};
use domain::auth::{
    DEMO_PASSWORD, PasswordHash, RegisterUser, Role, User, UserCommand, UserDetails, UserNameClaim, UserNameClaimCommand,
};
use domain::finances::{Ledger, LedgerCommand, NewPayment, PaymentReference, ReferenceCommand};
use domain::legal::move_in::deposit_charge;
use domain::legal::{Document, DocumentCommand, DocumentKind, Lease, LeaseCommand, LeaseState, NewDocument, Party};
use domain::units::{Entry, EntryKind, Property, PropertyCommand, Unit, UnitCommand};
use domain::{LeaseId, PartyId, UnitId, UserId};
use futures::{StreamExt, TryStreamExt, stream};
use ports::Artifacts;
use tokio::time::{Instant, sleep};

use super::blueprint::{Blueprint, UnitPlan, tenant_login_party};
use super::people::Person;
use super::rng::{Of, Rng};
use super::tenancy::{Stage, Tenancy};

const ACTOR: &str = "demo";
/// Units whose lives are written beside each other.
const IN_FLIGHT: usize = 96;
/// Nobody waits for a single command of the demo, so a slow disk may take its time.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// When the process has moved no lease on for so long, it is not running.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// The process answers within some commits; the pause grows so that a long wait costs little.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(80);

const LOGINS: [(&str, &str, Role); 6] = [
    ("test_admin", "Demo Administrator", Role::Admin),
    ("test_finance", "Demo Finance", Role::Finance),
    ("test_legal", "Demo Legal", Role::Legal),
    ("test_units", "Demo Units", Role::Units),
    ("test_auditor", "Demo Auditor", Role::Auditor),
    ("test_tenant", "Demo Tenant", Role::Tenant),
];

pub(super) struct Writer<'a, P> {
    handler: &'a Handler,
    artifacts: &'a dyn Artifacts,
    progress: &'a P,
    /// When the process was last seen to have done something.
    moved_at: Mutex<Instant>,
}

impl<'a, P: Fn(&str, u64, u64) + Send + Sync> Writer<'a, P> {
    pub fn new(handler: &'a Handler, artifacts: &'a dyn Artifacts, progress: &'a P) -> Self {
        Self { handler, artifacts, progress, moved_at: Mutex::new(Instant::now()) }
    }

    /// First, so that somebody can log in whatever becomes of the rest. A login that is there stays as it is.
    pub async fn users(&self) -> Result<()> {
        // One hash for all: it takes a while, and the password is known anyway.
        let hash = tokio::task::spawn_blocking(|| command_api::hash_password(DEMO_PASSWORD)).await?;
        let hash = PasswordHash::new(hash.map_err(anyhow::Error::msg).context("the demo password cannot be hashed")?);
        let total = LOGINS.len() as u64;
        for (index, (username, name, role)) in LOGINS.into_iter().enumerate() {
            let user_id = UserId(Rng::of(0, Of::User, index as u64).uuid());
            if self.handler.load::<UserNameClaim>(username).await?.version > 0 {
                continue;
            }
            let register = UserCommand::RegisterUser(RegisterUser {
                user_id,
                username: username.into(),
                roles: BTreeSet::from([role]),
                party_id: (role == Role::Tenant).then(|| PartyId(tenant_login_party())),
                personal: UserDetails { email: format!("{username}@example.com"), name: name.into() },
                password_hash: Some(hash.clone()),
                demo: true,
            });
            let claim = UserNameClaimCommand::ClaimUserName { user_id };
            let steps = [step::<User>(user_id.to_string(), register), step::<UserNameClaim>(username, claim)];
            self.execute(&steps).await.with_context(|| format!("the login {username}"))?;
            (self.progress)("logins", index as u64 + 1, total);
        }
        Ok(())
    }

    pub async fn parties(&self, blueprint: &Blueprint) -> Result<()> {
        let owners = blueprint.properties.iter().flat_map(|property| &property.owners);
        let tenants = blueprint.units.iter().flat_map(|unit| &unit.tenancies).flat_map(|tenancy| &tenancy.people);
        let prospects = blueprint.units.iter().filter_map(|unit| unit.prospect.as_ref());
        let people: Vec<&Person> = owners.chain(tenants).chain(prospects).collect();
        self.each("parties", people.len(), &people, |person| async move {
            self.execute(&[step::<Party>(person.party_id.to_string(), person.register())]).await.map(|_| 1)
        })
        .await
    }

    pub async fn properties(&self, blueprint: &Blueprint) -> Result<()> {
        self.each("properties", blueprint.properties.len(), &blueprint.properties, |property| async move {
            let id = property.register.property_id.to_string();
            let register = PropertyCommand::RegisterProperty(property.register.clone());
            self.execute(&[step::<Property>(id, register)]).await.map(|_| 1)
        })
        .await
    }

    /// One property's units after each other: each claims its number in the property's stream.
    pub async fn units(&self, blueprint: &Blueprint) -> Result<()> {
        let properties: Vec<usize> = (0..blueprint.properties.len()).collect();
        self.each("units", blueprint.units.len(), &properties, |property| async move {
            let units = blueprint.units.iter().filter(|unit| unit.property == *property);
            let mut added = 0;
            for unit in units {
                let unit_number = unit.add.unit_number.clone();
                let claim = PropertyCommand::ClaimUnitNumber { unit_id: unit.id, unit_number };
                let add = step::<Unit>(unit.id.to_string(), UnitCommand::AddUnit(unit.add.clone()));
                let claim = step::<Property>(unit.add.property.property_id.to_string(), claim);
                self.execute(&[add, claim]).await?;
                added += 1;
            }
            Ok(added)
        })
        .await
    }

    /// What each unit went through, from its first lease to how it stands today; how many ledger entries there were.
    pub async fn lives(&self, blueprint: &Blueprint) -> Result<usize> {
        let entries = AtomicU64::new(0);
        let counted = &entries;
        self.each("units with their leases", blueprint.units.len(), &blueprint.units, |unit| async move {
            self.life(unit, counted)
                .await
                .with_context(|| format!("unit {} of {}", unit.id, unit.add.property.property_name))?;
            Ok(1)
        })
        .await?;
        Ok(entries.into_inner() as usize)
    }

    /// Works on many beside each other; each says how many it has done.
    async fn each<'i, T, F>(&self, stage: &str, total: usize, items: &'i [T], work: impl Fn(&'i T) -> F) -> Result<()>
    where
        F: Future<Output = Result<u64>>,
    {
        let mut works = stream::iter(items.iter().map(work)).buffer_unordered(IN_FLIGHT);
        let mut done = 0;
        while let Some(count) = works.try_next().await? {
            done += count;
            (self.progress)(stage, done, total as u64);
        }
        Ok(())
    }

    async fn execute(&self, steps: &[Box<dyn Step>]) -> Result<Done> {
        let mut issue = Issue::by(ACTOR);
        issue.timeout = COMMAND_TIMEOUT;
        self.handler.execute(&issue, steps).await.map_err(|error| match error {
            CommandError::Port(error) => anyhow::anyhow!("{}", error.chain()),
            refused => refused.into(),
        })
    }

    async fn lease(&self, id: LeaseId, command: LeaseCommand) -> Result<()> {
        self.execute(&[step::<Lease>(id.to_string(), command)]).await.map(drop)
    }

    async fn life(&self, unit: &UnitPlan, entries: &AtomicU64) -> Result<()> {
        for tenancy in &unit.tenancies {
            let lease_id = tenancy.lease_id;
            self.tenancy(unit.id, tenancy, entries).await.with_context(|| format!("lease {lease_id}"))?;
        }
        for command in &unit.finally {
            self.execute(&[step::<Unit>(unit.id.to_string(), command.clone())]).await?;
        }
        Ok(())
    }

    async fn tenancy(&self, unit_id: UnitId, tenancy: &Tenancy, entries: &AtomicU64) -> Result<()> {
        let lease_id = tenancy.lease_id;
        let (terms, place) = (tenancy.terms.clone(), tenancy.place.clone());
        self.lease(lease_id, LeaseCommand::DraftLease { lease_id, terms, place }).await?;
        if tenancy.stage == Stage::Draft {
            return Ok(());
        }
        self.send(tenancy).await?;
        for (party_id, method) in tenancy.signatures.iter().copied() {
            let (document_sha256, on) = (tenancy.sha256(), tenancy.signed_on);
            self.lease(lease_id, LeaseCommand::Sign { party_id, document_sha256, method, on }).await?;
        }
        if tenancy.stage == Stage::Sent {
            return Ok(());
        }
        self.until("open its ledger", || self.is_ledger_ready(tenancy)).await?;
        if matches!(tenancy.stage, Stage::Active | Stage::Ended { .. }) {
            self.activate(unit_id, tenancy).await?;
        }
        self.book(tenancy, entries).await?;
        if let Stage::Ended { vacated_on } = tenancy.stage {
            self.lease(lease_id, LeaseCommand::TerminateLease { vacated_on }).await?;
            self.until("end its occupancy", || self.has_ended(unit_id, lease_id)).await?;
        }
        Ok(())
    }

    /// Stores the agreement, sends it, and waits until the unit is reserved.
    async fn send(&self, tenancy: &Tenancy) -> Result<()> {
        let lease_id = tenancy.lease_id;
        let content = tenancy.agreement.clone().into_bytes();
        let (size, sha256) = (content.len() as u64, tenancy.sha256());
        self.artifacts.put(content.into()).await.map_err(super::chained)?;
        let store = DocumentCommand::StoreDocument(NewDocument {
            document_id: tenancy.document_id,
            kind: DocumentKind::LeaseAgreement,
            media_type: "text/plain".into(),
            size,
            sha256,
            computed_sha256: sha256,
            lease_id: Some(lease_id),
            expires_on: None,
            supersedes: None,
        });
        self.execute(&[step::<Document>(tenancy.document_id.to_string(), store)]).await?;
        let (document_id, signers) = (tenancy.document_id, tenancy.signers());
        self.lease(lease_id, LeaseCommand::SendForSignature { document_id, document_sha256: sha256, signers }).await?;
        self.until("reserve its unit", || self.is_sent(lease_id)).await
    }

    async fn activate(&self, unit_id: UnitId, tenancy: &Tenancy) -> Result<()> {
        let (lease_id, on) = (tenancy.lease_id, tenancy.terms.start_date);
        let activated = self.lease(lease_id, LeaseCommand::ActivateLease { on, deposit_paid: None }).await;
        // The lease-start timer may have been first; it starts the lease on the same day.
        if let Err(error) = activated
            && self.handler.load::<Lease>(lease_id.to_string()).await?.state.state() != Some(LeaseState::Active)
        {
            return Err(error);
        }
        self.until("start its occupancy", || self.has_moved_in(unit_id, lease_id)).await
    }

    async fn book(&self, tenancy: &Tenancy, entries: &AtomicU64) -> Result<()> {
        let lease_id = tenancy.lease_id;
        for booking in &tenancy.bookings {
            let mut steps = vec![];
            if let LedgerCommand::RecordPayment(payment) = &booking.command {
                steps.extend(claim(lease_id, payment));
            }
            steps.push(step::<Ledger>(lease_id.to_string(), booking.command.clone()));
            self.execute(&steps).await?;
            entries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn is_sent(&self, lease_id: LeaseId) -> Result<bool> {
        let lease = self.handler.load::<Lease>(lease_id.to_string()).await?;
        match (lease.state.state(), lease.state.send_refusal()) {
            (Some(LeaseState::Sending), _) => Ok(false),
            (Some(LeaseState::Sent), _) => Ok(true),
            (_, Some(refusal)) => bail!("its unit was refused: {refusal}"),
            (other, None) => bail!("it was sent and is {}", other.map_or("gone", LeaseState::as_str)),
        }
    }

    async fn is_ledger_ready(&self, tenancy: &Tenancy) -> Result<bool> {
        let ledger = self.handler.load::<Ledger>(tenancy.lease_id.to_string()).await?;
        let charged = tenancy.terms.deposit.is_none() || ledger.state.charge(deposit_charge(tenancy.lease_id)).is_some();
        Ok(ledger.state.is_open() && charged)
    }

    async fn has_moved_in(&self, unit_id: UnitId, lease_id: LeaseId) -> Result<bool> {
        let unit = self.handler.load::<Unit>(unit_id.to_string()).await?;
        Ok(unit.state.calendar().find(EntryKind::Occupancy, lease_id.0).is_some())
    }

    async fn has_ended(&self, unit_id: UnitId, lease_id: LeaseId) -> Result<bool> {
        let unit = self.handler.load::<Unit>(unit_id.to_string()).await?;
        let occupancy = unit.state.calendar().find(EntryKind::Occupancy, lease_id.0);
        Ok(matches!(occupancy, None | Some(Entry::Occupancy { ended: true, .. })))
    }

    /// Waits for the move-in process, for as long as it gets on with any lease.
    async fn until<F: Future<Output = Result<bool>>>(&self, what: &str, is_done: impl Fn() -> F) -> Result<()> {
        let begun = Instant::now();
        let mut pause = POLL_MIN;
        loop {
            if is_done().await? {
                *self.moved_at.lock().expect("nothing panics under this lock") = Instant::now();
                return Ok(());
            }
            let moved_at = *self.moved_at.lock().expect("nothing panics under this lock");
            if begun.max(moved_at).elapsed() > STANDSTILL_MAX {
                let seconds = STANDSTILL_MAX.as_secs();
                bail!("the move-in process did not {what} within {seconds} s: is the projector running?");
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(POLL_MAX);
        }
    }
}

/// The claim of a payment's reference at the bank, in the same append.
fn claim(lease_id: LeaseId, payment: &NewPayment) -> Option<Box<dyn Step>> {
    let reference = payment.external_ref.as_ref()?;
    let (payment_id, content_hash) = (payment.payment_id, payment.content_hash(lease_id));
    let claim = ReferenceCommand::ClaimReference { lease_id, payment_id, content_hash };
    Some(step::<PaymentReference>(reference.stream().id, claim))
}
