//! The contract of [`Hints`].

use std::time::Duration;

use domain::Context;
use tokio::time::timeout;

use crate::{Hints, Topic};

const BOUND: Duration = Duration::from_secs(10);

/// `from` and `to` may be one value or stand for two processes. A hint may be lost, so it is repeated until it is heard.
pub async fn all(from: &dyn Hints, to: &dyn Hints) {
    let mut listener = to.subscribe();
    for topic in Context::ALL.into_iter().map(Topic::Log).chain([Topic::Views]) {
        let heard = async {
            let mut repeat = tokio::time::interval(Duration::from_millis(20));
            loop {
                tokio::select! {
                    _ = repeat.tick() => from.notify(topic),
                    heard = listener.next() => if heard.expect("the stream goes on") == topic { return },
                }
            }
        };
        timeout(BOUND, heard).await.unwrap_or_else(|_| panic!("{topic:?} was not heard"));
    }
}
