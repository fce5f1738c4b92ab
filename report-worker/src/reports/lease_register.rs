//! The lease register (legal): every lease with its parties, dates, state, signed version and the hash of what was signed.

use async_trait::async_trait;
use domain::legal::LeaseState;
use domain::reports::ReportKind;
use domain::{Context, Currency, Date, LeaseId, PartyId, PropertyId, Sha256, UnitId};
use ports::{ModelSpec, Result, ViewSnapshot};
use read_models::leases::{self, RegisterLine, register};
use serde::Serialize;

use super::document::{Line, cell, decimal, document};
use super::{Render, Rendered};
use crate::Order;

static MODELS: [&ModelSpec; 1] = [&leases::SPEC];

pub(super) struct LeaseRegister;

#[derive(Serialize)]
struct LeaseLine {
    lease_id: LeaseId,
    property_id: PropertyId,
    unit_id: UnitId,
    /// Ids only: names are personal data.
    tenants: Vec<PartyId>,
    guarantors: Vec<PartyId>,
    state: LeaseState,
    start_date: Date,
    /// The last day, inclusive; `None` is open-ended.
    end_date: Option<Date>,
    /// An exact decimal in the currency.
    rent: String,
    currency: Currency,
    /// Signed versions of the terms; 0 before the first signing.
    version: u32,
    terms_hash: Option<Sha256>,
    signed_on: Option<Date>,
    activated_on: Option<Date>,
    vacated_on: Option<Date>,
}

impl From<RegisterLine> for LeaseLine {
    fn from(line: RegisterLine) -> Self {
        Self {
            lease_id: line.lease_id,
            property_id: line.place.property_id,
            unit_id: line.terms.unit_id,
            tenants: line.terms.tenants.iter().map(|tenant| tenant.party_id).collect(),
            guarantors: line.terms.guarantors,
            state: line.status,
            start_date: line.terms.start_date,
            end_date: line.terms.end_date,
            rent: decimal(line.terms.rent.money),
            currency: line.terms.rent.money.currency,
            version: line.term_version,
            terms_hash: line.terms_hash,
            signed_on: line.signed_on,
            activated_on: line.activated_on,
            vacated_on: line.vacated_on,
        }
    }
}

impl Line for LeaseLine {
    const COLUMNS: &'static [&'static str] = &[
        "lease_id",
        "property_id",
        "unit_id",
        "tenants",
        "guarantors",
        "state",
        "start_date",
        "end_date",
        "rent",
        "currency",
        "version",
        "terms_hash",
        "signed_on",
        "activated_on",
        "vacated_on",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.lease_id.to_string(),
            self.property_id.to_string(),
            self.unit_id.to_string(),
            ids(&self.tenants),
            ids(&self.guarantors),
            self.state.as_str().to_owned(),
            self.start_date.to_string(),
            cell(&self.end_date),
            self.rent.clone(),
            self.currency.to_string(),
            self.version.to_string(),
            cell(&self.terms_hash),
            cell(&self.signed_on),
            cell(&self.activated_on),
            cell(&self.vacated_on),
        ]
    }
}

/// Several ids in one cell, apart by a space.
fn ids(parties: &[PartyId]) -> String {
    parties.iter().map(PartyId::to_string).collect::<Vec<_>>().join(" ")
}

#[async_trait]
impl Render for LeaseRegister {
    fn kind(&self) -> ReportKind {
        ReportKind::LeaseRegister
    }

    fn models(&self) -> &'static [&'static ModelSpec] {
        &MODELS
    }

    async fn render(&self, order: &Order, views: &mut dyn ViewSnapshot) -> Result<Rendered> {
        let position = order.position(Context::Legal)?;
        let lines = register(views, position, order.as_of, order.params.lease_id).await?;
        let lines: Vec<LeaseLine> = lines.into_iter().map(LeaseLine::from).collect();
        document(order, &lines)
    }
}
