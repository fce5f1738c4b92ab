//! `replay`: history delivered again, and counted.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use domain::Context;
use ports::{Recorded, STRETCH_MAX, position_before};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::filter::{EventFilter, Scope, instant};
use super::look::Walk;
use super::sinks::{Fold, Sink, Webhook, read};
use crate::exit;
use crate::operator::{Operator, Refusal, Rows, chained, misunderstood, quoted};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[command(
    long_about = "Deliver history again: to a fold, a webhook or a pipe.

--into dry               reads every event as this build knows it, and delivers nothing
--into projection:NAME   folds into rows that are thrown away; shows their number and digest. Holds all rows of the model in memory. \
What `casitas parked skip` gave up in the model is left out, as in a rebuild, and counted: skipped_by_operators
--into https://…         posts each event as a CloudEvent 1.0 (application/cloudevents+json), personal data masked, and waits for 2xx; \
answers 429 and 5xx are tried again
--into stdout            the same CloudEvents, one a line

Contexts come one after the other. At the end the number delivered, with those that operators skipped, must be the number stored; \
otherwise the exit code is 6. An event that cannot be read or folded ends it with exit code 1 and is named. What is cut off says where to \
go on: --from CONTEXT:POSITION. A webhook may get the events of the last second before it was cut off twice; their \
ids are the same. A fold begins anew.",
    after_help = "Examples:
  casitas events replay --into dry
  casitas events replay --context units --from 2026-11-01 --rate 200 --into https://example.com/hook
  casitas events replay --into projection:available_units"
)]
pub struct Replay {
    /// auth, units, legal, finances or reports; all when absent.
    #[arg(long)]
    pub context: Option<String>,
    /// The stream, e.g. unit:0192….
    #[arg(long)]
    pub stream: Option<String>,
    /// Event type, e.g. HoldPlaced.
    #[arg(long = "type")]
    pub event_type: Option<String>,
    /// The first position (with --context), CONTEXT:POSITION to go on there and in the contexts behind it, or an instant.
    #[arg(long)]
    pub from: Option<String>,
    /// The last position (with --context), or an instant that is not reached.
    #[arg(long)]
    pub until: Option<String>,
    /// At most so many events a second.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// dry, projection:NAME, a URL, or stdout.
    #[arg(long)]
    pub into: String,
    /// The settings that were said, for the command that goes on.
    #[arg(skip)]
    #[serde(default)]
    pub settings: String,
}

impl Replay {
    /// How to go on from a place. A fold begins anew: its rows are not kept.
    pub fn again(&self, from: &str) -> String {
        match self.is_folded() {
            true => format!("begin anew with: {}", self.call(None)),
            false => format!("go on with: {}", self.call(Some(from))),
        }
    }

    pub fn is_folded(&self) -> bool {
        self.into.starts_with("projection:")
    }

    fn call(&self, from: Option<&str>) -> String {
        let (rate, word) = (self.rate.map(|rate| rate.to_string()), |text: &str| quoted(Path::new(text)));
        let flags = [
            ("--context", &self.context),
            ("--stream", &self.stream),
            ("--type", &self.event_type),
            ("--until", &self.until),
            ("--rate", &rate),
        ];
        let mut text = format!("casitas events replay --into {}", word(&self.into));
        if let Some(from) = from {
            text.push_str(&format!(" --from {}", word(from)));
        }
        for (flag, value) in flags {
            if let Some(value) = value {
                text.push_str(&format!(" {flag} {}", word(value)));
            }
        }
        text.push_str(&self.settings);
        text
    }
}

impl Operator {
    pub(super) async fn replay(&self, replay: &Replay, rows: &Rows) -> Result<u8> {
        if replay.from.is_some() && replay.is_folded() {
            return Err(misunderstood(format!("{} is folded from the first event on: leave out --from", replay.into)));
        }
        let mut sink = Sink::of(&replay.into, &self.platform.logs).await?;
        let context = sink.context()?;
        if let (Some(wanted), Some(context)) = (&replay.context, context) {
            ensure!(*wanted == context.as_str(), "{} is folded from the {context} log, not from {wanted}", replay.into);
        }
        let scopes = self.stretches(replay, context).await?;
        let (mut delivered, mut skipped, mut stored) = (0, 0, 0);
        for scope in &scopes {
            stored += count(scope).await?;
        }
        let mut pace = replay.rate.map(|rate| (Instant::now(), Duration::from_secs(1) / rate));
        let mut told = Instant::now();
        for scope in &scopes {
            let context = scope.context();
            let mut walk = Walk::of(scope);
            let mut next = scope.after + 1;
            // The command ends what is said: the rest of the line is for the shell.
            let stopped = |next: u64, delivered: u64, why: anyhow::Error| {
                let code = why.downcast_ref::<Refusal>().map_or(exit::FAILED, |refusal| refusal.code);
                let again = replay.again(&format!("{context}:{next}"));
                let message = format!("{why:#}; the replay stopped at {context}:{next} after {delivered} events; {again}");
                anyhow::Error::from(Refusal::new(code, message))
            };
            loop {
                let mut chunk = walk.next().await.map_err(|why| stopped(next, delivered, why))?;
                if chunk.is_empty() {
                    break;
                }
                if matches!(sink, Sink::Fold(_)) {
                    let opened = self.platform.sealer()?.open_readable(&*scope.log, &mut chunk).await.map_err(chained);
                    opened.map_err(|why| stopped(next, delivered, why))?;
                }
                for event in &chunk {
                    if sink.leaves_out(event) {
                        skipped += 1;
                        next = event.position + 1;
                        continue;
                    }
                    if let Some((due, step)) = &mut pace {
                        *due = (*due).max(Instant::now().checked_sub(*step).unwrap_or(*due)) + *step;
                        sleep_until(*due).await;
                    }
                    let taken = deliver(&mut sink, event, rows).await;
                    let taken = taken.map_err(|why| stopped(event.position, delivered, why))?;
                    if !taken {
                        return Ok(exit::FAILED);
                    }
                    delivered += 1;
                    next = event.position + 1;
                    if told.elapsed() >= PROGRESS_EVERY {
                        told = Instant::now();
                        let passed = delivered + skipped;
                        rows.send(json!({"progress": passed, "of": stored, "next": format!("{context}:{next}")})).await?;
                    }
                }
            }
        }
        let mut row = json!({"replayed": delivered, "stored": stored, "into": replay.into});
        if let (Sink::Fold(fold), Some(fields)) = (&mut sink, row.as_object_mut()) {
            let (count, sha256) = fold.digest()?;
            fields.insert("rows".into(), json!(count));
            fields.insert("sha256".into(), json!(sha256));
            fields.insert("skipped_by_operators".into(), json!(skipped));
        }
        rows.send(row).await?;
        Ok(if delivered + skipped == stored { exit::OK } else { exit::CHECK_FAILED })
    }

