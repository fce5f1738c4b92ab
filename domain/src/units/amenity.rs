//! What a unit offers: amenities of a closed list, and bathrooms in halves.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

/// Names follow the MITS property-marketing list, in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Amenity {
    AirConditioner,
    Alarm,
    Balcony,
    Carpet,
    CeilingFan,
    ControlledAccess,
    Dishwasher,
    Disposal,
    Dryer,
    Elevator,
    Fireplace,
    Furnished,
    Garage,
    Garden,
    Gym,
    HardwoodFloor,
    Heat,
    InternetIncluded,
    Microwave,
    Parking,
    Patio,
    PetsAllowed,
    Pool,
    Range,
    Refrigerator,
    Storage,
    UtilitiesIncluded,
    View,
    WalkInCloset,
    Washer,
    WheelchairAccess,
}

/// A number of bathrooms in steps of one half; counted in halves (`bathrooms_x2`), written as a JSON number (`1.5`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = f64, example = 1.5, minimum = 0, maximum = 50, multiple_of = 0.5)]
pub struct Bathrooms(u8);

impl Bathrooms {
    /// In halves.
    pub const MAX_X2: u8 = 100;

    pub const fn from_x2(halves: u8) -> Option<Self> {
        if halves <= Self::MAX_X2 { Some(Self(halves)) } else { None }
    }

    pub const fn x2(self) -> u8 {
        self.0
    }

    /// `None` for anything but a multiple of one half from 0 to 50.
    pub fn new(count: f64) -> Option<Self> {
        // Halves are exact in binary, so comparing floats is sound here.
        let halves = (0..=Self::MAX_X2).find(|halves| f64::from(*halves) / 2.0 == count)?;
        Some(Self(halves))
    }

    pub fn count(self) -> f64 {
        f64::from(self.0) / 2.0
    }
}

impl Serialize for Bathrooms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.count())
    }
}

impl<'de> Deserialize<'de> for Bathrooms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = f64::deserialize(deserializer)?;
        Self::new(count).ok_or_else(|| de::Error::custom("bathrooms count in steps of 0.5, from 0 to 50"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bathrooms_that_are_not_halves_are_refused() {
        for text in ["1.25", "-0.5", "50.5", "1e300", "\"1\""] {
            assert!(serde_json::from_str::<Bathrooms>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bathrooms_count_in_halves() {
        let bathrooms: Bathrooms = serde_json::from_str("1.5").expect("a half");
        assert_eq!(bathrooms.x2(), 3);
        assert_eq!(serde_json::to_string(&bathrooms).expect("JSON"), "1.5");
        assert_eq!(serde_json::from_str::<Bathrooms>("2").expect("an integer is fine").x2(), 4);
    }

    #[test]
    fn an_unknown_amenity_is_refused() {
        assert!(serde_json::from_str::<Amenity>("\"helipad\"").is_err());
        assert_eq!(serde_json::to_string(&Amenity::WalkInCloset).expect("JSON"), "\"walk_in_closet\"");
    }
}
