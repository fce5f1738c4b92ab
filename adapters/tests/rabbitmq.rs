//! The RabbitMQ adapter against the port's contract, and what it does when the broker misbehaves.

mod weather;

use std::collections::HashSet;
use std::time::Duration;

use adapters::rabbitmq::{DEAD_QUEUE, EXCHANGE, RabbitConfig, RabbitQueue};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use ports::{DeadLetters, Delivery, JobConsumer, JobQueue, Priority, conformance};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use weather::{Proxy, Weather, until};

const BOUND: Duration = Duration::from_secs(20);

/// The queues are shared by name, so the tests of this file take turns.
static TURN: Mutex<()> = Mutex::const_new(());

fn url() -> String {
    std::env::var("CASITAS_TEST_RABBITMQ").unwrap_or_else(|_| {
        panic!("CASITAS_TEST_RABBITMQ is not set: run `cargo xtask test`, which starts a private RabbitMQ")
    })
}

/// A queue on a clean topology, and a channel to meddle with.
struct Lab {
    queue: RabbitQueue,
    channel: Channel,
    connection: Connection,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    async fn new() -> Self {
        let turn = TURN.lock().await;
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.expect("the broker");
        let channel = connection.create_channel().await.expect("a channel");
        let lab = Self { queue: queue(), channel, connection, _turn: turn };
        lab.delete_queues().await;
        lab.queue.declare().await.expect("declared");
        lab
    }

    async fn delete_queues(&self) {
        for name in [Priority::High.queue(), Priority::Low.queue(), DEAD_QUEUE] {
            self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("deleted");
        }
    }

    async fn publish_raw(&self, body: &[u8]) {
        let channel = self.connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let published = channel.basic_publish(
            EXCHANGE.into(),
            Priority::High.queue().into(),
            BasicPublishOptions::default(),
            body,
            BasicProperties::default(),
        );
        published.await.expect("published").await.expect("confirmed");
    }

    async fn dead_letter(&self) -> Vec<u8> {
        let mut found = None;
        until("a dead letter", async || {
            found = self.channel.basic_get(DEAD_QUEUE.into(), BasicGetOptions { no_ack: true }).await.expect("looked");
            found.is_some()
        })
        .await;
        found.expect("found").delivery.data
    }
}

fn queue() -> RabbitQueue {
    RabbitQueue::new(
        RabbitConfig::from_url(&url(), "test").expect("CASITAS_TEST_RABBITMQ is amqp://user:password@host:port/vhost"),
    )
}

async fn receive(consumer: &dyn JobConsumer, priority: Priority) -> Delivery {
    timeout(BOUND, consumer.receive(priority)).await.expect("in time").expect("a delivery")
}

/// A queue whose connections go through a proxy.
async fn behind_a_proxy() -> (Proxy, RabbitQueue) {
    let (_, authority) = url().rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a user in the URL");
    let (address, _) = authority.split_once('/').expect("a vhost in the URL");
    let (host, port) = address.rsplit_once(':').expect("a port in the URL");
    let proxy = Proxy::start(host, port.parse().expect("a port")).await;
    let url = url().replace(address, &format!("127.0.0.1:{}", proxy.port));
    (proxy, RabbitQueue::new(RabbitConfig::from_url(&url, "test").expect("an address")))
}

#[tokio::test]
async fn the_queue_keeps_the_contract() {
    let lab = Lab::new().await;
    conformance::queue::all(&lab.queue).await;
}

#[tokio::test]
async fn declaring_again_changes_nothing() {
    let lab = Lab::new().await;
    lab.queue.publish(Priority::High, &[Uuid::now_v7()]).await.expect("published");
    lab.queue.declare().await.expect("declared again");
    until("the message is still there", async || lab.queue.depth(Priority::High).await.expect("a depth").ready == 1).await;
}

#[tokio::test]
async fn a_rejected_message_and_one_that_is_no_report_id_become_dead_letters() {
    let lab = Lab::new().await;
    lab.publish_raw(b"not a report id").await;
    let id = Uuid::now_v7();
    lab.queue.publish(Priority::High, &[id]).await.expect("published");
    let consumer = lab.queue.consumer(10, 1).await.expect("a consumer");
    let delivery = receive(&*consumer, Priority::High).await;
    assert_eq!(delivery.report_id, id, "the bad message did not stop the next one");
    assert_eq!(lab.dead_letter().await, b"not a report id");
    consumer.reject(delivery).await.expect("rejected");
    assert_eq!(lab.dead_letter().await, id.to_string().as_bytes());
}

#[tokio::test]
async fn dead_letters_are_looked_at_where_they_are_and_removed_one_by_one() {
    let lab = Lab::new().await;
    let letters: &dyn DeadLetters = &lab.queue;
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    lab.publish_raw(b"not a report id").await;
    lab.queue.publish(Priority::High, &ids).await.expect("published");
    let consumer = lab.queue.consumer(10, 1).await.expect("a consumer");
    for _ in ids {
        let delivery = receive(&*consumer, Priority::High).await;
        consumer.reject(delivery).await.expect("rejected");
    }
    let expected = [None, Some(ids[0]), Some(ids[1])];
    let listed = async || letters.list(10).await.expect("listed");
    until("all of them", async || listed().await.len() == 3).await;
    for _ in 0..3 {
        // What is returned to the queue comes back in its place, but not at once.
        until("all of them again", async || listed().await.len() == 3).await;
    }
    let all = listed().await;
    assert_eq!(all.iter().map(|letter| letter.report_id).collect::<Vec<_>>(), expected);
    assert_eq!((all[1].priority, all[1].reason.as_str()), (Some(Priority::High), "rejected"));
    until("one", async || letters.list(1).await.expect("listed").len() == 1).await;

    let mut removed = 0;
    until("two removed", async || {
        removed += letters.remove(&[None, Some(ids[1])]).await.expect("removed");
        removed == 2
    })
    .await;
    until("the other one", async || {
        listed().await.iter().map(|letter| letter.report_id).collect::<Vec<_>>() == [Some(ids[0])]
    })
    .await;
}

