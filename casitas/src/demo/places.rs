//! Where the demo's properties stand and what is usual there: rents, deposits, fees, terms.

#![allow(clippy::inconsistent_digit_grouping, reason = "the last two digits are cents")]

use domain::finances::{CapCombine, FeeKind, LateFeeCap, LateFeePolicy, PaymentMethod};
use domain::legal::{DepositHolder, Escalation, NoticeDays};
use domain::units::{Amenity, PropertyType};
use domain::{Currency, Money};

use Amenity::{
    AirConditioner, Balcony, CeilingFan, ControlledAccess, Dishwasher, Disposal, Dryer, Elevator, Fireplace, Furnished,
    Garage, Garden, Gym, HardwoodFloor, Heat, InternetIncluded, Parking, Patio, PetsAllowed, Pool, Range, Refrigerator,
    Storage, View, WalkInCloset, Washer,
};
use PaymentMethod::{BankTransfer, Card, Cash, Check, DirectDebit};

/// Custom and law of a country or state, as far as the demo needs them. Seed data, no legal advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Custom {
    NewYork,
    California,
    NorthCarolina,
    England,
    Colombia,
    Japan,
}

/// Whose names people have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    American,
    British,
    Colombian,
    Japanese,
}

pub(super) struct Place {
    pub name: &'static str,
    pub property_type: PropertyType,
    pub line1: &'static str,
    pub city: &'static str,
    pub region: Option<&'static str>,
    pub postal_code: &'static str,
    pub country: &'static str,
    pub time_zone: &'static str,
    pub currency: &'static str,
    pub jurisdiction: &'static str,
    pub custom: Custom,
    /// Usual monthly rent of a studio and of one to three bedrooms, minor units.
    pub rents: [i64; 4],
    /// Rents are rounded to this.
    pub rent_step: i64,
    /// Every unit has these.
    pub common: &'static [Amenity],
    /// Some units have some of these.
    pub extra: &'static [Amenity],
}

const UNITED_STATES: Place = Place {
    name: "",
    property_type: PropertyType::ApartmentBuilding,
    line1: "",
    city: "",
    region: None,
    postal_code: "",
    country: "US",
    time_zone: "America/New_York",
    currency: "USD",
    jurisdiction: "",
    custom: Custom::NewYork,
    rents: [0; 4],
    rent_step: 25_00,
    common: &[Heat, Range, Refrigerator],
    extra: &[AirConditioner, Dishwasher, Washer, Dryer, PetsAllowed, Storage, WalkInCloset, Balcony],
};

const COLOMBIA: Place = Place {
    country: "CO",
    time_zone: "America/Bogota",
    currency: "COP",
    jurisdiction: "CO",
    custom: Custom::Colombia,
    rent_step: 50_000_00,
    common: &[ControlledAccess, Elevator, Range],
    extra: &[Balcony, Parking, Gym, Furnished, InternetIncluded, PetsAllowed, View, Washer],
    ..UNITED_STATES
};

