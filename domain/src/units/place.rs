//! Where a property stands, who owns it, and what its units inherit from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fault::{Fault, optional_text, text};
use crate::{Currency, PartyId, PropertyId, zone};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PropertyType {
    ApartmentBuilding,
    Condominium,
    SingleFamily,
    Townhouse,
    MultiFamily,
    StudentHousing,
    MixedUse,
    Commercial,
}

/// A postal address. No person's address: this is where the building stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    pub line1: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    pub city: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    /// ISO 3166-1 alpha-2.
    #[schema(pattern = "^[A-Z]{2}$", example = "US")]
    pub country: String,
}

impl Address {
    pub fn check(&self) -> Result<(), Fault> {
        text("/address/line1", &self.line1, 200)?;
        optional_text("/address/line2", self.line2.as_deref(), 200)?;
        text("/address/city", &self.city, 100)?;
        optional_text("/address/region", self.region.as_deref(), 100)?;
        optional_text("/address/postal_code", self.postal_code.as_deref(), 20)?;
        check_country("/address/country", &self.country)
    }
}

/// Part of a property in basis points (1/100 of a percent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerShare {
    pub party_id: PartyId,
    #[schema(minimum = 1, maximum = 10_000)]
    pub share_bp: u32,
}

/// What a unit takes over from its property when it is added, so that unit rows need the unit's stream only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropertyFacts {
    pub property_id: PropertyId,
    pub property_name: String,
    pub city: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub country: String,
    /// IANA name.
    pub time_zone: String,
    pub currency: Currency,
    pub jurisdiction: String,
}

impl PropertyFacts {
    pub fn check(&self) -> Result<(), Fault> {
        text("/property/property_name", &self.property_name, 200)?;
        text("/property/city", &self.city, 100)?;
        optional_text("/property/region", self.region.as_deref(), 100)?;
        check_country("/property/country", &self.country)?;
        check_time_zone("/property/time_zone", &self.time_zone)?;
        check_jurisdiction("/property/jurisdiction", &self.jurisdiction)
    }
}

fn check_country(pointer: &'static str, code: &str) -> Result<(), Fault> {
    match code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => Ok(()),
        false => Err(Fault::new(pointer, "must be an ISO 3166-1 code of two capital letters")),
    }
}

/// The name must be written as IANA writes it, so that equal zones are equal texts.
pub(super) fn check_time_zone(pointer: &'static str, name: &str) -> Result<(), Fault> {
    match zone(name) {
        Some(zone) if !zone.is_unknown() && zone.iana_name() == Some(name) => Ok(()),
        _ => Err(Fault::new(pointer, "must be an IANA time zone such as America/New_York")),
    }
}

/// An ISO 3166 country or subdivision, because rental law follows them: `CO`, `US-CA`, `GB-ENG`.
pub(super) fn check_jurisdiction(pointer: &'static str, code: &str) -> Result<(), Fault> {
    let (country, subdivision) = code.split_once('-').map_or((code, None), |(country, part)| (country, Some(part)));
    let country_is_code = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
    let part_is_code = subdivision.is_none_or(|part| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    });
    match country_is_code && part_is_code {
        true => Ok(()),
        false => Err(Fault::new(pointer, "must be an ISO 3166 code such as CO, US-CA or GB-ENG")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_that_iana_does_not_write_so_are_refused() {
        for name in ["", "Mars/Olympus", "america/new_york", "Etc/Unknown", "../etc/passwd", "EST5EDT,M3.2.0,M11.1.0"] {
            assert!(check_time_zone("/time_zone", name).is_err(), "{name}");
        }
        for name in ["America/Bogota", "Europe/London", "Asia/Tokyo", "UTC"] {
            assert!(check_time_zone("/time_zone", name).is_ok(), "{name}");
        }
    }

    #[test]
    fn jurisdictions_are_iso_3166_codes() {
        for code in ["", "us", "US-", "US-CALI", "USA", "US-ca", "U"] {
            assert!(check_jurisdiction("/jurisdiction", code).is_err(), "{code}");
        }
        for code in ["CO", "US-CA", "GB-ENG", "FR-75"] {
            assert!(check_jurisdiction("/jurisdiction", code).is_ok(), "{code}");
        }
    }
}
