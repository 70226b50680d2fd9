-- The role with which Grafana reads the job store: it may read the view job_quality and nothing else. Run this with
-- psql as a role that may create roles, once the schema is up to date; running it again resets the password.
--
--   READER_PASSWORD=… psql "$URL" --file=reader.sql
\set ON_ERROR_STOP on
\getenv password READER_PASSWORD
SELECT 'CREATE ROLE secateur_reader' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secateur_reader') \gexec
ALTER ROLE secateur_reader LOGIN PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE secateur_reader SET default_transaction_read_only = on;
ALTER ROLE secateur_reader SET statement_timeout = '30s';
GRANT SELECT ON job_quality TO secateur_reader;
