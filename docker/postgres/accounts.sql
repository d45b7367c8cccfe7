-- The database accounts of the farm and their passwords. Run as the server's administrator, in the farm's database:
--     OWNER_PASSWORD=… API_PASSWORD=… WORKER_PASSWORD=… psql --file accounts.sql
-- Safe to repeat: it creates what is missing, and sets the passwords anew, so a changed password takes effect.
-- `python -m migrations.upgrade --roles enginefarm` grants the rights afterwards: see migrations/roles.py.
\set ON_ERROR_STOP on
-- From the environment, because arguments are visible to every process of the machine.
\getenv owner_password OWNER_PASSWORD
\getenv api_password API_PASSWORD
\getenv worker_password WORKER_PASSWORD

-- Nobody connects as `enginefarm_readonly` until somebody gives it, or a member of it, a password.
SELECT format('CREATE ROLE %I NOLOGIN', name)
    FROM (VALUES ('enginefarm_owner'), ('enginefarm_api'), ('enginefarm_worker'), ('enginefarm_readonly')) AS role (name)
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE enginefarm_owner LOGIN PASSWORD :'owner_password';
ALTER ROLE enginefarm_api LOGIN PASSWORD :'api_password';
ALTER ROLE enginefarm_worker LOGIN PASSWORD :'worker_password';

SELECT format('ALTER DATABASE %I OWNER TO enginefarm_owner', current_database()) \gexec
ALTER SCHEMA public OWNER TO enginefarm_owner;
-- Tables of a farm that began without these accounts. Their sequences follow.
SELECT format('ALTER TABLE public.%I OWNER TO enginefarm_owner', tablename)
    FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'enginefarm_owner' \gexec
