//! Whether two generations say the same: row by row, at one moment of the view store.
//!
//! Their checkpoints differ by what is under way. The one that is behind is folded on in memory, only for the rows that these
//! events touch, so that neither follower has to wait for the other.

use std::collections::{BTreeSet, HashMap, VecDeque};

use ports::{Error, ModelSpec, Position, Recorded, RowChange, StillViews, StoredRow};
use read_models::{ReadModel, Rows};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{RebuildError, Rebuilder, Result, Standing};
use crate::skips::Skips;

/// Rows read at once, of each side.
const PAGE: usize = 2_000;
/// Two generations further apart than this are not compared.
const APART_MAX: u64 = 100_000;
const READ: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// Only readers have it.
    Missing,
    /// Only the rebuilt generation has it.
    Extra,
    Differs,
}

impl DifferenceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Differs => "differs",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub key: String,
    pub kind: DifferenceKind,
    pub live: Option<StoredRow>,
    pub rebuilt: Option<StoredRow>,
}

/// What was found; digests are of all rows of a side, in any order of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The position that both sides were compared at.
    pub position: Position,
    pub live_generation: u64,
    pub generation: u64,
    pub rows: u64,
    pub live_rows: u64,
    pub equal: u64,
    pub missing: u64,
    pub extra: u64,
    pub differ: u64,
    pub digest: String,
    pub live_digest: String,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.differences() == 0
    }

    /// Whether rows were compared at all: those of another life of the log cannot be.
    pub fn was_made(&self) -> bool {
        !self.digest.is_empty()
    }

    pub fn differences(&self) -> u64 {
        self.missing + self.extra + self.differ
    }
}

/// One generation, page by page.
struct Side {
    generation: u64,
    page: VecDeque<StoredRow>,
    after: String,
    ended: bool,
}

impl Side {
    fn new(generation: u64) -> Self {
        Self { generation, page: VecDeque::new(), after: String::new(), ended: false }
    }

    async fn fill(&mut self, still: &mut dyn StillViews, spec: &'static ModelSpec) -> Result<()> {
        if self.page.is_empty() && !self.ended {
            let rows = still.rows(spec, self.generation, &self.after, PAGE).await?;
            self.ended = rows.len() < PAGE;
            if let Some(last) = rows.last() {
                self.after = last.key.clone();
            }
            self.page = rows.into();
        }
        Ok(())
    }

    fn key(&self) -> Option<&str> {
        self.page.front().map(|row| row.key.as_str())
    }
}

/// The same whatever order rows are added in.
#[derive(Default)]
struct Sum {
    rows: u64,
    sum: u128,
}

