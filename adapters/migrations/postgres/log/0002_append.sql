-- Appends a batch of commands. Arrays r_* have one element a request, s_* one a stream (ordered by request), e_* one an
-- event (ordered by request, stream, sequence). Answers one row a request:
--   committed: first_position, last_position, at
--   conflict:  stream (ordinal of the stream in s_*), actual
--   replayed:  last_position, outcome;   reused: the key belongs to another request
-- Function settings: index lookups only (the plans are cached while the tables may still be empty), a bounded wait.
CREATE FUNCTION casitas_append(
    r_scope text[], r_key text[], r_hash text[], r_keep text[], r_outcome text[],
    -- Ordinal of the previous request of this batch with the same key, or 0.
    r_same_key int[],
    r_events int[],
    s_request int[], s_type text[], s_id text[], s_expected bigint[],
    -- Ordinal of the event's request and its place (0, 1, …) in it.
    e_request int[], e_place int[], e_type text[], e_id text[], e_sequence bigint[],
    e_event_id uuid[], e_event_type text[], e_event_version text[], e_payload text[], e_effective_on text[],
    e_actor text[], e_correlation_id uuid[], e_causation_id uuid[], e_traceparent text[]
) RETURNS TABLE (
    request int, kind text, first_position bigint, last_position bigint, at timestamptz, stream int, actual bigint, outcome text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET lock_timeout = '2s'
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    requests   int := cardinality(r_events);
    streams    int := cardinality(s_request);
    head       bigint;
    stamp      timestamptz;
    actuals    bigint[];
    sent_first bigint[];
    sent_last  bigint[];
    sent_at    timestamptz[];
    key_hash   text[];
    key_result text[];
    key_last   bigint[];
    -- Position of a request's first event now accepted, or 0.
    base       bigint[] := array_fill(0::bigint, ARRAY[requests]);
    s          int := 1;
    j          int;
    clash      int;
BEGIN
    -- Every statement below must see what the previous holder of the lock committed; under another isolation level it
    -- would see the snapshot from before the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'casitas_append runs only in a read committed transaction';
    END IF;
    -- In its own statement: a statement that takes the lock and reads the head reads a snapshot from before the lock.
    PERFORM pg_advisory_xact_lock(7161131779257103137);

    SELECT coalesce(max(e.position), 0), greatest(clock_timestamp(), max(e.recorded_at)) INTO head, stamp
      FROM (SELECT x.position, x.recorded_at FROM events x ORDER BY x.position DESC LIMIT 1) e;

    SELECT array_agg(coalesce(v.sequence, 0) ORDER BY q.ord) INTO actuals
      FROM unnest(s_type, s_id) WITH ORDINALITY q(type, id, ord)
      LEFT JOIN LATERAL (SELECT x.sequence FROM events x WHERE x.aggregate_type = q.type AND x.aggregate_id = q.id
                          ORDER BY x.sequence DESC LIMIT 1) v ON true;

    -- A resent command: its first and last event stand where it would have put them, with its own ids.
    SELECT array_agg(a.position ORDER BY q.request), array_agg(b.position ORDER BY q.request),
           array_agg(a.recorded_at ORDER BY q.request)
      INTO sent_first, sent_last, sent_at
      FROM (SELECT w.request, max(w.event_id::text) FILTER (WHERE w.place = 0)::uuid AS first_id,
                   max(w.type) FILTER (WHERE w.place = 0) AS type, max(w.id) FILTER (WHERE w.place = 0) AS id,
                   max(w.sequence) FILTER (WHERE w.place = 0) AS sequence,
                   max(w.event_id::text) FILTER (WHERE w.place = r_events[w.request] - 1)::uuid AS last_id
              FROM unnest(e_request, e_place, e_type, e_id, e_sequence, e_event_id)
                   w(request, place, type, id, sequence, event_id)
             GROUP BY w.request) q
      LEFT JOIN LATERAL (SELECT x.position, x.recorded_at FROM events x
                          WHERE x.event_id = q.first_id AND x.aggregate_type = q.type AND x.aggregate_id = q.id
                            AND x.sequence = q.sequence LIMIT 1) a ON true
      LEFT JOIN LATERAL (SELECT x.position FROM events x
                          WHERE x.event_id = q.last_id AND x.position = a.position + r_events[q.request] - 1 LIMIT 1) b ON true;

    SELECT array_agg(k.request_hash ORDER BY q.ord), array_agg(k.outcome ORDER BY q.ord),
           array_agg(k.position ORDER BY q.ord)
      INTO key_hash, key_result, key_last
      FROM unnest(r_scope, r_key) WITH ORDINALITY q(scope, key, ord)
      LEFT JOIN LATERAL (SELECT x.request_hash, x.outcome::text AS outcome, x.position FROM idempotency_keys x
                          WHERE x.scope = q.scope AND x.key = q.key
                            AND (x.keep = 'forever' OR x.created_at > stamp - interval '30 days') LIMIT 1) k ON true;

    FOR i IN 1 .. requests LOOP
        clash := 0;
        WHILE s <= streams AND s_request[s] = i LOOP
            IF clash = 0 AND actuals[s] <> s_expected[s] THEN
                clash := s;
            END IF;
            s := s + 1;
        END LOOP;
        -- An earlier request of this batch with the same key that was accepted counts as stored.
        j := r_same_key[i];
        WHILE j > 0 AND base[j] = 0 LOOP
            j := r_same_key[j];
        END LOOP;

        request := i;
        first_position := NULL; last_position := NULL; at := NULL; stream := NULL; actual := NULL; outcome := NULL;
        IF sent_last[i] IS NOT NULL THEN
            kind := 'committed'; first_position := sent_first[i]; last_position := sent_last[i]; at := sent_at[i];
        ELSIF key_hash[i] IS NOT NULL THEN
            IF key_hash[i] = r_hash[i] THEN
                kind := 'replayed'; last_position := key_last[i]; outcome := key_result[i];
            ELSE
                kind := 'reused';
            END IF;
        ELSIF j > 0 THEN
            IF r_hash[j] = r_hash[i] THEN
                kind := 'replayed'; last_position := base[j] + r_events[j] - 1; outcome := r_outcome[j];
            ELSE
                kind := 'reused';
            END IF;
        ELSIF clash > 0 THEN
            kind := 'conflict'; stream := clash; actual := actuals[clash];
        ELSE
            base[i] := head + 1;
            head := head + r_events[i];
            kind := 'committed'; first_position := base[i]; last_position := head; at := stamp;
        END IF;
        RETURN NEXT;
    END LOOP;

    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position, event_id,
                        effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
    SELECT w.type, w.id, w.sequence, w.event_type, w.event_version, w.payload::json, base[w.request] + w.place, w.event_id,
           w.effective_on::date, stamp, w.actor, w.correlation_id, w.causation_id, w.traceparent
      FROM unnest(e_request, e_place, e_type, e_id, e_sequence, e_event_id, e_event_type, e_event_version, e_payload,
                  e_effective_on, e_actor, e_correlation_id, e_causation_id, e_traceparent)
           w(request, place, type, id, sequence, event_id, event_type, event_version, payload,
             effective_on, actor, correlation_id, causation_id, traceparent)
     WHERE base[w.request] > 0
     ORDER BY w.request, w.place;

    -- The row of an expired key is taken over.
    INSERT INTO idempotency_keys AS old (scope, key, request_hash, outcome, position, keep, created_at)
    SELECT q.scope, q.key, q.hash, q.outcome::json, base[q.ord] + r_events[q.ord] - 1, q.keep, stamp
      FROM unnest(r_scope, r_key, r_hash, r_keep, r_outcome) WITH ORDINALITY q(scope, key, hash, keep, outcome, ord)
     WHERE q.key IS NOT NULL AND base[q.ord] > 0
    ON CONFLICT (scope, key) DO UPDATE
       SET request_hash = excluded.request_hash, outcome = excluded.outcome, position = excluded.position,
           keep = excluded.keep, created_at = excluded.created_at;
END $$;
