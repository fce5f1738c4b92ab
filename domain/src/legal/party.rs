//! A person or a company that rents, guarantees, owns or sells to us. Everything about the person stands in the field
//! `personal` of the events, sealed with the party's own key; `Debug` never prints it.

use std::collections::BTreeSet;
use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::events::event_names;
use crate::fault::{at_most, optional_text, sane_date, text};
use crate::{
    Aggregate, AggregateKind, Decide, Fact, Fault, Moment, PartyId, Personal, RefusalClass, Refused, bridge, today_in,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartyKind {
    Person,
    Company,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartyRole {
    Tenant,
    Guarantor,
    Owner,
    Vendor,
    Agent,
    EmergencyContact,
}

/// How a party is called: the whole name, and its parts where they are known.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// As it is written on a letter; of a company, its legal name.
    pub full: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostalAddress {
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

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmergencyContact {
    pub name: String,
    pub phone: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
}

/// The person: what erasure destroys.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartyDetails {
    pub names: Names,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Date)]
    pub birth_date: Option<Date>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax_id: Option<String>,
    #[serde(default)]
    pub emails: Vec<String>,
    #[serde(default)]
    pub phones: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<PostalAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency_contact: Option<EmergencyContact>,
}

/// A partial change: a field that is left out stays; `null` removes what may be absent.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PartyPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<BTreeSet<PartyRole>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = Date)]
    pub birth_date: Option<Option<Date>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub tax_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emails: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phones: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<PostalAddress>)]
    pub address: Option<Option<PostalAddress>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<EmergencyContact>)]
    pub emergency_contact: Option<Option<EmergencyContact>>,
}

/// Tells `null` (remove it) from a field that is left out (keep it).
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Personal data must not reach a log line through `{:?}`.
macro_rules! unprintable {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(personal)"))
            }
        }
    )*};
}

unprintable!(Names, PostalAddress, EmergencyContact, PartyDetails, PartyPatch);

impl PostalAddress {
    fn check(&self) -> Result<(), Fault> {
        text("/address/line1", &self.line1, 200)?;
        optional_text("/address/line2", self.line2.as_deref(), 200)?;
        text("/address/city", &self.city, 100)?;
        optional_text("/address/region", self.region.as_deref(), 100)?;
        optional_text("/address/postal_code", self.postal_code.as_deref(), 20)?;
        match self.country.len() == 2 && self.country.bytes().all(|letter| letter.is_ascii_uppercase()) {
            true => Ok(()),
            false => Err(Fault::new("/address/country", "must be an ISO 3166-1 alpha-2 code, e.g. US")),
        }
    }
}

impl PartyDetails {
    pub fn check(&self, kind: PartyKind) -> Result<(), Fault> {
        text("/names/full", &self.names.full, 200)?;
        optional_text("/names/given", self.names.given.as_deref(), 100)?;
        optional_text("/names/family", self.names.family.as_deref(), 100)?;
        if let Some(birth_date) = self.birth_date {
            sane_date("/birth_date", birth_date)?;
            if kind == PartyKind::Company {
                return Err(Fault::new("/birth_date", "a company has none"));
            }
        }
        optional_text("/tax_id", self.tax_id.as_deref(), 50)?;
        at_most("/emails", &self.emails, 10)?;
        at_most("/phones", &self.phones, 10)?;
        self.emails.iter().try_for_each(|email| check_email("/emails", email))?;
        self.phones.iter().try_for_each(|phone| check_phone("/phones", phone))?;
        self.address.as_ref().map_or(Ok(()), PostalAddress::check)?;
        if let Some(contact) = &self.emergency_contact {
            text("/emergency_contact/name", &contact.name, 200)?;
            check_phone("/emergency_contact/phone", &contact.phone)?;
            optional_text("/emergency_contact/relation", contact.relation.as_deref(), 100)?;
        }
        Ok(())
    }

    fn patched(mut self, patch: &PartyPatch) -> Self {
        let PartyPatch { roles: _, names, birth_date, tax_id, emails, phones, address, emergency_contact } = patch.clone();
        self.names = names.unwrap_or(self.names);
        self.birth_date = birth_date.unwrap_or(self.birth_date);
        self.tax_id = tax_id.unwrap_or(self.tax_id);
        self.emails = emails.unwrap_or(self.emails);
        self.phones = phones.unwrap_or(self.phones);
        self.address = address.unwrap_or(self.address);
        self.emergency_contact = emergency_contact.unwrap_or(self.emergency_contact);
        self
    }
}

