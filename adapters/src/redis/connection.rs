//! One multiplexed connection with deadlines and a circuit breaker.
//!
//! redis-rs' `ConnectionManager` reconnects on demand, so that in an outage some request always pays for the attempt, and it
//! keeps a connection whose peer silently vanished. Here requests never connect once the breaker is open: a probe does, in the
//! background, and always on a new socket.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use ports::{Error, Result};
use tokio::time::timeout;

/// Longest wait for one answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for a connection, log-in included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two probes of a Redis that failed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Requests under way on the one connection; more wait, within their deadline.
const REQUESTS_IN_FLIGHT_MAX: usize = 512;

/// Where Redis is and who we are there.
#[derive(Clone)]
pub struct RedisConfig {
    pub host: String,
    pub port: u16,
    /// ACL user; `None` connects as Redis' default user.
    pub user: Option<String>,
    pub password: Option<String>,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisConfig({}:{} as {:?})", self.host, self.port, self.user)
    }
}

impl RedisConfig {
    /// From `host:port` and an ACL user.
    pub fn new(address: &str, user: impl Into<String>, password: impl Into<String>) -> Result<Self> {
        let (host, port) = crate::address::host_and_port("Redis", address)?;
        Ok(Self { host, port, user: Some(user.into()), password: Some(password.into()) })
    }

    /// From a URL, `redis://[user:password@]host:port`.
    pub fn from_url(url: &str) -> Result<Self> {
        let info = url.into_connection_info().map_err(|error| Error::rejected("the address of Redis", error))?;
        let ConnectionAddr::Tcp(host, port) = info.addr().clone() else {
            return Err(Error::Rejected { what: "the address of Redis: it must be redis://host:port".into(), source: None });
        };
        let settings = info.redis_settings();
        Ok(Self { host, port, user: settings.username().map(Into::into), password: settings.password().map(Into::into) })
    }

    pub(super) fn client(&self) -> Result<Client> {
        // Naming the library would need one more permission.
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        ConnectionAddr::Tcp(self.host.clone(), self.port)
            .into_connection_info()
            .and_then(|info| Client::open(info.set_redis_settings(settings)))
            .map_err(|error| Error::rejected("the address of Redis", error))
    }
}

enum State {
    /// Nothing tried yet: the first request connects.
    Fresh,
    Connected(MultiplexedConnection),
    /// The breaker is open; a probe is under way and requests fail at once.
    Broken,
}

pub(super) struct Connection {
    client: Client,
    state: Mutex<State>,
    /// Lets one request make the first connection while the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl Connection {
    pub(super) fn new(config: &RedisConfig) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { client: config.client()?, state: Mutex::new(State::Fresh), connecting: Default::default() }))
    }

    /// Runs one request. A broken or silent connection opens the breaker.
    pub(super) async fn request<T, F, R>(self: &Arc<Self>, run: R) -> Result<T>
    where
        R: FnOnce(MultiplexedConnection) -> F,
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = self.connection().await?;
        match timeout(RESPONSE_TIMEOUT, run(connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if is_broken(&error) {
                    self.open_breaker(&error.to_string());
                }
                Err(Error::unavailable("Redis", error))
            }
            Err(elapsed) => {
                self.open_breaker("no answer in time");
                Err(Error::unavailable("Redis", elapsed))
            }
        }
    }

    async fn connection(self: &Arc<Self>) -> Result<MultiplexedConnection> {
        if let Some(known) = self.known() {
            return known;
        }
        let _first = self.connecting.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        match connect(&self.client).await {
            Ok(connection) => {
                *self.state() = State::Connected(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                self.open_breaker(&error.chain());
                Err(error)
            }
        }
    }

    /// `None` only before the first attempt.
    fn known(&self) -> Option<Result<MultiplexedConnection>> {
        match &*self.state() {
            State::Fresh => None,
            State::Connected(connection) => Some(Ok(connection.clone())),
            State::Broken => Some(Err(Error::Unavailable { what: "Redis (it failed a moment ago)".into(), source: None })),
        }
    }

    fn open_breaker(self: &Arc<Self>, reason: &str) {
        if matches!(std::mem::replace(&mut *self.state(), State::Broken), State::Broken) {
            return;
        }
        tracing::warn!(reason, "Redis does not answer: the system goes on without it");
        metrics::counter!("casitas_redis_outages_total").increment(1);
        tokio::spawn(probe(Arc::downgrade(self)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the connection's lock is never poisoned: nothing under it panics")
    }
}

/// Tries new connections until one answers or nobody needs it any more.
async fn probe(connection: Weak<Connection>) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let Some(connection) = connection.upgrade() else { return };
        if let Ok(fresh) = connect(&connection.client).await {
            *connection.state() = State::Connected(fresh);
            tracing::info!("Redis answers again");
            return;
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(REQUESTS_IN_FLIGHT_MAX);
    let mut connection = timeout(CONNECT_TIMEOUT, client.get_multiplexed_async_connection_with_config(&config))
        .await
        .map_err(|elapsed| Error::unavailable("Redis", elapsed))?
        .map_err(|error| Error::unavailable("Redis", error))?;
    // Accepting a connection proves little: a stopped process' kernel does that too.
    let _: String = timeout(RESPONSE_TIMEOUT, ::redis::cmd("PING").query_async(&mut connection))
        .await
        .map_err(|elapsed| Error::unavailable("Redis", elapsed))?
        .map_err(|error| Error::unavailable("Redis", error))?;
    Ok(connection)
}

/// Whether the connection is of no more use; a refusal by a living server (memory full, still loading) is not that.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
