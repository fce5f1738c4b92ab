//! A batch as the arrays of `casitas_accept` and `casitas_append`, and their answers as outcomes.

use std::collections::HashMap;

use domain::StreamId;
use ports::{AppendOutcome, AppendRequest, Error, KeyRecord, NewEvent, Result, StreamAppend};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use uuid::Uuid;

use super::recorded::Day;
use crate::stored::{from_micros, keep_name, signed, unsigned};

const ACCEPT: &str = "SELECT casitas_accept($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19)";

/// For the rare batch with keys of subjects, which stand or fall with its events. One that a subject has already is a violation of
/// the primary key, and undoes the whole statement.
const ACCEPT_SEALED: &str = "WITH accepted AS MATERIALIZED (
        SELECT casitas_accept($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19) AS place
    ), kept AS (
        INSERT INTO subject_keys (subject, wrapped)
        SELECT k.subject, k.wrapped FROM accepted, unnest($20::text[], $21::bytea[]) k(subject, wrapped)
         WHERE accepted.place IS NOT NULL
    )
    SELECT place FROM accepted";

// Days go as days to the one and as texts to the other, which is older.
const APPEND: &str = "SELECT request, kind, first_position, last_position,
    (extract(epoch FROM at) * 1000000)::bigint AS at, stream, actual, outcome
    FROM casitas_append($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23::date[]::text[],
                        $24,$25,$26,$27)";

/// Of the keys of subjects, those whose request is newly accepted: the function answers nothing about it.
const APPEND_SEALED: &str = "WITH answer AS MATERIALIZED (
        SELECT request, kind, first_position, last_position,
               (extract(epoch FROM at) * 1000000)::bigint AS at, stream, actual, outcome
          FROM casitas_append($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,
                              $23::date[]::text[],$24,$25,$26,$27)
    ), kept AS (
        INSERT INTO subject_keys (subject, wrapped)
        SELECT k.subject, k.wrapped FROM unnest($28::int[], $29::text[], $30::bytea[]) k(request, subject, wrapped)
         WHERE NOT EXISTS (SELECT FROM answer a WHERE a.request = k.request)
    )
    SELECT request, kind, first_position, last_position, at, stream, actual, outcome FROM answer";

/// The keys that the subjects of a batch get.
#[derive(Default)]
struct SubjectKeys<'a> {
    /// Ordinal of each one's request.
    request: Vec<i32>,
    subject: Vec<&'a str>,
    wrapped: Vec<&'a [u8]>,
}

impl<'a> SubjectKeys<'a> {
    fn push(&mut self, request: &'a AppendRequest, ordinal: i32) {
        for key in &request.subject_keys {
            self.request.push(ordinal);
            self.subject.push(&key.subject);
            self.wrapped.push(&key.wrapped);
        }
    }

    fn is_empty(&self) -> bool {
        self.subject.is_empty()
    }
}

/// The columns of a batch's events, one element an event.
#[derive(Default)]
struct Events<'a> {
    aggregate_type: Vec<&'a str>,
    aggregate_id: Vec<&'a str>,
    sequence: Vec<i64>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'a str>,
    event_version: Vec<&'a str>,
    payload: Vec<&'a str>,
    effective_on: Vec<Day>,
    actor: Vec<&'a str>,
    correlation_id: Vec<Uuid>,
    causation_id: Vec<Option<Uuid>>,
    traceparent: Vec<Option<&'a str>>,
}

impl<'a> Events<'a> {
    fn with_capacity(events: usize) -> Self {
        Self {
            aggregate_type: Vec::with_capacity(events),
            aggregate_id: Vec::with_capacity(events),
            sequence: Vec::with_capacity(events),
            event_id: Vec::with_capacity(events),
            event_type: Vec::with_capacity(events),
            event_version: Vec::with_capacity(events),
            payload: Vec::with_capacity(events),
            effective_on: Vec::with_capacity(events),
            actor: Vec::with_capacity(events),
            correlation_id: Vec::with_capacity(events),
            causation_id: Vec::with_capacity(events),
            traceparent: Vec::with_capacity(events),
        }
    }

    fn push(&mut self, request: &'a AppendRequest, append: &'a StreamAppend, event: &'a NewEvent, sequence: i64) {
        self.aggregate_type.push(append.stream.kind.as_str());
        self.aggregate_id.push(&append.stream.id);
        self.sequence.push(sequence);
        self.event_id.push(event.event_id);
        self.event_type.push(&event.event_type);
        self.event_version.push(&event.event_version);
        self.payload.push(event.payload.get());
        self.effective_on.push(Day(event.effective_on));
        self.actor.push(&request.metadata.actor);
        self.correlation_id.push(request.metadata.correlation_id);
        self.causation_id.push(request.metadata.causation_id);
        self.traceparent.push(request.metadata.traceparent.as_deref());
    }

