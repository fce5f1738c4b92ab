//! The people of the demo: made-up names, e-mail addresses at example domains, telephone numbers reserved for fiction.

use std::collections::BTreeSet;

use domain::legal::{EmergencyContact, Names, PartyCommand, PartyDetails, PartyKind, PartyRole, PostalAddress};
use domain::{Date, PartyId};
use uuid::Uuid;

use super::places::{self, Place};
use super::rng::Rng;

type Pool = (&'static [&'static str], &'static [&'static str]);

const AMERICAN: Pool = (
    &[
        "Jordan", "Maya", "Ethan", "Alicia", "Marcus", "Priya", "Noah", "Grace", "Tyrell", "Hannah", "Diego", "Naomi",
        "Caleb", "Leila", "Owen", "Simone", "Victor", "Renee", "Isaac", "Tessa", "Andre", "Mei", "Julian", "Fatima",
    ],
    &[
        "Rivera",
        "Whitfield",
        "Okafor",
        "Chen",
        "Delgado",
        "Brooks",
        "Patel",
        "Novak",
        "Hughes",
        "Castillo",
        "Nguyen",
        "Fischer",
        "Coleman",
        "Haddad",
        "Lindgren",
        "Moreno",
        "Abrams",
        "Sutton",
        "Kowalski",
        "Bennett",
        "Iqbal",
        "Ortega",
        "Walsh",
        "Park",
    ],
);
const BRITISH: Pool = (
    &[
        "Oliver", "Amelia", "Harry", "Isla", "George", "Zara", "Callum", "Freya", "Imran", "Poppy", "Rhys", "Ayesha",
        "Declan", "Martha", "Kwame", "Beatrice",
    ],
    &[
        "Ashworth",
        "Hargreaves",
        "Khan",
        "Entwistle",
        "Bradshaw",
        "Mensah",
        "Holt",
        "Pickering",
        "Walmsley",
        "Begum",
        "Schofield",
        "Doyle",
        "Hussain",
        "Thornley",
        "Barlow",
        "Kershaw",
    ],
);
const COLOMBIAN: Pool = (
    &[
        "Camila",
        "Andrés",
        "Valentina",
        "Santiago",
        "Luisa",
        "Mateo",
        "Daniela",
        "Juan José",
        "Mariana",
        "Felipe",
        "Catalina",
        "Sebastián",
        "Laura",
        "Esteban",
        "Paula",
        "Nicolás",
    ],
    &[
        "Restrepo",
        "Gómez",
        "Cárdenas",
        "Ospina",
        "Zapata",
        "Rincón",
        "Uribe",
        "Montoya",
        "Beltrán",
        "Londoño",
        "Quintero",
        "Salazar",
        "Jaramillo",
        "Peña",
        "Arango",
        "Vélez",
    ],
);
const JAPANESE: Pool = (
    &["Haruka", "Kenji", "Yui", "Takumi", "Aoi", "Daichi", "Sakura", "Ren", "Mio", "Sota", "Hina", "Kaito"],
    &[
        "Takahashi",
        "Watanabe",
        "Kobayashi",
        "Ishikawa",
        "Fujimoto",
        "Nakagawa",
        "Hasegawa",
        "Matsui",
        "Okada",
        "Shimizu",
        "Maeda",
        "Ueda",
    ],
);
const COMPANIES: &[&str] = &[
    "Larkfield Holdings",
    "Meridian Row Partners",
    "Tamarind Capital",
    "Northquay Estates",
    "Sierra Verde Inmuebles",
    "Kawabe Fudosan",
];

pub(super) struct Person {
    pub party_id: PartyId,
    kind: PartyKind,
    role: PartyRole,
    details: PartyDetails,
}

