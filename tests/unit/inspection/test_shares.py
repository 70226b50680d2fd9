"""Slots that callers share."""

import asyncio
import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.errors import OverloadedError
from secateur_service.inspection.shares import Shares


async def settled():
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Site:
    """Calls that run until they are told to end."""

    def __init__(self, slots, per_caller, waiting=1000):
        self.shares = Shares("calls", slots=slots, per_caller=per_caller, waiting_per_caller=waiting)
        self.running = []
        self.begun = []

    async def call(self, caller):
        async with self.shares.slot(caller):
            end = asyncio.Event()
            self.running.append((caller, end))
            self.begun.append(caller)
            try:
                await end.wait()
            finally:
                self.running.remove((caller, end))

    def start(self, caller):
        return asyncio.create_task(self.call(caller))


STEPS = st.lists(
    st.tuples(st.just("call"), st.sampled_from("abc")) | st.tuples(st.sampled_from(["end", "give up"]), st.integers(0)),
    max_size=40,
)


@given(steps=STEPS, slots=st.integers(1, 4), per_caller=st.integers(1, 3))
def test_no_slot_is_left_free_that_somebody_may_have_and_nobody_has_more_than_a_share(steps, slots, per_caller):
    async def play():
        site, calls = Site(slots, per_caller), []
        for what, whom in steps:
            if what == "call":
                calls.append((whom, site.start(whom)))
            elif what == "end" and site.running:
                site.running[whom % len(site.running)][1].set()
            elif what == "give up" and calls:
                calls.pop(whom % len(calls))[1].cancel()
            await settled()
            calls = [(caller, call) for caller, call in calls if not call.done()]
            wanted, had = Counter(caller for caller, _ in calls), Counter(caller for caller, _ in site.running)
            assert sum(had.values()) == min(slots, sum(min(per_caller, count) for count in wanted.values()))
            assert all(count <= min(per_caller, wanted[caller]) for caller, count in had.items())
        while site.running:
            site.running[0][1].set()
            await settled()
        assert all(call.done() for _, call in calls)

    asyncio.run(play())


async def test_who_comes_after_a_crowd_of_one_caller_goes_before_it():
    site = Site(slots=4, per_caller=2)
    crowd = [site.start("crowd") for _ in range(24)]
    await settled()
    alone = site.start("alone")
    await settled()
    assert site.begun == ["crowd", "crowd", "alone"]
    for call in (*crowd, alone):
        call.cancel()


async def test_callers_take_turns_where_all_slots_are_taken():
    site = Site(slots=1, per_caller=1)
    calls = [site.start(caller) for caller in "aaabbc"]
    for _ in calls:
        await settled()
        site.running[0][1].set()
    await asyncio.gather(*calls)
    assert "".join(site.begun) == "abcaba"


async def test_a_caller_may_have_only_so_many_calls_waiting_and_others_are_not_refused_for_it():
    site = Site(slots=1, per_caller=1, waiting=2)
    calls = [site.start("crowd") for _ in range(3)]
    await settled()
    with pytest.raises(OverloadedError, match="of this caller are waiting already") as caught:
        await site.call("crowd")
    assert (caught.value.reason, caught.value.retryable) == ("TOO_MANY_CALLS", True)
    calls.append(site.start("alone"))
    await settled()
    assert not calls[-1].done()
    for call in calls:
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