pub(super) const PLACES: &[Place] = &[
    Place {
        name: "The Alder",
        line1: "214 West 108th Street",
        city: "New York",
        region: Some("NY"),
        postal_code: "10025",
        jurisdiction: "US-NY",
        rents: [2_850_00, 3_600_00, 4_950_00, 6_800_00],
        common: &[ControlledAccess, Elevator, Heat, Range, Refrigerator],
        extra: &[AirConditioner, Dishwasher, Gym, HardwoodFloor, PetsAllowed, Storage, View, Washer, Dryer],
        ..UNITED_STATES
    },
    Place {
        name: "Laureles Park",
        line1: "Carrera 76 # 34A-52",
        city: "Medellín",
        region: Some("Antioquia"),
        postal_code: "050031",
        rents: [1_500_000_00, 2_100_000_00, 2_800_000_00, 3_900_000_00],
        ..COLOMBIA
    },
    Place {
        name: "Plaza Midwood Townhomes",
        property_type: PropertyType::Townhouse,
        line1: "1730 Thomas Avenue",
        city: "Charlotte",
        region: Some("NC"),
        postal_code: "28205",
        jurisdiction: "US-NC",
        custom: Custom::NorthCarolina,
        rents: [1_150_00, 1_400_00, 1_750_00, 2_150_00],
        common: &[AirConditioner, CeilingFan, Dishwasher, Disposal, Heat, Parking, Range, Refrigerator],
        extra: &[Fireplace, Garage, Garden, Patio, PetsAllowed, Pool, WalkInCloset, Washer, Dryer],
        ..UNITED_STATES
    },
    Place {
        name: "Castlefield Wharf",
        line1: "8 Slate Wharf",
        city: "Manchester",
        region: None,
        postal_code: "M15 4SX",
        country: "GB",
        time_zone: "Europe/London",
        currency: "GBP",
        jurisdiction: "GB-ENG",
        custom: Custom::England,
        rents: [850_00, 1_050_00, 1_350_00, 1_750_00],
        common: &[ControlledAccess, Elevator, Heat, Refrigerator, Washer],
        extra: &[Balcony, Dishwasher, Furnished, Gym, Parking, PetsAllowed, View],
        ..UNITED_STATES
    },
    Place {
        name: "Echo Park Terrace",
        line1: "1455 Laveta Terrace",
        city: "Los Angeles",
        region: Some("CA"),
        postal_code: "90026",
        time_zone: "America/Los_Angeles",
        jurisdiction: "US-CA",
        custom: Custom::California,
        rents: [1_750_00, 2_250_00, 3_050_00, 4_100_00],
        extra: &[AirConditioner, Balcony, Dishwasher, Garage, Parking, Patio, PetsAllowed, Pool, View, Washer, Dryer],
        ..UNITED_STATES
    },
    Place {
        name: "Nakameguro House",
        line1: "2-14-7 Kamimeguro, Meguro-ku",
        city: "Tokyo",
        region: Some("Tokyo"),
        postal_code: "153-0051",
        country: "JP",
        time_zone: "Asia/Tokyo",
        currency: "JPY",
        jurisdiction: "JP",
        custom: Custom::Japan,
        rents: [98_000, 145_000, 215_000, 310_000],
        rent_step: 1_000,
        common: &[AirConditioner, ControlledAccess, Elevator],
        extra: &[Balcony, InternetIncluded, Storage, View, WalkInCloset, Washer],
        ..UNITED_STATES
    },
    Place {
        name: "Lakeshore Court",
        line1: "540 Vernon Street",
        city: "Oakland",
        region: Some("CA"),
        postal_code: "94610",
        time_zone: "America/Los_Angeles",
        jurisdiction: "US-CA",
        custom: Custom::California,
        rents: [1_650_00, 2_100_00, 2_850_00, 3_700_00],
        ..UNITED_STATES
    },
    Place {
        name: "Chapinero Alto 63",
        property_type: PropertyType::MixedUse,
        line1: "Calle 63 # 4-21",
        city: "Bogotá",
        region: Some("Bogotá D.C."),
        postal_code: "110231",
        rents: [1_700_000_00, 2_400_000_00, 3_200_000_00, 4_500_000_00],
        ..COLOMBIA
    },
    Place {
        name: "Greenpoint Lofts",
        property_type: PropertyType::MultiFamily,
        line1: "77 Franklin Street",
        city: "New York",
        region: Some("NY"),
        postal_code: "11222",
        jurisdiction: "US-NY",
        rents: [2_700_00, 3_350_00, 4_600_00, 5_900_00],
        extra: &[AirConditioner, Dishwasher, HardwoodFloor, Patio, PetsAllowed, View, Washer, Dryer],
        ..UNITED_STATES
    },
];

impl Place {
    pub fn currency(&self) -> Currency {
        Currency::new(self.currency).expect("the table names ISO 4217 currencies")
    }

    pub fn money(&self, amount: i64) -> Money {
        Money::new(amount, self.currency())
    }

    pub fn names(&self) -> Names {
        match self.custom {
            Custom::NewYork | Custom::California | Custom::NorthCarolina => Names::American,
            Custom::England => Names::British,
            Custom::Colombia => Names::Colombian,
            Custom::Japan => Names::Japanese,
        }
    }