impl Person {
    pub fn new(rng: &mut Rng, place: &Place, role: PartyRole) -> Self {
        let party_id = PartyId(rng.uuid());
        let (given_names, family_names) = match place.names() {
            places::Names::American => AMERICAN,
            places::Names::British => BRITISH,
            places::Names::Colombian => COLOMBIAN,
            places::Names::Japanese => JAPANESE,
        };
        let (given, family) = (rng.pick(given_names), rng.pick(family_names));
        let email = format!("{}.{}{}@{}", plain(given), plain(family), rng.range(10, 9_999), rng.pick(&HOSTS));
        let details = PartyDetails {
            names: Names { full: format!("{given} {family}"), given: Some(given.into()), family: Some(family.into()) },
            birth_date: Date::new(rng.range(1_955, 2_004) as i16, rng.range(1, 12) as i8, rng.range(1, 28) as i8).ok(),
            tax_id: rng.chance(60).then(|| tax_id(rng, place)),
            emails: vec![email],
            phones: vec![phone(rng, place)],
            address: None,
            emergency_contact: rng.chance(40).then(|| EmergencyContact {
                name: format!("{} {family}", rng.pick(given_names)),
                phone: phone(rng, place),
                relation: Some(rng.pick(&["mother", "father", "sister", "brother", "partner", "friend"]).into()),
            }),
        };
        Self { party_id, kind: PartyKind::Person, role, details }
    }

    pub fn company(rng: &mut Rng, place: &Place, index: usize) -> Self {
        let party_id = PartyId(rng.uuid());
        let name = COMPANIES[index % COMPANIES.len()];
        let details = PartyDetails {
            names: Names { full: name.into(), given: None, family: None },
            tax_id: Some(tax_id(rng, place)),
            emails: vec![format!("office.{}@example.com", plain(name))],
            phones: vec![phone(rng, place)],
            address: Some(PostalAddress {
                line1: format!("Suite {}, {}", rng.range(2, 40) * 100, place.line1),
                line2: None,
                city: place.city.into(),
                region: place.region.map(Into::into),
                postal_code: Some(place.postal_code.into()),
                country: place.country.into(),
            }),
            ..PartyDetails::default()
        };
        Self { party_id, kind: PartyKind::Company, role: PartyRole::Owner, details }
    }

    pub fn role(&self) -> PartyRole {
        self.role
    }

    /// The same person under another id.
    pub fn known_as(mut self, id: Uuid) -> Self {
        self.party_id = PartyId(id);
        self
    }

    pub fn register(&self) -> PartyCommand {
        PartyCommand::RegisterParty {
            party_id: self.party_id,
            kind: self.kind,
            roles: BTreeSet::from([self.role]),
            personal: self.details.clone(),
        }
    }
}

const HOSTS: [&str; 2] = ["example.com", "example.org"];

/// Lower-case ASCII letters, for an e-mail address.
fn plain(name: &str) -> String {
    let letter = |c: char| match c {
        'á' => Some('a'),
        'é' => Some('e'),
        'í' => Some('i'),
        'ó' => Some('o'),
        'ú' => Some('u'),
        'ñ' => Some('n'),
        c => c.is_ascii_alphabetic().then_some(c),
    };
    name.to_lowercase().chars().filter_map(letter).collect()
}

/// From the ranges that are kept for films and examples, where a country has one.
fn phone(rng: &mut Rng, place: &Place) -> String {
    match place.names() {
        places::Names::American => format!("+1 {} 555 01{:02}", rng.pick(&[212, 213, 510, 704]), rng.range(0, 99)),
        places::Names::British => format!("+44 7700 900{:03}", rng.range(0, 999)),
        places::Names::Colombian => format!("+57 300 555 {:04}", rng.range(0, 9_999)),
        places::Names::Japanese => format!("+81 90 0000 {:04}", rng.range(0, 9_999)),
    }
}

/// Of a form that is never given out.
fn tax_id(rng: &mut Rng, place: &Place) -> String {
    match place.names() {
        places::Names::American => format!("900-{:02}-{:04}", rng.range(1, 49), rng.range(1, 9_999)),
        places::Names::British => format!("QQ {:02} {:02} {:02} A", rng.range(0, 99), rng.range(0, 99), rng.range(0, 99)),
        places::Names::Colombian => format!("0.{:03}.{:03}", rng.range(0, 999), rng.range(0, 999)),
        places::Names::Japanese => format!("0000-{:04}-{:04}", rng.range(0, 9_999), rng.range(0, 9_999)),
    }
}
