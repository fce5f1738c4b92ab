-- Keeps the idempotency key of a command that appends nothing (a step of a process that was refused, or had nothing to do), unless it
-- is kept already: then it answers what is. Under the lock of casitas_append, so that whoever appends with the key comes before or
-- after. The row of an expired key is taken over.
CREATE FUNCTION casitas_keep(k_scope text, k_key text, k_hash text, k_keep text, k_outcome text)
RETURNS TABLE (request_hash text, outcome text, "position" bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
AS $$
#variable_conflict use_column
DECLARE
    head  bigint;
    stamp timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'casitas_keep runs only in a read committed transaction';
    END IF;
    PERFORM pg_advisory_xact_lock(7161131779257103137);

    SELECT x.position, x.recorded_at INTO head, stamp FROM public.events x ORDER BY x.position DESC LIMIT 1;
    stamp := greatest(clock_timestamp(), stamp);

    INSERT INTO public.idempotency_keys AS old (scope, key, request_hash, outcome, position, keep, created_at)
    VALUES (k_scope, k_key, k_hash, k_outcome::json, coalesce(head, 0), k_keep, stamp)
    ON CONFLICT (scope, key) DO UPDATE
       SET request_hash = excluded.request_hash, outcome = excluded.outcome, position = excluded.position,
           keep = excluded.keep, created_at = excluded.created_at
     WHERE old.keep <> 'forever' AND old.created_at <= stamp - interval '30 days';
    IF NOT FOUND THEN
        RETURN QUERY SELECT x.request_hash, x.outcome::text, x.position FROM public.idempotency_keys x
                      WHERE x.scope = k_scope AND x.key = k_key;
    END IF;
END $$;
