//! One lease of the demo: who, on what terms, how far it came, and the document that is signed.

use domain::finances::ChargeType;
use domain::legal::{
    Clause, Deposit, ExtraCharge, LeasePlace, LeaseTenant, LeaseTerms, PartyRole, ProrationMethod, Rent, RentFrequency,
    SignatureMethod, TermType,
};
use domain::{Date, DocumentId, LeaseId, PartyId, Sha256};
use uuid::Uuid;

use super::blueprint::{Days, UnitPlan};
use super::days::{next_month, plus_days, plus_months};
use super::money::Booking;
use super::people::Person;
use super::places::{PLACES, Place};
use super::rng::{Of, Rng};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Draft,
    Sent,
    /// Signed by all, starts on its day.
    Signed,
    Active,
    Ended {
        vacated_on: Date,
    },
}

pub(super) struct Tenancy {
    pub lease_id: LeaseId,
    pub people: Vec<Person>,
    pub terms: LeaseTerms,
    pub place: LeasePlace,
    pub stage: Stage,
    pub document_id: DocumentId,
    /// Names no person: artifacts are not sealed.
    pub agreement: String,
    /// Who signs today's stage, in order.
    pub signatures: Vec<(PartyId, SignatureMethod)>,
    pub signed_on: Date,
    /// What happened on the ledger, in the order of the days.
    pub bookings: Vec<Booking>,
}

impl Tenancy {
    pub fn draw(
        seed: u64,
        index: u64,
        unit: &UnitPlan,
        rent: i64,
        start: Date,
        stage: Stage,
        login: Option<Uuid>,
        days: &Days,
    ) -> Self {
        let place = &PLACES[unit.property];
        let mut rng = Rng::of(seed, Of::Lease, index);
        let lease_id = LeaseId(rng.uuid());
        let document_id = DocumentId(rng.uuid());
        let people = people(seed, index, &mut rng, place, login);
        let signed_on = plus_days(start.min(days.today), -rng.range(3, 12));
        let terms = terms(&mut rng, unit, place, &people, rent, start, stage, signed_on, days);
        let signers = people.len();
        let signing = match stage {
            Stage::Draft => 0,
            Stage::Sent => rng.range(0, signers as i64 - 1) as usize,
            Stage::Signed | Stage::Active | Stage::Ended { .. } => signers,
        };
        let methods = [SignatureMethod::Electronic, SignatureMethod::Electronic, SignatureMethod::WetInk];
        let signatures = people.iter().take(signing).map(|person| (person.party_id, rng.pick(&methods))).collect();
        let agreement = agreement(unit, &terms, lease_id);
        let bookings = match stage {
            Stage::Draft | Stage::Sent => vec![],
            Stage::Signed | Stage::Active | Stage::Ended { .. } => {
                super::money::draw(Rng::of(seed, Of::Money, index), place, &terms, stage, signed_on, days)
            }
        };
        let register = &unit.add.property;
        let place = LeasePlace {
            property_id: register.property_id,
            time_zone: register.time_zone.clone(),
            currency: register.currency,
            jurisdiction: register.jurisdiction.clone(),
        };
        Self { lease_id, people, terms, place, stage, document_id, agreement, signatures, signed_on, bookings }
    }

    pub fn signers(&self) -> Vec<PartyId> {
        self.people.iter().map(|person| person.party_id).collect()
    }

    pub fn sha256(&self) -> Sha256 {
        Sha256::of(self.agreement.as_bytes())
    }
}

/// One or two tenants, now and then a guarantor as the last.
fn people(seed: u64, index: u64, rng: &mut Rng, place: &Place, login: Option<Uuid>) -> Vec<Person> {
    let tenants = if rng.chance(35) { 2 } else { 1 };
    let mut roles = vec![PartyRole::Tenant; tenants];
    roles.extend(rng.chance(12).then_some(PartyRole::Guarantor));
    let of = |(at, role)| Person::new(&mut Rng::of(seed, Of::Person, index * 8 + at as u64), place, role);
    let mut people: Vec<Person> = roles.into_iter().enumerate().map(of).collect();
    if let Some(login) = login {
        let first = people.remove(0);
        people.insert(0, first.known_as(login));
    }
    people
}

