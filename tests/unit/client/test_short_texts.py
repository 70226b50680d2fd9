"""What events, jobs and results say of themselves in a few words."""

from datetime import UTC, datetime

import pytest

from secateur import (
    BlockEvent,
    Failure,
    JobStage,
    JobState,
    LanguageResult,
    LogEvent,
    Progress,
    ProgressEvent,
    PublishedResult,
    SnapshotEvent,
    StageEvent,
    StateEvent,
)
from secateur._job import Job
from secateur.cli._watching import LogFilter, LogLevel

AT = (7, datetime(2026, 1, 2, tzinfo=UTC), 1)
PROGRESS = Progress(3, 24, 0.125, 62.0)
FAILURE = Failure("NON_FINITE", "a NaN in layer 3", retryable=False)


def job(state, **given):
    values = dict.fromkeys(Job.__dataclass_fields__) | {"name": "pruneJobs/j", "stage": JobStage.UNSPECIFIED}
    return Job(**values | {"state": state} | given)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (StateEvent(*AT, JobState.QUEUED, "", None), "QUEUED"),
        (StateEvent(*AT, JobState.FAILED, "", FAILURE), "FAILED: NON_FINITE: a NaN in layer 3"),
        (StageEvent(*AT, JobStage.PRUNING), "stage PRUNING"),
        (ProgressEvent(*AT, PROGRESS), "12%, 3 of 24 blocks, about 1:02 left"),
        (BlockEvent(*AT, 3, 0.5, 1.25, {"de": 21.04}), "block 3 pruned: sparsity 0.5000, 1.2 s, de 21.0 dB"),
        (LogEvent(*AT, "info", "model opened", {"blocks": 24}), "[info] model opened blocks=24"),
        (
            SnapshotEvent(*AT, job(JobState.RUNNING, stage=JobStage.PRUNING, progress=PROGRESS)),
            "pruneJobs/j is RUNNING, PRUNING, 12%, 3 of 24 blocks, about 1:02 left",
        ),
        (job(JobState.FAILED, failure=FAILURE), "pruneJobs/j is FAILED: NON_FINITE: a NaN in layer 3"),
        (
            PublishedResult("", "", 0.5, {"de": LanguageResult("de", 10, 12.5, 1, 1)}, 90, 100),
            "sparsity 0.5000, 10.0% fewer parameters; perplexity de ×1.250",
        ),
        (
            PublishedResult("", "", 0.0, {"de": LanguageResult("de", 10, 10, 1, 1)}, 0, 0),
            "sparsity 0.0000; perplexity de ×1.000",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_fits_a_line(shown, text):
    assert str(shown) == text


def test_a_log_is_shown_from_a_level_on_and_says_a_verdict_once():
    said = {"verdict": "MIX_DOES_NOT_COVER"}
    lines = [LogEvent(*AT, level, "line", said) for level in ("debug", "warning", "info")]
    assert list(filter(LogFilter(LogLevel.INFO).passes, lines)) == lines[1:2]
    assert list(filter(LogFilter(LogLevel.DEBUG).passes, lines)) == lines
    assert list(filter(LogFilter(LogLevel.ERROR).passes, lines)) == []