fn check_email(pointer: &'static str, email: &str) -> Result<(), Fault> {
    text(pointer, email, 254)?;
    let plausible =
        matches!(email.split_once('@'), Some((local, host)) if !local.is_empty() && !host.is_empty() && !host.contains('@'));
    match plausible && !email.contains(char::is_whitespace) {
        true => Ok(()),
        false => Err(Fault::new(pointer, "must be an e-mail address")),
    }
}

fn check_phone(pointer: &'static str, phone: &str) -> Result<(), Fault> {
    text(pointer, phone, 40)?;
    let allowed = |c: char| c.is_ascii_digit() || "+-(). /x".contains(c);
    match phone.chars().all(allowed) && phone.chars().any(|c| c.is_ascii_digit()) {
        true => Ok(()),
        false => Err(Fault::new(pointer, "must be a phone number")),
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum PartyCommand {
    RegisterParty { party_id: PartyId, kind: PartyKind, roles: BTreeSet<PartyRole>, personal: PartyDetails },
    UpdateParty(PartyPatch),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PartyEvent {
    PartyRegistered {
        party_id: PartyId,
        kind: PartyKind,
        roles: BTreeSet<PartyRole>,
        personal: Personal<PartyDetails>,
    },
    /// Carries the whole new personal part: an old one can then be forgotten with its key.
    PartyUpdated {
        party_id: PartyId,
        roles: BTreeSet<PartyRole>,
        personal: Personal<PartyDetails>,
    },
}

event_names!(PartyEvent: PartyRegistered, PartyUpdated);

impl Fact for PartyEvent {
    fn subject(&self) -> Option<String> {
        match self {
            Self::PartyRegistered { party_id, .. } | Self::PartyUpdated { party_id, .. } => {
                Some(format!("party:{party_id}"))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    #[error("{detail}")]
    Invalid { pointer: &'static str, detail: String },
    #[error("there is no such party")]
    NotFound,
    #[error("this party exists already")]
    PartyExists,
    #[error("this party was erased")]
    PartyErased,
}

impl From<Fault> for PartyError {
    fn from(Fault { pointer, detail }: Fault) -> Self {
        Self::Invalid { pointer, detail }
    }
}

impl Refused for PartyError {
    fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "VALIDATION_FAILED",
            Self::NotFound => "NOT_FOUND",
            Self::PartyExists => "PARTY_EXISTS",
            Self::PartyErased => "PARTY_ERASED",
        }
    }

    fn class(&self) -> RefusalClass {
        match self {
            Self::Invalid { .. } => RefusalClass::Invalid,
            Self::NotFound => RefusalClass::NotFound,
            Self::PartyExists | Self::PartyErased => RefusalClass::Conflict,
        }
    }

    fn pointer(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { pointer, .. } => Some(pointer),
            Self::NotFound | Self::PartyExists | Self::PartyErased => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Registered {
    party_id: PartyId,
    kind: PartyKind,
    roles: BTreeSet<PartyRole>,
    personal: Personal<PartyDetails>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Party {
    registered: Option<Registered>,
}

impl Party {
    pub fn exists(&self) -> bool {
        self.registered.is_some()
    }
}

fn check_roles(roles: &BTreeSet<PartyRole>) -> Result<(), Fault> {
    match roles.is_empty() {
        true => Err(Fault::new("/roles", "must name at least one role")),
        false => Ok(()),
    }
}

impl Decide for Party {
    const KIND: AggregateKind = AggregateKind::Party;

    fn decide(&self, command: &PartyCommand, _: &Moment) -> Result<Vec<PartyEvent>, PartyError> {
        match command {
            PartyCommand::RegisterParty { party_id, kind, roles, personal } => {
                if self.registered.is_some() {
                    return Err(PartyError::PartyExists);
                }
                check_roles(roles)?;
                personal.check(*kind)?;
                let (roles, personal) = (roles.clone(), personal.clone().into());
                Ok(vec![PartyEvent::PartyRegistered { party_id: *party_id, kind: *kind, roles, personal }])
            }
            PartyCommand::UpdateParty(patch) => {
                let party = self.registered.as_ref().ok_or(PartyError::NotFound)?;
                let current = party.personal.0.as_ref().ok_or(PartyError::PartyErased)?;
                let personal = current.clone().patched(patch);
                let roles = patch.roles.clone().unwrap_or_else(|| party.roles.clone());
                check_roles(&roles)?;
                personal.check(party.kind)?;
                if personal == *current && roles == party.roles {
                    return Ok(Vec::new());
                }
                Ok(vec![PartyEvent::PartyUpdated { party_id: party.party_id, roles, personal: personal.into() }])
            }
        }
    }

    fn effective_on(&self, _: &PartyEvent, at: &Moment) -> Date {
        today_in("UTC", at.now)
    }
}

impl Aggregate for Party {
    const TYPE: &'static str = "party";
    type Command = PartyCommand;
    type Event = PartyEvent;
    type Error = PartyError;
    type Services = Moment;

    bridge!();

    fn apply(&mut self, event: PartyEvent) {
        match event {
            PartyEvent::PartyRegistered { party_id, kind, roles, personal } => {
                self.registered = Some(Registered { party_id, kind, roles, personal });
            }
            PartyEvent::PartyUpdated { roles, personal, .. } => {
                if let Some(party) = self.registered.as_mut() {
                    party.roles = roles;
                    party.personal = personal;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{Given, given};

    type Spoil = Box<dyn Fn(&mut PartyDetails)>;

    fn ana() -> PartyDetails {
        PartyDetails {
            names: Names { full: "Ana Gómez".into(), given: Some("Ana".into()), family: Some("Gómez".into()) },
            birth_date: Some(date(1990, 5, 1)),
            tax_id: Some("123-45-6789".into()),
            emails: vec!["ana@example.org".into()],
            phones: vec!["+1 (212) 555-0100".into()],
            address: None,
            emergency_contact: None,
        }
    }

    fn register(kind: PartyKind, personal: PartyDetails) -> PartyCommand {
        let roles = BTreeSet::from([PartyRole::Tenant]);
        PartyCommand::RegisterParty { party_id: PartyId(Uuid::from_u128(1)), kind, roles, personal }
    }

    fn registered() -> Given<Party> {
        given::<Party>([]).when(register(PartyKind::Person, ana())).accepted()
    }

    fn update(json: &str) -> PartyCommand {
        PartyCommand::UpdateParty(serde_json::from_str(json).expect("a patch"))
    }

    #[test]
    fn malformed_details_are_refused_field_by_field() {
        let faulty: Vec<(&str, Spoil)> = vec![
            ("/names/full", Box::new(|ana| ana.names.full = String::new())),
            ("/birth_date", Box::new(|ana| ana.birth_date = Some(date(1492, 1, 1)))),
            ("/tax_id", Box::new(|ana| ana.tax_id = Some("x".repeat(51)))),
            ("/emails", Box::new(|ana| ana.emails = vec!["ana".into()])),
            ("/emails", Box::new(|ana| ana.emails = vec!["ana@example.org".into(); 11])),
            ("/phones", Box::new(|ana| ana.phones = vec!["call me".into()])),
        ];
        for (pointer, spoil) in faulty {
            let mut details = ana();
            spoil(&mut details);
            let error = given::<Party>([]).when(register(PartyKind::Person, details)).then_refused("VALIDATION_FAILED");
            assert_eq!(error.pointer(), Some(pointer));
        }
        given::<Party>([]).when(register(PartyKind::Company, ana())).then_refused("VALIDATION_FAILED");
    }

    #[test]
    fn a_party_is_registered_once_and_before_it_is_updated() {
        registered().when(register(PartyKind::Person, ana())).then_refused("PARTY_EXISTS");
        given::<Party>([]).when(update("{}")).then_refused("NOT_FOUND");
        registered().when(update(r#"{"roles":[]}"#)).then_refused("VALIDATION_FAILED");
    }

    #[test]
    fn an_erased_party_cannot_be_updated() {
        let erased = PartyEvent::PartyRegistered {
            party_id: PartyId(Uuid::from_u128(1)),
            kind: PartyKind::Person,
            roles: BTreeSet::from([PartyRole::Tenant]),
            personal: Personal(None),
        };
        given::<Party>([erased]).when(update(r#"{"tax_id":"1"}"#)).then_refused("PARTY_ERASED");
    }

    #[test]
    fn a_patch_keeps_what_it_does_not_name_and_removes_what_it_nulls() {
        let after = PartyDetails { tax_id: None, emails: vec!["a@b.c".into()], ..ana() };
        let roles = BTreeSet::from([PartyRole::Tenant]);
        let (party_id, personal) = (PartyId(Uuid::from_u128(1)), after.into());
        registered().when(update(r#"{"tax_id":null,"emails":["a@b.c"]}"#)).then([PartyEvent::PartyUpdated {
            party_id,
            roles,
            personal,
        }]);
        registered().when(update("{}")).then_nothing();
        assert!(serde_json::from_str::<PartyPatch>(r#"{"shoe_size":1}"#).is_err());
    }

    #[test]
    fn a_person_is_never_printed() {
        let outcome = given::<Party>([]).when(register(PartyKind::Person, ana())).outcome;
        let printed = format!("{outcome:?} {:?} {:?}", register(PartyKind::Person, ana()), update(r#"{"tax_id":"123"}"#));
        for secret in ["Ana", "Gómez", "example.org", "555", "123", "1990"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
