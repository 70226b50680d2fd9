"""What pruning cost each language, as a view for dashboards: the contract between the store and outside readers.

On PostgreSQL only: a dashboard reads over the network, and SQLite is a file on the service's machine.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# One row for each evaluation language of each job that succeeded. Labels and destinations are left out on purpose: they
# may say more than every reader of a dashboard should know. URIs hold no credentials: specifications with them are
# refused.
_QUALITY = """
CREATE VIEW job_quality AS
SELECT
    to_timestamp(jobs.end_time / 1000.0) AS end_time,
    jobs.id AS job_id,
    jobs.resolved #>> '{model,uri}' AS model,
    jobs.resolved #>> '{model,revision}' AS revision,
    jobs.resolved #>> '{pruning,method}' AS method,
    coalesce(jobs.resolved #>> '{pruning,pattern}', jobs.resolved #>> '{pruning,sparsity}') AS target,
    (jobs.result ->> 'sparsity')::float8 AS sparsity,
    mix.text AS mix,
    figures.language AS language,
    coalesce(share.weight, 0) AS weight,
    figures.dense_perplexity AS dense_perplexity,
    figures.pruned_perplexity AS pruned_perplexity,
    figures.pruned_perplexity / figures.dense_perplexity AS perplexity_ratio,
    figures.dense_bits_per_byte AS dense_bits_per_byte,
    figures.pruned_bits_per_byte AS pruned_bits_per_byte
FROM jobs
CROSS JOIN LATERAL json_to_recordset(jobs.result -> 'languages') AS figures (
    language text,
    dense_perplexity float8,
    pruned_perplexity float8,
    dense_bits_per_byte float8,
    pruned_bits_per_byte float8
)
LEFT JOIN LATERAL json_to_recordset(jobs.resolved #> '{calibration,languages}') AS share (language text, weight float8)
    ON share.language = figures.language
CROSS JOIN LATERAL (
    SELECT string_agg(entry.language || ' ' || round(entry.weight::numeric, 3), ', ' ORDER BY entry.weight DESC) AS text
    FROM json_to_recordset(jobs.resolved #> '{calibration,languages}') AS entry (language text, weight float8)
) AS mix
WHERE jobs.state = 'SUCCEEDED'
"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(_QUALITY)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP VIEW job_quality")
