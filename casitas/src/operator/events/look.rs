//! `list`, `tail`, `show`.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, Result};
use domain::Context;
use ports::{EventLog, EventQuery, Position, Recorded, STRETCH_MAX};
use uuid::Uuid;

use super::filter::{EventFilter, Scope};
use super::masked::{Reveal, summary, whole};
use crate::exit;
use crate::operator::{Operator, Refusal, Rows, chained};

const CHUNK: usize = 1_000;
const TAIL_POLL: Duration = Duration::from_millis(200);

impl Operator {
    pub(super) async fn list_events(
        &self,
        filter: &EventFilter,
        limit: usize,
        data: bool,
        reveal: &Reveal,
        rows: &Rows,
    ) -> Result<u8> {
        let mut found: Vec<Recorded> = vec![];
        for scope in self.scopes(filter).await? {
            found.extend(latest(&scope, limit).await?);
        }
        found.sort_by_key(|event| (event.recorded_at, event.stream.context(), event.position));
        let mut shown = found.split_off(found.len().saturating_sub(limit));
        if reveal.reveal {
            self.reveal("events list", reveal, &mut shown).await?;
        }
        for event in &shown {
            rows.send(if data || reveal.reveal { whole(event)? } else { summary(event) }).await?;
        }
        Ok(exit::OK)
    }

    pub(super) async fn tail_events(&self, filter: &EventFilter, data: bool, reveal: &Reveal, rows: &Rows) -> Result<u8> {
        let mut scopes = self.scopes(filter).await?;
        for scope in scopes.iter_mut().filter(|scope| !scope.begins) {
            scope.after = scope.upto;
        }
        loop {
            for scope in &mut scopes {
                let mut chunk = scope.log.read(scope.after, CHUNK).await.map_err(chained)?;
                let last = chunk.last().map_or(scope.after, |event| event.position);
                chunk.retain(|event| scope.wants(event));
                scope.after = last;
                if reveal.reveal {
                    self.reveal("events tail", reveal, &mut chunk).await?;
                }
                for event in &chunk {
                    let row = if data || reveal.reveal { whole(event)? } else { summary(event) };
                    if rows.send(row).await.is_err() {
                        return Ok(exit::OK);
                    }
                }
            }
            if scopes.iter().all(|scope| scope.ends && scope.after >= scope.upto) {
                return Ok(exit::OK);
            }
            tokio::select! {
                () = tokio::time::sleep(TAIL_POLL) => {}
                () = rows.closed() => return Ok(exit::OK),
            }
        }
    }

    pub(super) async fn show_event(&self, text: &str, reveal: &Reveal, rows: &Rows) -> Result<u8> {
        let Some(event) = self.find_event(text).await? else {
            return Err(Refusal::new(exit::NOT_FOUND, format!("there is no event {text}")).into());
        };
        let mut events = [event];
        if reveal.reveal {
            self.reveal("events show", reveal, &mut events).await?;
        }
        rows.send(whole(&events[0])?).await?;
        Ok(exit::OK)
    }

    async fn find_event(&self, text: &str) -> Result<Option<Recorded>> {
        if let Some((context, position)) = text.split_once(':') {
            let position: u64 = position.parse().with_context(|| format!("{position:?} is no position"))?;
            let Some(before) = position.checked_sub(1) else { return Ok(None) };
            let log = &self.logs(Some(context))?[0];
            return Ok(log.read(before, 1).await.map_err(chained)?.pop());
        }
        let id: Uuid = text.parse().with_context(|| format!("{text:?} is neither CONTEXT:POSITION nor an event id"))?;
        let query = EventQuery { event_id: Some(id), ..EventQuery::default() };
        for log in self.logs(None)? {
            let found = log.search(&query, 0, u64::MAX, 1).await.map_err(chained)?.pop();
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The last events of a scope, at most `limit`, in order. Walks backwards from its end, a stretch at a time.
async fn latest(scope: &Scope, limit: usize) -> Result<Vec<Recorded>> {
    let mut end = scope.upto;
    let mut found: Vec<Recorded> = vec![];
    while end > scope.after && found.len() < limit {
        let missing = limit - found.len();
        let width = match (scope.query.is_open(), scope.query.is_indexed()) {
            (true, _) => STRETCH_MAX.min(missing as u64),
            (_, true) => u64::MAX,
            _ => STRETCH_MAX,
        };
        let begin = end.saturating_sub(width).max(scope.after);
        let mut kept: VecDeque<Recorded> = VecDeque::new();
        each(&*scope.log, &scope.query, begin, end, |event| {
            kept.push_back(event);
            if kept.len() > missing {
                kept.pop_front();
            }
        })
        .await?;
        found.splice(0..0, kept);
        end = begin;
    }
    Ok(found)
}

/// Every wanted event of a stretch in order.
async fn each(
    log: &dyn EventLog,
    query: &EventQuery,
    mut after: Position,
    upto: Position,
    mut keep: impl FnMut(Recorded),
) -> Result<()> {
    loop {
        let page = log.search(query, after, upto, CHUNK).await.map_err(chained)?;
        let full = page.len() == CHUNK;
        if let Some(last) = page.last() {
            after = last.position;
        }
        page.into_iter().for_each(&mut keep);
        if !full {
            return Ok(());
        }
    }
}

/// The events of a stream in order.
pub async fn stream_of(log: &dyn EventLog, stream: &domain::StreamId) -> Result<Vec<Recorded>> {
    let query = EventQuery { stream: Some(stream.clone()), ..EventQuery::default() };
    let mut events = vec![];
    each(log, &query, 0, u64::MAX, |event| events.push(event)).await?;
    Ok(events)
}

/// What a walk over wanted events needs to know: where to look next, and whether that was all.
pub struct Walk<'a> {
    scope: &'a Scope,
    at: Position,
    page: VecDeque<Recorded>,
}

impl<'a> Walk<'a> {
    pub fn of(scope: &'a Scope) -> Self {
        Self { scope, at: scope.after, page: VecDeque::new() }
    }

    pub fn context(&self) -> Context {
        self.scope.context()
    }

    /// The next events in order, at most a thousand; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Recorded>> {
        while self.page.is_empty() && self.at < self.scope.upto {
            let Scope { log, query, upto, .. } = self.scope;
            let end = match query.is_indexed() {
                true => *upto,
                false => (*upto).min(self.at + STRETCH_MAX),
            };
            let page = match query.is_open() {
                true => log.read(self.at, CHUNK.min((end - self.at) as usize)).await.map_err(chained)?,
                false => log.search(query, self.at, end, CHUNK).await.map_err(chained)?,
            };
            self.at = match page.last() {
                Some(last) if page.len() == CHUNK || query.is_open() => last.position,
                None if query.is_open() => anyhow::bail!("the {} log ends at {} before {end}", self.context(), self.at),
                _ => end,
            };
            self.page = page.into();
        }
        Ok(self.page.drain(..).collect())
    }
}
