//! Order: dense positions in commit order, nothing skipped, nothing twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::{AggregateKind, StreamId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{append, commit, events, fresh_stream, head, request, to};
use crate::{AppendOutcome, AppendRequest, EventLog, Position, Recorded, Stretch};

/// Longest wait for something that must happen.
const BOUND: Duration = Duration::from_secs(60);
const WRITERS: usize = 32;
const COMMANDS: usize = 12;

pub async fn a_read_is_bounded_and_ends_at_the_head(log: &dyn EventLog) {
    let before = head(log).await;
    commit(log, &request(vec![to(&fresh_stream(log), 0, events(5))])).await;
    for (after, limit, expected) in [(0, 3, 3), (2, 100, 3), (5, 10, 0), (4, 1, 1), (0, 0, 0)] {
        assert_eq!(log.read(before + after, limit).await.expect("read").len(), expected, "{limit} after {after}");
    }
    assert!(log.read(before + 1_000, 10).await.expect("beyond the head").is_empty());
}

pub async fn a_stretch_has_the_events_of_its_streams_and_no_others(log: &dyn EventLog) {
    let before = head(log).await;
    let streams: Vec<StreamId> = (0..12).map(|_| fresh_stream(log)).collect();
    for version in 0..3 {
        for stream in &streams {
            commit(log, &request(vec![to(stream, version, events(1))])).await;
        }
    }
    let all = log.read(before, 100).await.expect("read");
    let mut ids: Vec<String> = streams.iter().map(|stream| stream.id.clone()).collect();
    ids.sort();
    let whole = Stretch {
        after: before,
        to: before + 36,
        kind: streams[0].kind,
        streams_after: String::new(),
        streams_to: None,
        share: (0, 1),
    };
    let other = AggregateKind::ALL.iter().find(|kind| **kind != streams[0].kind).expect("another kind");
    let mut shared = 0;
    for (stretch, least) in [
        (whole.clone(), 36),
        (Stretch { after: before + 5, to: before + 30, ..whole.clone() }, 25),
        (Stretch { streams_after: ids[3].clone(), ..whole.clone() }, 24),
        (Stretch { streams_to: Some(ids[3].clone()), ..whole.clone() }, 12),
        (Stretch { streams_after: ids[2].clone(), streams_to: Some(ids[4].clone()), ..whole.clone() }, 6),
        (Stretch { kind: *other, ..whole.clone() }, 0),
        (Stretch { share: (0, 3), ..whole.clone() }, 0),
        (Stretch { share: (1, 3), ..whole.clone() }, 0),
        (Stretch { share: (2, 3), ..whole.clone() }, 0),
    ] {
        let found = log.stretch(&stretch).await.expect("a stretch");
        let expected: Vec<&Recorded> = all.iter().filter(|event| stretch.has(event)).collect();
        let seen = |event: &Recorded| (event.position, event.event_id, event.stream.clone(), event.payload.get().to_owned());
        assert_eq!(
            found.iter().map(seen).collect::<Vec<_>>(),
            expected.into_iter().map(seen).collect::<Vec<_>>(),
            "{stretch:?}"
        );
        let told = |event: &Recorded| (event.sequence, event.event_type.clone(), event.effective_on, event.recorded_at);
        assert!(found.iter().all(|event| all.iter().any(|stored| told(stored) == told(event))), "{stretch:?}");
        assert!(found.len() >= least, "{} for {stretch:?}", found.len());
        shared += if stretch.share.1 == 3 { found.len() } else { 0 };
    }
    assert_eq!(shared, 36, "every stream is in one share");
}

pub async fn racing_writers_of_one_stream_lose_nothing_and_overwrite_nothing(log: Arc<dyn EventLog>) {
    let stream = fresh_stream(log.as_ref());
    let writers = (0..WRITERS).map(|_| {
        let (log, stream) = (log.clone(), stream.clone());
        tokio::spawn(async move {
            let mut version = 0;
            loop {
                match append(log.as_ref(), &request(vec![to(&stream, version, events(1))])).await {
                    AppendOutcome::Committed { .. } => return version + 1,
                    AppendOutcome::VersionConflict { actual, .. } => version = actual,
                    other => panic!("{other:?}"),
                }
            }
        })
    });
    let mut won = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        won.push(writer.await.expect("no panic"));
    }
    won.sort_unstable();
    assert_eq!(won, (1..=WRITERS as u64).collect::<Vec<_>>(), "each sequence was won once");
    assert_eq!(log.load(&stream, 0).await.expect("loaded").len(), WRITERS);
}

