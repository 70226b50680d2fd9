"""The bar of a job by a clock that the test moves, on a terminal that keeps what is drawn."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from secateur import Progress
from secateur._text import left_text
from secateur.cli._bar import Countdown, JobBar


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def drawn(bar, width=80):
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(bar.drawn())
    return stream.getvalue()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def bar(clock):
    return JobBar(Console(file=io.StringIO()), clock)


def test_between_two_reports_the_time_left_ticks_down_and_the_bar_goes_on(bar, clock):
    bar.doing = "PRUNING"
    bar.began(83)
    bar.report(Progress(3, 6, 0.4, 120.0))
    shown = []
    for _ in range(3):
        words = drawn(bar).replace("━", "").split()
        shown.append(" ".join(words))
        clock.now += 2
    assert [line.split("PRUNING")[1].strip(" ╸╺") for line in shown] == [
        "40% 3/6 blocks 1:23 2:00 left",
        "41% 3/6 blocks 1:25 1:58 left",
        "42% 3/6 blocks 1:27 1:56 left",
    ]


@pytest.mark.parametrize(
    ("done", "total", "told"),
    [
        (1_234_000_000, 5_000_000_000, "1.2 of 5.0 GB"),
        (800_000_000, 5_000_000_000, "800.0 MB of 5.0 GB"),
        (12_300_000, 0, "12.3 MB"),
    ],
)
def test_while_something_is_fetched_its_bytes_stand_where_the_blocks_will(bar, done, total, told):
    progress = Progress(0, 6, 0.02, 120.0, done, total)
    bar.doing = "FETCHING"
    bar.report(progress)
    assert f"2%  {told}  2:00 left" in drawn(bar)
    assert str(progress) == f"2%, 0 of 6 blocks, {told} fetched, about 2:00 left"
    bar.report(Progress(0, 6, 0.03, 110.0))
    assert "3%  0/6 blocks  1:50 left" in drawn(bar)


def test_a_report_behind_what_is_shown_does_not_take_the_bar_back_but_a_job_that_goes_back_does(clock):
    countdown = Countdown(clock)
    countdown.report(0.0, 10)
    clock.now += 5
    assert countdown.fraction == pytest.approx(0.02)
    for left in (10, None):
        countdown.report(0.01, left)
        assert countdown.fraction == pytest.approx(0.02)
    countdown.report(0.005, 10)
    assert countdown.fraction == pytest.approx(0.005)


reports = st.tuples(st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1e6)), st.floats(0, 1e5), st.floats(0, 100))


@given(st.lists(reports, min_size=1))
def test_a_running_job_is_never_shown_to_end_now(reports):
    clock = Clock()
    countdown = Countdown(clock)
    for fraction, left, wait, age in reports:
        countdown.report(fraction, left, age)
        clock.now += wait
        assert (countdown.left_seconds is None) == (left is None)
        if left is not None:
            assert countdown.left_seconds >= 0
            assert "0:00" not in left_text(countdown.left_seconds).split()
        assert fraction <= countdown.fraction <= max(fraction, 0.99)


def test_where_the_next_report_is_overdue_the_time_left_grows_with_the_wait(clock):
    countdown = Countdown(clock)
    countdown.report(0.9, 10)
    shown = []
    for _ in range(4):
        clock.now += 9.5
        shown.append(left_text(countdown.left_seconds))
    assert shown == ["a moment left", "0:02 left", "0:03 left", "0:04 left"]


def test_what_is_said_below_the_bar_is_one_line_that_counts(bar, clock):
    bar.doing = "PRUNING"
    bar.notice("no contact" + 40 * " at all")
    clock.now += 61
    (said,) = drawn(bar).splitlines()[1:]
    assert said.startswith("1:01 no contact at all")
    assert said.endswith("…")
    bar.notice(None)
    assert len(drawn(bar).splitlines()) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_bar_is_one_line_on_any_terminal(clock, width):
    bar = JobBar(Console(file=io.StringIO(), width=width), clock)
    bar.doing = "PUBLISHING"
    bar.began(4000)
    bar.report(Progress(126, 126, 0.987, 4000.0))
    (line,) = drawn(bar, width).splitlines()
    assert len(line) <= width
    words = ["PUBLISHING", "99%", "1:06:40 left", *(["126/126 blocks", "━"] if width >= 80 else [])]
    assert [word for word in words if word not in line] == []


def test_the_time_of_a_job_that_has_ended_stands_still(bar, clock):
    bar.doing = "SUCCEEDED"
    bar.began(60)
    bar.report(Progress(6, 6, 0.97, 4.0))
    bar.end(is_done=True)
    clock.now += 60
    words = drawn(bar).split()
    assert words[-4:] == ["100%", "6/6", "blocks", "1:00"]
