-- Cluster-wide, run at every migration under the migration lock; the passwords are set separately.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['casitas_command', 'casitas_query', 'casitas_projector', 'casitas_worker'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', name);
        END IF;
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', name, '5s');
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', name, '1s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', name, '5s');
        IF current_setting('server_version_num')::int >= 170000 THEN
            EXECUTE format('ALTER ROLE %I SET transaction_timeout = %L', name, '10s');
        END IF;
        -- A leader whose host died must lose its claims within seconds.
        EXECUTE format('ALTER ROLE %I SET tcp_keepalives_idle = 5', name);
        EXECUTE format('ALTER ROLE %I SET tcp_keepalives_interval = 2', name);
        EXECUTE format('ALTER ROLE %I SET tcp_keepalives_count = 3', name);
    END LOOP;
END $$;
