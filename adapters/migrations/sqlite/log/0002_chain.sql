-- The hash chain over the log (ports/src/chain.rs): a link for each stretch of events (after, position].
CREATE TABLE chain (
    position  integer PRIMARY KEY,
    after     integer NOT NULL UNIQUE CHECK (after >= 0 AND after < position),
    hash      blob    NOT NULL CHECK (length(hash) = 32),
    -- Four bytes an event: which one of a stretch is not what was sealed.
    marks     blob    NOT NULL,
    -- Microseconds since 1970.
    sealed_at integer NOT NULL
) STRICT;

CREATE TRIGGER links_are_never_changed BEFORE UPDATE ON chain
BEGIN SELECT RAISE(ABORT, 'the hash chain is append-only: UPDATE is refused'); END;
CREATE TRIGGER links_are_never_deleted BEFORE DELETE ON chain
BEGIN SELECT RAISE(ABORT, 'the hash chain is append-only: DELETE is refused'); END;
