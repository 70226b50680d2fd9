-- The role with which Grafana reads the job store: it sees the view job_quality and nothing else. Run it as a role that
-- may create roles, once the service has brought the schema up to date; running it again sets the password anew.
--
--   psql "$URL" --set=ON_ERROR_STOP=1 --set=password="$READER_PASSWORD" --file=reader.sql
SELECT 'CREATE ROLE secateur_reader' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secateur_reader') \gexec
ALTER ROLE secateur_reader LOGIN PASSWORD :'password' CONNECTION LIMIT 10;
ALTER ROLE secateur_reader SET default_transaction_read_only = on;
ALTER ROLE secateur_reader SET statement_timeout = '30s';
GRANT SELECT ON job_quality TO secateur_reader;
