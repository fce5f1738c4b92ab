-- Appends a batch of commands. Arrays r_* have one element a request, k_* one an idempotency key (ordered by request), s_*
-- one a stream (ordered by request), e_* one an event (ordered by request, stream, sequence).
-- Answers first a row `head` (first_position: the head before; at: the time stamped on what is accepted), then a row for
-- each request that was NOT newly accepted; the others stand behind the head in the order of their requests:
--   sent:     these very events were committed by an earlier call: first_position, last_position, at
--   conflict: stream (ordinal of the stream in s_*), actual
--   replayed: last_position, outcome;   reused: the key belongs to another request
--
-- No settings of its own (SET search_path alone costs a fifth of a call with one command). Instead: tables are named with
-- their schema, and nobody but the owner can make anything that a search path could lead to (grants.sql); the roles bound the
-- wait for the lock; the connections of the adapter keep generic plans that use indexes, whatever the tables' size was when
-- they were made.
CREATE FUNCTION casitas_append(
    -- Number of the request's events, and of all events of the batch before them.
    r_events int[], r_before int[],
    -- k_same: index in k_* of the previous use of the same key in this batch, or 0.
    k_request int[], k_scope text[], k_key text[], k_hash text[], k_keep text[], k_outcome text[], k_same int[],
    s_request int[], s_type text[], s_id text[], s_expected bigint[],
    -- Ordinal of the event's request and its place (0, 1, …) in it.
    e_request int[], e_place int[], e_type text[], e_id text[], e_sequence bigint[],
    e_event_id uuid[], e_event_type text[], e_event_version text[], e_payload text[], e_effective_on text[],
    e_actor text[], e_correlation_id uuid[], e_causation_id uuid[], e_traceparent text[]
) RETURNS TABLE (
    request int, kind text, first_position bigint, last_position bigint, at timestamptz, stream int, actual bigint, outcome text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
#variable_conflict use_column
DECLARE
    requests   int := cardinality(r_events);
    head       bigint;
    stamp      timestamptz;
    -- Position of a request's first event now accepted, or 0.
    base       bigint[];
    -- What is in the way: ordinals of streams at other versions, indexes of keys that are stored or come twice.
    clashes    int[];
    actuals    bigint[];
    known      int[];
    key_hash   text[];
    key_result text[];
    key_last   bigint[];
    sent_first bigint[];
    sent_last  bigint[];
    sent_at    timestamptz[];
    k          int := 1;
    c          int := 1;
    x          int;
    clash      int;
    j          int;
BEGIN
    -- Every statement below must see what the previous holder of the lock committed; under another isolation level it
    -- would see the snapshot from before the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'casitas_append runs only in a read committed transaction';
    END IF;
    -- In its own statement: a statement that takes the lock and reads the head reads a snapshot from before the lock.
    PERFORM pg_advisory_xact_lock(7161131779257103137);

    SELECT x.position, x.recorded_at INTO head, stamp FROM public.events x ORDER BY x.position DESC LIMIT 1;
    head := coalesce(head, 0);
    stamp := greatest(clock_timestamp(), stamp);

    -- By subscript, here and below: plpgsql holds its arrays expanded, so that an element costs nothing to find, while an unnest of
    -- twelve arrays has a tuple store for each, and with them the heap of the backend grew and shrank at every call.
    SELECT array_agg(v.i ORDER BY v.i), array_agg(v.sequence ORDER BY v.i) INTO clashes, actuals
      FROM (SELECT i, coalesce((SELECT x.sequence FROM public.events x
                                 WHERE x.aggregate_type = s_type[i] AND x.aggregate_id = s_id[i]
                                 ORDER BY x.sequence DESC LIMIT 1), 0) AS sequence
              FROM generate_series(1, cardinality(s_type)) i) v
     WHERE v.sequence <> s_expected[v.i];

    IF cardinality(k_request) > 0 THEN
        SELECT array_agg(i ORDER BY i), array_agg(k.request_hash ORDER BY i), array_agg(k.outcome ORDER BY i),
               array_agg(k.position ORDER BY i)
          INTO known, key_hash, key_result, key_last
          FROM generate_series(1, cardinality(k_request)) i
          -- The row of an expired key is in the way, too: it has to be taken over, but says nothing (its hash is NULL here).
          LEFT JOIN LATERAL (SELECT CASE WHEN x.keep = 'forever' OR x.created_at > stamp - interval '30 days'
                                         THEN x.request_hash END AS request_hash,
                                    x.outcome::text AS outcome, x.position
                               FROM public.idempotency_keys x
                              WHERE x.scope = k_scope[i] AND x.key = k_key[i] LIMIT 1) k ON true
         WHERE k.position IS NOT NULL OR k_same[i] > 0;
    END IF;

    request := 0; kind := 'head'; first_position := head; at := stamp;
    RETURN NEXT;

    IF clashes IS NULL AND known IS NULL THEN
        -- Nothing is in the way of anything: the events stand behind the head as they came.
        INSERT INTO public.events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position,
                                   event_id, effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
        SELECT e_type[i], e_id[i], e_sequence[i], e_event_type[i], e_event_version[i], e_payload[i]::json, head + i,
               e_event_id[i], e_effective_on[i]::date, stamp, e_actor[i], e_correlation_id[i], e_causation_id[i],
               e_traceparent[i]
          FROM generate_series(1, cardinality(e_type)) i;
        IF cardinality(k_request) > 0 THEN
            INSERT INTO public.idempotency_keys (scope, key, request_hash, outcome, position, keep, created_at)
            SELECT k_scope[i], k_key[i], k_hash[i], k_outcome[i]::json, head + r_before[k_request[i]] + r_events[k_request[i]],
                   k_keep[i], stamp
              FROM generate_series(1, cardinality(k_request)) i;
        END IF;
        RETURN;
    END IF;

    base := array_fill(0::bigint, ARRAY[requests]);
    -- A resent command: its first and last event stand where it would have put them, with its own ids. It is always
    -- among what is in the way, because its own events have moved its stream on.
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
      LEFT JOIN LATERAL (SELECT x.position, x.recorded_at FROM public.events x
                          WHERE x.event_id = q.first_id AND x.aggregate_type = q.type AND x.aggregate_id = q.id
                            AND x.sequence = q.sequence LIMIT 1) a ON true
      LEFT JOIN LATERAL (SELECT x.position FROM public.events x
                          WHERE x.event_id = q.last_id AND x.position = a.position + r_events[q.request] - 1 LIMIT 1) b ON true;

    FOR i IN 1 .. requests LOOP
        -- The first of its streams that is elsewhere.
        clash := 0;
        WHILE c <= cardinality(clashes) AND s_request[clashes[c]] <= i LOOP
            IF clash = 0 THEN
                clash := c;
            END IF;
            c := c + 1;
        END LOOP;
        -- Its key, if it has one; the place of that key among the known ones, or NULL; and the latest earlier request of
        -- this batch with the same key that was accepted: it counts as stored.
        x := NULL;
        j := 0;
        IF k <= cardinality(k_request) AND k_request[k] = i THEN
            x := array_position(known, k);
            j := k_same[k];
            WHILE j > 0 AND base[k_request[j]] = 0 LOOP
                j := k_same[j];
            END LOOP;
            k := k + 1;
        END IF;

        request := i;
        first_position := NULL; last_position := NULL; at := NULL; stream := NULL; actual := NULL; outcome := NULL;
        IF sent_last[i] IS NOT NULL THEN
            kind := 'sent'; first_position := sent_first[i]; last_position := sent_last[i]; at := sent_at[i];
        ELSIF key_hash[x] IS NOT NULL THEN
            IF key_hash[x] = k_hash[k - 1] THEN
                kind := 'replayed'; last_position := key_last[x]; outcome := key_result[x];
            ELSE
                kind := 'reused';
            END IF;
        ELSIF j > 0 THEN
            IF k_hash[j] = k_hash[k - 1] THEN
                kind := 'replayed'; outcome := k_outcome[j];
                last_position := base[k_request[j]] + r_events[k_request[j]] - 1;
            ELSE
                kind := 'reused';
            END IF;
        ELSIF clash > 0 THEN
            kind := 'conflict'; stream := clashes[clash]; actual := actuals[clash];
        ELSE
            base[i] := head + 1;
            head := head + r_events[i];
            CONTINUE;
        END IF;
        RETURN NEXT;
    END LOOP;

    INSERT INTO public.events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, position, event_id,
                               effective_on, recorded_at, actor, correlation_id, causation_id, traceparent)
    SELECT w.type, w.id, w.sequence, w.event_type, w.event_version, w.payload::json, base[w.request] + w.place, w.event_id,
           w.effective_on::date, stamp, w.actor, w.correlation_id, w.causation_id, w.traceparent
      FROM unnest(e_request, e_place, e_type, e_id, e_sequence, e_event_id, e_event_type, e_event_version, e_payload,
                  e_effective_on, e_actor, e_correlation_id, e_causation_id, e_traceparent)
           w(request, place, type, id, sequence, event_id, event_type, event_version, payload,
             effective_on, actor, correlation_id, causation_id, traceparent)
     WHERE base[w.request] > 0;

    IF cardinality(k_request) > 0 THEN
        -- The row of an expired key is taken over.
        INSERT INTO public.idempotency_keys AS old (scope, key, request_hash, outcome, position, keep, created_at)
        SELECT q.scope, q.key, q.hash, q.outcome::json, base[q.request] + r_events[q.request] - 1, q.keep, stamp
          FROM unnest(k_request, k_scope, k_key, k_hash, k_keep, k_outcome) q(request, scope, key, hash, keep, outcome)
         WHERE base[q.request] > 0
        ON CONFLICT (scope, key) DO UPDATE
           SET request_hash = excluded.request_hash, outcome = excluded.outcome, position = excluded.position,
               keep = excluded.keep, created_at = excluded.created_at;
    END IF;
END $$;
