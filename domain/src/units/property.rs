//! The aggregate `Property`: a building, its owners, and the set of its unit numbers.
//!
//! A unit's number is claimed here in the same append that writes the unit's own event, so two units never share one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::place::{check_jurisdiction, check_time_zone};
use super::{Address, OwnerShare, PropertyFacts, PropertyType};
use crate::events::event_names;
use crate::fault::{Fault, at_most, sane_date, text};
use crate::{
    Aggregate, AggregateKind, Currency, Decide, Fact, Moment, PropertyId, RefusalClass, Refused, UnitId, bridge, today_in,
};

/// The whole of a property in basis points.
pub const OWNER_SHARES_BP: u32 = 10_000;
const OWNERS_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq)]
pub enum PropertyCommand {
    RegisterProperty(RegisterProperty),
    AssignOwners {
        owners: Vec<OwnerShare>,
        effective_on: Date,
    },
    InactivateProperty,
    /// For a new unit, or for one that changes its number: then the old number is given back.
    ClaimUnitNumber {
        unit_id: UnitId,
        unit_number: String,
    },
    NoteUnitRetired {
        unit_id: UnitId,
    },
    NoteUnitReinstated {
        unit_id: UnitId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterProperty {
    pub property_id: PropertyId,
    pub name: String,
    #[serde(rename = "type")]
    pub property_type: PropertyType,
    pub address: Address,
    /// IANA name.
    pub time_zone: String,
    pub currency: Currency,
    /// ISO 3166 code of the law that applies: `CO`, `US-CA`.
    pub jurisdiction: String,
    pub owners: Vec<OwnerShare>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropertyEvent {
    PropertyRegistered(RegisterProperty),
    OwnersAssigned { owners: Vec<OwnerShare>, effective_on: Date },
    PropertyInactivated {},
    UnitNumberClaimed { unit_id: UnitId, unit_number: String },
    UnitNumberReleased { unit_id: UnitId, unit_number: String },
    UnitRetirementNoted { unit_id: UnitId },
    UnitReinstatementNoted { unit_id: UnitId },
}

event_names!(
    PropertyEvent: PropertyRegistered,
    OwnersAssigned,
    PropertyInactivated,
    UnitNumberClaimed,
    UnitNumberReleased,
    UnitRetirementNoted,
    UnitReinstatementNoted,
);

impl Fact for PropertyEvent {}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PropertyError {
    #[error("{}: {}", .0.pointer, .0.detail)]
    Invalid(Fault),
    #[error("there is no such property")]
    NotFound,
    #[error("the property has no unit {unit_id}")]
    NoSuchUnit { unit_id: UnitId },
    #[error("the property already exists with other content")]
    AlreadyExists { property_id: PropertyId },
    #[error("the property is {current}")]
    InvalidState { current: &'static str, allowed: &'static [&'static str] },
    #[error("the owners' shares sum to {sum_bp} basis points, not 10000, or an owner is named twice or without a share")]
    OwnerSharesInvalid { sum_bp: u64 },
    #[error("{active_units} units are not retired")]
    HasActiveUnits { active_units: usize },
    #[error("the property already has a unit {unit_number}")]
    DuplicateUnitNumber { unit_number: String, unit_id: UnitId },
}

impl From<Fault> for PropertyError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(fault)
    }
}

impl Refused for PropertyError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "VALIDATION_FAILED",
            Self::NotFound | Self::NoSuchUnit { .. } => "NOT_FOUND",
            Self::AlreadyExists { .. } => "ALREADY_EXISTS",
            Self::InvalidState { .. } => "INVALID_STATE",
            Self::OwnerSharesInvalid { .. } => "OWNER_SHARES_INVALID",
            Self::HasActiveUnits { .. } => "PROPERTY_HAS_ACTIVE_UNITS",
            Self::DuplicateUnitNumber { .. } => "DUPLICATE_UNIT_NUMBER",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid(_) => RefusalClass::Invalid,
            Self::NotFound | Self::NoSuchUnit { .. } => RefusalClass::NotFound,
            Self::OwnerSharesInvalid { .. } => RefusalClass::Policy,
            Self::AlreadyExists { .. }
            | Self::InvalidState { .. }
            | Self::HasActiveUnits { .. }
            | Self::DuplicateUnitNumber { .. } => RefusalClass::Conflict,
        }
    }

