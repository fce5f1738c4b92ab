//! What the demo will contain, decided before anything is written: a pure function of plan and date. Each entity draws from its
//! own sequence, so that the order in which things are written later changes nothing.

use std::collections::BTreeSet;

use domain::legal::PartyRole;
use domain::units::{
    AddUnit, Address, Amenity, Bathrooms, OwnerShare, PropertyFacts, PropertyType, RegisterProperty, UnitCommand,
};
use domain::{BlockId, Date, HoldId, PropertyId, Timestamp, UnitId};
use uuid::Uuid;

use super::Plan;
use super::days::{next_month, plus_days, plus_months};
use super::people::Person;
use super::places::{PLACES, Place};
use super::rng::{Of, Rng};
use super::tenancy::{Stage, Tenancy};

/// Leases a unit may have had.
const LEASES_PER_UNIT_MAX: u64 = 16;
const DAY_SECONDS: i64 = 86_400;

pub(super) struct Blueprint {
    pub properties: Vec<PropertyPlan>,
    pub units: Vec<UnitPlan>,
}

pub(super) struct PropertyPlan {
    pub register: RegisterProperty,
    pub owners: Vec<Person>,
}

pub(super) struct UnitPlan {
    pub id: UnitId,
    /// Index of its property.
    pub property: usize,
    pub add: AddUnit,
    /// One after the other.
    pub tenancies: Vec<Tenancy>,
    /// Who asked for the hold that is in `finally`.
    pub prospect: Option<Person>,
    /// Listing, price, hold, block: how the unit stands today.
    pub finally: Vec<UnitCommand>,
}

/// How a unit stands today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Active,
    Available,
    Held,
    Blocked,
    /// Signed, starts next month.
    Upcoming,
    /// Waits for signatures.
    Sent,
    /// Available, with a lease in draft.
    Draft,
}

/// Dealt out in turn, so that the shares hold for a dozen units too. Twenty and nine properties have no common factor: each
/// property gets some of everything.
const FATES: [Fate; 20] = {
    use Fate::{Active, Available, Blocked, Draft, Held, Sent, Upcoming};
    [
        Active, Available, Active, Available, Held, Active, Available, Upcoming, Active, Available, Active, Available,
        Active, Blocked, Available, Active, Sent, Active, Available, Draft,
    ]
};

/// The dates that all else hangs on. They lie so far from today that it does not matter where on earth it is already tomorrow.
#[derive(Clone, Copy)]
pub(super) struct Days {
    /// In UTC.
    pub today: Date,
    /// Midnight UTC.
    pub midnight: Timestamp,
    /// The first of a month, some days ahead.
    pub next_start: Date,
    pub years: i64,
}

impl Days {
    pub fn at(now: Timestamp, years: u32) -> Self {
        let today = domain::today_in("UTC", now);
        let second = now.as_second() - now.as_second().rem_euclid(DAY_SECONDS);
        let midnight = Timestamp::from_second(second).unwrap_or(now);
        let soon = next_month(today);
        let next_start = if plus_days(today, 4) <= soon { soon } else { next_month(soon) };
        Self { today, midnight, next_start, years: i64::from(years) }
    }

    /// A past day of the books at the latest: yesterday is over everywhere but just west of the date line.
    pub fn yesterday(&self) -> Date {
        plus_days(self.today, -1)
    }

    /// From now on, in whole days after midnight UTC.
    fn expiry(&self, days: i64) -> Timestamp {
        Timestamp::from_second(self.midnight.as_second() + days * DAY_SECONDS).unwrap_or(self.midnight)
    }
}

/// The party of `test_tenant`; of no seed, so that seeding that was interrupted can be finished with another one.
pub(super) fn tenant_login_party() -> Uuid {
    Rng::of(0, Of::Person, u64::MAX).uuid()
}

impl Blueprint {
    pub fn draw(plan: &Plan, now: Timestamp) -> Self {
        let days = Days::at(now, plan.years);
        let count = PLACES.len().min(plan.units as usize);
        let properties: Vec<PropertyPlan> = (0..count).map(|index| PropertyPlan::draw(plan.seed, index)).collect();
        let units = (0..plan.units as usize).map(|index| UnitPlan::draw(plan.seed, index, &properties, &days)).collect();
        Self { properties, units }
    }

    pub fn cities(&self) -> usize {
        self.properties.iter().map(|property| &property.register.address.city).collect::<BTreeSet<_>>().len()
    }

    pub fn leases(&self) -> usize {
        self.units.iter().map(|unit| unit.tenancies.len()).sum()
    }
}

