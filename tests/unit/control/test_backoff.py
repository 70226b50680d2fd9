import random

from hypothesis import given
from hypothesis import strategies as st

from secateur_service.control.backoff import Backoff


@given(st.integers(0, 10_000), st.integers())
def test_a_wait_lies_between_half_and_all_of_its_doubling_and_never_beyond_the_maximum(charged, seed):
    full = min(300.0, 5.0 * 2.0 ** min(charged, 32))
    assert full / 2 <= Backoff(5, 300).delay_seconds(charged, random.Random(seed)) <= full


def test_two_jobs_that_failed_together_do_not_come_back_together():
    rng = random.Random(0)
    assert Backoff().delay_seconds(3, rng) != Backoff().delay_seconds(3, rng)