    fn facts(&self) -> Value {
        match self {
            Self::Invalid(_) | Self::NotFound => Value::Null,
            Self::NoSuchUnit { unit_id } => json!({ "unit_id": unit_id }),
            Self::AlreadyExists { property_id } => json!({ "property_id": property_id }),
            Self::InvalidState { current, allowed } => json!({ "current": current, "allowed": allowed }),
            Self::OwnerSharesInvalid { sum_bp } => json!({ "sum_bp": sum_bp, "required_bp": OWNER_SHARES_BP }),
            Self::HasActiveUnits { active_units } => json!({ "active_units": active_units }),
            Self::DuplicateUnitNumber { unit_number, unit_id } => {
                json!({ "unit_number": unit_number, "unit_id": unit_id })
            }
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(fault) => Some(fault.pointer),
            Self::OwnerSharesInvalid { .. } => Some("/owners"),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Property {
    /// Absent until the property is registered; the owners in it are those registered with.
    registered: Option<RegisterProperty>,
    inactive: bool,
    /// The last assignment, to tell a repetition.
    assigned: Option<(Date, Vec<OwnerShare>)>,
    units: BTreeMap<UnitId, KnownUnit>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KnownUnit {
    number: String,
    retired: bool,
}

impl Aggregate for Property {
    const TYPE: &'static str = "property";
    type Command = PropertyCommand;
    type Event = PropertyEvent;
    type Error = PropertyError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: PropertyEvent) {
        match event {
            PropertyEvent::PropertyRegistered(registered) => self.registered = Some(registered),
            PropertyEvent::OwnersAssigned { owners, effective_on } => self.assigned = Some((effective_on, owners)),
            PropertyEvent::PropertyInactivated {} => self.inactive = true,
            PropertyEvent::UnitNumberClaimed { unit_id, unit_number } => {
                let unit = self.units.entry(unit_id).or_insert(KnownUnit { number: String::new(), retired: false });
                unit.number = unit_number;
            }
            // The claim that follows in the same append gives the unit its new number.
            PropertyEvent::UnitNumberReleased { unit_id, .. } => {
                if let Some(unit) = self.units.get_mut(&unit_id) {
                    unit.number.clear();
                }
            }
            PropertyEvent::UnitRetirementNoted { unit_id } => self.set_retired(unit_id, true),
            PropertyEvent::UnitReinstatementNoted { unit_id } => self.set_retired(unit_id, false),
        }
    }
}

impl Decide for Property {
    const KIND: AggregateKind = AggregateKind::Property;

    fn decide(&self, command: &PropertyCommand, _: &Moment) -> Result<Vec<PropertyEvent>, PropertyError> {
        match command {
            PropertyCommand::RegisterProperty(register) => self.register(register),
            PropertyCommand::AssignOwners { owners, effective_on } => self.assign_owners(owners, *effective_on),
            PropertyCommand::InactivateProperty => self.inactivate(),
            PropertyCommand::ClaimUnitNumber { unit_id, unit_number } => self.claim(*unit_id, unit_number),
            PropertyCommand::NoteUnitRetired { unit_id } => self.note_retired(*unit_id),
            PropertyCommand::NoteUnitReinstated { unit_id } => self.note_reinstated(*unit_id),
        }
    }

    fn effective_on(&self, event: &PropertyEvent, at: &Moment) -> Date {
        let zone = self.registered.as_ref().map_or("UTC", |registered| &registered.time_zone);
        match event {
            PropertyEvent::PropertyRegistered(registered) => today_in(&registered.time_zone, at.now),
            PropertyEvent::OwnersAssigned { effective_on, .. } => *effective_on,
            PropertyEvent::PropertyInactivated {}
            | PropertyEvent::UnitNumberClaimed { .. }
            | PropertyEvent::UnitNumberReleased { .. }
            | PropertyEvent::UnitRetirementNoted { .. }
            | PropertyEvent::UnitReinstatementNoted { .. } => today_in(zone, at.now),
        }
    }
}

type Decision = Result<Vec<PropertyEvent>, PropertyError>;

impl Property {
    /// What a unit of this property takes over; `None` before registration.
    pub fn facts(&self) -> Option<PropertyFacts> {
        let registered = self.registered.as_ref()?;
        Some(PropertyFacts {
            property_id: registered.property_id,
            property_name: registered.name.clone(),
            city: registered.address.city.clone(),
            region: registered.address.region.clone(),
            country: registered.address.country.clone(),
            time_zone: registered.time_zone.clone(),
            currency: registered.currency,
            jurisdiction: registered.jurisdiction.clone(),
        })
    }

    pub fn is_active(&self) -> bool {
        self.registered.is_some() && !self.inactive
    }

    fn set_retired(&mut self, unit_id: UnitId, retired: bool) {
        if let Some(unit) = self.units.get_mut(&unit_id) {
            unit.retired = retired;
        }
    }

    fn existing(&self) -> Result<&RegisterProperty, PropertyError> {
        self.registered.as_ref().ok_or(PropertyError::NotFound)
    }

    fn active(&self) -> Result<&RegisterProperty, PropertyError> {
        match self.inactive {
            true => Err(PropertyError::InvalidState { current: "inactive", allowed: &["active"] }),
            false => self.existing(),
        }
    }

    fn unit(&self, unit_id: UnitId) -> Result<&KnownUnit, PropertyError> {
        self.existing()?;
        self.units.get(&unit_id).ok_or(PropertyError::NoSuchUnit { unit_id })
    }

    fn register(&self, register: &RegisterProperty) -> Decision {
        text("/name", &register.name, 200)?;
        register.address.check()?;
        check_time_zone("/time_zone", &register.time_zone)?;
        check_jurisdiction("/jurisdiction", &register.jurisdiction)?;
        check_shares(&register.owners)?;
        match &self.registered {
            None => Ok(vec![PropertyEvent::PropertyRegistered(register.clone())]),
            Some(registered) if registered == register => Ok(vec![]),
            Some(registered) => Err(PropertyError::AlreadyExists { property_id: registered.property_id }),
        }
    }

    fn assign_owners(&self, owners: &[OwnerShare], effective_on: Date) -> Decision {
        self.active()?;
        check_shares(owners)?;
        sane_date("/effective_on", effective_on)?;
        let is_repeated = self.assigned.as_ref().is_some_and(|(on, assigned)| *on == effective_on && assigned == owners);
        Ok(match is_repeated {
            true => vec![],
            false => vec![PropertyEvent::OwnersAssigned { owners: owners.to_vec(), effective_on }],
        })
    }

    fn inactivate(&self) -> Decision {
        self.existing()?;
        let active_units = self.units.values().filter(|unit| !unit.retired).count();
        match (self.inactive, active_units) {
            (true, _) => Ok(vec![]),
            (false, 0) => Ok(vec![PropertyEvent::PropertyInactivated {}]),
            (false, active_units) => Err(PropertyError::HasActiveUnits { active_units }),
        }
    }

    fn claim(&self, unit_id: UnitId, unit_number: &str) -> Decision {
        self.active()?;
        text("/unit_number", unit_number, 50)?;
        let wanted = number_key(unit_number);
        let taken = self.units.iter().find(|(other, unit)| **other != unit_id && number_key(&unit.number) == wanted);
        if let Some((other, unit)) = taken {
            return Err(PropertyError::DuplicateUnitNumber { unit_number: unit.number.clone(), unit_id: *other });
        }
        let claimed = PropertyEvent::UnitNumberClaimed { unit_id, unit_number: unit_number.to_owned() };
        match self.units.get(&unit_id) {
            None => Ok(vec![claimed]),
            Some(unit) if unit.number == unit_number => Ok(vec![]),
            Some(unit) => {
                let released = PropertyEvent::UnitNumberReleased { unit_id, unit_number: unit.number.clone() };
                Ok(vec![released, claimed])
            }
        }
    }

    fn note_retired(&self, unit_id: UnitId) -> Decision {
        let unit = self.unit(unit_id)?;
        Ok(if unit.retired { vec![] } else { vec![PropertyEvent::UnitRetirementNoted { unit_id }] })
    }

    fn note_reinstated(&self, unit_id: UnitId) -> Decision {
        self.active()?;
        let unit = self.unit(unit_id)?;
        Ok(if unit.retired { vec![PropertyEvent::UnitReinstatementNoted { unit_id }] } else { vec![] })
    }
}

/// `4b` and `4B ` are the same door.
fn number_key(unit_number: &str) -> String {
    unit_number.trim().to_lowercase()
}

fn check_shares(owners: &[OwnerShare]) -> Result<(), PropertyError> {
    at_most("/owners", owners, OWNERS_MAX)?;
    let sum_bp = owners.iter().map(|owner| u64::from(owner.share_bp)).sum();
    let distinct: BTreeSet<_> = owners.iter().map(|owner| owner.party_id).collect();
    let each_has_a_share = owners.iter().all(|owner| owner.share_bp > 0);
    match sum_bp == u64::from(OWNER_SHARES_BP) && distinct.len() == owners.len() && each_has_a_share {
        true => Ok(()),
        false => Err(PropertyError::OwnerSharesInvalid { sum_bp }),
    }
}
