"""Arguments of a wrong type or beyond reason are refused by name, before anything is sent."""

import math
from fractions import Fraction

import pytest

import secateur
from secateur._arguments import timeout
from secateur._config import LONGEST_SECONDS
from secateur._sweep_flow import watch_sweep


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        *((value, ValueError) for value in (-1, -1e-9, math.nan, math.inf, 1e300, 10**400, LONGEST_SECONDS + 1)),
        *((value, TypeError) for value in ("5", True, [5], 5j)),
    ],
)
def test_every_wait_refuses_a_time_limit_that_is_none(seconds, kind):
    with secateur.Client("127.0.0.1:1") as client:
        job, operations = client.job("j"), client._operations
        waits = [
            lambda: job.wait(seconds),
            lambda: job.result(seconds),
            lambda: job.watch(timeout_seconds=seconds),
            lambda: next(watch_sweep(operations, {"point": "pruneJobs/j"}, seconds)),
        ]
        for wait in waits:
            with pytest.raises(kind, match=r"^timeout_seconds: expected .* None waits without a limit"):
                wait()


@pytest.mark.parametrize("seconds", [0, 0.5, Fraction(1, 2), LONGEST_SECONDS, None])
def test_other_time_limits_are_taken(seconds):
    assert timeout(seconds) == seconds