    /// What of each log is to be delivered.
    async fn stretches(&self, replay: &Replay, context: Option<Context>) -> Result<Vec<Scope>> {
        let filter = EventFilter {
            context: replay.context.clone().or_else(|| context.map(|context| context.to_string())),
            stream: replay.stream.clone(),
            event_type: replay.event_type.clone(),
            ..EventFilter::default()
        };
        let mut scopes = self.scopes(&filter).await?;
        let single = scopes.len() == 1;
        if let Some(text) = &replay.from {
            match place(text, single)? {
                Place::Position(position) => scopes[0].after = position.saturating_sub(1),
                Place::In(context, position) => {
                    let begin = scopes.iter().position(|scope| scope.context() == context);
                    let begin = begin.with_context(|| format!("--from {text} is not in what is to be delivered"))?;
                    scopes.drain(..begin);
                    scopes[0].after = position.saturating_sub(1);
                }
                Place::Instant => {
                    let at = instant("--from", text)?;
                    for scope in &mut scopes {
                        scope.after = position_before(&*scope.log, at).await.map_err(chained)?;
                    }
                }
            }
        }
        if let Some(text) = &replay.until {
            match place(text, single)? {
                Place::Position(position) => scopes[0].upto = scopes[0].upto.min(position),
                Place::In(..) => return Err(misunderstood("--until is a position (with --context) or an instant")),
                Place::Instant => {
                    let at = instant("--until", text)?;
                    for scope in &mut scopes {
                        scope.upto = scope.upto.min(position_before(&*scope.log, at).await.map_err(chained)?);
                    }
                }
            }
        }
        Ok(scopes)
    }
}

#[derive(Debug, PartialEq)]
enum Place {
    Position(u64),
    In(Context, u64),
    Instant,
}

fn place(text: &str, single: bool) -> Result<Place> {
    if let Ok(position) = text.parse() {
        if !single {
            let message = "a position needs --context: each context counts its own; or write CONTEXT:POSITION";
            return Err(misunderstood(message));
        }
        return Ok(Place::Position(position));
    }
    match text.split_once(':') {
        Some((context, position)) => match (context.parse(), position.parse()) {
            (Ok(context), Ok(position)) => Ok(Place::In(context, position)),
            _ => Ok(Place::Instant),
        },
        None => Ok(Place::Instant),
    }
}

/// Answers whether anybody still takes them.
async fn deliver(sink: &mut Sink, event: &Recorded, rows: &Rows) -> Result<bool> {
    match sink {
        Sink::Dry => read(event)?,
        Sink::Stdout => return Ok(rows.send(crate::transfer::cloud_event(event)?).await.is_ok()),
        Sink::Webhook(webhook) => Webhook::post(webhook, event).await?,
        Sink::Fold(fold) => Fold::take(fold, event)?,
    }
    Ok(!rows.is_closed())
}

/// What the log itself counts.
async fn count(scope: &Scope) -> Result<u64> {
    let Scope { log, query, after, upto, .. } = scope;
    let (mut at, mut count) = (*after, 0);
    while at < *upto {
        let end = if query.is_indexed() { *upto } else { (*upto).min(at + STRETCH_MAX) };
        count += log.count(query, at, end).await.map_err(chained)?;
        at = end;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_position_a_place_in_a_context_or_an_instant() {
        assert_eq!(place("7", true).expect("a position"), Place::Position(7));
        assert!(place("7", false).is_err(), "whose position?");
        assert_eq!(place("legal:7", false).expect("a place"), Place::In(Context::Legal, 7));
        assert_eq!(place("2026-11-01T00:00:00Z", false).expect("an instant"), Place::Instant);
        assert_eq!(place("2026-11-01", true).expect("a day"), Place::Instant);
    }
}
