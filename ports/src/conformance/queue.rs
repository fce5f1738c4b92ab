//! The contract of [`JobQueue`]. Each check starts and ends with both queues empty and no other consumers.

use std::collections::HashSet;
use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use crate::{Delivery, JobConsumer, JobQueue, Priority, QueueDepth};

/// Longest wait for something that must happen.
const BOUND: Duration = Duration::from_secs(10);

pub async fn all(queue: &dyn JobQueue) {
    a_message_is_delivered_once_and_gone_after_its_ack(queue).await;
    messages_of_one_queue_come_in_order(queue).await;
    the_two_queues_are_apart(queue).await;
    a_requeued_message_comes_back_marked(queue).await;
    a_rejected_message_does_not_come_back(queue).await;
    prefetch_bounds_what_is_in_hand(queue).await;
    a_cancelled_receive_loses_nothing(queue).await;
    what_a_lost_consumer_held_goes_to_the_next(queue).await;
    settling_a_delivery_of_an_earlier_consumer_changes_nothing(queue).await;
    acks_given_together_settle_exactly_what_they_name(queue).await;
    a_large_batch_arrives_whole(queue).await;
}

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::now_v7()).collect()
}

async fn consumer(queue: &dyn JobQueue) -> Box<dyn JobConsumer> {
    timeout(BOUND, queue.consumer(10, 10)).await.expect("in time").expect("a consumer")
}

async fn receive(consumer: &dyn JobConsumer, priority: Priority) -> Delivery {
    timeout(BOUND, consumer.receive(priority)).await.expect("a delivery in time").expect("a delivery")
}

/// Waits until the broker shows this depth; its figures may trail by a moment.
async fn expect_depth(queue: &dyn JobQueue, priority: Priority, depth: QueueDepth) {
    let mut seen = None;
    let reached = async {
        while seen != Some(depth) {
            seen = Some(queue.depth(priority).await.expect("the depth"));
            tokio::task::yield_now().await;
        }
    };
    if timeout(BOUND, reached).await.is_err() {
        panic!("{priority:?}: {seen:?} instead of {depth:?}");
    }
}

async fn expect_empty(queue: &dyn JobQueue) {
    for priority in Priority::ALL {
        expect_depth(queue, priority, QueueDepth { ready: 0, consumers: 0 }).await;
    }
}

