-- The hash chain over the log (ports/src/chain.rs): a link for each stretch of events (after, position]. UNIQUE (after): of two
-- sealers only one goes on from a link.
CREATE TABLE chain (
    position  bigint      PRIMARY KEY,
    after     bigint      NOT NULL UNIQUE CHECK (after >= 0 AND after < position),
    hash      bytea       NOT NULL CHECK (length(hash) = 32),
    -- Four bytes an event: which one of a stretch is not what was sealed.
    marks     bytea       NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TRIGGER links_are_never_changed BEFORE UPDATE OR DELETE ON chain
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER links_are_never_truncated BEFORE TRUNCATE ON chain
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE chain ENABLE ALWAYS TRIGGER links_are_never_changed;
ALTER TABLE chain ENABLE ALWAYS TRIGGER links_are_never_truncated;
