//! `casitas parked`: streams that a read model does not fold, because one of their events could not be taken.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use domain::auth::OperatorAction;
use ports::{Ask, EventLog, EventQuery, ParkedStream, Position, Standing};
use projector::{Skips, attend_parked};
use read_models::ReadModel;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Operator, Refusal, Rows, chained, events, misunderstood, projections};
use crate::exit;

/// Events of a parked stream that are counted or shown at most.
const WAITING_MAX: usize = 10_000;
/// How long the projector may take to do what was asked for. It looks twice a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

const SKIPPED: &str = "that event is given up in this model, and those behind it are folded; it stays in the log: if its \
    payload cannot be read, commands on the stream are refused as before, and casitas events verify goes on naming it";

#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
pub enum Parked {
    /// Every parked stream: model, stream, where it stopped and why, and how many events wait behind that one.
    #[command(after_help = "Example:\n  casitas parked list --model units")]
    List {
        /// Only of this read model.
        #[arg(long)]
        model: Option<String>,
    },
    /// One parked stream whole, with the event that could not be taken.
    #[command(after_help = "Example:\n  casitas parked show units unit:0192d3c4-0000-7000-8000-000000000001")]
    Show {
        model: String,
        /// As `casitas parked list` shows it: KIND:ID.
        stream: String,
    },
    /// Fold a parked stream again, in order, from the event on that could not be taken.
    ///
    /// All of it or, if one still cannot be taken, up to that one. Exit 1 when it stays parked.
    #[command(
        after_help = "Examples:\n  casitas parked retry units unit:0192d3c4-0000-7000-8000-000000000001 --reason 'upgraded to 0.9.1'\n  casitas parked retry --all --reason 'upgraded to 0.9.1'"
    )]
    Retry {
        #[arg(required_unless_present = "all")]
        model: Option<String>,
        #[arg(required_unless_present = "all")]
        stream: Option<String>,
        /// Every parked stream (with MODEL: of that model).
        #[arg(long, conflicts_with = "stream")]
        all: bool,
        /// Take back what was skipped of this stream, parked or not: the next rebuild of the model folds it.
        #[arg(long, conflicts_with = "all")]
        skipped: bool,
        /// Kept in the record of what operators did.
        #[arg(long)]
        reason: String,
    },
    /// Give up the one event that could not be taken, in this read model, and fold the stream's later events.
    ///
    /// The event stays in the log. Rebuilds of this read model leave it out, too, until `casitas parked retry --skipped`.
    #[command(
        after_help = "Examples:\n  casitas parked skip units unit:0192d3c4-0000-7000-8000-000000000001 --reason 'typed by hand; its price is wrong for good'\n  casitas parked skip --all unit:0192d3c4-0000-7000-8000-000000000001 --reason 'typed by hand'"
    )]
    Skip {
        #[arg(required_unless_present = "all")]
        model: Option<String>,
        #[arg(required_unless_present = "all")]
        stream: Option<String>,
        /// In every read model that has this stream parked; each skip is recorded by itself.
        #[arg(long, value_name = "STREAM", conflicts_with_all = ["model", "stream"])]
        all: Option<String>,
        /// Kept in the record of what operators did.
        #[arg(long)]
        reason: String,
    },
}

/// A parked stream and the model that it is parked in.
#[derive(Clone)]
pub(super) struct Found {
    pub model: &'static dyn ReadModel,
    pub generation: u64,
    pub parked: ParkedStream,
}

/// What is asked for, and why.
struct Wish {
    ask: Ask,
    reason: String,
}

impl Operator {
    pub(super) async fn parked(&self, verb: Parked, rows: &Rows) -> Result<u8> {
        if let Parked::Retry { reason, .. } | Parked::Skip { reason, .. } = &verb
            && reason.trim().is_empty()
        {
            return Err(misunderstood("--reason must say why: it is kept in the record of what operators did"));
        }
        match verb {
            Parked::List { model } => {
                let found = self.all_parked(model.as_deref()).await?;
                for found in &found {
                    rows.send(self.parked_row(found).await?).await?;
                }
                Ok(exit::OK)
            }
            Parked::Show { model, stream } => match self.one_parked(&model, &stream).await? {
                Some(found) => self.show_parked(&found, rows).await,
                None => Err(not_parked(&model, &stream)),
            },
            Parked::Retry { model: Some(model), stream: Some(stream), skipped: true, all: _, reason } => {
                self.take_back(&model, &stream, &reason, rows).await
            }
            Parked::Retry { model, stream, skipped: _, all: _, reason } => {
                let found = match (&model, &stream) {
                    (Some(model), Some(stream)) => match self.one_parked(model, stream).await? {
                        Some(found) => vec![found],
                        None => return Err(not_parked(model, stream)),
                    },
                    (model, _) => self.all_parked(model.as_deref()).await?,
                };
                self.ask(found, &Wish { ask: Ask::Retry, reason }, rows).await
            }
            Parked::Skip { model, stream, all, reason } => {
                let Some(stream) = all.or(stream) else { return Err(misunderstood("which stream is it?")) };
                let found = self.parked_at(model.as_deref(), &stream).await?;
                if found.is_empty() {
                    return Err(not_parked(model.as_deref().unwrap_or("any read model"), &stream));
                }
                self.ask(found, &Wish { ask: Ask::Skip, reason }, rows).await
            }
        }
    }