pub async fn a_follower_skips_nothing_while_many_write(log: Arc<dyn EventLog>) {
    let start = head(log.as_ref()).await;
    let contended = Arc::new((0..4).map(|_| fresh_stream(log.as_ref())).collect::<Vec<_>>());
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(write(log.clone(), contended.clone(), number))).collect();
    let follower = tokio::spawn(follow(log.clone(), start, StdRng::seed_from_u64(rand::random())));

    let mut committed = Vec::new();
    for writer in writers {
        committed.extend(writer.await.expect("no panic"));
    }
    let end = head(log.as_ref()).await;
    assert_eq!(committed.len() as u64, end - start, "committed positions are dense");
    // The sentinel tells the follower that everything before it was committed.
    let (_, sentinel) = commit(log.as_ref(), &request(vec![to(&fresh_stream(log.as_ref()), 0, vec![sentinel()])])).await;
    assert_eq!(sentinel, end + 1);

    let delivered = timeout(BOUND, follower).await.expect("the follower ends").expect("no panic");
    committed.sort_unstable();
    assert_eq!(delivered, committed);
}

fn sentinel() -> crate::NewEvent {
    crate::NewEvent { event_type: "Sentinel".into(), ..super::event(0) }
}

/// Appends batches of a random shape: own streams and contended ones; answers what was committed.
async fn write(log: Arc<dyn EventLog>, contended: Arc<Vec<StreamId>>, number: usize) -> Vec<(Position, Uuid)> {
    let own = fresh_stream(log.as_ref());
    let (mut own_version, mut shared_version, mut committed) = (0, 0, Vec::new());
    for command in 0..COMMANDS {
        let shared = &contended[number % contended.len()];
        let size = rand::random_range(1..=3);
        let batch = [
            request(vec![to(&own, own_version, events(size))]),
            request(vec![to(shared, shared_version, events(1)), to(&fresh_stream(log.as_ref()), 0, events(1))]),
        ];
        // Every third command goes alone, so that batches of several sizes meet.
        let batch = if command % 3 == 0 { &batch[..1] } else { &batch[..] };
        for (request, outcome) in batch.iter().zip(log.append(batch).await.expect("appended")) {
            match outcome {
                AppendOutcome::Committed { first, .. } => {
                    let ids = request.streams.iter().flat_map(|append| &append.events).map(|event| event.event_id);
                    committed.extend((first..).zip(ids));
                }
                AppendOutcome::VersionConflict { actual, .. } => shared_version = actual,
                other => panic!("{other:?}"),
            }
        }
        own_version += size as u64;
    }
    committed
}

/// Reads behind the writers until the sentinel, and checks each event as it comes; answers those before the sentinel.
async fn follow(log: Arc<dyn EventLog>, start: Position, mut rng: StdRng) -> Vec<(Position, Uuid)> {
    let mut delivered = Delivered { last: start, sequences: HashMap::new(), recorded_at: None };
    let mut followed = Vec::new();
    loop {
        let chunk = match log.read(delivered.last, rng.random_range(1..=50)).await {
            Ok(chunk) => chunk,
            // Who waits for this follower bounds it.
            Err(error) if error.is_transient() => Vec::new(),
            Err(error) => panic!("behind {}: {}", delivered.last, error.chain()),
        };
        for event in &chunk {
            delivered.take(event);
            if event.event_type == "Sentinel" {
                return followed;
            }
            followed.push((event.position, event.event_id));
        }
        pause(&mut rng).await;
    }
}

/// What a follower was given so far.
struct Delivered {
    last: Position,
    sequences: HashMap<StreamId, u64>,
    recorded_at: Option<Timestamp>,
}

impl Delivered {
    fn take(&mut self, event: &Recorded) {
        assert_eq!(event.position, self.last + 1, "positions are dense");
        let sequence = self.sequences.entry(event.stream.clone()).or_default();
        *sequence += 1;
        assert_eq!(event.sequence, *sequence, "{} is in order", event.stream);
        assert!(self.recorded_at.is_none_or(|before| before <= event.recorded_at), "time goes back at {}", event.position);
        self.last = event.position;
        self.recorded_at = Some(event.recorded_at);
    }
}

async fn pause(rng: &mut StdRng) {
    match rng.random_range(0..3) {
        0 => tokio::task::yield_now().await,
        _ => sleep(Duration::from_micros(rng.random_range(0..2_000))).await,
    }
}

/// Sessions that take a place in a log and do not keep it: what only an adapter's own test can do to its log.
#[async_trait]
pub trait Quitters: Send + Sync + 'static {
    /// Takes the log's lock, writes an event at the next position, holds both for so long, and rolls back; or is cut
    /// off instead, as by the death of its process.
    async fn give_up(&self, held: Duration, is_cut_off: bool);
}

/// Writers over several handles of one log, which pause, and give up in the middle of one turn in ten; followers beside
/// them.
pub struct Storm {
    pub writers: usize,
    pub followers: usize,
    /// So many events are committed, or a few more.
    pub events: usize,
    /// Of every choice: what is written, how long is paused, who gives up when.
    pub seed: u64,
}

/// What happened in a storm. One in which nobody gave up shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weathered {
    pub events: usize,
    pub rolled_back: usize,
    pub cut_off: usize,
}