    /// What is usual for this rent, within what the law of the place allows; none in Colombia (ley 820 of 2003, article 16).
    pub fn deposit(&self, rent: i64) -> Option<(i64, DepositHolder)> {
        match self.custom {
            Custom::NewYork | Custom::California | Custom::NorthCarolina => Some((rent, DepositHolder::Landlord)),
            // Five weeks, rounded down.
            Custom::England => Some((rent * 12 * 5 / 52, DepositHolder::Scheme)),
            Custom::Japan => Some((rent, DepositHolder::Agent)),
            Custom::Colombia => None,
        }
    }

    pub fn late_fee(&self) -> Option<LateFeePolicy> {
        let capped = |kind, cap, combine| LateFeePolicy {
            grace_days: 5,
            kind,
            cap: Some(LateFeeCap { bp: Some(500), money: Some(self.money(cap)), combine }),
            min_open: 0,
            count_due_day: false,
        };
        match self.custom {
            Custom::NewYork => Some(capped(FeeKind::Fixed { amount: 50_00 }, 50_00, CapCombine::Lesser)),
            Custom::California => Some(capped(FeeKind::PercentOpenRent { bp: 500 }, 100_00, CapCombine::Lesser)),
            Custom::NorthCarolina => Some(capped(FeeKind::PercentRent { bp: 500 }, 15_00, CapCombine::Greater)),
            Custom::England | Custom::Colombia | Custom::Japan => None,
        }
    }

    /// For a payment that bounced, minor units.
    pub fn nsf_fee(&self) -> Option<i64> {
        match self.custom {
            Custom::NewYork => Some(20_00),
            Custom::California => Some(25_00),
            Custom::NorthCarolina => Some(35_00),
            Custom::England | Custom::Colombia | Custom::Japan => None,
        }
    }

    /// Billed with each month's rent: what it is called, minor units.
    pub fn monthly_extra(&self) -> Option<(&'static str, i64)> {
        match self.custom {
            Custom::Colombia => Some(("Administración", 180_000_00)),
            Custom::Japan => Some(("Kanrihi", 8_000)),
            Custom::NewYork | Custom::California | Custom::NorthCarolina | Custom::England => None,
        }
    }

    pub fn notice_days(&self) -> NoticeDays {
        match self.custom {
            Custom::NewYork | Custom::California => NoticeDays { tenant: 30, landlord: 60 },
            Custom::NorthCarolina => NoticeDays { tenant: 30, landlord: 30 },
            Custom::England => NoticeDays { tenant: 30, landlord: 60 },
            Custom::Colombia => NoticeDays { tenant: 90, landlord: 90 },
            Custom::Japan => NoticeDays { tenant: 30, landlord: 180 },
        }
    }

    pub fn escalation(&self) -> Option<Escalation> {
        match self.custom {
            Custom::Colombia => Some(Escalation { fixed_bp: None, index: Some("CO-CPI".into()), cap_bp: None }),
            Custom::NewYork | Custom::NorthCarolina => Some(Escalation { fixed_bp: Some(300), index: None, cap_bp: None }),
            Custom::California => Some(Escalation { fixed_bp: None, index: Some("US-CPI-U".into()), cap_bp: Some(1_000) }),
            Custom::England | Custom::Japan => None,
        }
    }

    /// Length of a first term in months.
    pub fn term_months(&self) -> i64 {
        match self.custom {
            Custom::Japan => 24,
            Custom::NewYork | Custom::California | Custom::NorthCarolina | Custom::England | Custom::Colombia => 12,
        }
    }

    pub fn methods(&self) -> &'static [PaymentMethod] {
        match self.custom {
            Custom::NewYork | Custom::California | Custom::NorthCarolina => {
                &[BankTransfer, BankTransfer, DirectDebit, DirectDebit, Check, Card]
            }
            Custom::England => &[BankTransfer, DirectDebit, DirectDebit],
            Custom::Colombia => &[BankTransfer, BankTransfer, Card, Cash],
            Custom::Japan => &[BankTransfer, DirectDebit],
        }
    }
}
