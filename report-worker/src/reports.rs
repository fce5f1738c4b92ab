//! The registry: which reports exist. A new one is one file in `reports/` and one line in [`Registry::standard`].

mod document;
mod lease_register;
mod ledger_statement;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use domain::reports::ReportKind;
use ports::{ModelSpec, Result, ViewSnapshot};

use crate::Order;

/// A finished document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub bytes: Bytes,
    pub media_type: &'static str,
}

/// One kind of report.
#[async_trait]
pub trait Render: Send + Sync + 'static {
    fn kind(&self) -> ReportKind;
    /// The read models it is made from; they have reached the order's positions before it is rendered.
    fn models(&self) -> &'static [&'static ModelSpec];
    /// A pure function of the order and of the facts up to its positions: no clock, no other order of rows.
    async fn render(&self, order: &Order, views: &mut dyn ViewSnapshot) -> Result<Rendered>;
}

#[derive(Clone)]
pub struct Registry(Vec<Arc<dyn Render>>);

impl Registry {
    pub fn standard() -> Self {
        Self(vec![Arc::new(ledger_statement::LedgerStatement), Arc::new(lease_register::LeaseRegister)])
    }

    /// Test aid: other renderers.
    pub fn of(renderers: Vec<Arc<dyn Render>>) -> Self {
        Self(renderers)
    }

    pub fn get(&self, kind: ReportKind) -> Option<&Arc<dyn Render>> {
        self.0.iter().find(|renderer| renderer.kind() == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_renderer() {
        assert!(ReportKind::ALL.into_iter().all(|kind| Registry::standard().get(kind).is_some()));
    }
}
