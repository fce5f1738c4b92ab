-- Streams that a generation does not fold: one of their events could not be taken. The leader writes them with its steps; an
-- operator's request stands in `asked` until the leader has done it.
CREATE TABLE view_parked (
    model       text        NOT NULL,
    generation  bigint      NOT NULL,
    stream_kind text        NOT NULL,
    stream_id   text        NOT NULL,
    position    bigint      NOT NULL,
    sequence    bigint      NOT NULL,
    event_id    uuid        NOT NULL,
    event_type  text        NOT NULL,
    reason      text        NOT NULL,
    since       timestamptz NOT NULL,
    asked       text        CHECK (asked IN ('retry', 'skip')),
    PRIMARY KEY (model, generation, stream_kind, stream_id),
    FOREIGN KEY (model, generation) REFERENCES view_heads ON DELETE CASCADE
);
