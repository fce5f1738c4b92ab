//! Parking: a stream of which a model cannot take an event is not folded from there on, in that model alone, and everything else
//! goes on. Its order is kept: later events of it wait behind the one that could not be taken.
//!
//! A fold fails for the same reason each time, so nothing is tried again by itself. An operator asks for it (`casitas parked retry`,
//! after an upgrade with a better fold) or gives the event up (`skip`); the request stands in the view store until the model's
//! leader has done it. The leader folds the stream again up to its own checkpoint and commits rows and unparking as one step.
//! What a generation has skipped is behind it; only a fold from the beginning meets it again, and leaves it out ([`Skips`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{StreamId, Timestamp};
use ports::{
    Ask, Clock, EventLog, Hints, ModelSpec, ParkedStream, Parking, Position, Recorded, Result, Sealer, Topic, ViewBatch,
    ViewStore,
};
use read_models::ReadModel;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::projection::{Lead, Projection, ROUND_PERIOD};
use crate::rebuild::LiveTerms;
use crate::skips::Skips;
use crate::status::{Board, Kind};
use crate::tailer::Tailer;
use crate::working::{Fault, Poison, Taken, Working};

/// Beyond it the model stops: so many are no accident of single events, and their rows would be missed.
pub(crate) const STREAMS_MAX: usize = 1_000;
/// Events of a stream that are read at once.
const CHUNK: usize = 1_000;
/// A reason is cut to so many characters.
const REASON_MAX: usize = 1_000;

/// What is not folded: streams that are parked, and events that were given up.
#[derive(Default)]
pub(crate) struct Parked {
    model: &'static str,
    streams: HashMap<StreamId, ParkedStream>,
    /// None for a leader: what its generation skipped is behind it.
    skips: Skips,
    /// What the view store does not have yet; it goes with the next batch, which has the parked event behind it.
    changes: Vec<Parking>,
    /// When the operators' requests were read.
    looked: Option<Instant>,
}

impl Parked {
    pub(crate) fn of(spec: &ModelSpec, streams: Vec<ParkedStream>) -> Self {
        let streams = streams.into_iter().map(|parked| (parked.stream.clone(), parked)).collect();
        let parked = Self { model: spec.name, streams, skips: Skips::default(), changes: Vec::new(), looked: None };
        parked.export();
        parked
    }

    /// The same of a fold that may meet what was skipped.
    pub(crate) fn with_skips(self, skips: Skips) -> Self {
        Self { skips, ..self }
    }

    pub(crate) fn leaves_out(&self, event: &Recorded) -> bool {
        // Nearly always both are empty: then nothing is hashed.
        (!self.streams.is_empty() && self.streams.contains_key(&event.stream)) || self.skips.has(event)
    }

    pub(crate) fn count(&self) -> usize {
        self.streams.len()
    }

    /// Parks a stream from the next batch on; an error when too many are parked already.
    pub(crate) fn park(&mut self, poison: &Poison, now: Timestamp) -> Result<(), String> {
        if self.streams.len() >= STREAMS_MAX {
            return Err(format!("{}; and {STREAMS_MAX} streams are parked already", poison.reason));
        }
        let parked = parked(poison, now);
        tracing::error!(model = self.model, stream = %parked.stream, reason = poison.reason, "a stream is parked");
        metrics::counter!("casitas_streams_parked_total", "model" => self.model).increment(1);
        self.streams.insert(parked.stream.clone(), parked.clone());
        self.changes.push(Parking::Park(parked));
        self.export();
        Ok(())
    }

    pub(crate) fn take_changes(&mut self) -> Vec<Parking> {
        std::mem::take(&mut self.changes)
    }

    /// Whether operators may have asked for something since the last look.
    pub(crate) fn is_due(&self) -> bool {
        !self.streams.is_empty() && self.looked.is_none_or(|at| at.elapsed() >= ROUND_PERIOD)
    }

    fn committed(&mut self, parking: Parking) {
        match parking {
            Parking::Unpark(stream) => drop(self.streams.remove(&stream)),
            Parking::Park(parked) => drop(self.streams.insert(parked.stream.clone(), parked)),
        }
        self.export();
    }

    fn export(&self) {
        metrics::gauge!("casitas_parked_streams", "model" => self.model).set(self.streams.len() as f64);
    }
}

fn parked(poison: &Poison, since: Timestamp) -> ParkedStream {
    let (Fault::Upgrade(fault) | Fault::Fold(fault)) = &poison.fault;
    parked_at(&poison.event, fault, since)
}

