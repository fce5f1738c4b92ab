//! Properties with listed units, made through the command handler as a client's commands would be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use commands::{CommandError, Handler, Issue, step};
use domain::units::{
    AddUnit, Address, Amenity, Bathrooms, OwnerShare, Property, PropertyCommand, PropertyFacts, PropertyType,
    RegisterProperty, Unit, UnitCommand, UpdateUnit,
};
use domain::{Currency, Date, Money, PartyId, PropertyId, UnitId};
use tokio::task::JoinSet;
use uuid::Uuid;

pub const CALLERS: usize = 256;
/// Fewer than the handler keeps states of.
const WINDOW: usize = 16_000;
/// So few that callers seldom meet at one property.
const UNITS_A_PROPERTY: usize = 20;
pub const CITIES: [&str; 12] = [
    "Albany",
    "Boston",
    "Chicago",
    "Denver",
    "El Paso",
    "Fresno",
    "Gary",
    "Houston",
    "Irvine",
    "Juneau",
    "Kansas City",
    "Laredo",
];
const AMENITIES: [Amenity; 6] =
    [Amenity::Balcony, Amenity::Elevator, Amenity::Parking, Amenity::Gym, Amenity::Dishwasher, Amenity::PetsAllowed];

/// What was made.
#[derive(Default)]
pub struct Portfolio {
    properties: Vec<PropertyFacts>,
    pub ids: Vec<Uuid>,
}

impl Portfolio {
    pub fn units(&self) -> usize {
        self.ids.len()
    }

    pub fn property_of(&self, unit: usize) -> Option<PropertyId> {
        self.properties.get(unit / UNITS_A_PROPERTY).map(|facts| facts.property_id)
    }

    /// Adds and lists units until there are so many.
    ///
    /// # Errors
    /// When a command is refused.
    pub async fn grow(&mut self, handler: &Handler, units: usize) -> Result<()> {
        let wanted = units.div_ceil(UNITS_A_PROPERTY);
        let first = self.properties.len();
        self.properties.extend((first..wanted).map(facts));
        let new: Vec<PropertyFacts> = self.properties[first..].to_vec();
        let owner = PartyId(Uuid::now_v7());
        all(new.len(), {
            let (handler, new) = (handler.clone(), Arc::new(new));
            move |at| {
                let (handler, facts) = (handler.clone(), new[at].clone());
                async move { register(&handler, &facts, owner).await }
            }
        })
        .await?;
        let from = self.ids.len();
        self.ids.extend((from..units).map(|_| Uuid::now_v7()));
        // Neighbours in time stand in different houses: `at` runs over the houses first.
        let (handler, ids, properties) = (handler.clone(), Arc::new(self.ids.clone()), Arc::new(self.properties.clone()));
        let houses = (units - from).div_ceil(UNITS_A_PROPERTY).max(1);
        all(houses * UNITS_A_PROPERTY, move |turn| {
            let at = from + (turn % houses) * UNITS_A_PROPERTY + turn / houses;
            let (handler, ids, properties) = (handler.clone(), ids.clone(), properties.clone());
            async move {
                match ids.get(at) {
                    Some(id) if at < units => add(&handler, *id, at, &properties[at / UNITS_A_PROPERTY]).await,
                    _ => Ok(()),
                }
            }
        })
        .await
    }
}

/// Changes the areas of units, so many commands in all.
///
/// # Errors
/// When a command is refused.
pub async fn change(handler: &Handler, ids: &[Uuid], commands: usize) -> Result<()> {
    change_many(handler, ids, commands, 1).await
}

/// The same where each command changes so many units: a log grows faster so. Units that are more than the handler keeps states of
/// are changed window after window, each as often as it is its turn, so that not every change reads its unit's stream first.
///
/// # Errors
/// When a command is refused.
pub async fn change_many(handler: &Handler, ids: &[Uuid], commands: usize, units: usize) -> Result<()> {
    // Another area than any that was set before: a command that changes nothing appends nothing.
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let (handler, ids) = (handler.clone(), Arc::new(ids.to_vec()));
    let window = WINDOW.min(ids.len());
    let visits = (commands * units).div_ceil(ids.len());
    all(commands, move |turn| {
        let (handler, ids) = (handler.clone(), ids.clone());
        async move {
            let steps = (turn * units..(turn + 1) * units).map(|at| {
                let area = 1_000 + (TURN.fetch_add(1, Ordering::Relaxed) % 1_000_000) as u32 % 9_000;
                let update = UnitCommand::UpdateUnit(UpdateUnit { area_m2: Some(area), ..UpdateUnit::default() });
                let begins = at / (window * visits) * window;
                step::<Unit>(ids[(begins + at % window) % ids.len()].to_string(), update)
            });
            handler.execute(&issue(), &steps.collect::<Vec<_>>()).await.map(drop)
        }
    })
    .await
}