impl PropertyPlan {
    fn draw(seed: u64, index: usize) -> Self {
        let place = &PLACES[index];
        let mut rng = Rng::of(seed, Of::Property, index as u64);
        let property_id = PropertyId(rng.uuid());
        let mut owners = vec![Person::company(&mut rng, place, index)];
        if rng.chance(40) {
            owners.push(Person::new(&mut rng, place, PartyRole::Owner));
        }
        let minor = if owners.len() > 1 { rng.range(2, 9) as u32 * 500 } else { 0 };
        let shares = owners.iter().zip([10_000 - minor, minor]);
        let register = RegisterProperty {
            property_id,
            name: place.name.into(),
            property_type: place.property_type,
            address: Address {
                line1: place.line1.into(),
                line2: None,
                city: place.city.into(),
                region: place.region.map(Into::into),
                postal_code: Some(place.postal_code.into()),
                country: place.country.into(),
            },
            time_zone: place.time_zone.into(),
            currency: place.currency(),
            jurisdiction: place.jurisdiction.into(),
            owners: shares.map(|(owner, share_bp)| OwnerShare { party_id: owner.party_id, share_bp }).collect(),
        };
        Self { register, owners }
    }

    /// What `Property::facts` will answer.
    fn facts(&self) -> PropertyFacts {
        let register = &self.register;
        PropertyFacts {
            property_id: register.property_id,
            property_name: register.name.clone(),
            city: register.address.city.clone(),
            region: register.address.region.clone(),
            country: register.address.country.clone(),
            time_zone: register.time_zone.clone(),
            currency: register.currency,
            jurisdiction: register.jurisdiction.clone(),
        }
    }
}

impl UnitPlan {
    fn draw(seed: u64, index: usize, properties: &[PropertyPlan], days: &Days) -> Self {
        let property = index % properties.len();
        let place = &PLACES[property];
        let mut rng = Rng::of(seed, Of::Unit, index as u64);
        let id = UnitId(rng.uuid());
        let bedrooms = rng.pick(bedrooms(place));
        let add = AddUnit {
            property: properties[property].facts(),
            unit_number: unit_number(place, index / properties.len()),
            bedrooms,
            bathrooms: Bathrooms::from_x2(bathrooms_x2(&mut rng, bedrooms)).unwrap_or_default(),
            area_m2: (24 + 19 * i64::from(bedrooms) + rng.range(0, 14)) as u32,
            amenities: amenities(&mut rng, place),
        };
        let rent = rounded(place, place.rents[usize::from(bedrooms)] * rng.range(90, 116) / 100);
        let fate = FATES[index % FATES.len()];
        let mut unit = Self { id, property, add, tenancies: vec![], prospect: None, finally: vec![] };
        unit.draw_tenancies(seed, index, &mut rng, rent, fate, days);
        unit.draw_today(&mut rng, rent, fate, days);
        unit
    }

