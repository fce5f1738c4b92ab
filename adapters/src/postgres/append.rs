//! A batch as the arrays of `casitas_append`, and its answer as outcomes.

use std::collections::HashMap;

use domain::StreamId;
use ports::{AppendOutcome, AppendRequest, Error, KeyRecord, Result};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use uuid::Uuid;

use crate::stored::{from_micros, keep_name, signed, unsigned};

const SQL: &str = "SELECT request, kind, first_position, last_position,
    (extract(epoch FROM at) * 1000000)::bigint AS at, stream, actual, outcome
    FROM casitas_append($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25,$26,$27)";

/// One field an array parameter; the order of the fields is that of the parameters.
#[derive(Default)]
pub(super) struct Arrays<'a> {
    events: Vec<i32>,
    events_before: Vec<i32>,

    key_request: Vec<i32>,
    scope: Vec<&'a str>,
    key: Vec<&'a str>,
    hash: Vec<&'a str>,
    keep: Vec<&'a str>,
    outcome: Vec<String>,
    same_key: Vec<i32>,

    stream_request: Vec<i32>,
    stream_type: Vec<&'a str>,
    stream_id: Vec<&'a str>,
    stream_expected: Vec<i64>,

    event_request: Vec<i32>,
    event_place: Vec<i32>,
    aggregate_type: Vec<&'a str>,
    aggregate_id: Vec<&'a str>,
    sequence: Vec<i64>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'a str>,
    event_version: Vec<&'a str>,
    payload: Vec<&'a str>,
    effective_on: Vec<String>,
    actor: Vec<&'a str>,
    correlation_id: Vec<Uuid>,
    causation_id: Vec<Option<Uuid>>,
    traceparent: Vec<Option<&'a str>>,
}

impl<'a> Arrays<'a> {
    pub(super) fn of(batch: &'a [AppendRequest]) -> Result<Self> {
        let mut arrays = Self::default();
        let mut keys = HashMap::new();
        for (request, ordinal) in batch.iter().zip(1..) {
            if let Some(key) = &request.key {
                arrays.key_request.push(ordinal);
                arrays.scope.push(&key.scope);
                arrays.key.push(&key.key);
                arrays.hash.push(&key.request_hash);
                arrays.keep.push(keep_name(key.keep));
                arrays.outcome.push(key.outcome.to_string());
                let index = arrays.key_request.len() as i32;
                arrays.same_key.push(keys.insert((&key.scope, &key.key), index).unwrap_or(0));
            }
            arrays.push_events(request, ordinal)?;
        }
        Ok(arrays)
    }

    fn push_events(&mut self, request: &'a AppendRequest, ordinal: i32) -> Result<()> {
        let before = self.event_id.len();
        let mut places = 0..;
        for append in &request.streams {
            self.stream_request.push(ordinal);
            self.stream_type.push(append.stream.kind.as_str());
            self.stream_id.push(&append.stream.id);
            self.stream_expected.push(signed(append.expected_version)?);
            for (event, sequence) in append.events.iter().zip(signed(append.expected_version)? + 1..) {
                self.event_request.push(ordinal);
                self.event_place.extend(places.next());
                self.aggregate_type.push(append.stream.kind.as_str());
                self.aggregate_id.push(&append.stream.id);
                self.sequence.push(sequence);
                self.event_id.push(event.event_id);
                self.event_type.push(&event.event_type);
                self.event_version.push(&event.event_version);
                self.payload.push(event.payload.get());
                self.effective_on.push(event.effective_on.to_string());
                self.actor.push(&request.metadata.actor);
                self.correlation_id.push(request.metadata.correlation_id);
                self.causation_id.push(request.metadata.causation_id);
                self.traceparent.push(request.metadata.traceparent.as_deref());
            }
        }
        self.events.push(places.start);
        self.events_before
            .push(i32::try_from(before).map_err(|_| Error::rejected("the event log", "the batch is too large"))?);
        Ok(())
    }

