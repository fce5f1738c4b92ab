-- Run at every migration: HTTP callers' keys are kept 30 days and are ignored afterwards; here they are swept, in bounded
-- numbers. The keys of policies and timers stay for ever.
DELETE FROM idempotency_keys
 WHERE (scope, key) IN (SELECT scope, key FROM idempotency_keys
                         WHERE keep = 'days30' AND created_at < now() - interval '30 days' LIMIT 100000);
