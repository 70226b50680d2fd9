"""Slots that callers share: no caller gets more than its share, and waiting callers take turns."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from secateur_service.errors import OverloadedError


class Shares:
    """Belongs to one event loop.

    Args:
        name: what waits, for messages.
        slots: number of calls that may run at the same time.
        per_caller: how many of them may be one caller's.
        waiting_per_caller: how many more of one caller's may wait.
    """

    def __init__(self, name: str, *, slots: int, per_caller: int, waiting_per_caller: int) -> None:
        self._name = name
        self._free = slots
        self._per_caller = per_caller
        self._waiting_per_caller = waiting_per_caller
        self._running: Counter[str] = Counter()
        # In the order in which callers are served; each caller's calls in order of arrival.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        """Hold a slot as long as the context lasts.

        Raises:
            OverloadedError: too many of this caller's calls are already waiting.
        """
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release(caller)

    async def _acquire(self, caller: str) -> None:
        waiting = self._waiting.get(caller)
        if waiting is not None and len(waiting) >= self._waiting_per_caller:
            raise OverloadedError(
                f"{len(waiting)} {self._name} of this caller are waiting already; send the next when some are answered",
                reason="TOO_MANY_CALLS",
                metadata={"limit": str(self._waiting_per_caller)},
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(caller)
            else:
                self._forget(caller, turn)
            raise

    def _release(self, caller: str) -> None:
        self._free += 1
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        if caller in self._waiting:
            self._waiting.move_to_end(caller)  # the others' turn
        self._give()

    def _give(self) -> None:
        """Give free slots to waiting calls: each to the first caller in turn that is below its share."""
        while self._free:
            caller = next((name for name in self._waiting if self._running[name] < self._per_caller), None)
            if caller is None:
                return
            turn = self._waiting[caller].popleft()
            self._waiting.move_to_end(caller)
            if not self._waiting[caller]:
                del self._waiting[caller]
            self._free -= 1
            self._running[caller] += 1
            turn.set_result(None)

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(caller)
        if waiting is not None and turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[caller]
