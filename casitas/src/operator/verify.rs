//! `casitas events verify` and `casitas events anchor`: whether history is what happened.

mod finding;
mod history;
mod sealed;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use domain::{Context, Timestamp};
use ports::{ChainHead, Checkpoint, Error, EventLog, LogHead, Sealer, StoredEvent};
use serde_json::json;
use uuid::Uuid;

use self::finding::{Finding, Found, row};
use self::history::{History, readable};
use self::sealed::{Anchored, Sealed};
use super::{Operator, Rows, chained};
use crate::anchors::{self, Anchor, AnchoredHead, Notary};
use crate::exit;

/// Rows read at once.
const CHUNK: usize = 1_000;
/// How often a long check tells how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// A path that means the same in the process that answers: its working directory may be another.
pub fn absolute(text: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(text)
}

/// A checkpoint on the log that is checked.
struct Mark {
    /// `read model available_units`, `follower policy:move-in`.
    owner: String,
    checkpoint: Checkpoint,
    next: String,
    /// The event at its position, when it was passed.
    stands: Option<String>,
}

/// By context, in order of position.
type Anchors = BTreeMap<&'static str, Vec<Anchored>>;

impl Operator {
    pub(super) async fn verify(&self, context: Option<&str>, anchor: Option<&Path>, rows: &Rows) -> Result<u8> {
        let mut wrong = 0;
        let mut anchors = BTreeMap::new();
        if let Some(file) = anchor {
            let (known, strange) = self.anchored(file)?;
            anchors = known;
            wrong += strange.len();
            for finding in strange {
                rows.send(row("", "wrong", &finding)).await?;
            }
        }
        let sealer = self.platform.sealer()?;
        for log in self.logs(context)? {
            let anchored = anchors.remove(log.context().as_str()).unwrap_or_default();
            wrong += self.verify_log(&log, anchored, &sealer, rows).await?;
        }
        Ok(if wrong == 0 { exit::OK } else { exit::CHECK_FAILED })
    }

    /// What the file's anchors say of each context, in order of position, and what is wrong with the file itself.
    fn anchored(&self, file: &Path) -> Result<(Anchors, Vec<Finding>)> {
        let notary = Notary::of(&self.platform.secrets)?;
        let (mut known, mut strange) = (Anchors::new(), Vec::new());
        for (number, line) in anchors::lines(file)? {
            match notary.open(&line) {
                Ok(Anchor { made_at, heads }) => {
                    // An empty log fits whatever came after.
                    for head in heads.into_iter().filter(|head| head.position > 0) {
                        let anchored = Anchored { position: head.position, hash: head.hash, made_at };
                        known.entry(head.context.as_str()).or_default().push(anchored);
                    }
                }
                Err(error) => strange.push(Finding {
                    position: None,
                    what: "anchor",
                    why: format!("line {number} of {}: {error:#}", file.display()),
                    next: "compare the file with another copy of it".into(),
                }),
            }
        }
        known.values_mut().for_each(|anchors| anchors.sort_by_key(|anchor| anchor.position));
        Ok((known, strange))
    }

