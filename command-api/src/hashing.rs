//! Password hashing: argon2id at the OWASP minimum (m=19456, t=2, p=1), bounded so that a login flood cannot starve the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use axum::http::StatusCode;
use tokio::sync::Semaphore;
use web::Problem;

/// Hashings that may wait; one more is answered 429.
const WAITING_MAX: usize = 16;

/// A fresh PHC string. Takes about 50 ms of one core.
pub fn hash_password(password: &str) -> Result<String, String> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

pub(crate) struct Hasher {
    cores: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Checked for users that do not exist, so that they cost the same.
    decoy: Arc<std::sync::OnceLock<String>>,
}

impl Hasher {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores: Arc::new(Semaphore::new(cores)), waiting: AtomicUsize::new(0), decoy: Arc::default() }
    }

    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        self.work(move || hash_password(&password)).await?.map_err(|error| {
            tracing::error!(error, "a password could not be hashed");
            Problem::internal()
        })
    }

    /// Whether the password matches; without a hash it does the same work and answers no.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        let decoy = self.decoy.clone();
        self.work(move || {
            let real = hash.is_some();
            let hash =
                hash.unwrap_or_else(|| decoy.get_or_init(|| hash_password("no such user").unwrap_or_default()).clone());
            let matches = PasswordHash::new(&hash)
                .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
            real && matches
        })
        .await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let mut problem = Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "RATE_LIMITED",
                "too many logins at once; try again in a second",
            );
            problem.retry_after = Some(1);
            return Err(problem);
        }
        let permit = self.cores.clone().acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = permit.map_err(|_| Problem::unavailable("the process is stopping"))?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| Problem::internal())
    }
}
