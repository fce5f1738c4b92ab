//! What the routes share.

use std::sync::Arc;

use axum::extract::{FromRef, Request};
use axum::http::Uri;
use axum::response::Response;
use ports::Artifacts;
use web::{Allowed, Authenticator, Problem, Rule, Shortcut, permits};

use crate::lane::{Lane, Reach};
use crate::query::Query;
use crate::reader::{Reader, Served, Source};
use crate::respond::{Asked, Audience, respond};

/// A route by its template, at both of its places.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub plain: &'static str,
    pub versioned: &'static str,
}

impl Route {
    fn of(self, uri: &Uri) -> &'static str {
        if uri.path().starts_with("/v1/") { self.versioned } else { self.plain }
    }
}

macro_rules! route {
    ($path:literal) => {
        $crate::api::Route { plain: $path, versioned: concat!("/v1", $path) }
    };
}
pub(crate) use route;

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
        self.0.lane.as_ref()?.answer(&self.0.reader, &self.0.authenticator, request)
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

    /// A query's answer for everybody.
    pub(crate) async fn public(
        &self,
        query: impl Query,
        asked: &Asked,
        what: &str,
        route: Route,
    ) -> Result<Response, Problem> {
        self.same_for_all(query, asked, what, route, Reach::Public).await
    }

    /// A query's answer for every caller whom the rule allows: nothing of it depends on who that is.
    pub(crate) async fn staff<R: Rule>(
        &self,
        _: &Allowed<R>,
        query: impl Query,
        asked: &Asked,
        what: &str,
        route: Route,
    ) -> Result<Response, Problem> {
        self.same_for_all(query, asked, what, route, Reach::Allowed(permits::<R>)).await
    }

    /// The same address is answered before it is routed as long as the answer may be served.
    async fn same_for_all(
        &self,
        query: impl Query,
        asked: &Asked,
        what: &str,
        route: Route,
        reach: Reach,
    ) -> Result<Response, Problem> {
        let query = Arc::new(query);
        let served = self.0.reader.read(query.clone(), &asked.wish).await?.ok_or_else(|| Problem::not_found(what))?;
        if let Some(lane) = &self.0.lane
            && asked.wish.token.is_empty()
            && served.source != Source::Bypassed
        {
            lane.keep(&asked.uri, route.of(&asked.uri), reach, &served.entry, served.source.is_hit());
        }
        self.pack(&*query, &served, asked);
        let audience = match reach {
            Reach::Public => Audience::Public,
            Reach::Allowed(_) => Audience::Private,
        };
        Ok(respond(&served, asked, audience))
    }

    /// Compresses a kept answer for the first who asks for that, and lets the other replicas have it. What was just computed is
    /// shared a moment later anyway.
    fn pack(&self, query: &dyn Query, served: &Served, asked: &Asked) {
        let is_kept = matches!(served.source, Source::Memory | Source::Shared);
        if is_kept && asked.accepts_gzip() && served.entry.is_unpacked() {
            served.entry.gzip();
            self.0.reader.share_packed(query, &served.entry);
        }
    }

    /// A query's answer for the caller alone.
    pub(crate) async fn private(&self, query: impl Query, asked: &Asked, what: &str) -> Result<Response, Problem> {
        Ok(respond(&self.find(query, asked, what).await?, asked, Audience::Private))
    }

    /// Whether the change feed is read; without it every answer comes from the view store.
    pub fn is_ready(&self) -> bool {
        !self.0.reader.feed().is_stale()
    }
}
