"""The executor that the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from secateur_service.executors.local import WORK_COMMAND, LocalExecutor
from secateur_service.executors.port import Executor
from secateur_service.settings import Settings


def open_executor(settings: Settings, command: Sequence[str] = WORK_COMMAND) -> Executor:
    """Open the executor; so far, workers can only be child processes on this machine.

    Args:
        settings: the devices, and the workers' settings.
        command: command that starts a worker.
    """
    return LocalExecutor(settings, command=command)
