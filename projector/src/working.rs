//! What a leader has folded: the rows it knows, and what of them the view store does not have yet.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use domain::Timestamp;
use ports::{Checkpoint, Position, Recorded, Result, RowChange, ViewStore, is_sealed};
use read_models::{ReadModel, Rows};

use crate::known;
use crate::parking::Parked;

/// Events folded into one batch at most. Of an event only its rows are kept, so this bounds how long a batch may grow while the
/// one before it is written, not the memory.
const EVENTS_MAX: usize = 50_000;
/// Rows written by one batch at most, give or take those of the last events: it bounds the statement, and the tags that a
/// replica reads at once.
const ROWS_MAX: usize = 5_000;

/// Lives as long as its leader's term, and ends with any failure to write: its rows are then no longer those of the store.
pub(crate) struct Working {
    rows: Rows,
    /// Everything up to here is folded.
    to: Checkpoint,
    /// Folded since the last batch was taken.
    events: usize,
    since: Option<Timestamp>,
}

/// What is to be written as one step.
pub(crate) struct Taken {
    pub changes: Vec<RowChange>,
    pub tags: BTreeSet<String>,
    pub to: Checkpoint,
    pub events: usize,
    /// When the first of the events was recorded.
    pub since: Option<Timestamp>,
}

/// Why folding cannot go on, and where.
pub(crate) struct Poison {
    pub event: Arc<Recorded>,
    pub fault: Fault,
    /// The fault, with everything that names the event.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A newer build knows the event: this one waits for the upgrade.
    Upgrade(String),
    /// No later time will be better: the stream can only be parked.
    Fold(String),
}

impl Working {
    /// Nothing folded, nothing known.
    pub(crate) fn at(checkpoint: Checkpoint) -> Self {
        Self { rows: Rows::default(), to: checkpoint, events: 0, since: None }
    }

    /// Begins at a checkpoint that is the same place in another life of an empty log.
    pub(crate) fn follow(&mut self, checkpoint: &Checkpoint) {
        self.to = checkpoint.clone();
    }

    pub(crate) fn position(&self) -> Position {
        self.to.position
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// When the oldest event that is folded and not taken was recorded.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.since
    }

    pub(crate) fn changes_rows(&self) -> bool {
        self.rows.changed() > 0
    }

    /// Whether more may be folded before what is folded is taken.
    pub(crate) fn has_room(&self) -> bool {
        self.is_empty() || (self.events < EVENTS_MAX && self.rows.changed() < ROWS_MAX && !self.rows.is_full())
    }

    /// Folds events that follow each other, from [`Self::position`] on. Rows that are not known yet are read: nothing of them
    /// is on its way to the store. After a poison the rows may have half of an event in them: they must be thrown away.
    pub(crate) async fn fold(
        &mut self,
        model: &dyn ReadModel,
        views: &dyn ViewStore,
        generation: u64,
        events: &[Arc<Recorded>],
        parked: &Parked,
    ) -> Result<Result<(), Poison>> {
        let (keys, found) = self.unknown(model, events, parked);
        if let Err(poison) = found {
            return Ok(Err(poison));
        }
        if !keys.is_empty() {
            let stored = views.rows(model.spec(), generation, &keys).await?;
            self.rows.load(&keys, stored);
        }
        for event in events {
            if !parked.leaves_out(event)
                && let Err(reason) = caught(|| model.fold(event, &mut self.rows))
            {
                return Ok(Err(Poison::of(model, event, Fault::Fold(reason))));
            }
            self.since.get_or_insert(event.recorded_at);
            self.events += 1;
            self.to.position = event.position;
            self.to.event_id = Some(event.event_id);
        }
        Ok(Ok(()))
    }

    /// The rows that the events need and that are not known, unless there is an event that cannot be read.
    fn unknown(
        &self,
        model: &dyn ReadModel,
        events: &[Arc<Recorded>],
        parked: &Parked,
    ) -> (Vec<String>, Result<(), Poison>) {
        let mut keys = BTreeSet::new();
        for event in events {
            let found = match known::check(event) {
                Ok(()) if parked.leaves_out(event) => continue,
                Ok(()) => caught(|| model.keys(event)).map_err(Fault::Fold),
                Err(unknown) => Err(Fault::Upgrade(unknown)),
            };
            match found {
                Ok(found) => keys.extend(found.into_iter().filter(|key| !self.rows.knows(key))),
                Err(fault) => return (Vec::new(), Err(Poison::of(model, event, fault))),
            }
        }
        (keys.into_iter().collect(), Ok(()))
    }

