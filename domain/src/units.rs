//! Properties and units: what can be rented, and the calendar that keeps two people from renting it at once.

mod amenity;
mod calendar;
mod occupancy;
mod place;
mod property;
mod unit;
mod unit_command;
mod unit_error;
mod unit_event;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod unit_tests;

pub use amenity::{Amenity, Bathrooms};
pub use calendar::{Calendar, Entry, EntryKind, Meeting, Own, meeting};
pub use occupancy::Occupancy;
pub use place::{Address, OwnerShare, PropertyFacts, PropertyType};
pub use property::{OWNER_SHARES_BP, Property, PropertyCommand, PropertyError, PropertyEvent, RegisterProperty};
pub use unit::{Listing, PriceStep, Unit, UnitFacts};
pub use unit_command::{AddUnit, HOLD_DAYS_MAX, UnitCommand, UpdateUnit};
pub use unit_error::UnitError;
pub use unit_event::UnitEvent;
