-- Accepts a whole batch of commands, or nothing of it: NULL when something is in the way of one of them, which casitas_append then
-- finds out. Almost no batch has anything in its way, so this looks for nothing that a constraint tells anyway: that a stream
-- is no longer than expected, that a key is new. Only that a stream is not shorter is looked up.
-- Arrays e_* have one element an event (ordered by request, stream, sequence); s_next is the index of the first event for each
-- stream that is expected to exist; k_* have one element an idempotency key, k_last the index of its request's last event.
-- Answers the head before, and the time stamped on all events in microseconds since 1970.
--
-- What casitas_append's head says of settings, the lock and subscripts holds here, too. The lock is taken in an expression, not
-- in a query: an expression has a snapshot of its own and needs no executor.
CREATE FUNCTION casitas_accept(
    e_type text[], e_id text[], e_sequence bigint[], e_event_id uuid[], e_event_type text[], e_event_version text[],
    e_payload text[], e_effective_on date[], e_actor text[], e_correlation_id uuid[], e_causation_id uuid[],
    e_traceparent text[], s_next int[],
    k_last int[], k_scope text[], k_key text[], k_hash text[], k_keep text[], k_outcome text[]
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
DECLARE
    locked  boolean;
    shorter boolean;
    head    bigint;
    stamp   timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'casitas_accept runs only in a read committed transaction';
    END IF;
    locked := pg_advisory_xact_lock(7161131779257103137) IS NULL;

    SELECT x.position, x.recorded_at INTO head, stamp FROM public.events x ORDER BY x.position DESC LIMIT 1;
    head := coalesce(head, 0);
    stamp := greatest(clock_timestamp(), stamp);

    IF cardinality(s_next) > 0 THEN
        -- By its whole key: a scan for the last of a stream reads all of it that is on a page.
        SELECT true INTO shorter
          FROM generate_series(1, cardinality(s_next)) i
         WHERE (SELECT x.sequence FROM public.events x
                 WHERE x.aggregate_type = e_type[s_next[i]] AND x.aggregate_id = e_id[s_next[i]]
                   AND x.sequence = e_sequence[s_next[i]] - 1) IS NULL
         LIMIT 1;
        IF shorter THEN
            RETURN NULL;
        END IF;
    END IF;

    INSERT INTO public.events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
                               event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
    SELECT e_type[i], e_id[i], e_sequence[i], e_event_type[i], e_event_version[i], e_payload[i]::json, head + i,
           e_event_id[i], e_effective_on[i], stamp, e_actor[i], e_correlation_id[i], e_causation_id[i], e_traceparent[i]
      FROM generate_series(1, cardinality(e_type)) i;
    IF cardinality(k_last) > 0 THEN
        INSERT INTO public.idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
        SELECT k_scope[i], k_key[i], k_hash[i], k_outcome[i]::json, head + k_last[i], k_keep[i], stamp
          FROM generate_series(1, cardinality(k_last)) i;
    END IF;
    RETURN ARRAY[head, (extract(epoch FROM stamp) * 1000000)::bigint];
EXCEPTION WHEN unique_violation THEN
    RETURN NULL;
END $$;

-- Only casitas_append and casitas_accept write here. They give out positions and take sequences that follow one another, and the text
-- of a CHECK is parsed anew for every statement.
ALTER TABLE events DROP CONSTRAINT events_sequence_check;
ALTER TABLE events DROP CONSTRAINT events_position_check;