pub async fn a_message_is_delivered_once_and_gone_after_its_ack(queue: &dyn JobQueue) {
    let id = Uuid::now_v7();
    queue.publish(Priority::High, &[id]).await.expect("published");
    expect_depth(queue, Priority::High, QueueDepth { ready: 1, consumers: 0 }).await;
    let consumer = consumer(queue).await;
    let delivery = receive(&*consumer, Priority::High).await;
    assert_eq!((delivery.report_id, delivery.priority, delivery.redelivered), (id, Priority::High, false));
    consumer.ack(delivery).await.expect("acked");
    expect_depth(queue, Priority::High, QueueDepth { ready: 0, consumers: 1 }).await;
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn messages_of_one_queue_come_in_order(queue: &dyn JobQueue) {
    let published = ids(20);
    queue.publish(Priority::Low, &published).await.expect("published");
    let consumer = consumer(queue).await;
    for id in published {
        let delivery = receive(&*consumer, Priority::Low).await;
        assert_eq!(delivery.report_id, id);
        consumer.ack(delivery).await.expect("acked");
    }
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn the_two_queues_are_apart(queue: &dyn JobQueue) {
    let (high, low) = (Uuid::now_v7(), Uuid::now_v7());
    queue.publish(Priority::Low, &[low]).await.expect("published");
    queue.publish(Priority::High, &[high]).await.expect("published");
    let consumer = consumer(queue).await;
    for (priority, id) in [(Priority::High, high), (Priority::Low, low)] {
        let delivery = receive(&*consumer, priority).await;
        assert_eq!((delivery.report_id, delivery.priority), (id, priority));
        consumer.ack(delivery).await.expect("acked");
    }
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn a_requeued_message_comes_back_marked(queue: &dyn JobQueue) {
    let id = Uuid::now_v7();
    queue.publish(Priority::High, &[id]).await.expect("published");
    let consumer = consumer(queue).await;
    consumer.requeue(receive(&*consumer, Priority::High).await).await.expect("requeued");
    let again = receive(&*consumer, Priority::High).await;
    assert_eq!((again.report_id, again.redelivered), (id, true));
    consumer.ack(again).await.expect("acked");
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn a_rejected_message_does_not_come_back(queue: &dyn JobQueue) {
    let published = ids(2);
    queue.publish(Priority::High, &published).await.expect("published");
    let consumer = consumer(queue).await;
    consumer.reject(receive(&*consumer, Priority::High).await).await.expect("rejected");
    let next = receive(&*consumer, Priority::High).await;
    assert_eq!(next.report_id, published[1]);
    consumer.ack(next).await.expect("acked");
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn prefetch_bounds_what_is_in_hand(queue: &dyn JobQueue) {
    let published = ids(3);
    queue.publish(Priority::Low, &published).await.expect("published");
    let consumer = queue.consumer(1, 2).await.expect("a consumer");
    let first = receive(&*consumer, Priority::Low).await;
    let second = receive(&*consumer, Priority::Low).await;
    // The third stays in the queue; with a message in hand of each, the depth tells without waiting for nothing to happen.
    expect_depth(queue, Priority::Low, QueueDepth { ready: 1, consumers: 1 }).await;
    assert!(is_pending(consumer.receive(Priority::Low)).await, "a third delivery beyond the prefetch");
    consumer.ack(first).await.expect("acked");
    let third = receive(&*consumer, Priority::Low).await;
    for delivery in [second, third] {
        consumer.ack(delivery).await.expect("acked");
    }
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn a_cancelled_receive_loses_nothing(queue: &dyn JobQueue) {
    let consumer = consumer(queue).await;
    assert!(is_pending(consumer.receive(Priority::High)).await);
    let published = ids(50);
    queue.publish(Priority::High, &published).await.expect("published");
    let mut seen = HashSet::new();
    let gather = async {
        while seen.len() < published.len() {
            // Polled once and dropped, over and over, while messages arrive.
            if let Some(delivery) = poll_once(consumer.receive(Priority::High)).await {
                let delivery = delivery.expect("a delivery");
                assert!(seen.insert(delivery.report_id), "delivered twice");
                consumer.ack(delivery).await.expect("acked");
            }
            tokio::task::yield_now().await;
        }
    };
    let gathered = timeout(BOUND, gather).await;
    assert!(gathered.is_ok(), "{} of {} arrived", seen.len(), published.len());
    drop(consumer);
    expect_empty(queue).await;
}

pub async fn what_a_lost_consumer_held_goes_to_the_next(queue: &dyn JobQueue) {
    let published = ids(3);
    queue.publish(Priority::High, &published).await.expect("published");
    let lost = consumer(queue).await;
    let held = receive(&*lost, Priority::High).await;
    drop(lost);
    let next = consumer(queue).await;
    let mut seen = HashSet::new();
    for _ in &published {
        let delivery = receive(&*next, Priority::High).await;
        assert!(delivery.report_id != held.report_id || delivery.redelivered);
        seen.insert(delivery.report_id);
        next.ack(delivery).await.expect("acked");
    }
    assert_eq!(seen, published.into_iter().collect());
    drop(next);
    expect_empty(queue).await;
}

pub async fn settling_a_delivery_of_an_earlier_consumer_changes_nothing(queue: &dyn JobQueue) {
    let id = Uuid::now_v7();
    queue.publish(Priority::High, &[id]).await.expect("published");
    let earlier = consumer(queue).await;
    let stale = receive(&*earlier, Priority::High).await;
    drop(earlier);
    let next = consumer(queue).await;
    let delivery = receive(&*next, Priority::High).await;
    next.ack(stale).await.expect("ignored");
    // Still ours, and the channel still lives.
    next.requeue(delivery).await.expect("requeued");
    let again = receive(&*next, Priority::High).await;
    assert_eq!(again.report_id, id);
    next.ack(again).await.expect("acked");
    drop(next);
    expect_empty(queue).await;
}

/// Some at the front, some with gaps between, beside what is requeued and rejected; the rest goes to the next consumer.
pub async fn acks_given_together_settle_exactly_what_they_name(queue: &dyn JobQueue) {
    let published = ids(10);
    queue.publish(Priority::High, &published).await.expect("published");
    let lost = consumer(queue).await;
    let mut held = Vec::new();
    for _ in &published {
        held.push(Some(receive(&*lost, Priority::High).await));
    }
    let mut of = |at: usize| held[at].take().expect("once");
    let settled = tokio::join!(
        lost.ack(of(5)),
        lost.reject(of(3)),
        lost.ack(of(0)),
        lost.ack(of(2)),
        lost.requeue(of(6)),
        lost.ack(of(1)),
        lost.ack(of(8)),
    );
    let (a, b, c, d, e, f, g) = settled;
    [a, b, c, d, e, f, g].into_iter().for_each(|settled| settled.expect("settled"));
    drop(lost);
    let next = consumer(queue).await;
    let mut seen = HashSet::new();
    for _ in 0..4 {
        let delivery = receive(&*next, Priority::High).await;
        seen.insert(delivery.report_id);
        next.ack(delivery).await.expect("acked");
    }
    assert_eq!(seen, [4, 6, 7, 9].map(|at| published[at]).into());
    drop(next);
    expect_empty(queue).await;
}

pub async fn a_large_batch_arrives_whole(queue: &dyn JobQueue) {
    let published = ids(1_000);
    timeout(BOUND, queue.publish(Priority::Low, &published)).await.expect("in time").expect("published");
    let consumer = consumer(queue).await;
    let mut seen = HashSet::new();
    for _ in &published {
        let delivery = receive(&*consumer, Priority::Low).await;
        seen.insert(delivery.report_id);
        consumer.ack(delivery).await.expect("acked");
    }
    assert_eq!(seen.len(), published.len());
    drop(consumer);
    expect_empty(queue).await;
}

async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

async fn is_pending<F: Future>(future: F) -> bool {
    poll_once(future).await.is_none()
}
