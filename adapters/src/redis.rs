//! Redis: the shared cache and the wake-up hints. Disposable; losing it makes the system slower, never wrong.
//!
//! Each ACL user needs the keys `casitas:*`, the channel `casitas:hints` and the commands in [`ACL_COMMANDS`].

mod cache;
mod connection;
mod hints;

pub use cache::RedisCache;
pub use connection::RedisConfig;
pub use hints::RedisHints;

/// Every key starts with it.
pub const KEY_PREFIX: &str = "casitas:";
/// The one pub/sub channel.
pub const HINTS_CHANNEL: &str = "casitas:hints";
/// The commands that these adapters send (`hello` and `auth` are implied for every user).
pub const ACL_COMMANDS: &[&str] =
    &["ping", "hget", "hset", "pexpire", "eval", "publish", "subscribe", "unsubscribe", "hello", "auth"];
