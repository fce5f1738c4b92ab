-- Run at every migration. Writers append through the function only; nobody but the owner may insert, and nobody at all may
-- change or delete.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, casitas_command, casitas_projector, casitas_worker, casitas_query;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC, casitas_command, casitas_projector, casitas_worker, casitas_query;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO casitas_command, casitas_projector, casitas_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO casitas_command, casitas_projector, casitas_worker;
GRANT EXECUTE ON FUNCTION casitas_accept, casitas_append, casitas_keep TO casitas_command, casitas_projector;
GRANT INSERT, UPDATE ON subject_keys TO casitas_command, casitas_projector;
GRANT INSERT, UPDATE ON follower_checkpoints TO casitas_projector;
-- The sealer adds links; their triggers refuse everything else, to the owner too.
GRANT INSERT ON chain TO casitas_projector;
