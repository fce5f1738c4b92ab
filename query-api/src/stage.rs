//! The routes over the memory adapters, with events folded as the projector would.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use adapters::memory::MemoryViews;
use async_trait::async_trait;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use domain::auth::Role;
use domain::{AggregateKind, DomainEvent, StreamId, Timestamp};
use ports::{Artifacts, Checkpoint, Claim, Clock, ManualClock, Metadata, Recorded, ViewBatch, ViewStore};
use read_models::{ReadModel, Rows};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::to_raw_value;
use tower::ServiceExt;
use uuid::Uuid;
use web::{Authenticator, Front, Principal, Principals, TokenSigner, TokenVerifier};

use crate::entry::Entry;
use crate::feed::Feed;
use crate::reader::{Reader, ReaderConfig};
use crate::testing::TestCache;
use crate::{QueryApi, ViewPrincipals, router};

/// An Ed25519 key made for this test alone.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"test","alg":"EdDSA","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

#[derive(Default)]
struct Known(Mutex<HashMap<Uuid, Principal>>);

#[async_trait]
impl Principals for Known {
    async fn principal(&self, user_id: Uuid) -> Result<Option<Arc<Principal>>, ports::Error> {
        Ok(self.at_once(user_id))
    }

    fn at_once(&self, user_id: Uuid) -> Option<Arc<Principal>> {
        self.0.lock().expect("not poisoned").get(&user_id).cloned().map(Arc::new)
    }
}

/// Where users cannot be asked about: no answer ever comes.
struct Silent;

#[async_trait]
impl Principals for Silent {
    async fn principal(&self, _: Uuid) -> Result<Option<Arc<Principal>>, ports::Error> {
        std::future::pending().await
    }
}

#[derive(Default)]
pub struct Shelf(Mutex<HashMap<String, Bytes>>);

#[async_trait]
impl Artifacts for Shelf {
    async fn put(&self, bytes: Bytes) -> ports::Result<String> {
        let name = domain::Sha256::of(&bytes).to_string();
        self.0.lock().expect("not poisoned").insert(name.clone(), bytes);
        Ok(name)
    }
    async fn get(&self, sha256: &str) -> ports::Result<Option<Bytes>> {
        Ok(self.0.lock().expect("not poisoned").get(sha256).cloned())
    }
}

pub struct Stage {
    pub clock: Arc<ManualClock>,
    pub shelf: Arc<Shelf>,
    cache: Arc<TestCache>,
    views: Arc<MemoryViews>,
    claims: Mutex<HashMap<&'static str, Claim>>,
    feed: Arc<Feed>,
    known: Arc<Known>,
    signer: TokenSigner,
    front: Front,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("JSON: {:?}", self.bytes))
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