    fn place(&self) -> &'static Place {
        &PLACES[self.property]
    }

    fn draw_tenancies(&mut self, seed: u64, index: usize, rng: &mut Rng, rent: i64, fate: Fate, days: &Days) {
        let months = days.years * 12 - 1;
        let this_month = days.today.first_of_month();
        let next = |unit: &mut Self, start: Date, stage: Stage| {
            let lease = index as u64 * LEASES_PER_UNIT_MAX + unit.tenancies.len() as u64;
            let login = (index == 0 && stage == Stage::Active).then(tenant_login_party);
            let then = rounded(unit.place(), rent * (100 - 3 * years_before(start, days.today)) / 100);
            let tenancy = Tenancy::draw(seed, lease, unit, then, start, stage, login, days);
            unit.tenancies.push(tenancy);
        };
        match fate {
            Fate::Active => {
                let ago = if months > 11 && rng.chance(45) { rng.range(12, months) } else { rng.range(1, months.min(11)) };
                let start = plus_days(plus_months(this_month, -ago), if rng.chance(25) { 14 } else { 0 });
                let room = months - ago;
                if room >= 7 && rng.chance(50) {
                    let vacated = plus_days(start, -rng.range(0, 25));
                    let begun = plus_months(vacated.first_of_month(), -rng.range(6, (room - 1).min(18)));
                    next(self, begun, Stage::Ended { vacated_on: vacated });
                }
                next(self, start, Stage::Active);
            }
            Fate::Available | Fate::Held | Fate::Blocked | Fate::Upcoming | Fate::Sent | Fate::Draft => {
                if rng.chance(60) {
                    let vacated = plus_days(days.today, -rng.range(12, 80));
                    let begun = plus_months(vacated.first_of_month(), -rng.range(6, (months - 3).clamp(7, 18)));
                    next(self, begun, Stage::Ended { vacated_on: vacated });
                }
            }
        }
        match fate {
            Fate::Upcoming => next(self, days.next_start, Stage::Signed),
            Fate::Sent => next(self, days.next_start, Stage::Sent),
            Fate::Draft => next(self, days.next_start, Stage::Draft),
            Fate::Active | Fate::Available | Fate::Held | Fate::Blocked => {}
        }
    }

    fn draw_today(&mut self, rng: &mut Rng, rent: i64, fate: Fate, days: &Days) {
        let place = self.place();
        let today = days.today;
        match fate {
            Fate::Active => {
                let ends = self.tenancies.last().and_then(|tenancy| tenancy.terms.end_date);
                // Somebody else may look for what is free soon.
                if let Some(end) = ends.filter(|end| *end <= plus_days(today, 100)) {
                    self.list(rng, rent, plus_days(end, 1));
                }
                return;
            }
            Fate::Upcoming | Fate::Sent => return,
            Fate::Available | Fate::Held | Fate::Blocked | Fate::Draft => {}
        }
        let available_from = plus_days(today, -rng.range(2, 10));
        self.list(rng, rent, available_from);
        match fate {
            Fate::Held => {
                let prospect = Person::new(rng, place, PartyRole::Tenant);
                self.finally.push(UnitCommand::PlaceHold {
                    hold_id: HoldId(rng.uuid()),
                    party_id: prospect.party_id,
                    from: today,
                    to: plus_days(today, 30),
                    expires_at: days.expiry(rng.range(3, 13)),
                });
                self.prospect = Some(prospect);
            }
            Fate::Blocked => self.finally.push(UnitCommand::BlockUnit {
                block_id: BlockId(rng.uuid()),
                from: plus_days(today, -rng.range(2, 9)),
                to: plus_days(today, rng.range(8, 40)),
                reason: rng.pick(&["Bathroom renovation", "Repainting", "Water damage repair", "New kitchen"]).into(),
                request_id: None,
            }),
            Fate::Active | Fate::Available | Fate::Upcoming | Fate::Sent | Fate::Draft if rng.chance(25) => {
                let price = place.money(rounded(place, rent * 95 / 100));
                let effective_on = if rng.chance(50) { days.yesterday() } else { days.next_start };
                self.finally.push(UnitCommand::ChangeListingPrice { price, effective_on, rent_cap: None });
            }
            Fate::Active | Fate::Available | Fate::Upcoming | Fate::Sent | Fate::Draft => {}
        }
    }

    fn list(&mut self, rng: &mut Rng, rent: i64, available_from: Date) {
        let place = self.place();
        self.finally.push(UnitCommand::ListUnit {
            price: place.money(rent),
            deposit: place.money(place.deposit(rent).map_or(0, |(amount, _)| amount)),
            available_from,
            min_term_months: rng.pick(&[6, 12, 12, 12]),
            rent_cap: None,
        });
    }
}

fn rounded(place: &Place, amount: i64) -> i64 {
    (amount + place.rent_step / 2) / place.rent_step * place.rent_step
}

fn years_before(start: Date, today: Date) -> i64 {
    i64::from(today.year() - start.year()).max(0)
}

fn bedrooms(place: &Place) -> &'static [u8] {
    match place.property_type {
        PropertyType::Townhouse => &[2, 2, 3, 3],
        _ => &[0, 1, 1, 1, 2, 2, 2, 3],
    }
}

fn bathrooms_x2(rng: &mut Rng, bedrooms: u8) -> u8 {
    match bedrooms {
        0 | 1 => 2,
        2 => rng.pick(&[2, 3, 4]),
        _ => rng.pick(&[4, 4, 5]),
    }
}

fn amenities(rng: &mut Rng, place: &Place) -> BTreeSet<Amenity> {
    let mut amenities: BTreeSet<Amenity> = place.common.iter().copied().collect();
    for amenity in place.extra {
        if rng.chance(35) {
            amenities.insert(*amenity);
        }
    }
    amenities
}

/// Six doors a floor: `101` to `106`, `201`…; houses are numbered through.
fn unit_number(place: &Place, index: usize) -> String {
    match (place.property_type, place.country) {
        (PropertyType::Townhouse, _) => format!("TH-{}", index + 1),
        (_, "GB") => format!("Flat {}", index + 1),
        _ => format!("{}{:02}", index / 6 + 1, index % 6 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_a_third_of_the_units_is_free_however_many_there_are() {
        let free = |fate: &Fate| matches!(fate, Fate::Available | Fate::Draft);
        for count in 8..=300_usize {
            let units = (0..count).map(|index| FATES[index % FATES.len()]).filter(free).count();
            assert!(units * 3 >= count - 2, "{units} of {count}");
        }
    }
}
