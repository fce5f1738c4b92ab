//! What the rows of a log say of themselves: positions, times, streams, payloads.

use cqrs_es::{Aggregate, DomainEvent};
use domain::{Context, with_aggregate};
use ports::{Error, EventLog, Recorded, Result, Sealer, StoredEvent};

use super::finding::Found;
use super::streams::Streams;

pub struct History {
    context: Context,
    last: Option<(i64, i64)>,
    pub streams: Streams,
}

impl History {
    pub fn new(context: Context) -> Self {
        Self { context, last: None, streams: Streams::new() }
    }

    pub fn restore(&self) -> String {
        format!("restore the {} log from a backup, then: casitas events verify --anchor FILE", self.context)
    }

    /// The next row, in order of position.
    pub fn look(&mut self, event: &StoredEvent, found: &mut Found) {
        let position = event.position;
        let (before, before_us) = self.last.unwrap_or((0, i64::MIN));
        if position == before && self.last.is_some() {
            let why = format!("position {position} is taken twice; the other event here is {}", event.event_id);
            found.add("duplicate position", Some(position), why, self.restore());
        } else if position < 1 {
            found.add("duplicate position", Some(position), format!("{position} is no position"), self.restore());
        } else if position > before.max(0) + 1 {
            let first = before.max(0) + 1;
            let why = match position - first {
                1 => format!("position {first} is missing"),
                _ => format!("positions {first} to {} are missing", position - 1),
            };
            found.add("gap", Some(first), why, self.restore());
        }
        if event.recorded_at_us < before_us {
            let back = (before_us - event.recorded_at_us) as f64 / 1e6;
            let why = format!("recorded {back:.6} s before the event in front of it");
            found.add("time goes back", Some(position), why, self.restore());
        }
        if let Some(why) = self.streams.look(&event.stream(), event.sequence) {
            found.add("broken stream", Some(position), why, self.restore());
        }
        self.last = Some((position, before_us.max(event.recorded_at_us)));
    }
}

/// Whether the event can be read as the fact that it says it is, with its sealed values opened.
pub async fn readable(event: &StoredEvent, log: &dyn EventLog, sealer: &Sealer) -> Result<()> {
    let recorded = event.recorded()?;
    if recorded.stream.context() != log.context() {
        return Err(Error::corrupt(format!("{} belongs into the {} log", recorded.stream, recorded.stream.context())));
    }
    let mut opened = [recorded];
    sealer.open_recorded(log, &mut opened).await?;
    let (is, current) = fact(&opened[0])?;
    if is != event.event_type {
        return Err(Error::corrupt(format!("the payload is of the type {is}, the row says {}", event.event_type)));
    }
    let (kind, version) = (opened[0].stream.kind, &event.event_version);
    if !domain::is_readable(kind, &event.event_type, version, &current) {
        return Err(Error::corrupt(format!(
            "version {version} of {is} is not known to this casitas, which reads up to {current}: is it older than the log?"
        )));
    }
    Ok(())
}

/// The type and the version that the payload is of, read as today's.
fn fact(event: &Recorded) -> Result<(String, String)> {
    with_aggregate!(event.stream.kind, A => {
        event.decode::<<A as Aggregate>::Event>().map(|fact| (fact.event_type(), fact.event_version()))
    })
}
