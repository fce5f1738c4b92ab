//! Connections that are kept beside the pool, for short calls that come all the time: sqlx asks a connection whether it lives
//! each time it goes back to its pool, which would double their round trips.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

use ports::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::errors::{Call, of_role, within};
use super::pool::{ACQUIRE_TIMEOUT, IDLE_MAX, TRUSTED_IDLE};

/// At most so many connections, as few of them as are needed.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Kept>);

struct Kept {
    what: String,
    options: PgConnectOptions,
    free: Arc<Semaphore>,
    /// The latest used at the end, with since when each is idle.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// A connection in use. It is closed unless it is given back: whatever ended its call early may have left it in the middle.
pub(super) struct Taken {
    connection: PgConnection,
    shelf: Arc<Kept>,
    _permit: OwnedSemaphorePermit,
}

impl Shelf {
    /// Connects at the first use.
    pub(super) fn new(what: impl Into<String>, options: PgConnectOptions, most: u32) -> Self {
        let free = Arc::new(Semaphore::new(most.max(1) as usize));
        Self(Arc::new(Kept { what: what.into(), options, free, idle: Mutex::default() }))
    }

    /// Nothing was sent yet, so failing here is plain `Unavailable`.
    pub(super) async fn take(&self) -> Result<Taken> {
        let shelf = &self.0;
        let permit = timeout(ACQUIRE_TIMEOUT, shelf.free.clone().acquire_owned()).await;
        let permit = permit.map_err(|elapsed| Error::unavailable(&shelf.what, elapsed))?;
        let permit = permit.map_err(|closed| Error::unavailable(&shelf.what, closed))?;
        let connection = match shelf.trusted().await {
            Some(connection) => connection,
            None => within(&shelf.what, Call::Read, shelf.options.connect()).await?,
        };
        Ok(Taken { connection, shelf: shelf.clone(), _permit: permit })
    }

    /// One call on one connection. A connection whose call did not end in time, or was given up, is closed, not used again.
    pub(super) async fn run<T>(
        &self,
        call: Call,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T> {
        let mut taken = self.take().await?;
        let answer = within(&self.0.what, call, work(&mut taken)).await;
        let answer = answer.map_err(|error| of_role(self.0.options.get_username(), error));
        if !matches!(answer, Err(Error::Unavailable { .. } | Error::UnknownOutcome { .. })) {
            taken.give_back();
        }
        answer
    }
}

impl Kept {
    async fn trusted(&self) -> Option<PgConnection> {
        let (mut connection, since) = self.idle().pop()?;
        let trusted = since.elapsed() < TRUSTED_IDLE || within(&self.what, Call::Read, connection.ping()).await.is_ok();
        trusted.then_some(connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().expect("the lock is never poisoned: nothing under it panics")
    }
}

impl Taken {
    pub(super) fn give_back(self) {
        let Self { connection, shelf, _permit } = self;
        let mut idle = shelf.idle();
        idle.push((connection, Instant::now()));
        idle.retain(|(_, since)| since.elapsed() < IDLE_MAX);
    }
}

impl Deref for Taken {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
