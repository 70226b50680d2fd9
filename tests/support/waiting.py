"""How tests wait: for what they want to see, not for time to pass."""

import asyncio
import time

from support.processes import HANG_SECONDS

__all__ = ["HANG_SECONDS", "until", "until_async"]


def until(condition, dispatcher=None, *, seconds=HANG_SECONDS):
    """Ask until the answer is true, and return it. A dispatcher makes a pass in between."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "this did not happen"
        if dispatcher is not None:
            dispatcher.reconcile()
        time.sleep(0.02)
    return found


async def until_async(condition, *, seconds=HANG_SECONDS):
    """The same in an event loop."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "this did not happen"
        await asyncio.sleep(0.02)
    return found
