use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use adapters::inprocess::InProcessQueue;
use domain::Context;
use domain::reports::{Report, ReportCommand, ReportKind};
use ports::{Delivery, JobConsumer, JobQueue, Priority};
use uuid::Uuid;

use crate::support::{World, execute, request_report, until};

const NAME: &str = "dispatcher:reports";

async fn ready(world: &World, priority: Priority) -> u64 {
    world.queue.depth(priority).await.expect("a depth").ready
}

/// The next message, two (virtual) minutes from now at the latest.
async fn receive(consumer: &dyn JobConsumer, priority: Priority) -> Delivery {
    let delivery = tokio::time::timeout(Duration::from_secs(120), consumer.receive(priority)).await;
    delivery.expect("a message in time").expect("a delivery")
}

async fn start_attempt(world: &World, report_id: Uuid) {
    execute::<Report>(&world.client(), report_id, ReportCommand::StartAttempt { worker: "w".into() }).await;
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_their_queues_and_the_checkpoint_follows_the_confirms() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    for kind in [ReportKind::LedgerStatement, ReportKind::LeaseRegister, ReportKind::LedgerStatement] {
        request_report(&client, kind).await;
    }
    until("published", || async { ready(&world, Priority::High).await == 2 && ready(&world, Priority::Low).await == 1 })
        .await;
    until("checkpointed", || async { process.follower(NAME).position == 3 }).await;
    process.stop().await;
    // Another process publishes nothing again.
    let process = world.start(vec![]);
    request_report(&client, ReportKind::LedgerStatement).await;
    until("published", || async { ready(&world, Priority::High).await == 3 }).await;
    assert_eq!(ready(&world, Priority::Low).await, 1);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_down_nothing_is_lost_and_the_dispatcher_says_so() {
    let world = World::new();
    world.queue.down.store(true, Ordering::SeqCst);
    let process = world.start(vec![]);
    let client = world.client();
    for _ in 0..10 {
        request_report(&client, ReportKind::LeaseRegister).await;
    }
    until("stalled", || async { process.stalled(NAME).is_some_and(|reason| reason.contains("the broker")) }).await;
    assert_eq!(process.follower(NAME).position, 0);
    process.kill().await;
    let process = world.start(vec![]);
    until("stalled", || async { process.stalled(NAME).is_some() }).await;
    world.queue.down.store(false, Ordering::SeqCst);
    until("published", || async { ready(&world, Priority::Low).await == 10 }).await;
    until("goes on", || async { process.stalled(NAME).is_none() && process.follower(NAME).position == 10 }).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_wiped_broker_lost_is_published_again_whether_consumers_wait_or_not() {
    for consumers in [0, 1] {
        let world = World::new();
        let process = world.start(vec![]);
        let client = world.client();
        let mut ids = vec![];
        for _ in 0..3 {
            ids.push(request_report(&client, ReportKind::LeaseRegister).await);
        }
        until("published", || async { ready(&world, Priority::Low).await == 3 }).await;
        let fresh = Arc::new(InProcessQueue::new());
        world.queue.wipe(fresh.clone());
        if consumers == 0 {
            until("published again", || async { ready(&world, Priority::Low).await >= 3 }).await;
            continue;
        }
        // Fewer are lost than the consumer might be holding.
        let consumer = fresh.consumer(2, 2).await.expect("a consumer");
        let mut received = vec![];
        for _ in 0..3 {
            let delivery = receive(&*consumer, Priority::Low).await;
            received.push(delivery.report_id);
            consumer.ack(delivery).await.expect("acked");
        }
        assert_eq!(received, ids);
        process.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_never_ends_is_given_to_the_workers_again_and_a_finished_report_is_not() {
    let world = World::new();
    let process = world.start(vec![]);
    let client = world.client();
    let (dead, done) = (
        request_report(&client, ReportKind::LedgerStatement).await,
        request_report(&client, ReportKind::LedgerStatement).await,
    );
    let consumer = world.queue.consumer(10, 10).await.expect("a consumer");
    for _ in 0..2 {
        let delivery = receive(&*consumer, Priority::High).await;
        start_attempt(&world, delivery.report_id).await;
        consumer.ack(delivery).await.expect("acked");
    }
    let complete = ReportCommand::CompleteReport {
        sha256: domain::Sha256::of(b"report"),
        size: 6,
        media_type: "application/json".into(),
    };
    execute::<Report>(&client, done, complete).await;
    world.clock.set("2026-03-02T12:02:00Z".parse().expect("an instant"));
    let delivery = receive(&*consumer, Priority::High).await;
    assert_eq!(delivery.report_id, dead);
    assert_eq!(world.queue.depth(Priority::High).await.expect("a depth").ready, 0);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_its_share_of_a_queue_is_in_the_broker_and_low_jobs_keep_no_high_one_out() {
    let world = World::new();
    let client = world.client();
    for _ in 0..620 {
        request_report(&client, ReportKind::LeaseRegister).await;
    }
    let high = request_report(&client, ReportKind::LedgerStatement).await;
    let process = world.start(vec![]);
    until("published", || async { ready(&world, Priority::Low).await == 500 && ready(&world, Priority::High).await == 1 })
        .await;
    assert_eq!(process.follower(NAME).position, 500, "the checkpoint waits before the first that is not in the broker");
    let consumer = world.queue.consumer(1, 1).await.expect("a consumer");
    assert_eq!(receive(&*consumer, Priority::High).await.report_id, high);
    for _ in 0..30 {
        let delivery = receive(&*consumer, Priority::Low).await;
        execute::<Report>(&client, delivery.report_id, ReportCommand::CancelReport).await;
        consumer.ack(delivery).await.expect("acked");
    }
    until("refilled", || async { ready(&world, Priority::Low).await == 500 }).await;
    assert!(world.events(Context::Reports).await.len() == 651);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_starts_again_reads_only_from_the_oldest_open_report() {
    let world = World::new();
    let client = world.client();
    let floor = || async {
        let stored = world.log(Context::Reports).inner.follower_checkpoint("dispatcher:reports:floor").await;
        stored.expect("answered").map_or(0, |checkpoint| checkpoint.position)
    };
    let process = world.start(vec![]);
    for _ in 0..20 {
        let id = request_report(&client, ReportKind::LeaseRegister).await;
        execute::<Report>(&client, id, ReportCommand::CancelReport).await;
    }
    let open = request_report(&client, ReportKind::LedgerStatement).await;
    for _ in 0..20 {
        let id = request_report(&client, ReportKind::LeaseRegister).await;
        execute::<Report>(&client, id, ReportCommand::CancelReport).await;
    }
    until("the floor stands before the open one", || async { floor().await == 40 }).await;
    process.stop().await;
    // A broker that lost everything: what is open is known without the 40 events before it.
    world.queue.wipe(Arc::new(InProcessQueue::new()));
    let process = world.start(vec![]);
    until("published again", || async { ready(&world, Priority::High).await == 1 }).await;
    assert_eq!(ready(&world, Priority::Low).await, 0);
    execute::<Report>(&client, open, ReportCommand::CancelReport).await;
    until("the floor follows", || async { floor().await == 82 }).await;
    process.stop().await;
}