    /// What was folded since the last time. The rows stay known.
    pub(crate) fn take(&mut self) -> Result<Taken> {
        let (changes, tags) = self.rows.take_changes()?;
        let (events, since) = (std::mem::take(&mut self.events), self.since.take());
        Ok(Taken { changes, tags, to: self.to.clone(), events, since })
    }
}

impl Poison {
    fn of(model: &dyn ReadModel, event: &Arc<Recorded>, fault: Fault) -> Self {
        let fault = match fault {
            Fault::Fold(reason) => Fault::Fold(without_personal(event, reason)),
            upgrade @ Fault::Upgrade(_) => upgrade,
        };
        let (Fault::Upgrade(reason) | Fault::Fold(reason)) = &fault;
        Self { reason: told(model, event, reason), event: event.clone(), fault }
    }
}

/// What a decoder says may quote what it read; of an opened event that is not for logs, and not for a table that others read.
pub(crate) fn without_personal(event: &Recorded, reason: String) -> String {
    if is_sealed(event) {
        return "its personal data cannot be opened: they are not those that were sealed in this event (`casitas events verify`)"
            .into();
    }
    match reason.split_once("cannot be read") {
        Some((event_told, _)) if event.payload.get().contains("\"personal\"") => {
            format!("{event_told}cannot be read (what exactly is not said: it may quote personal data)")
        }
        _ => reason,
    }
}

/// Why a model cannot take an event, with everything that names it.
pub(crate) fn told(model: &dyn ReadModel, event: &Recorded, reason: &str) -> String {
    let Recorded { event_id, event_type, event_version, position, stream, .. } = event;
    let (model, context) = (model.spec().name, stream.context());
    format!(
        "{model} cannot take event {event_id} ({event_type} v{event_version} of {stream}, {context}:{position}): {reason}"
    )
}

/// Runs a pure function; an error or a panic as text.
pub(crate) fn caught<T>(run: impl FnOnce() -> Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.chain()),
        Err(panic) => Err(format!("panicked: {}", panic_text(&*panic))),
    }
}

/// Folds an event for who keeps rows of its own; or says why the model cannot take it, with everything that names the event and
/// nothing of a person. The rows may have half of the event in them then.
pub fn attempt(model: &dyn ReadModel, event: &Recorded, fold: impl FnOnce() -> Result<()>) -> Result<(), String> {
    let folded = known::check(event).and_then(|()| caught(fold).map_err(|reason| without_personal(event, reason)));
    folded.map_err(|reason| told(model, event, &reason))
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

#[cfg(test)]
mod tests {
    use domain::{AggregateKind, StreamId};
    use ports::Metadata;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;

    fn event(payload: &str) -> Recorded {
        Recorded {
            position: 1,
            event_id: Uuid::nil(),
            stream: StreamId::new(AggregateKind::Party, "1"),
            sequence: 1,
            event_type: "PartyRegistered".into(),
            event_version: "1".into(),
            payload: RawValue::from_string(payload.into()).expect("JSON").into(),
            effective_on: jiff::civil::date(2026, 3, 2),
            recorded_at: Timestamp::UNIX_EPOCH,
            metadata: Metadata { actor: "cli".into(), correlation_id: Uuid::nil(), causation_id: None, traceparent: None },
        }
    }

    #[test]
    fn the_reason_of_a_poison_never_quotes_personal_data() {
        let reason = |payload: &str| {
            let event = event(payload);
            let error = event.decode::<u8>().expect_err("no number").chain();
            without_personal(&event, error)
        };
        let told = reason(r#"{"PartyRegistered":{"personal":"Ada Lovelace"}}"#);
        assert!(told.contains("cannot be read") && !told.contains("Ada") && !told.contains("invalid"), "{told}");
        assert!(reason(r#"{"UnitUnlisted":7}"#).contains("invalid type"));
    }
}
