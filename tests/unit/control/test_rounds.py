"""A thread that does something again and again."""

import pytest

from secateur_service.control.rounds import Rounds
from support.waiting import until

LONG = 3600.0


def test_the_next_round_comes_when_the_last_one_says_and_a_stop_waits_for_no_pause():
    pauses, done = iter([0.0, 0.0, LONG]), []
    rounds = Rounds("test", lambda: done.append(rounds.is_stopping) or next(pauses))
    rounds.start()
    until(lambda: len(done) >= 3)
    with pytest.raises(StopIteration):
        next(pauses)
    assert rounds.stop()
    assert rounds.is_stopping
    assert done == [False] * 3


def test_nothing_is_done_before_the_first_pause_is_over():
    done = []
    rounds = Rounds("test", lambda: done.append(1) or LONG, after_seconds=LONG)
    rounds.start()
    assert rounds.stop()
    assert not done
