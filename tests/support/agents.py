"""`secateur-service agent` as a process, over the data folder of a `Site`; its workers run the toy pipeline."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from support import worker_forks
from support.forking import ForkedProcess
from support.processes import HANG_SECONDS, below, end, running
from support.server import be
from support.site import PYTHONPATH

LATE_WORKER = Path(__file__).with_name("late_worker.py")


class Agent:
    """An agent, forked off a process that has loaded what it needs. It leads a process group, as a scheduler's does.

    Args:
        site: the store and the folder.
        arguments: of the command.
        toy: how its workers behave; with "late " before that, they are started, and wait before they begin.
        settings: further ones of its environment.
    """

    def __init__(self, site, *arguments, toy="finish", **settings):
        self.site = site
        number = len(list(site.settings.data_dir.parent.glob("agent-*.log")))
        self.log = site.settings.data_dir.parent / f"agent-{number}.log"
        self.log.touch()
        self.ready = site.settings.data_dir.parent / f"agent-{number}.json"
        if toy.startswith("late "):
            worker = [sys.executable, str(LATE_WORKER), toy.removeprefix("late ")]
        else:
            worker = worker_forks.toy_stand_in(toy)
        environment = {**os.environ, **site.settings.worker_environment(), "PYTHONPATH": PYTHONPATH, **settings}
        given = ["--ready-file", str(self.ready), *arguments]
        self.process = ForkedProcess(be, "agent", {"worker": worker}, given, environment=environment, errors=self.log)
        self.known = set()

    def below(self):
        """All that it has started and that still runs, whatever has become of itself."""
        self.known |= {(process.pid, process.started) for process in below(self.process.pid)}
        return [process for process in running() if (process.pid, process.started) in self.known]

    def kill_group(self, number=signal.SIGKILL):
        """What schedulers do."""
        os.killpg(self.process.pid, number)

    def wait(self):
        """Its exit code."""
        code = self.process.wait(HANG_SECONDS)
        assert code is not None, f"it does not end: {self.log.read_text()[-4000:]}"
        return code

    def said(self, words):
        """Whether it has logged something."""
        return words in self.log.read_text()

    def close(self):
        left = self.below()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(HANG_SECONDS)
        end(left)