/// Runs `work(0..count)` with 256 under way.
pub async fn all<F, W>(count: usize, work: W) -> Result<()>
where
    F: Future<Output = Result<(), CommandError>> + Send + 'static,
    W: Fn(usize) -> F + Clone + Send + Sync + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS.min(count) {
        let (next, work) = (next.clone(), work.clone());
        callers.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return Ok(());
                }
                work(at).await?;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended?.map_err(|error: CommandError| anyhow!("a command was refused: {error}"))?;
    }
    Ok(())
}

/// A caller who waits longer than HTTP's do: a store is filled on busy machines, too, and nothing here measures the wait.
pub fn issue() -> Issue {
    Issue { timeout: Duration::from_secs(60), ..Issue::by("bench") }
}

fn usd() -> Currency {
    Currency::new("USD").expect("a code of the table")
}

/// The same numbers in every run.
fn mixed(at: usize) -> u64 {
    let mut x = (at as u64).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 29;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 32)
}

fn facts(at: usize) -> PropertyFacts {
    PropertyFacts {
        property_id: PropertyId(Uuid::now_v7()),
        property_name: format!("House {at} on the Hill"),
        city: CITIES[at % CITIES.len()].to_owned(),
        region: Some("NY".to_owned()),
        country: "US".to_owned(),
        time_zone: "America/New_York".to_owned(),
        currency: usd(),
        jurisdiction: "US-NY".to_owned(),
    }
}

async fn register(handler: &Handler, facts: &PropertyFacts, owner: PartyId) -> Result<(), CommandError> {
    let register = PropertyCommand::RegisterProperty(RegisterProperty {
        property_id: facts.property_id,
        name: facts.property_name.clone(),
        property_type: PropertyType::ApartmentBuilding,
        address: Address {
            line1: "1 Hill Street".to_owned(),
            line2: None,
            city: facts.city.clone(),
            region: facts.region.clone(),
            postal_code: Some("10001".to_owned()),
            country: facts.country.clone(),
        },
        time_zone: facts.time_zone.clone(),
        currency: facts.currency,
        jurisdiction: facts.jurisdiction.clone(),
        owners: vec![OwnerShare { party_id: owner, share_bp: 10_000 }],
    });
    let id = facts.property_id.to_string();
    handler.execute(&issue(), &[step::<Property>(id, register)]).await.map(drop)
}

async fn add(handler: &Handler, id: Uuid, at: usize, property: &PropertyFacts) -> Result<(), CommandError> {
    let dice = mixed(at);
    let amenities: BTreeSet<Amenity> =
        AMENITIES.into_iter().enumerate().filter(|(bit, _)| dice >> bit & 1 == 1).map(|(_, a)| a).collect();
    let unit_number = format!("{}", at % UNITS_A_PROPERTY + 1);
    let add = UnitCommand::AddUnit(AddUnit {
        property: property.clone(),
        unit_number: unit_number.clone(),
        bedrooms: (dice >> 8) as u8 % 6,
        bathrooms: Bathrooms::from_x2(2 + (dice >> 16) as u8 % 5).unwrap_or_default(),
        area_m2: 20 + (dice >> 24) as u32 % 200,
        amenities,
    });
    let claim = PropertyCommand::ClaimUnitNumber { unit_id: UnitId(id), unit_number };
    let steps = [step::<Unit>(id.to_string(), add), step::<Property>(property.property_id.to_string(), claim)];
    handler.execute(&issue(), &steps).await?;
    let price = Money::new(50_000 + (dice >> 32) as i64 % 350_000, usd());
    let list = UnitCommand::ListUnit {
        price,
        deposit: price,
        available_from: Date::constant(2024, 1, 1),
        min_term_months: 6,
        rent_cap: None,
    };
    handler.execute(&issue(), &[step::<Unit>(id.to_string(), list)]).await.map(drop)
}
