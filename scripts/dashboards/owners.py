"""For those who own a model: what pruning cost each language, over time, by method and target.

Metrics have neither models nor languages as labels. So this reads the view `job_quality` of the job store (migration
0007), which has a row for each evaluation language of each job that succeeded. Its figures are finite: a job whose
are not fails with NON_FINITE, and perplexity is cut off at e⁷⁰⁰, hence the logarithmic axes.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from dashboards.parts import (
    POSTGRESQL,
    Panel,
    bad_above,
    bars,
    board_of,
    chosen_source,
    chosen_value,
    columns,
    lines,
    number,
    rows,
    sql,
    with_panels,
)

MODEL = "$__timeFilter(end_time) AND model = ${model:sqlstring}"
ALIKE = f"{MODEL} AND method = ${{method:sqlstring}} AND target = ${{target:sqlstring}}"
CHOSEN = f"{ALIKE} AND language IN (${{language:sqlstring}})"
LATEST = f"job_id = (SELECT job_id FROM job_quality WHERE {ALIKE} ORDER BY end_time DESC LIMIT 1)"
LOST = "pruned_bits_per_byte - dense_bits_per_byte"
COSTLY = bad_above(2, 1.25)


def build() -> models.Dashboard:
    """The dashboard. Model, method and target offer first what was used last."""
    board = (
        board_of("owners", "Secateur: quality by language", "What pruning cost each language. For owners of models.")
        .time("now-90d", "now")
        .with_variable(chosen_source(POSTGRESQL, "Job store", "job-store"))
        .with_variable(_choice("model", "Model", "true"))
        .with_variable(_choice("method", "Method", "model = ${model:sqlstring}"))
        .with_variable(_choice("target", "Sparsity", "model = ${model:sqlstring} AND method = ${method:sqlstring}"))
        .with_variable(
            _choice("language", "Language", "model = ${model:sqlstring}")
            .query("SELECT DISTINCT language FROM job_quality WHERE model = ${model:sqlstring} ORDER BY language")
            .multi(True)
            .include_all(True)
            .current(models.VariableOption(text="All", value="$__all"))
        )
    )
    return with_panels(
        board, {"The latest job": _latest(), "Over time": _over_time(), "All jobs of the model": _all_jobs()}
    )


def _latest() -> list[Panel]:
    chosen = f"FROM job_quality WHERE {CHOSEN} AND {LATEST}"
    return [
        number(
            sql(f"SELECT max(perplexity_ratio) AS ratio {chosen}"),
            title="Worst ratio",
            about="Pruned over dense perplexity of the language that lost most: 1 means that nothing was lost.",
            unit="none",
            steps=COSTLY,
        ),
        number(
            sql(f"SELECT exp(avg(ln(perplexity_ratio))) AS ratio {chosen}"),
            title="Mean ratio",
            about="Geometric mean over the chosen languages. Far below the worst: one language pays for all; "
            "give it more weight, or use the policy minimax.",
            unit="none",
            steps=COSTLY,
        ),
        number(
            sql(f"SELECT max(sparsity) AS sparsity {chosen}"),
            title="Sparsity reached",
            about="Zeros among the weights of the pruned layers.",
            unit="percentunit",
        ),
        number(
            sql(f"SELECT extract(epoch FROM max(end_time)) * 1000 AS ended {chosen}"),
            title="Ended",
            about="When the latest job of this model, method and sparsity ended.",
            unit="dateTimeAsLocal",
        ),
        number(
            sql(f"SELECT count(DISTINCT job_id) AS jobs FROM job_quality WHERE {ALIKE}"),
            title="Jobs in the period",
            about="That succeeded, of this model, method and sparsity. Old jobs are forgotten: see "
            "SECATEUR_JOB_RETENTION_SECONDS.",
            unit="none",
            width=8,
        ),
        columns(
            sql(
                "SELECT language || CASE WHEN weight = 0 THEN ' (not in the mix)' ELSE '' END AS language, "
                f"dense_perplexity AS dense, pruned_perplexity AS pruned {chosen} ORDER BY language"
            ),
            x="language",
            log=10,
            title="Perplexity, dense and pruned",
            about="Of the latest job. Perplexities compare within a language only: tokenizers differ.",
            unit="none",
            width=12,
        ),
        bars(
            sql(f"SELECT language, {LOST} AS lost {chosen} ORDER BY lost DESC LIMIT 15"),
            rows=True,
            title="Languages that lost most",
            about="Bits per byte of text that the latest job lost, at most fifteen languages. Unlike perplexity it "
            "compares between languages. Those outside the mix tend to lose most: calibrate on them if they matter.",
            unit="none",
            width=12,
        ),
    ]


def _over_time() -> list[Panel]:
    return [
        lines(
            sql(
                "SELECT end_time AS time, language AS metric, perplexity_ratio AS value "
                f"FROM job_quality WHERE {CHOSEN} ORDER BY end_time",
                shape="time_series",
            ),
            sparse=True,
            log=2,
            title="Perplexity ratio",
            about="Pruned over dense, by language, a point for each job. A line that rises at an unchanged "
            "specification: another revision of the model, other text, or another release. The table tells.",
            unit="none",
            width=12,
            height=10,
        ),
        lines(
            sql(
                f"SELECT end_time AS time, language AS metric, {LOST} AS value "
                f"FROM job_quality WHERE {CHOSEN} ORDER BY end_time",
                shape="time_series",
            ),
            sparse=True,
            title="Bits per byte lost",
            about="Pruned minus dense, by language, a point for each job: what compares between languages.",
            unit="none",
            width=12,
            height=10,
        ),
    ]


def _all_jobs() -> list[Panel]:
    return [
        rows(
            sql(
                "SELECT end_time AS ended, job_id AS job, revision, method, target, sparsity, mix, "
                '(array_agg(language ORDER BY perplexity_ratio DESC))[1] AS "worst language", '
                'max(perplexity_ratio) AS "worst ratio", exp(avg(ln(perplexity_ratio))) AS "mean ratio" '
                f"FROM job_quality WHERE {MODEL} AND language IN (${{language:sqlstring}}) "
                "GROUP BY end_time, job_id, revision, method, target, sparsity, mix ORDER BY end_time DESC LIMIT 100"
            ),
            units={"sparsity": "percentunit"},
            title="Jobs",
            about="The latest hundred of the model, of every method and sparsity, with the mix of calibration "
            "languages and the language that each cost most. `secateur report JOB` has the details.",
            unit="none",
            width=24,
            height=10,
        )
    ]


def _choice(column: str, label: str, condition: str) -> dashboard.QueryVariable:
    return chosen_value(
        column,
        label,
        POSTGRESQL,
        f"SELECT {column} FROM job_quality WHERE {condition} GROUP BY {column} ORDER BY max(end_time) DESC",
    )