    /// The parked streams of one model or of all, as the view store has them now.
    pub(super) async fn all_parked(&self, model: Option<&str>) -> Result<Vec<Found>> {
        let models = match model {
            None => read_models::all(),
            Some(name) => vec![projections::model(name)?],
        };
        let heads = self.platform.views.heads().await.map_err(chained)?;
        let mut found = vec![];
        for model in models {
            let name = model.spec().name;
            let Some(head) = heads.iter().find(|head| head.model == name) else { continue };
            let parked = self.platform.views.parked(name, head.generation).await.map_err(chained)?;
            found.extend(parked.into_iter().map(|parked| Found { model, generation: head.generation, parked }));
        }
        Ok(found)
    }

    async fn one_parked(&self, model: &str, stream: &str) -> Result<Option<Found>> {
        Ok(self.parked_at(Some(model), stream).await?.pop())
    }

    /// A stream as it is parked in one model or in any.
    async fn parked_at(&self, model: Option<&str>, stream: &str) -> Result<Vec<Found>> {
        let stream = events::stream_id(stream)?;
        let mut found = self.all_parked(model).await?;
        found.retain(|found| found.parked.stream == stream);
        Ok(found)
    }

    fn log_of(&self, found: &Found) -> Result<&Arc<dyn EventLog>> {
        self.platform.logs.get(found.model.spec().context).map_err(chained)
    }

    /// The events of a parked stream that are not folded: the one that could not be taken, and those behind it.
    async fn waiting(&self, found: &Found) -> Result<Vec<ports::Recorded>> {
        let query = EventQuery { stream: Some(found.parked.stream.clone()), ..EventQuery::default() };
        let after = found.parked.position - 1;
        self.log_of(found)?.search(&query, after, Position::MAX >> 1, WAITING_MAX).await.map_err(chained)
    }

    async fn parked_row(&self, found: &Found) -> Result<Value> {
        let ParkedStream { stream, position, event_type, reason, since, asked, .. } = &found.parked;
        Ok(json!({
            "model": found.model.spec().name,
            "stream": stream.to_string(),
            "context": stream.context().as_str(),
            "position": position,
            "type": event_type,
            "error": reason,
            "since": since.to_string(),
            "waiting": self.waiting(found).await?.len().saturating_sub(1),
            "asked": asked.map(Ask::as_str),
        }))
    }

    async fn show_parked(&self, found: &Found, rows: &Rows) -> Result<u8> {
        let waiting = self.waiting(found).await?;
        let mut row = self.parked_row(found).await?;
        let (name, stream) = (found.model.spec().name, &found.parked.stream);
        let next = format!(
            "casitas parked retry {name} {stream} --reason 'this build can take the event'; or give it up: \
             casitas parked skip {name} {stream} --reason WHY"
        );
        if let Some(fields) = row.as_object_mut() {
            fields.insert("next".into(), json!(next));
            fields.insert("generation".into(), json!(found.generation));
            fields.insert("sequence".into(), json!(found.parked.sequence));
            fields.insert("event".into(), waiting.first().map(events::whole).transpose()?.unwrap_or_default());
            let behind = waiting.iter().skip(1).map(|event| json!({"position": event.position, "type": event.event_type}));
            fields.insert("behind".into(), behind.collect());
        }
        rows.send(row).await?;
        Ok(exit::OK)
    }

    /// Records each wish, leaves it for the model's leader (or does the leader's work when there is none) and tells how it ended.
    async fn ask(&self, found: Vec<Found>, wish: &Wish, rows: &Rows) -> Result<u8> {
        let (mut healed, mut parked, mut waiting) = (0, 0, 0);
        for found in found {
            self.record_wish(&found, wish).await?;
            self.leave_wish(&found, wish.ask).await?;
            let ParkedStream { stream, position, .. } = &found.parked;
            let name = found.model.spec().name;
            if self.board.is_none() {
                self.stand_in(&found).await?;
            }
            let outcome = self.outcome(&found).await?;
            let (state, detail) = match &outcome {
                Outcome::Healed => {
                    healed += 1;
                    match wish.ask {
                        Ask::Retry => ("healed", Value::Null),
                        Ask::Skip => ("skipped", json!(SKIPPED)),
                    }
                }
                Outcome::Parked(now) => {
                    parked += 1;
                    ("parked", json!(format!("position {} ({}): {}", now.position, now.event_type, now.reason)))
                }
                Outcome::Waiting => {
                    waiting += 1;
                    ("waiting", json!("no projector has done it yet; it will be done when one leads the model"))
                }
            };
            let stream = stream.to_string();
            rows.send(json!({"model": name, "stream": stream, "position": position, "state": state, "detail": detail}))
                .await?;
        }
        Ok(match (healed, parked, waiting) {
            (_, 0, 0) => exit::OK,
            (0, 0, _) => exit::DEPENDENCY_DOWN,
            (0, _, _) => exit::FAILED,
            _ => exit::PARTLY,
        })
    }