    /// Reads one log once (again for more streams than fit into memory); how many findings there were.
    async fn verify_log(
        &self,
        log: &Arc<dyn EventLog>,
        anchors: Vec<Anchored>,
        sealer: &Sealer,
        rows: &Rows,
    ) -> Result<usize> {
        let context = log.context();
        let all_anchors = anchors.len();
        // Checkpoints and links before the head: on a living system they follow it.
        let mut marks = self.marks(log).await?;
        let mut sealed = Sealed::new(&**log, anchors).await.map_err(chained)?;
        let head = log.head().await.map_err(chained)?;
        let mut history = History::new(context);
        let mut found = Found::default();
        let mut at: HashMap<i64, Vec<usize>> = HashMap::new();
        for (index, mark) in marks.iter().enumerate() {
            at.entry(mark.checkpoint.position as i64).or_default().push(index);
        }
        let mut unsealed_since = None;
        let mut progress = Progress::new(context, head.position);
        let mut reader = Reader::start(log.clone(), head.position);
        while let Some(events) = reader.next().await? {
            for event in &events {
                history.look(event, &mut found);
                sealed.look(event, &mut found).await.map_err(chained)?;
                match readable(event, &**log, sealer).await {
                    Ok(()) => {}
                    Err(Error::Corrupt(why)) => {
                        let next = format!(
                            "casitas events show {context}:{}; unless a `chain` row names it, too, it was written so: restore \
                             nothing, run a build that reads it",
                            event.position
                        );
                        found.add("unreadable", Some(event.position), why, next);
                    }
                    Err(error) => return Err(chained(error)),
                }
                for index in at.get(&event.position).into_iter().flatten() {
                    marks[*index].stands = Some(event.event_id.clone());
                }
                if event.position > sealed.end() as i64 {
                    unsealed_since.get_or_insert(event.recorded_at_us);
                }
            }
            tell(context, "wrong", found.take(), rows).await?;
            progress.tell(events.len() as u64, rows).await?;
        }
        sealed.finish(&mut found).await.map_err(chained)?;
        while history.streams.next_share() {
            let mut reader = Reader::start(log.clone(), head.position);
            while let Some(events) = reader.next().await? {
                for event in &events {
                    if let Some(why) = history.streams.look(&event.stream(), event.sequence) {
                        found.add("broken stream", Some(event.position), why, history.restore());
                    }
                }
                tell(context, "wrong", found.take(), rows).await?;
            }
        }
        marks.iter().for_each(|mark| mark.compare(&head, &mut found));
        tell(context, "wrong", found.take(), rows).await?;
        tell(context, "wrong", found.untold(), rows).await?;
        let unsealed = head.position.saturating_sub(sealed.end());
        if unsealed > 0 {
            let since = unsealed_since.and_then(|micros| Timestamp::from_microsecond(micros).ok());
            let since = since.map_or_else(String::new, |since| format!(", the oldest of {since}"));
            let note = Finding {
                position: Some(sealed.end() as i64 + 1),
                what: "not sealed yet",
                why: format!("{unsealed} events{since}; what is not sealed can be changed unseen"),
                next: "nothing while `casitas serve` or `casitas projector` runs: it seals within a second".into(),
            };
            tell(context, "note", vec![note], rows).await?;
        }
        if found.total() == 0 {
            let anchored = match all_anchors {
                0 => String::new(),
                _ => format!(", {} of {all_anchors} anchors fit", sealed.fitting_anchors),
            };
            let fine = Finding {
                position: Some(head.position as i64),
                what: "history",
                why: format!("{} events read, sealed up to {}{anchored}", progress.done, sealed.end()),
                next: String::new(),
            };
            tell(context, "fine", vec![fine], rows).await?;
        }
        Ok(found.total())
    }

    async fn marks(&self, log: &Arc<dyn EventLog>) -> Result<Vec<Mark>> {
        let context = log.context();
        let mut marks = Vec::new();
        let models = read_models::all();
        for head in self.platform.views.heads().await.map_err(chained)? {
            let spec = models.iter().map(|model| model.spec()).find(|spec| spec.name == head.model);
            if spec.is_some_and(|spec| spec.context == context) {
                let next = format!("casitas projections rebuild {}", head.model);
                let owner = format!("read model {}", head.model);
                marks.push(Mark { owner, checkpoint: head.checkpoint, next, stands: None });
            }
        }
        for (name, checkpoint) in log.follower_checkpoints().await.map_err(chained)? {
            let owner = format!("follower {name}");
            marks.push(Mark {
                owner,
                checkpoint,
                next: format!("restore the {context} log that it followed"),
                stands: None,
            });
        }
        Ok(marks)
    }

    /// Signs the heads of all logs and adds them to a file.
    pub(super) async fn anchor(&self, file: &Path, rows: &Rows) -> Result<u8> {
        let notary = Notary::of(&self.platform.secrets)?;
        let mut heads = Vec::new();
        for log in self.logs(None)? {
            heads.push(chain_head(&log).await?);
        }
        let anchor = Anchor { made_at: self.platform.clock.now(), heads };
        anchors::add(file, &notary.line(&anchor)?)?;
        for head in &anchor.heads {
            rows.send(json!({
                "context": head.context, "position": head.position, "event_id": head.event_id, "hash": head.hash,
                "made_at": anchor.made_at,
            }))
            .await?;
        }
        Ok(exit::OK)
    }
}