    pub(super) fn query(&self) -> Query<'_, Postgres, PgArguments> {
        sqlx::query(SQL)
            .bind(&self.events)
            .bind(&self.events_before)
            .bind(&self.key_request)
            .bind(&self.scope)
            .bind(&self.key)
            .bind(&self.hash)
            .bind(&self.keep)
            .bind(&self.outcome)
            .bind(&self.same_key)
            .bind(&self.stream_request)
            .bind(&self.stream_type)
            .bind(&self.stream_id)
            .bind(&self.stream_expected)
            .bind(&self.event_request)
            .bind(&self.event_place)
            .bind(&self.aggregate_type)
            .bind(&self.aggregate_id)
            .bind(&self.sequence)
            .bind(&self.event_id)
            .bind(&self.event_type)
            .bind(&self.event_version)
            .bind(&self.payload)
            .bind(&self.effective_on)
            .bind(&self.actor)
            .bind(&self.correlation_id)
            .bind(&self.causation_id)
            .bind(&self.traceparent)
    }
}

/// One outcome a request, in order: what the function says of the exceptions, and dense positions behind the head for the rest.
pub(super) fn outcomes(batch: &[AppendRequest], rows: &[PgRow]) -> Result<Vec<AppendOutcome>> {
    let (head, exceptions) =
        rows.split_first().ok_or_else(|| Error::corrupt("casitas_append answered nothing".to_owned()))?;
    let streams: Vec<&StreamId> = batch.iter().flat_map(|request| &request.streams).map(|append| &append.stream).collect();
    let mut position: i64 = head.try_get("first_position").map_err(unreadable)?;
    let at: i64 = head.try_get("at").map_err(unreadable)?;
    let mut exceptions = exceptions.iter().peekable();
    let mut outcomes = Vec::with_capacity(batch.len());
    for (request, ordinal) in batch.iter().zip(1_i32..) {
        let exception = match exceptions.peek() {
            Some(row) if row.try_get::<i32, _>("request").map_err(unreadable)? == ordinal => exceptions.next(),
            _ => None,
        };
        outcomes.push(match exception {
            Some(row) => outcome(request, &streams, row).map_err(unreadable)??,
            None => {
                let events: usize = request.streams.iter().map(|append| append.events.len()).sum();
                let first = position + 1;
                position += events as i64;
                committed(first, position, at)?
            }
        });
    }
    match exceptions.next() {
        None => Ok(outcomes),
        Some(_) => Err(Error::corrupt("casitas_append answered what was not asked".to_owned())),
    }
}

fn outcome(request: &AppendRequest, streams: &[&StreamId], row: &PgRow) -> Result<Result<AppendOutcome>, sqlx::Error> {
    let kind: &str = row.try_get("kind")?;
    Ok(match kind {
        "sent" => {
            let (first, last): (i64, i64) = (row.try_get("first_position")?, row.try_get("last_position")?);
            let at: i64 = row.try_get("at")?;
            committed(first, last, at)
        }
        "conflict" => {
            let (stream, actual): (i32, i64) = (row.try_get("stream")?, row.try_get("actual")?);
            let stream = streams[stream as usize - 1].clone();
            unsigned(actual).map(|actual| AppendOutcome::VersionConflict { stream, actual })
        }
        "replayed" => replayed(request, row.try_get("last_position")?, row.try_get("outcome")?),
        "reused" => Ok(AppendOutcome::KeyReused),
        other => Err(Error::corrupt(format!("casitas_append answered {other:?}"))),
    })
}

fn committed(first: i64, last: i64, at: i64) -> Result<AppendOutcome> {
    Ok(AppendOutcome::Committed { first: unsigned(first)?, last: unsigned(last)?, recorded_at: from_micros(at)? })
}

fn replayed(request: &AppendRequest, position: i64, outcome: &str) -> Result<AppendOutcome> {
    let request_hash = request.key.as_ref().map(|key| key.request_hash.clone()).unwrap_or_default();
    let outcome = serde_json::from_str(outcome)
        .map_err(|error| Error::corrupt(format!("the outcome kept with a key is not JSON: {error}")))?;
    Ok(AppendOutcome::Replayed(KeyRecord { request_hash, outcome, position: unsigned(position)? }))
}

fn unreadable(error: sqlx::Error) -> Error {
    Error::corrupt(format!("casitas_append's answer cannot be read: {error}"))
}
