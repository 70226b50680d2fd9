"""What a sweep says while it goes on, and how long it waits for a service that is away."""

import io
import logging
import math
import re

import grpc
import pytest
from rich.console import Console

import secateur
from secateur._convert import job_from
from secateur._flow import Call, Finished, Sleep, advance, call
from secateur._operations import has_report
from secateur._watch import Reconnect, patiently
from secateur.cli._exit import ExitCode
from secateur.cli._sweeping import SweepBars, sweep_code
from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from support.rpc import Refused

GONE = Refused(grpc.StatusCode.UNAVAILABLE, "gone")


def job(state, *, left=None, fraction=0.0, reason=""):
    return job_from(
        pb.PruneJob(
            state=pb.JobState.Value(f"JOB_STATE_{state}"),
            progress=None if left is None else pb.Progress(eta_seconds=left, fraction=fraction),
            failure=pb.Failure(reason=reason) if reason else None,
        )
    )


def sweep_bars(points, clock):
    """The bars of a sweep, and what draws them: a line each, without the bar itself."""
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    bars = SweepBars(points, terminal, clock)

    def drawn():
        with terminal.capture() as capture:
            terminal.print(*bars.drawn())
        lines = capture.get().splitlines()
        return [" ".join(re.sub("[━╸╺]", " ", line).split()) for line in lines if line.strip()]

    return bars, drawn


def play(answers, *, deadline=math.inf, **given):
    """Ask patiently, against a server that gives these answers; its result, and the waits."""
    now, waits = [0.0], []
    reconnect = Reconnect(clock=lambda: now[0], jitter=lambda: 1.0, **given)
    request = service_pb.GetServiceInfoRequest()
    flow = patiently(reconnect, lambda: call("GetServiceInfo", request, 0), deadline=deadline)
    answers, answer, error = iter(answers), None, None
    while not isinstance(step := advance(flow, answer, error), Finished):
        answer, error = None, None
        match step:
            case Call():
                answer = next(answers)
                if isinstance(answer, grpc.RpcError):
                    answer, error = None, answer
            case Sleep(seconds):
                waits.append(seconds)
                now[0] += seconds
    return step.value, waits


def test_a_service_that_is_away_is_waited_for_longer_and_longer_and_told_of_once(caplog):
    with caplog.at_level(logging.WARNING, logger="secateur"):
        assert play([GONE, GONE, GONE, "here"], base_seconds=1, max_seconds=3) == ("here", [1, 2, 3])
    assert [record.message for record in caplog.records] == ["no answer (gone); trying again"]


def test_a_service_that_stays_away_is_given_up():
    with pytest.raises(secateur.UnavailableError, match="gave up after 10 seconds without an answer"):
        play([GONE] * 50, base_seconds=1, max_seconds=1, total_seconds=10)


def test_a_service_that_is_away_at_the_deadline_is_given_up_then():
    with pytest.raises(secateur.UnavailableError, match="gave up after 4 seconds"):
        play([GONE] * 50, base_seconds=3, max_seconds=3, deadline=4)


def test_a_refusal_is_not_asked_again():
    with pytest.raises(secateur.NotFoundError):
        play([GONE, Refused(grpc.StatusCode.NOT_FOUND)])


@pytest.mark.parametrize(
    ("jobs", "left"),
    [
        ([job("RUNNING", left=20), job("RUNNING", left=30), job("SUCCEEDED", left=99)], 30),
        ([job("RUNNING", left=20), job("QUEUED"), job("SUCCEEDED")], None),  # nobody knows when its turn comes
        ([job("RUNNING", left=20), job("RUNNING"), job("SUCCEEDED")], None),
        ([job("RUNNING", left=20), job("QUEUED", left=30), job("SUCCEEDED")], None),  # from its attempt before
        ([job("RUNNING", left=20), job("SUCCEEDED")], None),  # the third was not seen yet
        ([job("SUCCEEDED"), job("FAILED"), job("SUCCEEDED")], None),
    ],
)
def test_the_time_left_is_said_only_where_it_is_known(jobs, left):
    bars, drawn = sweep_bars(["a", "b", "c"], lambda: 0.0)
    for point, found in zip("abc", jobs, strict=False):
        bars.show(point, found)
    assert drawn()[-1].partition("% ")[2] == ("" if left is None else f"0:{left} left")


def test_between_two_looks_at_the_jobs_the_bars_of_a_sweep_go_on():
    now = [0.0]
    bars, drawn = sweep_bars(["a", "b"], lambda: now[0])
    bars.show("a", job("RUNNING", left=100, fraction=0.5))
    bars.show("b", job("SUCCEEDED"))
    assert drawn() == ["a RUNNING 50% 1:40 left", "b SUCCEEDED 100%", "all 1 of 2 ended 75% 1:40 left"]
    now[0] = 3.0
    assert drawn() == ["a RUNNING 52% 1:37 left", "b SUCCEEDED 100%", "all 1 of 2 ended 76% 1:37 left"]
    bars.show("a", job("RUNNING", left=100, fraction=0.5))
    assert drawn()[0] == "a RUNNING 52% 1:37 left", "what says the same again is no news"


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["SUCCEEDED", "SUCCEEDED"], ExitCode.DONE),
        (["CANCELLED", "SUCCEEDED"], ExitCode.JOB_CANCELLED),
        (["CANCELLED", "FAILED"], ExitCode.JOB_FAILED),
    ],
)
def test_the_worst_end_of_a_job_is_the_end_of_the_command(states, code):
    assert sweep_code(dict(enumerate(map(job, states))), None) is code


def test_a_job_that_exceeded_a_limit_is_compared_and_one_that_failed_otherwise_is_not():
    assert has_report(job("FAILED", reason="LIMIT_EXCEEDED"))
    assert not has_report(job("FAILED", reason="NON_FINITE"))
    assert has_report(job("SUCCEEDED"))
    assert not has_report(job("RUNNING"))