    /// In the Operations stream, before anything is done.
    async fn record_wish(&self, found: &Found, wish: &Wish) -> Result<()> {
        let model = found.model.spec().name.to_owned();
        let (stream, position) = (found.parked.stream.to_string(), found.parked.position);
        let action = match wish.ask {
            Ask::Retry => OperatorAction::RetryParked { model, stream, position },
            Ask::Skip => OperatorAction::SkipParked { model, stream, position, event_id: found.parked.event_id },
        };
        self.record(action, Some(wish.reason.clone())).await
    }

    /// For the model's leader, and for who folds other generations in which the stream waits at the same event: a rollback is to
    /// land on the same rows.
    async fn leave_wish(&self, found: &Found, ask: Ask) -> Result<()> {
        let (spec, views) = (found.model.spec(), &self.platform.views);
        let ParkedStream { stream, position, .. } = &found.parked;
        views.ask(spec.name, found.generation, stream, *position, ask).await.map_err(chained)?;
        let Some(generations) = &self.platform.generations else { return Ok(()) };
        let mut others = generations.generations(&[spec]).await.map_err(chained)?;
        others.retain(|other| other.head.generation != found.generation);
        for other in others {
            match views.ask(spec.name, other.head.generation, stream, *position, ask).await {
                // It is not parked there.
                Ok(()) | Err(ports::Error::NotFound(_)) => {}
                Err(error) => return Err(chained(error)),
            }
        }
        Ok(())
    }

    /// Rebuilds fold what was skipped of a stream from now on. Its live rows stay as they are: later events are in them already.
    async fn take_back(&self, model: &str, stream: &str, reason: &str, rows: &Rows) -> Result<u8> {
        let (model, stream) = (projections::model(model)?, events::stream_id(stream)?);
        let (name, logs) = (model.spec().name, &self.platform.logs);
        let positions = Skips::of(name, logs).await.map_err(chained)?.of_stream(&stream);
        if positions.is_empty() {
            let message = format!(
                "nothing of {stream} is skipped in {name}; `casitas events list --context auth --type ParkedEventSkipped` \
                 shows what ever was"
            );
            return Err(Refusal::new(exit::NOT_FOUND, message).into());
        }
        let stream = stream.to_string();
        for position in positions {
            let action = OperatorAction::RetryParked { model: name.to_owned(), stream: stream.clone(), position };
            self.record(action, Some(reason.to_owned())).await?;
            let detail = format!(
                "the next rebuild folds it; the live rows lack it, so that takes `casitas projections rebuild {name} --force`"
            );
            rows.send(
                json!({"model": name, "stream": stream, "position": position, "state": "taken back", "detail": detail}),
            )
            .await?;
        }
        self.drop_unfinished(model).await?;
        Ok(exit::OK)
    }

    /// Generations that were begun with the skip: nobody is to go on with them.
    async fn drop_unfinished(&self, model: &'static dyn ReadModel) -> Result<()> {
        let Some(rebuilder) = &self.rebuilder else { return Ok(()) };
        for standing in [Standing::Building, Standing::Ready] {
            if let Some(found) = rebuilder.standing(model, standing).await.map_err(projections::refusal)? {
                rebuilder.drop(model, found.head.generation).await.map_err(projections::refusal)?;
            }
        }
        Ok(())
    }

    /// Where no projector runs in this process: perhaps none runs anywhere, then this is who leads for a moment.
    async fn stand_in(&self, found: &Found) -> Result<()> {
        let platform = &self.platform;
        let (log, views) = (self.log_of(found)?.clone(), platform.views.clone());
        let done =
            attend_parked(found.model, log, platform.sealer()?, views, &*platform.hints, platform.clock.clone()).await;
        match done {
            // Done, or somebody leads and will do it.
            Ok(_) | Err(ports::Error::Conflict(_)) => Ok(()),
            Err(error) => Err(chained(error)),
        }
    }

    async fn outcome(&self, found: &Found) -> Result<Outcome> {
        let began = Instant::now();
        loop {
            let parked = self.platform.views.parked(found.model.spec().name, found.generation).await.map_err(chained)?;
            match parked.into_iter().find(|parked| parked.stream == found.parked.stream) {
                None => return Ok(Outcome::Healed),
                Some(parked) if parked.asked.is_none() => return Ok(Outcome::Parked(parked)),
                Some(_) if began.elapsed() >= ANSWER_WITHIN => return Ok(Outcome::Waiting),
                Some(_) => sleep(POLL).await,
            }
        }
    }
}

/// How a wish ended.
enum Outcome {
    /// Everything of the stream is folded.
    Healed,
    /// It stopped here.
    Parked(ParkedStream),
    /// Nobody has looked yet.
    Waiting,
}

fn not_parked(model: &str, stream: &str) -> anyhow::Error {
    Refusal::new(exit::NOT_FOUND, format!("{stream} is not parked in {model}; `casitas parked list` shows what is")).into()
}
