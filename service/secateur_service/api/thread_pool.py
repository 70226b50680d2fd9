"""Runs blocking calls (SQL, files, object stores) in a bounded pool of threads, so that the event loop never waits."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool:
    """A bounded pool of threads; calls that find no free thread wait in order."""

    def __init__(self, name: str, *, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread, with the caller's context, and wait for its result."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: context.run(function, *args, **kwargs))

    def close(self) -> None:
        """Drop the calls that have not begun and wait for those that have."""
        self._executor.shutdown(wait=True, cancel_futures=True)
