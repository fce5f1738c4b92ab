-- Streams that a generation does not fold: one of their events could not be taken. The leader writes them with its steps; an
-- operator's request stands in `asked` until the leader has done it. `since` is in microseconds since the epoch.
CREATE TABLE view_parked (
    model       text    NOT NULL,
    generation  integer NOT NULL,
    stream_kind text    NOT NULL,
    stream_id   text    NOT NULL,
    position    integer NOT NULL,
    sequence    integer NOT NULL,
    event_id    text    NOT NULL,
    event_type  text    NOT NULL,
    reason      text    NOT NULL,
    since       integer NOT NULL,
    asked       text    CHECK (asked IN ('retry', 'skip')),
    PRIMARY KEY (model, generation, stream_kind, stream_id),
    FOREIGN KEY (model, generation) REFERENCES view_heads ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
