//! What stands in the broker: names, properties, users and their rights. Written once, used by the definitions that
//! `casitas secrets init` makes and by declaring the same things from here.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind};
use ports::Priority;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::link::{Stop, open_channel, within};

pub const VHOST: &str = "casitas";
/// Direct; the routing key is the queue's name.
pub const EXCHANGE: &str = "reports";
pub const DEAD_EXCHANGE: &str = "reports.dead";
pub const DEAD_QUEUE: &str = "dead_letters";
/// The user that publishes, and may make the topology again when the broker lost it.
pub const PROJECTOR: &str = "projector";
/// The user that consumes.
pub const WORKER: &str = "worker";

/// Deliveries of one message before the broker gives it up. Tries are counted in the report's own stream (three); this one is
/// only a backstop, and far from three because a crash also counts against messages that were prefetched and never started.
const DELIVERY_LIMIT: i64 = 20;
/// Far above the 1,000 unfinished reports that the dispatcher allows; beyond it the broker refuses the publish.
const MESSAGES_MAX: i64 = 10_000;
const DEAD_LETTERS_MAX: i64 = 10_000;

/// Longest wait for one declaration: the broker elects a leader and syncs to disk.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(10);

fn job_queue_arguments() -> Vec<(&'static str, Value)> {
    vec![
        ("x-queue-type", json!("quorum")),
        ("x-delivery-limit", json!(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", json!(DEAD_EXCHANGE)),
        ("x-dead-letter-strategy", json!("at-least-once")),
        // Required by at-least-once dead-lettering, and better than losing the oldest job silently.
        ("x-overflow", json!("reject-publish")),
        ("x-max-length", json!(MESSAGES_MAX)),
    ]
}

fn dead_queue_arguments() -> Vec<(&'static str, Value)> {
    vec![("x-queue-type", json!("quorum")), ("x-max-length", json!(DEAD_LETTERS_MAX))]
}

fn queues() -> [(&'static str, Vec<(&'static str, Value)>); 3] {
    [
        (DEAD_QUEUE, dead_queue_arguments()),
        (Priority::High.queue(), job_queue_arguments()),
        (Priority::Low.queue(), job_queue_arguments()),
    ]
}

fn exchanges() -> [(&'static str, ExchangeKind); 2] {
    [(EXCHANGE, ExchangeKind::Direct), (DEAD_EXCHANGE, ExchangeKind::Fanout)]
}

/// (exchange, queue, routing key)
fn bindings() -> [(&'static str, &'static str, &'static str); 3] {
    let [high, low] = Priority::ALL.map(Priority::queue);
    [(EXCHANGE, high, high), (EXCHANGE, low, low), (DEAD_EXCHANGE, DEAD_QUEUE, "")]
}

/// Makes what is missing; needs the right to configure. What exists with other properties is an error.
pub(super) async fn declare(connection: &Connection) -> Result<(), Stop> {
    let channel = open_channel(connection).await?;
    for (name, kind) in exchanges() {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        within(DECLARE_TIMEOUT, channel.exchange_declare(name.into(), kind, options, FieldTable::default())).await?;
    }
    for (name, arguments) in queues() {
        within(DECLARE_TIMEOUT, channel.queue_declare(name.into(), QueueDeclareOptions::durable(), table(&arguments)))
            .await?;
    }
    for (exchange, queue, key) in bindings() {
        let bound = channel.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        within(DECLARE_TIMEOUT, bound).await?;
    }
    Ok(())
}

fn table(arguments: &[(&'static str, Value)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Value::Number(number) => AMQPValue::LongLongInt(number.as_i64().unwrap_or_default()),
            other => AMQPValue::LongString(other.as_str().unwrap_or_default().into()),
        };
        table.insert((*name).into(), value);
    }
    table
}

/// A user of the broker as it stands in the definitions: no password, only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUser {
    /// [`PROJECTOR`] or [`WORKER`]; any other name gets no rights.
    pub name: String,
    /// See [`hash_password`].
    pub password_hash: String,
}

impl BrokerUser {
    pub fn new(name: impl Into<String>, password: &str) -> Self {
        Self { name: name.into(), password_hash: hash_password(password, rand::random()) }
    }
}

/// `rabbit_password_hashing_sha256`: base64(salt ‖ SHA-256(salt ‖ password)).
pub fn hash_password(password: &str, salt: [u8; 4]) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(password).finalize();
    STANDARD.encode([salt.as_slice(), digest.as_slice()].concat())
}

/// The broker's definitions file: virtual host, users, rights, exchanges, queues, bindings. Loading it again changes nothing.
pub fn definitions_json(users: &[BrokerUser]) -> Value {
    json!({
        "vhosts": [{"name": VHOST}],
        "users": users.iter().map(|user| json!({
            "name": user.name,
            "password_hash": user.password_hash,
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": [],
            "limits": {},
        })).collect::<Vec<_>>(),
        "permissions": users.iter().map(|user| permission(&user.name)).collect::<Vec<_>>(),
        "exchanges": exchanges().iter().map(|(name, kind)| json!({
            "name": name, "vhost": VHOST, "type": kind_name(kind),
            "durable": true, "auto_delete": false, "internal": false, "arguments": {},
        })).collect::<Vec<_>>(),
        "queues": queues().iter().map(|(name, arguments)| json!({
            "name": name, "vhost": VHOST, "durable": true, "auto_delete": false,
            "arguments": arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect::<serde_json::Map<_, _>>(),
        })).collect::<Vec<_>>(),
        "bindings": bindings().iter().map(|(exchange, queue, key)| json!({
            "source": exchange, "vhost": VHOST, "destination": queue, "destination_type": "queue",
            "routing_key": key, "arguments": {},
        })).collect::<Vec<_>>(),
    })
}

/// The projector writes to the exchanges, and may make everything here again: declaring a queue with dead letters also asks for
/// reading it, binding it for writing to it. A worker only reads the two job queues.
fn permission(user: &str) -> Value {
    let (configure, write, read) = match user {
        PROJECTOR => (everything(), everything(), everything()),
        WORKER => ("^$".into(), "^$".into(), any_of(&Priority::ALL.map(Priority::queue))),
        _ => ("^$".into(), "^$".into(), "^$".into()),
    };
    json!({"user": user, "vhost": VHOST, "configure": configure, "write": write, "read": read})
}

fn everything() -> String {
    let [high, low] = Priority::ALL.map(Priority::queue);
    any_of(&[EXCHANGE, DEAD_EXCHANGE, DEAD_QUEUE, high, low])
}

fn any_of(names: &[&str]) -> String {
    format!("^({})$", names.join("|").replace('.', "\\."))
}

fn kind_name(kind: &ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Custom(_) | ExchangeKind::Direct | ExchangeKind::Headers | ExchangeKind::Topic => "direct",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_hash_is_what_rabbitmq_documents() {
        // From RabbitMQ's guide on password hashes: salt 908D C60A, password test12.
        assert_eq!(hash_password("test12", [0x90, 0x8D, 0xC6, 0x0A]), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }

    #[test]
    fn a_worker_may_only_read_the_two_queues() {
        let definitions = definitions_json(&[BrokerUser::new(WORKER, "x"), BrokerUser::new("guest", "x")]);
        let rights = &definitions["permissions"];
        assert_eq!(rights[0]["configure"], "^$");
        assert_eq!(rights[0]["write"], "^$");
        assert_eq!(rights[0]["read"], "^(high_priority|low_priority)$");
        assert_eq!(rights[1]["read"], "^$");
    }

    #[test]
    fn the_definitions_name_what_is_declared() {
        let definitions = definitions_json(&[BrokerUser::new(PROJECTOR, "x")]);
        let names: Vec<_> = definitions["queues"].as_array().expect("queues").iter().map(|queue| &queue["name"]).collect();
        assert_eq!(names, ["dead_letters", "high_priority", "low_priority"]);
        assert_eq!(
            definitions["permissions"][0]["configure"],
            r"^(reports|reports\.dead|dead_letters|high_priority|low_priority)$"
        );
        assert_eq!(definitions["exchanges"][1]["type"], "fanout");
    }
}