pub fn instant(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// Who knows our tokens, and asks these for their bearers.
pub fn authenticator(principals: Arc<dyn Principals>) -> Authenticator {
    Authenticator { verifier: Arc::new(TokenVerifier::new(JWKS).expect("a JWKS")), principals }
}

impl Stage {
    /// Users are those who logged in.
    pub async fn new() -> Self {
        Self::with(|known, _| known).await
    }

    /// Users are those of the events, as in the product.
    pub async fn with_users_from_views() -> Self {
        Self::with(|_, reader| Arc::new(ViewPrincipals::new(reader))).await
    }

    /// Whoever has a token waits for ever.
    pub async fn with_silent_users() -> Self {
        Self::with(|_, _| Arc::new(Silent)).await
    }

    async fn with(principals: impl FnOnce(Arc<Known>, Reader) -> Arc<dyn Principals>) -> Self {
        let views = Arc::new(MemoryViews::new());
        let models = read_models::all();
        let specs: Vec<_> = models.iter().map(|model| model.spec()).collect();
        views.prepare(&specs).await.expect("prepared");
        let mut claims = HashMap::new();
        for spec in specs {
            claims.insert(spec.name, views.claim(spec).await.expect("claimed").expect("nobody else"));
        }
        let clock = Arc::new(ManualClock::at(instant("2026-03-10T12:00:00Z")));
        let feed = Arc::new(Feed::new(views.clone()));
        feed.poll().await.expect("a poll");
        let cache = TestCache::new();
        let reader = Reader::new(views.clone(), Some(cache.clone()), clock.clone(), feed.clone(), &ReaderConfig::default());
        let known = Arc::new(Known::default());
        let authenticator = authenticator(principals(known.clone(), reader.clone()));
        let shelf = Arc::new(Shelf::default());
        let api = QueryApi::new(reader, shelf.clone(), authenticator);
        let (router, _) = router(api.clone()).split_for_parts();
        let front = Front::new(router, web::Served("test".into()), Some(Arc::new(api)));
        let signer = TokenSigner::new(PEM, "test").expect("a key");
        Self { clock, shelf, cache, views, claims: Mutex::new(claims), feed, known, signer, front }
    }

    /// Folds an event into every model of its context, as separate batches, and lets the feed see it.
    pub async fn happened<E: DomainEvent + Serialize>(
        &self,
        kind: AggregateKind,
        id: impl ToString,
        sequence: u64,
        event: &E,
    ) {
        for model in read_models::all() {
            if model.spec().context == kind.context() {
                let position = self.claims.lock().expect("not poisoned")[model.spec().name].checkpoint.position + 1;
                self.fold(model, &self.recorded(kind, &id.to_string(), sequence, position, event)).await;
            }
        }
        self.feed.poll().await.expect("a poll");
    }

    fn recorded<E: DomainEvent + Serialize>(
        &self,
        kind: AggregateKind,
        id: &str,
        sequence: u64,
        position: u64,
        event: &E,
    ) -> Recorded {
        let recorded_at = self.clock.now();
        Recorded {
            position,
            event_id: Uuid::from_u128(u128::from(position)),
            stream: StreamId::new(kind, id),
            sequence,
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: to_raw_value(event).expect("an event encodes").into(),
            effective_on: recorded_at.to_zoned(jiff::tz::TimeZone::UTC).date(),
            recorded_at,
            metadata: Metadata { actor: "cli".into(), correlation_id: Uuid::nil(), causation_id: None, traceparent: None },
        }
    }

    async fn fold(&self, model: &dyn ReadModel, event: &Recorded) {
        let spec = model.spec();
        let claim = self.claims.lock().expect("not poisoned")[spec.name].clone();
        let keys = model.keys(event).expect("keys");
        let stored = self.views.rows(spec, claim.generation, &keys).await.expect("rows");
        let mut rows = Rows::default();
        rows.load(&keys, stored);
        if !keys.is_empty() {
            model.fold(event, &mut rows).expect("a fold");
        }
        let (changes, tags) = rows.take_changes().expect("changes");
        let to = Checkpoint { incarnation: Uuid::from_u128(1), position: event.position, event_id: Some(event.event_id) };
        let batch = ViewBatch {
            parking: vec![],
            spec,
            generation: claim.generation,
            term: claim.term,
            from: claim.checkpoint.position,
            to: to.clone(),
            changes,
            tags,
        };
        self.views.apply(&batch).await.expect("applied");
        self.claims.lock().expect("not poisoned").get_mut(spec.name).expect("claimed").checkpoint = to;
    }

    /// A token of a new user with these roles.
    pub fn login(&self, roles: &[Role], party_id: Option<Uuid>) -> String {
        let user_id = Uuid::now_v7();
        let principal =
            Principal { user_id, username: "someone".into(), roles: roles.to_vec(), party_id, epoch: 0, active: true };
        self.known.0.lock().expect("not poisoned").insert(user_id, principal);
        self.token_of(user_id, 0)
    }

    pub fn token_of(&self, user_id: Uuid, epoch: u64) -> String {
        // The verifier reads the real clock.
        self.signer.issue(user_id, epoch, Timestamp::now()).expect("a token").0
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path)).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(Request::get(path).header("authorization", format!("Bearer {token}"))).await
    }

    pub async fn get_as_with(&self, token: &str, path: &str, name: &str, value: &str) -> Answer {
        self.send(Request::get(path).header("authorization", format!("Bearer {token}")).header(name, value)).await
    }

    /// Whether the list in the shared cache has its compressed body there, once it is there.
    pub fn is_packed(&self, key: &str) -> Option<bool> {
        let stored = self.cache.stored.lock().expect("not poisoned").get(key).map(|(_, bytes)| bytes.clone())?;
        Some(!Entry::decode(stored).expect("an entry").is_unpacked())
    }

    pub async fn put_count(&self, count: usize) {
        self.cache.put_count(count).await;
    }

    /// The keys in the shared cache.
    pub fn cached(&self) -> Vec<String> {
        self.cache.stored.lock().expect("not poisoned").keys().cloned().collect()
    }

    pub async fn head(&self, path: &str) -> Answer {
        self.send(Request::builder().method(Method::HEAD).uri(path)).await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = Request::get(path);
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    async fn send(&self, request: axum::http::request::Builder) -> Answer {
        let request = request.body(Body::empty()).expect("a request");
        let response: Response = self.front.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        Answer { status: parts.status, headers: parts.headers, bytes }
    }
}
