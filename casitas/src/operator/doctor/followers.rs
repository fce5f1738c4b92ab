//! Whether each follower is led and close to its log's head, and what it has parked.

use anyhow::Result;
use domain::Context;
use ports::{Checkpoint, EventLog, Position};
use projector::{Board, FollowerStatus, State};

use super::super::{Operator, chained};
use super::{Line, age};

/// A follower that has not taken an event of this age is behind.
const BEHIND_SECONDS: i64 = 10;
/// Followers whose checkpoint lies beside their log.
pub(in crate::operator) const BESIDE_LOGS: [(&str, Context); 2] =
    [("policy:move-in", Context::Legal), ("dispatcher:reports", Context::Reports)];

impl Operator {
    pub(super) async fn followers(&self) -> Result<Vec<Line>> {
        self.prepare().await?;
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let statuses = self.board.as_ref().map(Board::snapshot);
        let names: Vec<&str> = read_models::all().into_iter().map(|model| model.spec().name).collect();
        let led = match &self.platform.diagnosis {
            None => None,
            Some(diagnosis) => Some(diagnosis.led(None, &names).await.map_err(chained)?),
        };
        let paused = match &self.platform.generations {
            None => Vec::new(),
            Some(generations) => generations.paused().await.map_err(chained)?,
        };
        let mut lines = vec![];
        for model in read_models::all() {
            let spec = model.spec();
            let Some(head) = heads.iter().find(|head| head.model == spec.name) else {
                lines.push(Line::wrong(spec.name, "has no rows yet: no projector has prepared it", self.start_projector()));
                continue;
            };
            if paused.iter().any(|name| name == spec.name) {
                let detail = format!("an operator paused it at {}", head.checkpoint.position);
                lines.push(Line::wrong(spec.name, detail, format!("casitas projections resume {}", spec.name)));
                continue;
            }
            let is_led = led.as_ref().is_none_or(|led| led.iter().any(|name| name == spec.name));
            let status = statuses.as_ref().and_then(|all| all.iter().find(|status| status.name == spec.name));
            lines.push(self.follower(spec.name, spec.context, &head.checkpoint, is_led, status).await?);
        }
        for (name, context) in BESIDE_LOGS {
            let log = self.platform.logs.get(context).map_err(chained)?;
            let checkpoint = log.follower_checkpoint(name).await.map_err(chained)?;
            let start = Checkpoint { incarnation: uuid::Uuid::nil(), position: 0, event_id: None };
            let is_led = match &self.platform.diagnosis {
                None => true,
                Some(diagnosis) => !diagnosis.led(Some(context), &[name]).await.map_err(chained)?.is_empty(),
            };
            let status = statuses.as_ref().and_then(|all| all.iter().find(|status| status.name == name));
            lines.push(self.follower(name, context, &checkpoint.unwrap_or(start), is_led, status).await?);
        }
        Ok(lines)
    }

    async fn follower(
        &self,
        name: &str,
        context: Context,
        checkpoint: &Checkpoint,
        is_led: bool,
        status: Option<&FollowerStatus>,
    ) -> Result<Line> {
        let log = self.platform.logs.get(context).map_err(chained)?;
        let head = log.head().await.map_err(chained)?;
        let position = checkpoint.position;
        if position > head.position
            || (position > 0 && checkpoint.incarnation != head.incarnation)
            || self.is_another(&**log, checkpoint).await?
        {
            let detail =
                format!("stands at {position} of another life of the {context} log, which ends at {}", head.position);
            let next = match read_models::all().iter().any(|model| model.spec().name == name) {
                true => format!("casitas projections rebuild {name}"),
                // Its checkpoint was restored with another log, or the log without it.
                false => format!("casitas events verify; then restore the {context} log that it followed"),
            };
            return Ok(Line::wrong(name, detail, next));
        }
        if let Some(State::Stalled { reason, since }) = status.map(|status| &status.state) {
            let detail = format!("stands still since {since}: {reason}");
            let next = if reason.contains("cannot take event") {
                "casitas events show, with the event that it names; upgrade if it says so"
            } else {
                "casitas doctor --quick; put right what the reason names: it goes on by itself"
            };
            return Ok(Line::wrong(name, detail, next));
        }
        let lag = head.position - position;
        let oldest = self.oldest(context, position).await?;
        let late = oldest.as_ref().is_some_and(|(_, seconds)| *seconds >= BEHIND_SECONDS);
        let behind = match &oldest {
            Some((age, _)) => format!("{lag} events behind, the oldest {age} old"),
            None => format!("at the head, {position}"),
        };
        // A folder at rest has nobody to follow it, and nobody to read what is not folded.
        let at_rest = !self.platform.distributed && self.board.is_none();
        Ok(match (is_led, late) {
            (true, true) if !at_rest => Line::wrong(
                name,
                behind,
                "casitas projections list, twice: if its position does not move, restart the projector",
            ),
            (false, _) => Line::wrong(name, format!("nobody leads it; {behind}"), self.start_projector()),
            (true, _) => Line::fine(name, behind),
        })
    }

    /// Whether another event stands in the log where the checkpoint was made: the log was put back and has grown past it.
    async fn is_another(&self, log: &dyn EventLog, checkpoint: &Checkpoint) -> Result<bool> {
        let (Some(before), Some(id)) = (checkpoint.position.checked_sub(1), checkpoint.event_id) else { return Ok(false) };
        let there = log.read(before, 1).await.map_err(chained)?;
        Ok(there.first().is_some_and(|event| event.event_id != id))
    }

    fn start_projector(&self) -> &'static str {
        if self.platform.distributed { "casitas projector" } else { "casitas serve" }
    }

    /// Age of the first event after a position.
    pub(in crate::operator) async fn oldest(&self, context: Context, position: Position) -> Result<Option<(String, i64)>> {
        let log = self.platform.logs.get(context).map_err(chained)?;
        let next = log.read(position, 1).await.map_err(chained)?;
        let now = self.platform.clock.now();
        Ok(next.first().map(|event| (age(event.recorded_at, now), now.duration_since(event.recorded_at).as_secs())))
    }

    /// Whether the hash chain of each log follows it.
    pub(super) async fn chains(&self) -> Result<Vec<Line>> {
        let at_rest = !self.platform.distributed && self.board.is_none();
        let mut lines = vec![];
        for context in Context::ALL {
            let check = format!("chain of {context}");
            let log = self.platform.logs.get(context).map_err(chained)?;
            let sealed = log.last_link().await.map_err(chained)?.map_or(0, |link| link.head.position);
            let oldest = self.oldest(context, sealed).await?;
            lines.push(match oldest {
                Some((age, seconds)) if seconds >= BEHIND_SECONDS && !at_rest => {
                    Line::wrong(check, format!("ends at {sealed}, {age} behind the log"), self.start_projector())
                }
                _ => Line::fine(check, format!("ends at {sealed}")),
            });
        }
        Ok(lines)
    }

    pub(super) async fn parked_streams(&self) -> Result<Vec<Line>> {
        let found = self.all_parked(None).await?;
        let now = self.platform.clock.now();
        if found.is_empty() {
            return Ok(vec![Line::fine("parked streams", "none")]);
        }
        let line = |found: &super::super::parked::Found| {
            let (name, parked) = (found.model.spec().name, &found.parked);
            let detail = format!(
                "{name} does not fold {} for {}: {} at position {}: {}",
                parked.stream,
                age(parked.since, now),
                parked.event_type,
                parked.position,
                parked.reason
            );
            Line::wrong("parked streams", detail, format!("casitas parked show {name} {}", parked.stream))
        };
        Ok(found.iter().map(line).collect())
    }
}