/// The stream of an event that cannot be folded.
pub(crate) fn parked_at(event: &Recorded, fault: &str, since: Timestamp) -> ParkedStream {
    ParkedStream {
        stream: event.stream.clone(),
        position: event.position,
        sequence: event.sequence,
        event_id: event.event_id,
        event_type: event.event_type.clone(),
        reason: fault.chars().take(REASON_MAX).collect(),
        since,
        asked: None,
    }
}

impl Projection {
    /// Does what operators asked for.
    pub(crate) async fn attend(&self, lead: &mut Lead) -> Result<()> {
        lead.parked.looked = Some(Instant::now());
        let mut asked = self.views.parked(self.model.spec().name, lead.generation).await?;
        asked.retain(|parked| parked.asked.is_some());
        if asked.is_empty() {
            return Ok(());
        }
        // What is folded again must be written behind all that this leader has folded, on rows as they are then.
        self.flush(lead).await?;
        for parked in asked {
            self.fold_again(lead, parked).await?;
        }
        Ok(())
    }

    /// Folds a parked stream up to the checkpoint, as far as it goes, and commits that with where it stands then.
    async fn fold_again(&self, lead: &mut Lead, parked: ParkedStream) -> Result<()> {
        let before = match parked.asked {
            Some(Ask::Skip) => parked.position,
            Some(Ask::Retry) | None => parked.position - 1,
        };
        let (mut working, poison) = self.refold(lead, &parked, before).await?;
        let parking = match &poison {
            None => Parking::Unpark(parked.stream.clone()),
            Some(poison) => Parking::Park(self::parked(poison, parked.since)),
        };
        let Taken { changes, tags, events, .. } = working.take()?;
        let batch = ViewBatch {
            spec: self.model.spec(),
            generation: lead.generation,
            term: lead.term,
            from: lead.checkpoint.position,
            to: lead.checkpoint.clone(),
            changes,
            tags,
            parking: vec![parking.clone()],
        };
        self.commit(batch, events).await?;
        // Rows that were known before are not known as they are now.
        lead.working = Working::at(lead.checkpoint.clone());
        let unparked = matches!(parking, Parking::Unpark(_));
        tracing::info!(model = self.model.spec().name, stream = %parked.stream, events, unparked, "a parked stream was folded again");
        lead.parked.committed(parking);
        self.reporter.parked(lead.parked.count());
        Ok(())
    }

    /// The rows of a stream's events after a position and up to the checkpoint, or up to the first that cannot be taken.
    async fn refold(&self, lead: &Lead, parked: &ParkedStream, before: Position) -> Result<(Working, Option<Poison>)> {
        let nothing = Parked::default();
        let (mut working, mut poison) = (Working::at(lead.checkpoint.clone()), None::<Poison>);
        let (mut after, mut upto) = (before, lead.checkpoint.position);
        loop {
            let events = self.tailer.stream(&parked.stream, after, upto, CHUNK).await?;
            let Some(last) = events.last() else { return Ok((working, poison)) };
            after = last.position;
            if let Err(met) = working.fold(self.model, &*self.views, lead.generation, &events, &nothing).await? {
                // Half of its work is in the rows: once more, up to it.
                (working, after, upto) = (Working::at(lead.checkpoint.clone()), before, met.event.position - 1);
                poison = Some(met);
            }
        }
    }
}

/// Does what operators asked for the parked streams of a model that nobody leads; `false` when somebody does, who will do it.
///
/// # Errors
/// Those of the stores; `Conflict` when somebody begins to lead meanwhile.
pub async fn attend_parked(
    model: &'static dyn ReadModel,
    log: Arc<dyn EventLog>,
    sealer: Sealer,
    views: Arc<dyn ViewStore>,
    hints: &dyn Hints,
    clock: Arc<dyn Clock>,
) -> Result<bool> {
    let reporter = Board::new(clock.clone()).follower(model.spec().name, Kind::Projection, log.context());
    let projection = Projection {
        model,
        tailer: Tailer::new(log, sealer),
        views,
        side: None,
        live: LiveTerms::default(),
        announcer: Announcer::default(),
        hot: None,
        delay: Duration::ZERO,
        clock,
        reporter,
        shutdown: CancellationToken::new(),
    };
    let Some(mut lead) = projection.lead().await? else { return Ok(false) };
    projection.attend(&mut lead).await?;
    hints.notify(Topic::Views);
    Ok(true)
}
