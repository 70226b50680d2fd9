"""A data folder with its store, and dispatchers over it whose workers run a toy pipeline (`toy_worker`)."""

import os
import sys
from pathlib import Path

from secateur_service.control.backoff import Backoff
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.executors.local import LocalExecutor
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.store import open_job_store
from secateur_service.settings import Settings
from support import toy_worker
from support.forking import ForkingExecutor
from support.jobs import new_job

TESTS = Path(__file__).parents[1]
PYTHONPATH = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


class Site:
    """A data folder with its store, and dispatchers over it."""

    def __init__(self, folder, **settings):
        given = {"retry_base_seconds": 0.0, "poll_seconds": 0.05, "metrics_listen": "", **settings}
        self.settings = Settings(data_dir=folder, **given)
        self.store = open_job_store(self.settings.database_url)
        self.dispatchers = []

    def executor(self, behaviour):
        """Of `toy_worker`, or of `late_worker` where the behaviour begins with "late ".

        Workers are forked off a process that is ready, but for those whose interpreter's start or end is looked at, and
        where it begins with "started ".
        """
        if not behaviour.startswith(("late ", "started ")) and behaviour != "lingers":
            return ForkingExecutor(self.settings, toy_worker.work, behaviour, environment={})
        program = "late_worker.py" if behaviour.startswith("late ") else "toy_worker.py"
        behaviour = behaviour.removeprefix("late ").removeprefix("started ")
        command = (sys.executable, str(TESTS / "support" / program), behaviour)
        return LocalExecutor(self.settings, command=command, environment={"PYTHONPATH": PYTHONPATH})

    def dispatcher(self, behaviour="finish", **kwargs):
        settings = self.settings
        given = {
            "lease_seconds": settings.lease_seconds,
            "start_seconds": settings.start_seconds,
            "poll_seconds": settings.poll_seconds,
            "drain_seconds": settings.drain_seconds,
            "cancel_grace_seconds": settings.cancel_grace_seconds,
            "backoff": Backoff(settings.retry_base_seconds, settings.retry_max_seconds),
            **kwargs,
        }
        dispatcher = Dispatcher(self.store, self.executor(behaviour), owner="test", **given)
        self.dispatchers.append(dispatcher)
        return dispatcher

    def create(self, **kwargs):
        return self.store.create(new_job(destination=self.settings.destinations[0], **kwargs)).id

    def close(self):
        for dispatcher in self.dispatchers:
            for running in dispatcher._running:
                running.worker.kill()
                running.worker.process.wait()
        self.store.close()

    def events(self, job_id, kind):
        return [event.body for event in self.store.events(job_id, after=0, limit=1000) if event.kind is kind]

    def states(self, job_id):
        return [body["state"] for body in self.events(job_id, EventKind.STATE)]


def ended(site, job_id):
    return lambda: (job := site.store.get(job_id)).state.is_terminal and job


def has_block(site, job_id):
    return lambda: site.store.blocks(job_id)
