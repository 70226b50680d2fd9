"""The end of a job whose result costs a language or a task more than its specification allows."""

from __future__ import annotations

from collections.abc import Collection

from secateur_service.errors import PermanentError
from secateur_service.evaluation.report import Report
from secateur_service.models.plan_file import PLAN_NAME
from secateur_service.records.result import LIMIT_EXCEEDED, MANIFEST_DIGEST, MODEL_DIGEST, PERPLEXITY_GROWTH


def limit_exceeded(report: Report, digest: str, published: Collection[str]) -> PermanentError:
    """The failure of a job that costs more than it may: its report is published, its checkpoint is not.

    Args:
        report: with the limits that are exceeded.
        digest: of the manifest.
        published: the paths of the files that it names.
    """
    told = " ".join(verdict.message for verdict in report.exceeded)
    decision = report.decision
    assert decision is not None, "what exceeds a limit was decided on"
    beyond = {
        "limits.languages": any(found.answer == "FAIL" for found in decision.languages),
        "limits.task_loss": any(found.answer == "FAIL" for found in decision.tasks),
    }
    named = " and ".join(field for field, is_beyond in beyond.items() if is_beyond)
    kept = "Its report and its plan are" if PLAN_NAME in published else "Its report is"
    return PermanentError(
        f"{named}: {told} {kept} published, its checkpoint is not; remove less, or raise the limit",
        reason=LIMIT_EXCEEDED,
        metadata={
            MANIFEST_DIGEST: digest,
            MODEL_DIGEST: report.model.digest,
            **{f"growth_{entry.language}": f"{entry.growth:.6f}" for entry in report.evaluation},
            **{f"{PERPLEXITY_GROWTH}{entry.language}": f"{entry.perplexity_ratio:.6f}" for entry in report.evaluation},
        },
    )
