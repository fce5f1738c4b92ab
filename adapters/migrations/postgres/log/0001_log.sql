-- The event log of one context. The first seven columns are postgres-es' shape; the rest are ours, typed.
CREATE TABLE events (
    aggregate_type text                          NOT NULL,
    aggregate_id   text                          NOT NULL,
    sequence       bigint CHECK (sequence >= 1)  NOT NULL,
    event_type     text                          NOT NULL,
    event_version  text                          NOT NULL,
    payload        json                          NOT NULL,
    metadata       json                          NOT NULL DEFAULT '{}',
    -- 1, 2, 3 … without gaps, in commit order: only casitas_append gives them out, under its lock.
    position       bigint CHECK (position >= 1)  NOT NULL,
    event_id       uuid                          NOT NULL,
    effective_on   date                          NOT NULL,
    recorded_at    timestamptz                   NOT NULL,
    actor          text                          NOT NULL,
    correlation_id uuid                          NOT NULL,
    causation_id   uuid,
    traceparent    text,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence),
    UNIQUE (position),
    UNIQUE (event_id)
);

CREATE TABLE idempotency_keys (
    scope        text        NOT NULL,
    key          text        NOT NULL,
    request_hash text        NOT NULL,
    outcome      json        NOT NULL,
    position     bigint      NOT NULL,
    keep         text        NOT NULL CHECK (keep IN ('days30', 'forever')),
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);

-- The wrapped key of each data subject; null once it was destroyed.
CREATE TABLE subject_keys (
    subject    text PRIMARY KEY,
    wrapped    bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    erased_at  timestamptz,
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL))
);

CREATE TABLE follower_checkpoints (
    name        text PRIMARY KEY,
    term        bigint      NOT NULL,
    incarnation uuid,
    position    bigint,
    event_id    uuid,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE log_incarnation (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    incarnation uuid        NOT NULL,
    since       timestamptz NOT NULL DEFAULT now()
);
INSERT INTO log_incarnation (incarnation) VALUES (gen_random_uuid());

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER events_are_never_truncated BEFORE TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- ALWAYS: also for a superuser with session_replication_role = replica.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed;
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_truncated;