fn terms(
    rng: &mut Rng,
    unit: &UnitPlan,
    place: &Place,
    people: &[Person],
    rent: i64,
    start: Date,
    stage: Stage,
    signed_on: Date,
    days: &Days,
) -> LeaseTerms {
    let (term_type, end_date) = term(rng, place, start, stage, days);
    let is_guarantor = |person: &&Person| person.role() == PartyRole::Guarantor;
    let tenants: Vec<PartyId> = people.iter().filter(|person| !is_guarantor(person)).map(|person| person.party_id).collect();
    let shares = if tenants.len() == 2 { vec![Some(6_000), Some(4_000)] } else { vec![None] };
    let extra = place.monthly_extra().map(|(name, amount)| ExtraCharge {
        kind: ChargeType::Other,
        money: place.money(amount),
        description: Some(name.into()),
    });
    let deposit = place.deposit(rent).map(|(amount, held_by)| Deposit {
        money: place.money(amount),
        due_on: plus_days(signed_on, 3),
        held_by,
    });
    LeaseTerms {
        unit_id: unit.id,
        tenants: tenants.into_iter().zip(shares).map(|(party_id, share_bp)| LeaseTenant { party_id, share_bp }).collect(),
        guarantors: people.iter().filter(is_guarantor).map(|person| person.party_id).collect(),
        start_date: start,
        end_date,
        term_type,
        rent: Rent { money: place.money(rent), frequency: RentFrequency::Monthly, due_day: 1 },
        extra_charges: extra.into_iter().collect(),
        proration_method: ProrationMethod::ActualDays,
        late_fee_policy: place.late_fee(),
        // A lease of the past is started while its deposit is still being written: only one that lies ahead may wait for it.
        require_deposit_before_start: deposit.is_some() && matches!(stage, Stage::Signed | Stage::Sent | Stage::Draft),
        deposit,
        notice_days: place.notice_days(),
        escalation: place.escalation(),
        clauses: vec![Clause {
            title: "Use".into(),
            text: "The unit is let as a home. Subletting needs the landlord's consent in writing.".into(),
        }],
    }
}

/// A term that is over ended on the day the keys came back or, left early, would have a month later; one that runs has days left
/// or goes on from month to month.
fn term(rng: &mut Rng, place: &Place, start: Date, stage: Stage, days: &Days) -> (TermType, Option<Date>) {
    if let Stage::Ended { vacated_on } = stage {
        let end = if rng.chance(25) { plus_months(vacated_on, 1) } else { vacated_on };
        return (TermType::Fixed, Some(end));
    }
    let ends = |months| plus_days(plus_months(start, months), -1);
    let lengths = [place.term_months(), 24, 36];
    let running = lengths.into_iter().map(ends).find(|end| *end >= plus_days(days.today, 10));
    let first = ends(place.term_months());
    match running {
        Some(end) if end == first => (TermType::Fixed, Some(end)),
        Some(end) if rng.chance(50) => (TermType::Fixed, Some(end)),
        Some(_) | None => (TermType::Periodic, None),
    }
}

fn agreement(unit: &UnitPlan, terms: &LeaseTerms, lease_id: LeaseId) -> String {
    let property = &unit.add.property;
    let end = terms.end_date.map_or("from month to month".to_owned(), |end| format!("until {end}"));
    let deposit = terms.deposit.map_or("none".to_owned(), |deposit| format!("{}, due on {}", deposit.money, deposit.due_on));
    let tenants: Vec<String> = terms.tenants.iter().map(|tenant| tenant.party_id.to_string()).collect();
    let clauses: Vec<String> = terms.clauses.iter().map(|clause| format!("{}. {}", clause.title, clause.text)).collect();
    format!(
        "RESIDENTIAL LEASE AGREEMENT {lease_id}\n\nPremises: {}, unit {}, {}\nTenants: {}\nTerm: from {}, {end}\n\
         Rent: {} a month, due on day {}\nDeposit: {deposit}\nNotice: {} days by the tenant, {} by the landlord\nLaw: {}\n\n{}\n",
        property.property_name,
        unit.add.unit_number,
        property.city,
        tenants.join(", "),
        terms.start_date,
        terms.rent.money,
        terms.rent.due_day,
        terms.notice_days.tenant,
        terms.notice_days.landlord,
        property.jurisdiction,
        clauses.join("\n"),
    )
}

/// The rent periods of a lease up to a day: calendar months, cut where it begins and ends; `[from, to)`.
pub(super) fn periods(start: Date, end: Option<Date>, until: Date) -> Vec<(Date, Date)> {
    let mut periods = vec![];
    let mut from = start;
    while from <= until && end.is_none_or(|end| from < end) {
        let month = next_month(from);
        let to = end.map_or(month, |end| end.min(month));
        periods.push((from, to));
        from = to;
    }
    periods
}
