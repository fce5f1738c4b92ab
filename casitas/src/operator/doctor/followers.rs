//! Whether each follower is led and close to its log's head, and what it has parked.

use anyhow::Result;
use domain::Context;
use ports::{Checkpoint, EventLog, ModelHead, ModelSpec, Position};
use projector::{Board, FollowerStatus, State};

use super::super::{Operator, chained};
use super::{Line, age};

/// A follower that has not taken an event of this age is behind.
const BEHIND_SECONDS: i64 = 10;
pub(in crate::operator) const MOVE_IN: &str = "policy:move-in";
/// Followers whose checkpoint lies beside their log.
pub(in crate::operator) const BESIDE_LOGS: [(&str, Context); 2] =
    [(MOVE_IN, Context::Legal), ("dispatcher:reports", Context::Reports)];

/// Whether some process leads a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Led {
    Yes,
    No,
    /// Nor is any other: one line tells of all.
    NoneIs,
}

/// Readers have its rows, which go no further until they are made anew.
fn of_another_fold(spec: &ModelSpec, head: &ModelHead) -> Line {
    let (live, ours, position) = (head.fold_version, spec.fold_version, head.checkpoint.position);
    if live > ours {
        let detail = format!("stands at {position}: a newer release folded it (version {live}, this one folds {ours})");
        return Line::wrong(spec.name, detail, "start the newer release again, here and wherever it ran");
    }
    let detail = format!(
        "stands at {position}, as an earlier release folded it (version {live}, this one folds {ours}): the projector rebuilds it aside"
    );
    // While the projector is at it, the verb says so; when it cannot go on, the verb names the event that stops it.
    Line::wrong(spec.name, detail, format!("casitas projections rebuild {}", spec.name))
}

impl Operator {
    pub(super) async fn followers(&self) -> Result<Vec<Line>> {
        self.prepare().await?;
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let statuses = self.board.as_ref().map(Board::snapshot);
        let led = self.led().await?;
        let paused = match &self.platform.generations {
            None => Vec::new(),
            Some(generations) => generations.paused().await.map_err(chained)?,
        };
        let models = read_models::all();
        let mut lines = vec![];
        if led.as_ref().is_some_and(Vec::is_empty) {
            let all = models.len() + BESIDE_LOGS.len();
            let detail = format!("nobody leads {all} of {all}: no projector runs");
            lines.push(Line::wrong("followers", detail, self.start_projector()));
        }
        let is_led = |name: &str| match &led {
            None => Led::Yes,
            Some(led) if led.is_empty() => Led::NoneIs,
            Some(led) if led.iter().any(|led| led == name) => Led::Yes,
            Some(_) => Led::No,
        };
        for model in models {
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
            if head.fold_version != spec.fold_version {
                lines.push(of_another_fold(spec, head));
                continue;
            }
            let status = statuses.as_ref().and_then(|all| all.iter().find(|status| status.name == spec.name));
            lines.extend(self.follower(spec.name, spec.context, &head.checkpoint, is_led(spec.name), status).await?);
        }
        for (name, context) in BESIDE_LOGS {
            let log = self.platform.logs.get(context).map_err(chained)?;
            let checkpoint = log.follower_checkpoint(name).await.map_err(chained)?;
            let start = Checkpoint { incarnation: uuid::Uuid::nil(), position: 0, event_id: None };
            let status = statuses.as_ref().and_then(|all| all.iter().find(|status| status.name == name));
            lines.extend(self.follower(name, context, &checkpoint.unwrap_or(start), is_led(name), status).await?);
        }
        Ok(lines)
    }

    /// Those that some process leads; `None` where nobody can be asked: embedded, who has the folder leads all.
    async fn led(&self) -> Result<Option<Vec<String>>> {
        let Some(diagnosis) = &self.platform.diagnosis else { return Ok(None) };
        let names: Vec<&str> = read_models::all().into_iter().map(|model| model.spec().name).collect();
        let mut led = diagnosis.led(None, &names).await.map_err(chained)?;
        for (name, context) in BESIDE_LOGS {
            led.extend(diagnosis.led(Some(context), &[name]).await.map_err(chained)?);
        }
        Ok(Some(led))
    }

    /// Nothing where all that is wrong is that nobody leads any.
    async fn follower(
        &self,
        name: &str,
        context: Context,
        checkpoint: &Checkpoint,
        led: Led,
        status: Option<&FollowerStatus>,
    ) -> Result<Option<Line>> {
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
            return Ok(Some(Line::wrong(name, detail, next)));
        }
        if let Some(State::Stalled { reason, since }) = status.map(|status| &status.state) {
            let detail = format!("stands still since {since}: {reason}");
            let next = if reason.contains("cannot take event") {
                "casitas events show, with the event that it names; upgrade if it says so"
            } else {
                "casitas doctor --quick; put right what the reason names: it goes on by itself"
            };
            return Ok(Some(Line::wrong(name, detail, next)));
        }
        if led == Led::NoneIs {
            return Ok(None);
        }
        let lag = head.position - position;
        let oldest = self.oldest(context, position).await?;
        let late = oldest.as_ref().is_some_and(|(_, seconds)| *seconds >= BEHIND_SECONDS);
        let behind = match &oldest {
            Some((age, _)) if lag == 1 => format!("1 event behind, {age} old"),
            Some((age, _)) => format!("{lag} events behind, the oldest {age} old"),
            None => format!("at the head, {position}"),
        };
        // A folder at rest has nobody to follow it, and nobody to read what is not folded.
        let at_rest = !self.platform.distributed && self.board.is_none();
        Ok(Some(match led {
            Led::No | Led::NoneIs => Line::wrong(name, format!("nobody leads it; {behind}"), self.start_projector()),
            Led::Yes if late && !at_rest => self.lagging(name, behind).await?,
            Led::Yes => Line::fine(name, behind),
        }))
    }

    /// A follower that is led, and behind all the same.
    async fn lagging(&self, name: &str, behind: String) -> Result<Line> {
        // The policy stands before the first step whose outcome it cannot learn.
        if name == MOVE_IN
            && let Some(stuck) = self.stuck_processes().await?.into_iter().next()
        {
            return Ok(Line::wrong(name, format!("{behind}; {}", stuck.told()), stuck.next()));
        }
        let next = "casitas projections list, twice: if its position does not move, restart the projector";
        Ok(Line::wrong(name, behind, next))
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
