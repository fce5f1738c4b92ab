-- The event log of one context. The first seven columns are sqlite-es' shape; the rest are ours, typed.
CREATE TABLE events (
    aggregate_type text                          NOT NULL,
    aggregate_id   text                          NOT NULL,
    sequence       integer CHECK (sequence >= 1) NOT NULL,
    event_type     text                          NOT NULL,
    event_version  text                          NOT NULL,
    payload        text CHECK (json_valid(payload)) NOT NULL,
    metadata       text                          NOT NULL DEFAULT '{}',
    -- 1, 2, 3 … without gaps, in commit order.
    position       integer PRIMARY KEY,
    event_id       text UNIQUE                   NOT NULL,
    effective_on   text                          NOT NULL,
    -- Microseconds since 1970.
    recorded_at    integer                       NOT NULL,
    actor          text                          NOT NULL,
    correlation_id text                          NOT NULL,
    causation_id   text,
    traceparent    text,
    UNIQUE (aggregate_type, aggregate_id, sequence)
) STRICT;

CREATE TABLE idempotency_keys (
    scope        text    NOT NULL,
    key          text    NOT NULL,
    request_hash text    NOT NULL,
    outcome      text    NOT NULL,
    position     integer NOT NULL,
    keep         text    NOT NULL CHECK (keep IN ('days30', 'forever')),
    created_at   integer NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;

-- The wrapped key of each data subject; null once it was destroyed.
CREATE TABLE subject_keys (
    subject    text PRIMARY KEY NOT NULL,
    wrapped    blob,
    created_at integer NOT NULL,
    erased_at  integer,
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL))
) STRICT;

CREATE TABLE follower_checkpoints (
    name        text PRIMARY KEY NOT NULL,
    term        integer NOT NULL,
    incarnation text,
    position    integer,
    event_id    text
) STRICT;

CREATE TABLE log_incarnation (
    only_row    integer PRIMARY KEY CHECK (only_row = 1),
    incarnation text NOT NULL
) STRICT;
-- Sixteen random bytes in the form of a UUID.
INSERT INTO log_incarnation (only_row, incarnation)
SELECT 1, lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a'
               || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)));

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the event log is append-only: UPDATE is refused'); END;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the event log is append-only: DELETE is refused'); END;
CREATE TRIGGER events_are_dense BEFORE INSERT ON events
WHEN NEW.position <> (SELECT coalesce(max(position), 0) + 1 FROM events)
BEGIN SELECT RAISE(ABORT, 'a position of the event log would be skipped or taken'); END;
