//! Whether the log is still what was sealed: the stored links, and the heads that were kept elsewhere.

use std::collections::VecDeque;

use domain::{Sha256, Timestamp};
use ports::{ChainHead, EventLog, Link, MARK_BYTES, Position, Result, StoredEvent};

use super::finding::Found;

const LINKS_READ: usize = 64;
/// Positions that one row names.
const NAMED_MAX: usize = 5;

/// A head of this log as an anchor has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchored {
    pub position: Position,
    pub hash: Sha256,
    pub made_at: Timestamp,
}

/// Goes over the rows in order, beside the links and the anchors.
pub struct Sealed<'a> {
    log: &'a dyn EventLog,
    /// Over the rows as they stand; over what was sealed, again, after a link that does not fit.
    head: ChainHead,
    links: VecDeque<Link>,
    /// The links end here, as they stood before the check began.
    end: Position,
    /// Links were read up to here.
    read: Position,
    /// Links were compared up to here.
    compared: Position,
    stretch: Stretch,
    /// Stretches in a row that do not fit: one finding.
    broken: Option<Broken>,
    anchors: VecDeque<Anchored>,
    /// Anchors were compared up to here; `false` when the last one did not fit.
    anchored: (Position, bool),
    pub fitting_anchors: usize,
}

/// What was seen since the last link.
#[derive(Default)]
struct Stretch {
    rows: u64,
    /// Rows whose mark is another.
    strange: Vec<(i64, String)>,
}

struct Broken {
    after: Position,
    to: Position,
    sealed_at: Timestamp,
    strange: Vec<(i64, String)>,
    missing: bool,
}

impl Broken {
    fn take(&mut self, strange: Vec<(i64, String)>) {
        let room = (NAMED_MAX + 1).saturating_sub(self.strange.len());
        self.strange.extend(strange.into_iter().take(room));
    }
}

impl<'a> Sealed<'a> {
    /// `anchors` in order of position. The links are read first and the log's head after this: what is sealed meanwhile is of
    /// no concern.
    pub async fn new(log: &'a dyn EventLog, anchors: Vec<Anchored>) -> Result<Self> {
        Ok(Self {
            log,
            head: ChainHead::start(log.context()),
            links: VecDeque::new(),
            end: log.last_link().await?.map_or(0, |link| link.head.position),
            read: 0,
            compared: 0,
            stretch: Stretch::default(),
            broken: None,
            anchors: anchors.into(),
            anchored: (0, true),
            fitting_anchors: 0,
        })
    }

    /// The last position that is sealed.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The next row, in order of position.
    pub async fn look(&mut self, event: &StoredEvent, found: &mut Found) -> Result<()> {
        let position = u64::try_from(event.position).unwrap_or_default();
        self.compare_before(position, found).await?;
        let mark = self.head.take(event);
        self.stretch.rows += 1;
        if let Some(link) = self.link().await? {
            let place = position.checked_sub(link.after + 1).map(|place| place as usize * MARK_BYTES);
            let sealed = place.and_then(|place| link.marks.get(place..place + MARK_BYTES));
            if sealed.is_some_and(|sealed| sealed != mark) && self.stretch.strange.len() <= NAMED_MAX {
                self.stretch.strange.push((event.position, format!("{} of {}", event.event_type, event.stream())));
            }
        }
        Ok(())
    }

    /// After the last row.
    pub async fn finish(&mut self, found: &mut Found) -> Result<()> {
        let last = self.head.position;
        self.compare_before(last + 1, found).await?;
        self.end_in_stretch().await?;
        self.tell_broken(found);
        let context = self.log.context();
        if self.end > last {
            let sealed_at = self.log.last_link().await?.map_or_else(String::new, |link| format!(" on {}", link.sealed_at));
            let why = format!("the log ends at {last} and was sealed up to {}{sealed_at}: its tail was cut", self.end);
            found.add("cut", Some(last as i64 + 1), why, restore(self.log));
        }
        if let Some(anchor) = self.anchors.front() {
            let why = format!(
                "the {context} log ends at {last}; the anchor of {} has position {}: it was cut, or restored to an earlier moment",
                anchor.made_at, anchor.position
            );
            found.add("anchor", Some(anchor.position as i64), why, restore(self.log));
        }
        Ok(())
    }