/// The chain up to the log's end: from the last link, over what is not sealed yet.
async fn chain_head(log: &Arc<dyn EventLog>) -> Result<AnchoredHead> {
    let context = log.context();
    let mut chain = match log.last_link().await.map_err(chained)? {
        Some(link) => link.head,
        None => ChainHead::start(context),
    };
    let head = log.head().await.map_err(chained)?;
    ensure!(
        chain.position <= head.position,
        "the {context} log ends at {} and was sealed up to {}: run casitas events verify",
        head.position,
        chain.position
    );
    let mut event_id = None;
    if chain.position > 0 {
        let last = log.scan(chain.position as i64 - 1, 1).await.map_err(chained)?;
        event_id = last.first().filter(|event| event.position == chain.position as i64).map(|event| event.event_id.clone());
        ensure!(event_id.is_some(), "the {context} log has no event {}: run casitas events verify", chain.position);
    }
    let mut reader = Reader::after(log.clone(), chain.position, head.position);
    while let Some(events) = reader.next().await? {
        chain.extend(context, &events).map_err(chained)?;
        event_id = events.last().map(|event| event.event_id.clone());
    }
    let event_id = event_id.map(|id| id.parse::<Uuid>()).transpose()?;
    Ok(AnchoredHead { context, incarnation: head.incarnation, position: chain.position, event_id, hash: chain.hash })
}

impl Mark {
    fn compare(&self, head: &LogHead, found: &mut Found) {
        let Checkpoint { incarnation, position, event_id } = &self.checkpoint;
        // It has read nothing and fits every log.
        if *position == 0 {
            return;
        }
        let owner = &self.owner;
        let id = event_id.map(|id| id.to_string());
        let why = if *incarnation != head.incarnation {
            format!("the checkpoint of {owner} belongs to incarnation {incarnation}; the log has {}", head.incarnation)
        } else if *position > head.position {
            format!("the checkpoint of {owner} is at {position}; the log ends at {}", head.position)
        } else if id != self.stands {
            let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "no event".into());
            format!("the checkpoint of {owner} at {position} names {}; there stands {}", name(&id), name(&self.stands))
        } else {
            return;
        };
        found.add("checkpoint", Some(*position as i64), why, self.next.clone());
    }
}

async fn tell(context: Context, state: &str, findings: Vec<Finding>, rows: &Rows) -> Result<()> {
    for finding in findings {
        rows.send(row(context.as_str(), state, &finding)).await?;
    }
    Ok(())
}

type Chunk = tokio::task::JoinHandle<ports::Result<Vec<StoredEvent>>>;

/// The rows of a log in order, a chunk ahead.
struct Reader {
    log: Arc<dyn EventLog>,
    end: i64,
    coming: Option<Chunk>,
}

impl Reader {
    /// All rows up to a position; also those that stand where none can.
    fn start(log: Arc<dyn EventLog>, end: u64) -> Self {
        Self::from(log, i64::MIN, end)
    }

    fn after(log: Arc<dyn EventLog>, after: u64, end: u64) -> Self {
        Self::from(log, after as i64, end)
    }

    fn from(log: Arc<dyn EventLog>, after: i64, end: u64) -> Self {
        let mut reader = Self { log, end: end as i64, coming: None };
        reader.ask(after);
        reader
    }

    fn ask(&mut self, after: i64) {
        let log = self.log.clone();
        self.coming = (after < self.end).then(|| tokio::spawn(async move { log.scan(after, CHUNK).await }));
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>> {
        let Some(coming) = self.coming.take() else { return Ok(None) };
        let mut events = coming.await?.map_err(chained)?;
        if let Some(last) = events.last() {
            self.ask(last.position);
        }
        events.retain(|event| event.position <= self.end);
        Ok((!events.is_empty()).then_some(events))
    }
}

/// Tells how far a long check is, as rows that go to standard error.
struct Progress {
    context: Context,
    total: u64,
    done: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    fn new(context: Context, total: u64) -> Self {
        let began = Instant::now();
        Self { context, total, done: 0, began, told: began }
    }

    async fn tell(&mut self, events: u64, rows: &Rows) -> Result<()> {
        self.done += events;
        if self.told.elapsed() < PROGRESS_PERIOD {
            return Ok(());
        }
        self.told = Instant::now();
        let rate = self.done as f64 / self.began.elapsed().as_secs_f64();
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        let text =
            format!("{}: {} of {} events checked, {rate:.0}/s, {left:.0} s left", self.context, self.done, self.total);
        rows.send(json!({"progress": text})).await?;
        Ok(())
    }
}
