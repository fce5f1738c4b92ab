//! What the routes share.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::FromRef;
use commands::{CommandError, Done, Handler, Issue, Step};
use domain::Context;
use ports::{Artifacts, Hints};
use tokio::sync::RwLock;
use uuid::Uuid;
use web::{Authenticator, PositionToken, Problem, TokenSigner};

use crate::hashing::Hasher;
use crate::principals::LogPrincipals;

/// What the composition root hands in.
pub struct ApiConfig {
    pub handler: Handler,
    pub signer: TokenSigner,
    pub verifier: Arc<web::TokenVerifier>,
    pub artifacts: Arc<dyn Artifacts>,
    pub hints: Arc<dyn Hints>,
    /// Whether the demo logins may log in.
    pub demo: bool,
}

#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    handler: Handler,
    authenticator: Authenticator,
    signer: TokenSigner,
    artifacts: Arc<dyn Artifacts>,
    hints: Arc<dyn Hints>,
    hasher: Hasher,
    demo: bool,
    /// A log's incarnation does not change while a process runs; read once.
    incarnations: RwLock<HashMap<Context, Uuid>>,
}

impl FromRef<Api> for Authenticator {
    fn from_ref(api: &Api) -> Self {
        api.0.authenticator.clone()
    }
}

impl Api {
    pub fn new(config: ApiConfig) -> Self {
        let principals = Arc::new(LogPrincipals::new(config.handler.clone()));
        Self(Arc::new(Shared {
            authenticator: Authenticator { verifier: config.verifier, principals },
            handler: config.handler,
            signer: config.signer,
            artifacts: config.artifacts,
            hints: config.hints,
            hasher: Hasher::new(),
            demo: config.demo,
            incarnations: RwLock::default(),
        }))
    }

    pub fn handler(&self) -> &Handler {
        &self.0.handler
    }
    pub fn signer(&self) -> &TokenSigner {
        &self.0.signer
    }
    pub fn artifacts(&self) -> &Arc<dyn Artifacts> {
        &self.0.artifacts
    }
    pub fn hints(&self) -> &Arc<dyn Hints> {
        &self.0.hints
    }
    pub(crate) fn hasher(&self) -> &Hasher {
        &self.0.hasher
    }
    pub fn demo(&self) -> bool {
        self.0.demo
    }
    pub fn now(&self) -> domain::Timestamp {
        self.0.handler.clock().now()
    }

    /// Executes a command and describes what was done.
    pub(crate) async fn execute(&self, issue: &Issue, steps: Vec<Box<dyn Step>>) -> Result<Executed, Problem> {
        let done = self.0.handler.execute(issue, &steps).await.map_err(problem)?;
        let mut tokens = vec![];
        if done.position > 0 {
            let incarnation = self.incarnation(done.context).await?;
            tokens.push(PositionToken { context: done.context, position: done.position, incarnation: Some(incarnation) });
        }
        Ok(Executed { done, tokens })
    }

    async fn incarnation(&self, context: Context) -> Result<Uuid, Problem> {
        if let Some(known) = self.0.incarnations.read().await.get(&context) {
            return Ok(*known);
        }
        let incarnation = self.0.handler.logs().get(context)?.head().await?.incarnation;
        self.0.incarnations.write().await.insert(context, incarnation);
        Ok(incarnation)
    }
}

pub(crate) struct Executed {
    pub done: Done,
    pub tokens: Vec<PositionToken>,
}

pub(crate) fn problem(error: CommandError) -> Problem {
    use axum::http::StatusCode;
    match error {
        CommandError::Refused(refusal) => refusal.into(),
        CommandError::StaleVersion { expected, actual } => {
            let mut problem = Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "VERSION_CONFLICT",
                format!("it is at version {actual}, not {expected}: read it again and decide anew"),
            );
            problem.facts.insert("expected".into(), expected.into());
            problem.facts.insert("actual".into(), actual.into());
            problem
        }
        CommandError::KeyReused => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            "this Idempotency-Key was used with a different request; use a new key for a new command",
        ),
        CommandError::KeyInFlight => {
            let mut problem = Problem::new(
                StatusCode::CONFLICT,
                "IDEMPOTENCY_KEY_IN_FLIGHT",
                "a request with this Idempotency-Key is still being processed; ask again for its outcome",
            );
            problem.retry_after = Some(1);
            problem
        }
        CommandError::Port(error) => error.into(),
    }
}