impl Sum {
    fn add(&mut self, hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    fn show(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// The hash of a row; its document must be written as we write it, its names in order.
fn hash(row: &StoredRow) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update(row.key.as_bytes());
    hasher.update([0]);
    hasher.update(row.doc.as_bytes());
    for field in &row.fields {
        hasher.update([0]);
        hasher.update(format!("{field:?}").as_bytes());
    }
    let digest = hasher.finalize();
    digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

fn parsed(row: &StoredRow) -> Result<Value> {
    let parsed = serde_json::from_str(&row.doc);
    Ok(parsed.map_err(|error| Error::corrupt(format!("row {} is not JSON: {error}", row.key)))?)
}

/// Collects what is found.
struct Tally<'a> {
    found: Comparison,
    live: Sum,
    rebuilt: Sum,
    tell: &'a mut (dyn FnMut(Difference) + Send),
}

impl Tally<'_> {
    fn pair(&mut self, live: Option<StoredRow>, rebuilt: Option<StoredRow>) -> Result<()> {
        let kind = match (live, rebuilt) {
            (Some(live), Some(rebuilt)) => return self.both(live, rebuilt),
            (None, None) => return Ok(()),
            (live, rebuilt) => (live, rebuilt),
        };
        let (live, rebuilt) = kind;
        for (row, sum) in [(&live, &mut self.live), (&rebuilt, &mut self.rebuilt)] {
            if let Some(row) = row {
                sum.add(hash(row));
            }
        }
        let (key, kind) = match (&live, &rebuilt) {
            (Some(row), _) => (row.key.clone(), DifferenceKind::Missing),
            (None, Some(row)) => (row.key.clone(), DifferenceKind::Extra),
            (None, None) => return Ok(()),
        };
        match kind {
            DifferenceKind::Missing => self.found.missing += 1,
            _ => self.found.extra += 1,
        }
        (self.tell)(Difference { key, kind, live, rebuilt });
        Ok(())
    }

    fn both(&mut self, live: StoredRow, rebuilt: StoredRow) -> Result<()> {
        // Rows of another shape have no fields to compare.
        let fields = live.fields.is_empty() || rebuilt.fields.is_empty() || live.fields == rebuilt.fields;
        if live.doc == rebuilt.doc && fields {
            let hash = hash(&rebuilt);
            self.live.add(hash);
            self.rebuilt.add(hash);
            self.found.equal += 1;
            return Ok(());
        }
        let (live, rebuilt) = (canonical(live)?, canonical(rebuilt)?);
        self.live.add(hash(&live));
        self.rebuilt.add(hash(&rebuilt));
        if live.doc == rebuilt.doc && fields {
            self.found.equal += 1;
            return Ok(());
        }
        self.found.differ += 1;
        let key = rebuilt.key.clone();
        (self.tell)(Difference { key, kind: DifferenceKind::Differs, live: Some(live), rebuilt: Some(rebuilt) });
        Ok(())
    }

    fn end(self) -> Comparison {
        let Self { found, live, rebuilt, .. } = self;
        Comparison { rows: rebuilt.rows, live_rows: live.rows, digest: rebuilt.show(), live_digest: live.show(), ..found }
    }
}

/// With the document's names in our order, however it was written.
fn canonical(mut row: StoredRow) -> Result<StoredRow> {
    row.doc = parsed(&row)?.to_string();
    Ok(row)
}

impl Rebuilder {
    /// Compares a generation with the live one; tells of each difference.
    pub async fn compare(
        &self,
        model: &'static dyn ReadModel,
        generation: u64,
        tell: &mut (dyn FnMut(Difference) + Send),
    ) -> Result<Comparison> {
        let spec = model.spec();
        let live = self.standing(model, Standing::Live).await?;
        let live = live.ok_or_else(|| RebuildError::Nothing(format!("{} has no live generation", spec.name)))?;
        let skips = Skips::of(spec.name, &self.logs).await?;
        let mut still = self.views.still().await?;
        let live_head = still.head(spec, live.head.generation).await?;
        let head = still.head(spec, generation).await?;
        let (at, live_at) = (head.checkpoint.position, live_head.checkpoint.position);
        let mut between = self.between(model, at.min(live_at), at.max(live_at)).await?;
        between.retain(|event| !skips.has(event));
        // Streams that are folded no further on one of the sides.
        let mut parked = self.views.parked(spec.name, live.head.generation).await?;
        parked.extend(self.views.parked(spec.name, generation).await?);
        between
            .retain(|event| !parked.iter().any(|parked| parked.stream == event.stream && parked.position <= event.position));
        let mut touched: BTreeSet<String> = BTreeSet::new();
        for event in &between {
            touched.extend(model.keys(event)?);
        }
        let found = Comparison {
            position: at.max(live_at),
            live_generation: live.head.generation,
            generation,
            ..Comparison::default()
        };
        let mut tally = Tally { found, live: Sum::default(), rebuilt: Sum::default(), tell };
        let mut aside: [HashMap<String, StoredRow>; 2] = Default::default();
        let (mut old, mut new) = (Side::new(live.head.generation), Side::new(generation));
        loop {
            old.fill(&mut *still, spec).await?;
            new.fill(&mut *still, spec).await?;
            let (live, rebuilt) = match (old.key(), new.key()) {
                (None, None) => break,
                (Some(_), None) => (old.page.pop_front(), None),
                (None, Some(_)) => (None, new.page.pop_front()),
                (Some(left), Some(right)) => match left.cmp(right) {
                    std::cmp::Ordering::Less => (old.page.pop_front(), None),
                    std::cmp::Ordering::Greater => (None, new.page.pop_front()),
                    std::cmp::Ordering::Equal => (old.page.pop_front(), new.page.pop_front()),
                },
            };
            let key = live.as_ref().or(rebuilt.as_ref()).map(|row| row.key.as_str()).unwrap_or_default();
            if touched.contains(key) {
                let [olds, news] = &mut aside;
                olds.extend(live.map(|row| (row.key.clone(), row)));
                news.extend(rebuilt.map(|row| (row.key.clone(), row)));
                continue;
            }
            tally.pair(live, rebuilt)?;
        }
        drop(still);
        // Rows of another fold cannot be folded on here.
        if live_head.fold_version == spec.fold_version {
            let [mut olds, mut news] = aside;
            let behind = if live_at < at { &mut olds } else { &mut news };
            fold_on(model, &between, &touched, behind)?;
            for key in &touched {
                tally.pair(olds.remove(key), news.remove(key))?;
            }
        }
        Ok(tally.end())
    }

    /// The events after a position up to another one.
    async fn between(&self, model: &dyn ReadModel, after: Position, to: Position) -> Result<Vec<Recorded>> {
        let spec = model.spec();
        if to - after > APART_MAX {
            let (name, apart) = (spec.name, to - after);
            return Err(RebuildError::Apart(format!(
                "the live generation of {name} and the other one are {apart} events apart: start the projector, or take the \
                 other one unseen with `casitas projections rebuild {name} --force`"
            )));
        }
        let log = self.logs.get(spec.context)?;
        let mut between: Vec<Recorded> = Vec::new();
        while after + (between.len() as u64) < to {
            let at = after + between.len() as u64;
            let limit = usize::try_from(to - at).unwrap_or(READ).min(READ);
            let mut events = log.read(at, limit).await?;
            if events.is_empty() {
                return Err(Error::corrupt(format!("the {} log ends at {at}, before {to}", spec.context)).into());
            }
            self.sealer.open_recorded(&**log, &mut events).await?;
            between.extend(events);
        }
        Ok(between)
    }
}

/// Folds events into rows that are behind.
fn fold_on(
    model: &dyn ReadModel,
    events: &[Recorded],
    touched: &BTreeSet<String>,
    behind: &mut HashMap<String, StoredRow>,
) -> Result<()> {
    let mut rows = Rows::default();
    let keys: Vec<String> = touched.iter().cloned().collect();
    let docs = behind.values().map(|row| Ok((row.key.clone(), parsed(row)?))).collect::<Result<HashMap<_, _>>>()?;
    rows.load(&keys, docs);
    for event in events {
        model.fold(event, &mut rows)?;
    }
    for change in rows.take_changes()?.0 {
        match change {
            RowChange::Put { key, doc, fields } => {
                behind.insert(key.clone(), StoredRow { key, doc: doc.to_string(), fields });
            }
            RowChange::Delete { key } => drop(behind.remove(&key)),
        }
    }
    Ok(())
}
