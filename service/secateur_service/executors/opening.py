"""The executor that the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from secateur_service.executors.local import WORK_COMMAND, LocalExecutor
from secateur_service.executors.port import Executor
from secateur_service.settings import Settings


def open_executor(settings: Settings, command: Sequence[str] = WORK_COMMAND) -> Executor:
    """Where workers run: child processes on this machine are all that there is yet.

    Args:
        settings: the devices, and what workers are told.
        command: starts a worker.
    """
    return LocalExecutor(settings, command=command)
