//! Callers in closed loops, and the proof that what was acknowledged to them is there.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::figure::{Check, Outcome, Things, histogram, record};

/// A run begins with this much that is not measured: connections, plans, caches.
const WARM_UP: Duration = Duration::from_millis(200);
/// After an error, so that a caller does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(5);
/// How many wrong things of a kind are told.
const TELL_MAX: usize = 5;

/// A command that was acknowledged: its aggregate, and the id in its event's data by which the event is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    pub aggregate: Uuid,
    pub marker: Uuid,
}

/// Somebody who sends one command, waits for its answer, and sends the next.
pub trait Caller: Send + 'static {
    fn call(&mut self) -> impl Future<Output = Result<Ack, String>> + Send;
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Driven {
    pub done: u64,
    pub elapsed: Duration,
    pub latencies_us: Vec<u32>,
    /// Everything acknowledged, the warm-up's commands included.
    pub acks: Vec<Ack>,
    pub errors: Vec<String>,
}

impl Driven {
    pub fn outcome(&self) -> Outcome {
        let mut latencies = histogram();
        for us in &self.latencies_us {
            record(&mut latencies, Duration::from_micros(u64::from(*us)));
        }
        Outcome::rate(self.done, self.elapsed, &latencies)
    }

    /// Of a run beside this one.
    pub fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latencies_us.extend(other.latencies_us);
        self.acks.extend(other.acks);
        self.errors.extend(other.errors);
    }
}

/// Warms up, then lets all callers go for the time; an answer that comes after the end counts, and so does the time it took.
pub async fn drive<C: Caller>(callers: Vec<C>, run_time: Duration) -> Driven {
    let (warm, callers) = go(callers, WARM_UP).await;
    let (mut driven, _) = go(callers, run_time).await;
    driven.acks.extend(warm.acks);
    driven.errors.extend(warm.errors);
    driven
}

/// The same for a number of commands in all, without a warm-up.
pub async fn fill<C: Caller>(callers: Vec<C>, commands: u64) -> Driven {
    let each = commands.div_ceil(callers.len().max(1) as u64);
    run(callers, None, each).await.0
}

async fn go<C: Caller>(callers: Vec<C>, run_time: Duration) -> (Driven, Vec<C>) {
    run(callers, Some(run_time), u64::MAX).await
}

async fn run<C: Caller>(callers: Vec<C>, run_time: Option<Duration>, each: u64) -> (Driven, Vec<C>) {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut driven = Driven::default();
            let mut asked = 0;
            while asked < each && run_time.is_none_or(|bound| started.elapsed() < bound) {
                asked += 1;
                let sent = Instant::now();
                match caller.call().await {
                    Ok(ack) => {
                        driven.acks.push(ack);
                        driven.latencies_us.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                        driven.done += 1;
                    }
                    Err(error) => {
                        driven.errors.push(error);
                        tokio::time::sleep(AFTER_ERROR).await;
                    }
                }
            }
            driven.elapsed = started.elapsed();
            (driven, caller)
        });
    }
    let mut all = Driven::default();
    let mut back = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok((driven, caller)) => {
                all.merge(driven);
                back.push(caller);
            }
            Err(error) => all.errors.push(format!("a caller panicked: {error}")),
        }
    }
    (all, back)
}

/// Is every acknowledged command in the log, and none twice? `stored` is what the run added to the log.
pub fn audit(what: impl Into<String>, driven: &Driven, stored: &[Ack]) -> Check {
    let mut times: HashMap<Ack, u32> = HashMap::with_capacity(stored.len());
    for event in stored {
        *times.entry(*event).or_default() += 1;
    }
    let mut wrong = Vec::new();
    let mut tell = |kind: &str, found: Vec<String>| {
        if !found.is_empty() {
            let some = found.iter().take(TELL_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
            wrong.push(format!("{} {kind}: {some}", found.len()));
        }
    };
    let name = |ack: &Ack| format!("{} of {}", ack.marker, ack.aggregate);
    tell("errors", driven.errors.clone());
    tell("acknowledged and not in the log", driven.acks.iter().filter(|ack| !times.contains_key(ack)).map(name).collect());
    tell("stored twice", times.iter().filter(|(_, times)| **times > 1).map(|(ack, _)| name(ack)).collect());
    // A command that ended in an error may have been stored: its outcome is unknown.
    let unasked = stored.len().saturating_sub(driven.acks.len() + driven.errors.len());
    if unasked > 0 {
        wrong.push(format!("{unasked} events that no command answers for"));
    }
    Check { what: what.into(), things: Things::Commands, count: driven.acks.len() as u64, wrong }
}

/// Adds a check to those of the same name of earlier rounds.
pub fn collect(checks: &mut Vec<Check>, check: Check) {
    match checks.iter_mut().find(|known| known.what == check.what) {
        Some(known) => {
            known.count += check.count;
            known.wrong.extend(check.wrong);
        }
        None => checks.push(check),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack() -> Ack {
        Ack { aggregate: Uuid::now_v7(), marker: Uuid::now_v7() }
    }

    fn driven(acks: &[Ack]) -> Driven {
        Driven { acks: acks.to_vec(), ..Driven::default() }
    }

    #[test]
    fn an_audit_finds_what_is_lost_doubled_or_unasked() {
        let (a, b) = (ack(), ack());
        assert!(!audit("x", &driven(&[a, b]), &[a, b]).failed());
        assert!(audit("x", &driven(&[a, b]), &[a]).failed(), "lost");
        assert!(audit("x", &driven(&[a]), &[a, a]).failed(), "doubled");
        assert!(audit("x", &driven(&[a]), &[a, b]).failed(), "unasked");
        assert!(audit("x", &driven(&[]), &[]).failed(), "a run of nothing proves nothing");
        let moved = Ack { aggregate: b.aggregate, ..a };
        assert!(audit("x", &driven(&[a]), &[moved]).failed(), "in another stream");
    }

    struct Every(Duration);

    impl Caller for Every {
        async fn call(&mut self) -> Result<Ack, String> {
            tokio::time::sleep(self.0).await;
            Ok(ack())
        }
    }

    #[tokio::test]
    async fn a_rate_is_what_was_done_in_the_time_it_took() {
        let driven = drive((0..4).map(|_| Every(Duration::from_millis(10))).collect(), Duration::from_millis(300)).await;
        let outcome = driven.outcome();
        // Four callers at no more than 100/s each.
        assert!((100.0..=401.0).contains(&outcome.value), "{outcome:?}");
        assert!(outcome.p50_ms.expect("measured") >= 10.0, "{outcome:?}");
        assert!(driven.acks.len() as u64 > driven.done, "the warm-up is acknowledged, too");
        assert_eq!(fill(vec![Every(Duration::ZERO), Every(Duration::ZERO)], 7).await.done, 8);
    }
}
