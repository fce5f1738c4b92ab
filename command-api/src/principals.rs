//! Users as they are now, by the auth log: a deactivation takes effect with the next request.
//!
//! Users are kept, and the log is asked what happened since: before a request, if this process has committed to it or the last
//! answer is older than 25 ms; beside requests, when it is older than 5 ms. So what this process did holds at once, what another
//! did within 25 ms and one read, and a stream of requests waits for none of the reads that find nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as PlainMutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use commands::{CommandError, Handler};
use domain::auth::User;
use domain::{AggregateKind, Context};
use ports::{Error, EventLog, Incarnation, Position, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;
use web::{Principal, Principals};

/// How long what another process did to a user may stay unseen here.
const FRESH: Duration = Duration::from_millis(25);
/// After so long the log is asked beside the requests.
const SOON: Duration = Duration::from_millis(5);
/// How often the log is asked whether it is still the same one.
const SAME_LOG_CHECK: Duration = Duration::from_secs(1);
const USERS_MAX: usize = 10_000;
const READ_MAX: usize = 500;

pub struct LogPrincipals(Arc<Inner>);

struct Inner {
    handler: Handler,
    known: PlainMutex<Known>,
    /// Held by who reads the log.
    reading: Arc<Mutex<()>>,
}

enum Age {
    Fresh,
    /// Good enough for this request.
    Ageing,
    Outdated,
}

#[derive(Default)]
struct Known {
    users: HashMap<Uuid, Arc<Principal>>,
    incarnation: Option<Incarnation>,
    /// What of the log `users` knows.
    position: Position,
    /// Starts of the latest successful read and of the latest look at the head.
    read_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl LogPrincipals {
    pub fn new(handler: Handler) -> Self {
        Self(Arc::new(Inner { handler, known: PlainMutex::default(), reading: Arc::default() }))
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics under this lock")
    }

    fn age(&self) -> Age {
        let known = self.known();
        match known.read_at.map(|at| at.elapsed()) {
            Some(age) if known.position >= self.handler.committed(Context::Auth) && age < FRESH => match age < SOON {
                true => Age::Fresh,
                false => Age::Ageing,
            },
            _ => Age::Outdated,
        }
    }

    /// Knows of everything that happened to users until shortly before now.
    async fn catch_up(self: &Arc<Self>) -> Result<()> {
        match self.age() {
            Age::Fresh => return Ok(()),
            Age::Ageing => {
                if let Ok(reading) = self.reading.clone().try_lock_owned() {
                    let inner = self.clone();
                    tokio::spawn(async move {
                        let _reading = reading;
                        // A failure is the next one's who has to wait for an answer.
                        let _ = inner.read().await;
                    });
                }
                return Ok(());
            }
            Age::Outdated => {}
        }
        let _reading = self.reading.lock().await;
        // Somebody else may have read in the meantime.
        match self.age() {
            Age::Fresh | Age::Ageing => Ok(()),
            Age::Outdated => self.read().await,
        }
    }

    /// Forgets the users to whom something happened. Only for who holds `reading`.
    async fn read(&self) -> Result<()> {
        let log = self.handler.logs().get(Context::Auth)?.clone();
        self.same_log(&*log).await?;
        let started = Instant::now();
        loop {
            let after = self.known().position;
            let events = log.read(after, READ_MAX).await?;
            let mut known = self.known();
            for event in &events {
                if event.stream.kind == AggregateKind::User
                    && let Ok(user_id) = Uuid::parse_str(&event.stream.id)
                {
                    known.users.remove(&user_id);
                }
                known.position = event.position;
            }
            if events.len() < READ_MAX {
                known.read_at = Some(started);
                return Ok(());
            }
        }
    }

    /// Forgets everybody when the log went back to an earlier moment, or is read for the first time.
    async fn same_log(&self, log: &dyn EventLog) -> Result<()> {
        let now = Instant::now();
        if self.known().looked_at.is_some_and(|at| now.duration_since(at) < SAME_LOG_CHECK) {
            return Ok(());
        }
        let head = log.head().await?;
        let mut known = self.known();
        if known.incarnation != Some(head.incarnation) || head.position < known.position {
            *known = Known { incarnation: Some(head.incarnation), position: head.position, ..Known::default() };
        }
        known.looked_at = Some(now);
        Ok(())
    }

    async fn load(&self, user_id: Uuid) -> Result<Option<Principal>> {
        let loaded = match self.handler.load::<User>(user_id.to_string()).await {
            Ok(loaded) => loaded,
            Err(CommandError::Port(error)) => return Err(error),
            Err(other) => return Err(Error::corrupt(other.to_string())),
        };
        if loaded.version == 0 {
            return Ok(None);
        }
        let user = &loaded.state;
        Ok(Some(Principal {
            user_id,
            username: user.username().to_owned(),
            roles: user.roles().into_iter().collect(),
            party_id: user.party_id().map(|party| party.0),
            epoch: user.epoch(),
            active: user.is_active(),
        }))
    }
}

#[async_trait]
impl Principals for LogPrincipals {
    async fn principal(&self, user_id: Uuid) -> Result<Option<Arc<Principal>>> {
        let inner = &self.0;
        inner.catch_up().await?;
        let position = {
            let known = inner.known();
            if let Some(principal) = known.users.get(&user_id) {
                return Ok(Some(principal.clone()));
            }
            known.position
        };
        let Some(principal) = inner.load(user_id).await?.map(Arc::new) else { return Ok(None) };
        let mut known = inner.known();
        // What was read while we loaded may be about this user.
        if known.position == position {
            if known.users.len() >= USERS_MAX {
                known.users.clear();
            }
            known.users.insert(user_id, principal.clone());
        }
        Ok(Some(principal))
    }

    async fn bearer(&self, user_id: Uuid, epoch: u64) -> Result<Option<Arc<Principal>>> {
        let principal = self.principal(user_id).await?;
        if principal.as_ref().is_some_and(|principal| principal.epoch < epoch) {
            // Another process has just given out a token of an epoch that we have not read yet.
            self.0.known().read_at = None;
            return self.principal(user_id).await;
        }
        Ok(principal)
    }
}