/// R4 of reliability-security.md: each follower is given exactly what was committed, in order, without a gap.
pub async fn followers_skip_nothing_in_a_storm(
    handles: &[Arc<dyn EventLog>],
    quitters: Arc<dyn Quitters>,
    storm: &Storm,
) -> Weathered {
    let seed = storm.seed;
    let log = handles[0].as_ref();
    let start = head(log).await;
    let contended: Vec<StreamId> = (0..4).map(|_| fresh_stream(log)).collect();
    let left = Arc::new(AtomicI64::new(storm.events as i64));
    let rng = |number: usize| StdRng::seed_from_u64(seed.wrapping_add(number as u64));
    let writers: Vec<_> = (0..storm.writers)
        .map(|number| {
            let log = handles[number % handles.len()].clone();
            let shared = contended[number % contended.len()].clone();
            let writer = Writer { log, shared, quitters: quitters.clone(), left: left.clone(), rng: rng(number) };
            tokio::spawn(writer.run())
        })
        .collect();
    let followers: Vec<_> = (0..storm.followers)
        .map(|number| tokio::spawn(follow(handles[number % handles.len()].clone(), start, rng(storm.writers + number))))
        .collect();

    let (mut committed, mut weathered) = (Vec::new(), Weathered::default());
    for writer in writers {
        let (written, given_up) = writer.await.expect("no panic");
        committed.extend(written);
        weathered.rolled_back += given_up.rolled_back;
        weathered.cut_off += given_up.cut_off;
    }
    weathered.events = committed.len();
    let end = head(log).await;
    assert_eq!(committed.len() as u64, end - start, "seed {seed}: committed positions are dense");
    commit(log, &request(vec![to(&fresh_stream(log), 0, vec![sentinel()])])).await;
    committed.sort_unstable();
    for follower in followers {
        let delivered = timeout(BOUND, follower).await.expect("the follower ends").expect("no panic");
        let strange = delivered.iter().zip(&committed).find(|(delivered, committed)| delivered != committed);
        assert_eq!(strange, None, "seed {seed}: delivered is not what was committed");
        assert_eq!(delivered.len(), committed.len(), "seed {seed}");
    }
    weathered
}

/// One writer of a storm.
struct Writer {
    log: Arc<dyn EventLog>,
    /// A stream that others write, too.
    shared: StreamId,
    quitters: Arc<dyn Quitters>,
    /// Events that are still to be committed, by all of them.
    left: Arc<AtomicI64>,
    rng: StdRng,
}

impl Writer {
    async fn run(mut self) -> (Vec<(Position, Uuid)>, Weathered) {
        let log = self.log.clone();
        let own = fresh_stream(log.as_ref());
        let (mut own_version, mut shared_version) = (0, 0);
        let (mut committed, mut given_up) = (Vec::new(), Weathered::default());
        while self.left.load(Ordering::Relaxed) > 0 {
            pause(&mut self.rng).await;
            if self.rng.random_ratio(1, 10) {
                self.give_up(&mut given_up).await;
                continue;
            }
            let size = self.rng.random_range(1..=5);
            let mut batch = vec![request(vec![to(&own, own_version, events(size))])];
            if self.rng.random_bool(0.5) {
                let fresh = fresh_stream(log.as_ref());
                batch.push(request(vec![to(&self.shared, shared_version, events(1)), to(&fresh, 0, events(1))]));
            }
            let before = committed.len();
            for (request, outcome) in batch.iter().zip(insist(log.as_ref(), &batch).await) {
                match outcome {
                    AppendOutcome::Committed { first, .. } => {
                        let ids = request.streams.iter().flat_map(|append| &append.events).map(|event| event.event_id);
                        committed.extend((first..).zip(ids));
                    }
                    AppendOutcome::VersionConflict { stream, actual } => {
                        assert_eq!(stream, self.shared, "nobody else writes a writer's own stream");
                        shared_version = actual;
                    }
                    other => panic!("{other:?}"),
                }
            }
            own_version += size as u64;
            self.left.fetch_sub((committed.len() - before) as i64, Ordering::Relaxed);
        }
        (committed, given_up)
    }

    async fn give_up(&mut self, given_up: &mut Weathered) {
        let held = Duration::from_micros(self.rng.random_range(0..2_000));
        let is_cut_off = self.rng.random_ratio(1, 4);
        self.quitters.give_up(held, is_cut_off).await;
        match is_cut_off {
            true => given_up.cut_off += 1,
            false => given_up.rolled_back += 1,
        }
    }
}

/// As a client does: the same batch again for as long as its outcome is not known.
async fn insist(log: &dyn EventLog, batch: &[AppendRequest]) -> Vec<AppendOutcome> {
    let began = Instant::now();
    loop {
        match log.append(batch).await {
            Ok(outcomes) => return outcomes,
            Err(error) if error.is_transient() && began.elapsed() < BOUND => sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("not appended: {}", error.chain()),
        }
    }
}