    /// The twelve arrays, in the order of both functions' parameters.
    fn bind<'q>(&'q self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments> {
        query
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

/// What `casitas_accept` takes: one field an array parameter, in the order of the fields.
#[derive(Default)]
pub(super) struct Whole<'a> {
    events: Events<'a>,
    /// Index of the first event for each stream that is expected to exist; like all, counted from 1.
    next: Vec<i32>,
    /// Index of the last event of the key's request.
    last: Vec<i32>,
    scope: Vec<&'a str>,
    key: Vec<&'a str>,
    hash: Vec<&'a str>,
    keep: Vec<&'a str>,
    outcome: Vec<String>,
    subject_keys: SubjectKeys<'a>,
}

impl<'a> Whole<'a> {
    pub(super) fn of(batch: &'a [AppendRequest]) -> Result<Self> {
        let count = batch.iter().flat_map(|request| &request.streams).map(|append| append.events.len()).sum();
        let mut whole = Self { events: Events::with_capacity(count), ..Self::default() };
        for (request, ordinal) in batch.iter().zip(1..) {
            whole.subject_keys.push(request, ordinal);
            for append in &request.streams {
                let expected = signed(append.expected_version)?;
                if expected > 0 {
                    whole.next.push(index(whole.events.sequence.len() + 1)?);
                }
                for (event, sequence) in append.events.iter().zip(expected + 1..) {
                    whole.events.push(request, append, event, sequence);
                }
            }
            if let Some(key) = &request.key {
                whole.last.push(index(whole.events.sequence.len())?);
                whole.scope.push(&key.scope);
                whole.key.push(&key.key);
                whole.hash.push(&key.request_hash);
                whole.keep.push(keep_name(key.keep));
                whole.outcome.push(key.outcome.to_string());
            }
        }
        Ok(whole)
    }

    pub(super) fn query(&self) -> Query<'_, Postgres, PgArguments> {
        let keys = &self.subject_keys;
        let query = self
            .events
            .bind(sqlx::query(if keys.is_empty() { ACCEPT } else { ACCEPT_SEALED }))
            .bind(&self.next)
            .bind(&self.last)
            .bind(&self.scope)
            .bind(&self.key)
            .bind(&self.hash)
            .bind(&self.keep)
            .bind(&self.outcome);
        match keys.is_empty() {
            true => query,
            false => query.bind(&keys.subject).bind(&keys.wrapped),
        }
    }
}

/// Dense positions behind the head for all requests; `None` when something was in the way of one of them.
pub(super) fn accepted(batch: &[AppendRequest], rows: &[PgRow]) -> Result<Option<Vec<AppendOutcome>>> {
    let row = rows.first().ok_or_else(|| Error::corrupt("casitas_accept answered nothing".to_owned()))?;
    let place: Option<Vec<i64>> = row.try_get(0).map_err(unreadable)?;
    match place.as_deref() {
        None => Ok(None),
        Some(&[head, at]) => {
            let mut position = head;
            batch.iter().map(|request| behind(&mut position, request, at)).collect::<Result<_>>().map(Some)
        }
        Some(other) => Err(Error::corrupt(format!("casitas_accept answered {other:?}"))),
    }
}

/// The next positions for a request's events.
fn behind(position: &mut i64, request: &AppendRequest, at: i64) -> Result<AppendOutcome> {
    let first = *position + 1;
    let events: usize = request.streams.iter().map(|append| append.events.len()).sum();
    *position += events as i64;
    committed(first, *position, at)
}

/// What `casitas_append` takes: one field an array parameter; the order of the fields is that of the parameters.
#[derive(Default)]
pub(super) struct Judged<'a> {
    count: Vec<i32>,
    before: Vec<i32>,

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
    events: Events<'a>,

    subject_keys: SubjectKeys<'a>,
}

impl<'a> Judged<'a> {
    pub(super) fn of(batch: &'a [AppendRequest]) -> Result<Self> {
        let mut judged = Self::default();
        let mut keys = HashMap::new();
        for (request, ordinal) in batch.iter().zip(1..) {
            if let Some(key) = &request.key {
                judged.key_request.push(ordinal);
                judged.scope.push(&key.scope);
                judged.key.push(&key.key);
                judged.hash.push(&key.request_hash);
                judged.keep.push(keep_name(key.keep));
                judged.outcome.push(key.outcome.to_string());
                let index = index(judged.key_request.len())?;
                judged.same_key.push(keys.insert((&key.scope, &key.key), index).unwrap_or(0));
            }
            judged.subject_keys.push(request, ordinal);
            judged.push_events(request, ordinal)?;
        }
        Ok(judged)
    }

    fn push_events(&mut self, request: &'a AppendRequest, ordinal: i32) -> Result<()> {
        let before = self.events.sequence.len();
        let mut places = 0..;
        for append in &request.streams {
            let expected = signed(append.expected_version)?;
            self.stream_request.push(ordinal);
            self.stream_type.push(append.stream.kind.as_str());
            self.stream_id.push(&append.stream.id);
            self.stream_expected.push(expected);
            for (event, sequence) in append.events.iter().zip(expected + 1..) {
                self.event_request.push(ordinal);
                self.event_place.extend(places.next());
                self.events.push(request, append, event, sequence);
            }
        }
        self.count.push(places.start);
        self.before.push(index(before)?);
        Ok(())
    }

    pub(super) fn query(&self) -> Query<'_, Postgres, PgArguments> {
        let keys = &self.subject_keys;
        let query = sqlx::query(if keys.is_empty() { APPEND } else { APPEND_SEALED })
            .bind(&self.count)
            .bind(&self.before)
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
            .bind(&self.event_place);
        let query = self.events.bind(query);
        match keys.is_empty() {
            true => query,
            false => query.bind(&keys.request).bind(&keys.subject).bind(&keys.wrapped),
        }
    }
}

fn index(number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| Error::rejected("the event log", "the batch is too large"))
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
            None => behind(&mut position, request, at)?,
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
    Error::corrupt(format!("the answer to an append cannot be read: {error}"))
}
