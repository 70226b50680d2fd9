"""Waiting for an object store, with a clock of the test's own."""

import pytest

from secateur_service.artifacts.port import FORBIDDEN, UNREACHABLE
from secateur_service.errors import CancelledError, PermanentError, TransientError
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.patience import MAX_SECONDS, TELL_SECONDS, Patience


class Store:
    """Answers after an outage of so many seconds; time passes only while somebody sleeps."""

    def __init__(self, away_seconds, error=None):
        self.now, self.asked = 0.0, []
        self.away_seconds = away_seconds
        self.error = error or TransientError("cannot reach http://s3", reason=UNREACHABLE)

    def sleep(self, seconds):
        self.now += seconds

    def answer(self):
        self.asked.append(self.now)
        if self.now < self.away_seconds:
            raise self.error
        return "published"

    def wait(self, seconds, observer):
        patience = Patience(seconds, observer, clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 1.0)
        return patience.insist("publishing", self.answer)


def test_an_outage_is_waited_for_with_growing_pauses_and_told_now_and_then():
    store, observer = Store(1000), RecordingObserver()
    assert store.wait(3600, observer) == "published"
    pauses = [after - before for before, after in zip(store.asked, store.asked[1:], strict=False)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert max(pauses) == MAX_SECONDS
    *warnings, last = observer.lines
    assert [level for level, _, _ in warnings] == ["warning"] * (1 + int(1000 / TELL_SECONDS))
    assert warnings[0][2] == {"reason": UNREACHABLE, "error": store.error.message, "gives_up_in_seconds": 3600}
    assert (last[0], last[1]) == ("info", "the object store answers again: publishing goes on")
    assert 1000 <= last[2]["after_seconds"] < 1000 + MAX_SECONDS


def test_an_outage_that_lasts_too_long_is_given_up_when_the_time_is_over():
    store = Store(10_000)
    with pytest.raises(TransientError, match="cannot reach"):
        store.wait(3600, RecordingObserver())
    assert store.asked[-1] == 3600


def test_without_patience_and_for_any_other_reason_nothing_is_repeated():
    for seconds, error in (
        (0, None),
        (3600, TransientError("lost a file", reason="UPLOAD_INCOMPLETE")),
        (3600, PermanentError("no right", reason=FORBIDDEN)),
    ):
        store, observer = Store(10, error), RecordingObserver()
        with pytest.raises(type(store.error)) as caught:
            store.wait(seconds, observer)
        assert (caught.value, store.asked, observer.lines) == (store.error, [0.0], [])


def test_a_job_is_cancelled_in_the_middle_of_a_wait():
    store = Store(10_000)

    class Cancelled(RecordingObserver):
        def check(self):
            if store.now >= 20.2:
                raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        store.wait(3600, Cancelled())
    assert store.now < 21
