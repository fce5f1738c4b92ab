//! Connections to the broker, with deadlines.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties};
use ports::{Error, Result};

use super::topology::VHOST;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the answer to one method (declare, consume, settle).
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Twice this without a sign of life ends a connection.
const HEARTBEAT_S: u16 = 10;

/// Where the broker is and who we are there.
#[derive(Clone)]
pub struct RabbitConfig {
    uri: AMQPUri,
    /// Shown in the broker's list of connections.
    name: String,
}

impl fmt::Debug for RabbitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPAuthority { userinfo, host, port } = &self.uri.authority;
        write!(f, "RabbitConfig({host}:{port} as {:?})", userinfo.username)
    }
}

impl RabbitConfig {
    /// From `host:port`; `name` is the role, as shown by the broker.
    pub fn new(
        address: &str,
        user: impl Into<String>,
        password: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self> {
        let (host, port) = crate::address::host_and_port("RabbitMQ", address)?;
        let userinfo = AMQPUserInfo { username: user.into(), password: password.into() };
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority { userinfo, host, port },
            vhost: VHOST.into(),
            query: AMQPQueryString::default(),
        };
        Ok(Self::of(uri, name.into()))
    }

    /// From a URL, `amqp://user:password@host:port/vhost`.
    pub fn from_url(url: &str, name: impl Into<String>) -> Result<Self> {
        let refused = |reason: String| Error::Rejected { what: format!("the address of RabbitMQ: {reason}"), source: None };
        Ok(Self::of(url.parse().map_err(refused)?, name.into()))
    }

    /// The same broker and user in another virtual host.
    pub fn in_vhost(mut self, vhost: &str) -> Self {
        self.uri.vhost = vhost.into();
        self
    }

    fn of(mut uri: AMQPUri, name: String) -> Self {
        uri.query.heartbeat = Some(HEARTBEAT_S);
        uri.query.connection_timeout = Some(CONNECT_TIMEOUT.as_millis() as u64);
        Self { uri, name }
    }

    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection> {
        let properties = ConnectionProperties::default().with_connection_name(format!("{} ({purpose})", self.name).into());
        let connection = within(CONNECT_TIMEOUT, async {
            let runtime = lapin::runtime::default_runtime()?;
            Connection::connect_uri_with_config(self.uri.clone(), properties, OwnedTLSConfig::default(), runtime).await
        });
        connection.await.map_err(unavailable)
    }
}

/// What stopped a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    /// Blocked by an alarm, stopped, or out of reach.
    #[error("no answer in time")]
    Late,
}

pub(super) async fn within<T>(limit: Duration, call: impl Future<Output = lapin::Result<T>>) -> Result<T, Stop> {
    tokio::time::timeout(limit, call).await.map_err(|_| Stop::Late)?.map_err(Stop::Amqp)
}

pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, Stop> {
    within(CALL_TIMEOUT, connection.create_channel()).await
}

pub(super) fn unavailable(stop: Stop) -> Error {
    Error::unavailable("RabbitMQ", stop)
}

/// Whether the broker said that a queue or an exchange does not exist.
pub(super) fn is_missing(stop: &Stop) -> bool {
    use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
    let Stop::Amqp(error) = stop else { return false };
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND),
        _ => false,
    }
}
