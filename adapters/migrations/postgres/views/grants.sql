-- Run at every migration. The projector makes and fills the tables of read models; everybody else only reads.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, casitas_command, casitas_worker, casitas_query;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO casitas_command, casitas_projector, casitas_worker, casitas_query;
GRANT CREATE ON SCHEMA public TO casitas_projector;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO casitas_projector;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO casitas_command, casitas_worker, casitas_query;
ALTER DEFAULT PRIVILEGES FOR ROLE casitas_projector IN SCHEMA public
    GRANT SELECT ON TABLES TO casitas_command, casitas_worker, casitas_query;
ALTER DEFAULT PRIVILEGES FOR ROLE casitas_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO casitas_projector;
ALTER DEFAULT PRIVILEGES FOR ROLE casitas_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO casitas_command, casitas_worker, casitas_query;