    /// The rows end within a link: its hash says nothing about them, its marks do.
    async fn end_in_stretch(&mut self) -> Result<()> {
        let (last, strange) = (self.head.position, std::mem::take(&mut self.stretch.strange));
        let Some(link) = self.link().await? else { return Ok(()) };
        let (after, sealed_at) = (link.after, link.sealed_at);
        if !strange.is_empty() {
            let whole = || Broken { after, to: last, sealed_at, strange: Vec::new(), missing: false };
            let broken = self.broken.get_or_insert_with(whole);
            broken.to = last;
            broken.take(strange);
        }
        Ok(())
    }

    /// Compares what ends before a position: anchors first, as they were computed from the rows.
    async fn compare_before(&mut self, position: Position, found: &mut Found) -> Result<()> {
        loop {
            let link = self.link().await?.map_or(Position::MAX, |link| link.head.position);
            match self.anchors.front().map(|anchor| anchor.position) {
                Some(anchor) if anchor < position && anchor <= link => self.compare_anchor(found),
                _ if link < position => self.compare_link(found),
                _ => return Ok(()),
            }
        }
    }

    /// The link that is compared next.
    async fn link(&mut self) -> Result<Option<&Link>> {
        if self.links.is_empty() && self.read < self.end {
            self.links = self.log.links(self.read, LINKS_READ).await?.into();
            self.links.retain(|link| link.head.position <= self.end);
            self.read = self.links.back().map_or(self.end, |link| link.head.position);
        }
        Ok(self.links.front())
    }

    fn compare_link(&mut self, found: &mut Found) {
        let Some(link) = self.links.pop_front() else { return };
        let Stretch { rows, strange } = std::mem::take(&mut self.stretch);
        if link.after != self.compared {
            let why = format!("links from {} to {} are missing in the chain", self.compared, link.after);
            found.add("chain", Some(link.after as i64), why, restore(self.log));
        }
        let length = link.head.position - self.compared;
        let fits = self.head == link.head && strange.is_empty();
        if fits {
            self.tell_broken(found);
        } else {
            let after = self.compared;
            let broken = self.broken.get_or_insert_with(|| Broken {
                after,
                to: link.head.position,
                sealed_at: link.sealed_at,
                strange: Vec::new(),
                missing: false,
            });
            broken.to = link.head.position;
            broken.missing |= rows != length;
            broken.take(strange);
        }
        self.compared = link.head.position;
        // What follows is compared with what was sealed, so that one change is told once.
        self.head = link.head;
    }

    fn tell_broken(&mut self, found: &mut Found) {
        let Some(Broken { after, to, sealed_at, strange, missing }) = self.broken.take() else { return };
        let stretch = format!("{} to {to}, sealed from {sealed_at} on", after + 1);
        let names = strange.iter().take(NAMED_MAX).map(|(position, event)| format!("{position} ({event})"));
        let names = names.collect::<Vec<_>>().join(", ");
        let why = match (strange.len(), missing) {
            (0, true) => format!("positions {stretch}: rows are missing or were added"),
            (0, false) => format!("positions {stretch}: the chain itself was changed, each event has its mark"),
            (NAMED_MAX.., _) => format!("not what was sealed: {names}, and more, among positions {stretch}"),
            (_, true) => format!("not what was sealed: {names}; among positions {stretch} rows are missing or were added"),
            (_, false) => format!("not what was sealed: {names}; among positions {stretch}"),
        };
        let position = strange.first().map_or(after as i64 + 1, |(position, _)| *position);
        found.add("chain", Some(position), why, restore(self.log));
    }

    fn compare_anchor(&mut self, found: &mut Found) {
        let Some(anchor) = self.anchors.pop_front() else { return };
        let (compared, fitted) = self.anchored;
        let fits = self.head.position == anchor.position && self.head.hash == anchor.hash;
        if fits {
            self.fitting_anchors += 1;
        } else if fitted {
            let why = format!(
                "history up to here is not the one of the anchor of {}; something between {} and {} was changed",
                anchor.made_at,
                compared + 1,
                anchor.position
            );
            found.add("anchor", Some(anchor.position as i64), why, restore(self.log));
        }
        self.anchored = (if fits { anchor.position } else { compared }, fits);
    }
}

fn restore(log: &dyn EventLog) -> String {
    format!("restore the {} log from a backup, then: casitas events verify --anchor FILE", log.context())
}
