//! The in-process queue and hints against the ports' contract.

use adapters::inprocess::{InProcessHints, InProcessQueue};
use ports::{Error, JobQueue, Priority, conformance};
use uuid::Uuid;

#[tokio::test]
async fn the_queue_keeps_the_contract() {
    conformance::queue::all(&InProcessQueue::new()).await;
}

#[tokio::test]
async fn the_hints_keep_the_contract() {
    let hints = InProcessHints::new();
    conformance::hints::all(&hints, &hints.clone()).await;
}

#[tokio::test]
async fn a_full_queue_refuses_the_whole_batch_and_the_other_queue_goes_on() {
    let queue = InProcessQueue::with_capacity(3);
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    queue.publish(Priority::High, &ids).await.expect("fits");
    assert!(matches!(queue.publish(Priority::High, &ids).await, Err(Error::Full(_))));
    assert_eq!(queue.depth(Priority::High).await.expect("depth").ready, 2);
    queue.publish(Priority::Low, &ids).await.expect("fits");
}

#[tokio::test]
async fn rejected_messages_are_kept_as_dead_letters() {
    let queue = InProcessQueue::new();
    let id = Uuid::now_v7();
    queue.publish(Priority::Low, &[id]).await.expect("published");
    let consumer = queue.consumer(1, 1).await.expect("a consumer");
    let delivery = consumer.receive(Priority::Low).await.expect("a delivery");
    consumer.reject(delivery).await.expect("rejected");
    assert_eq!(queue.dead_letters(), [(Priority::Low, id)]);
}
