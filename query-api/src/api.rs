//! What the routes share.

use std::sync::Arc;

use axum::extract::{FromRef, Request};
use axum::response::Response;
use ports::Artifacts;
use serde::Serialize;
use web::{Authenticator, Problem, Shortcut};

use crate::feed::{ModelFacts, STALE_AFTER};
use crate::lane::Lane;
use crate::query::Query;
use crate::reader::{Reader, Served, Source};
use crate::respond::{Asked, Audience, respond};

#[derive(Clone)]
pub struct QueryApi(Arc<Shared>);

struct Shared {
    reader: Reader,
    artifacts: Arc<dyn Artifacts>,
    authenticator: Authenticator,
    /// `None` while nothing is kept in process.
    lane: Option<Lane>,
}

impl Shortcut for QueryApi {
    fn answer(&self, request: &Request) -> Option<(Response, &'static str)> {
        self.0.lane.as_ref()?.answer(&self.0.reader, request)
    }
}

impl FromRef<QueryApi> for Authenticator {
    fn from_ref(api: &QueryApi) -> Self {
        api.0.authenticator.clone()
    }
}

impl QueryApi {
    pub fn new(reader: Reader, artifacts: Arc<dyn Artifacts>, authenticator: Authenticator) -> Self {
        let lane = reader.keeps_in_memory().then(Lane::default);
        Self(Arc::new(Shared { reader, artifacts, authenticator, lane }))
    }

    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }

    pub(crate) fn artifacts(&self) -> &dyn Artifacts {
        &*self.0.artifacts
    }

    pub(crate) async fn find_optional(&self, query: impl Query, asked: &Asked) -> Result<Option<Served>, Problem> {
        Ok(self.0.reader.read(Arc::new(query), &asked.wish).await?)
    }

    /// The entry of a query whose answer must exist; `what` names it in the 404.
    pub(crate) async fn find(&self, query: impl Query, asked: &Asked, what: &str) -> Result<Served, Problem> {
        self.find_optional(query, asked).await?.ok_or_else(|| Problem::not_found(what))
    }

    /// A query's answer for everybody; the same address is answered before it is routed as long as the answer is current.
    pub(crate) async fn public(
        &self,
        query: impl Query,
        asked: &Asked,
        what: &str,
        route: &'static str,
    ) -> Result<Response, Problem> {
        let clears = self.0.reader.feed().clears();
        let served = self.find(query, asked, what).await?;
        if let Some(lane) = &self.0.lane
            && asked.wish.token.is_empty()
            && served.source != Source::Bypassed
        {
            lane.keep(&asked.uri, route, &served.entry, clears);
        }
        Ok(respond(&served, asked, Audience::Public))
    }

    /// A query's answer for the caller alone.
    pub(crate) async fn private(&self, query: impl Query, asked: &Asked, what: &str) -> Result<Response, Problem> {
        Ok(respond(&self.find(query, asked, what).await?, asked, Audience::Private))
    }

    pub fn readiness(&self) -> Readiness {
        let feed = self.0.reader.feed();
        let age = feed.age();
        Readiness {
            is_ready: age.is_some_and(|age| age < STALE_AFTER),
            feed_age_s: age.map(|age| age.as_secs_f64()),
            models: feed.facts(),
        }
    }
}

/// What `/readyz?verbose` tells of the reads.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether the change feed is read; without it every answer comes from the view store.
    pub is_ready: bool,
    /// Seconds since the last successful poll; absent before the first.
    pub feed_age_s: Option<f64>,
    pub models: Vec<ModelFacts>,
}