#[tokio::test]
async fn messages_are_persistent() {
    let lab = Lab::new().await;
    lab.queue.publish(Priority::Low, &[Uuid::now_v7()]).await.expect("published");
    let get = || lab.channel.basic_get(Priority::Low.queue().into(), BasicGetOptions { no_ack: true });
    let mut message = None;
    until("the message arrives", async || {
        message = get().await.expect("looked");
        message.is_some()
    })
    .await;
    assert_eq!(message.expect("found").delivery.properties.delivery_mode(), &Some(2));
}

#[tokio::test]
async fn lost_queues_are_made_again_by_the_next_publish_and_by_the_next_consumer() {
    let lab = Lab::new().await;
    lab.queue.publish(Priority::High, &[Uuid::now_v7()]).await.expect("published");
    lab.delete_queues().await;
    let id = Uuid::now_v7();
    lab.queue.publish(Priority::High, &[id]).await.expect("published into a queue made again");
    lab.channel.queue_delete(Priority::Low.queue().into(), QueueDeleteOptions::default()).await.expect("deleted");
    let consumer = lab.queue.consumer(1, 1).await.expect("a consumer");
    assert_eq!(receive(&*consumer, Priority::High).await.report_id, id);
}

#[tokio::test]
async fn an_unroutable_message_is_an_error_for_who_may_not_declare() {
    let lab = Lab::new().await;
    // A queue of that name with other properties stands in for a missing right: declaring fails, and nothing is bound to it.
    lab.delete_queues().await;
    let transient = QueueDeclareOptions { durable: false, ..Default::default() };
    let high = Priority::High.queue();
    lab.channel.queue_declare(high.into(), transient, FieldTable::default()).await.expect("declared");
    let error = lab.queue.publish(Priority::High, &[Uuid::now_v7()]).await.expect_err("unroutable");
    assert!(error.is_transient(), "{}", error.chain());
}

#[tokio::test]
async fn every_lost_connection_is_replaced_with_prefetch_and_consumers_unchanged() {
    let lab = Lab::new().await;
    let (proxy, queue) = behind_a_proxy().await;
    let published: Vec<Uuid> = (0..30).map(|_| Uuid::now_v7()).collect();
    queue.publish(Priority::High, &published).await.expect("published");
    for _ in 0..5 {
        let consumer = queue.consumer(3, 1).await.expect("a consumer");
        let first = receive(&*consumer, Priority::High).await;
        until("prefetch holds", async || {
            let depth = lab.queue.depth(Priority::High).await.expect("a depth");
            depth.ready == 27 && depth.consumers == 1
        })
        .await;
        proxy.make(Weather::Cut);
        // What is buffered is not handed out any more; both queues learn of the death.
        for priority in Priority::ALL {
            until("the consumer is dead", async || {
                timeout(BOUND, consumer.receive(priority)).await.expect("in time").is_err()
            })
            .await;
        }
        assert!(timeout(BOUND, consumer.ack(first)).await.expect("in time").is_err());
        proxy.make(Weather::Fair);
    }
    let consumer = queue.consumer(3, 1).await.expect("a consumer");
    let mut seen = HashSet::new();
    while seen.len() < published.len() {
        let delivery = receive(&*consumer, Priority::High).await;
        assert!(seen.insert(delivery.report_id), "an acked message came again");
        consumer.ack(delivery).await.expect("acked");
    }
    queue.publish(Priority::Low, &[Uuid::now_v7()]).await.expect("published after all that");
}

#[tokio::test]
async fn a_deleted_queue_ends_the_consumer() {
    let lab = Lab::new().await;
    let consumer = lab.queue.consumer(1, 1).await.expect("a consumer");
    lab.channel.queue_delete(Priority::Low.queue().into(), QueueDeleteOptions::default()).await.expect("deleted");
    assert!(timeout(BOUND, consumer.receive(Priority::High)).await.expect("in time").is_err());
}

#[tokio::test]
async fn a_silent_broker_hangs_nobody() {
    let _lab = Lab::new().await;
    let (proxy, queue) = behind_a_proxy().await;
    queue.publish(Priority::High, &[Uuid::now_v7()]).await.expect("published");
    queue.depth(Priority::High).await.expect("a depth");
    let consumer = queue.consumer(1, 1).await.expect("a consumer");
    let delivery = receive(&*consumer, Priority::High).await;
    proxy.make(Weather::Silent);
    let started = Instant::now();
    let again = [delivery.report_id];
    let (published, depth, acked, replaced) = tokio::join!(
        queue.publish(Priority::High, &again),
        queue.depth(Priority::High),
        consumer.requeue(delivery),
        queue.consumer(1, 1),
    );
    assert!(published.is_err() && depth.is_err() && replaced.is_err());
    // Settling is one way: that it was written into the void shows only when the connection is found dead.
    drop(acked);
    assert!(started.elapsed() < Duration::from_secs(8), "took {:?}", started.elapsed());
    proxy.make(Weather::Fair);
    queue.publish(Priority::High, &[Uuid::now_v7()]).await.expect("published once the broker answers");
}
