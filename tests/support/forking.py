"""Processes forked off one that has loaded PyTorch, which otherwise takes most of their start."""

import contextlib
import functools
import multiprocessing
import os
import sys
import time
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

from secateur_service.executors.local import LocalExecutor, LocalWorker
from secateur_service.executors.workdir import attempt_log
from support import pace

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["support.preloaded"])


@functools.cache
def _start():
    """Start the process that forks, which looks for the module above where PYTHONPATH says; returns when it is ready.

    Who has claimed a job has no time to wait for that.
    """
    before, tests = os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    first = _FORKS.Process(target=int)
    first.start()
    first.join()


class ForkedProcess:
    """As much of `subprocess.Popen` as tests and `LocalWorker` use.

    Args:
        target: what the process does; it ends with its SystemExit.
        arguments: of `target`.
        environment: the process's whole environment.
        output: file behind which standard output is written.
        errors: likewise of standard error; the same file by default.
    """

    def __init__(self, target, *arguments, environment=os.environ, output=os.devnull, errors=None):
        _start()
        places = str(output), str(errors or output)
        self._process = _FORKS.Process(target=_be, args=(target, arguments, dict(environment), *places), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):  # it may have ended
            while os.getpgid(self.pid) != self.pid:  # who kills its group finds none before
                time.sleep(0.001)

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, seconds=None):
        self._process.join(seconds)
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end between the two calls
                os.kill(self.pid, number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


class ForkingExecutor(LocalExecutor):
    """Forks workers off a process that has loaded PyTorch, which takes most of a worker's start otherwise.

    Args:
        target: called with `given`, the job's id, the attempt, the slot, its lock; ends with the worker's SystemExit.
    """

    def __init__(self, settings, target, given, *, environment=os.environ):
        super().__init__(settings, environment=environment)
        _start()
        self._target = target
        self._given = given

    def start(self, job_id, attempt, slot):
        log = attempt_log(self._data_dir, job_id, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = (self._given, job_id, attempt, slot, self._locks[slot])
        process = ForkedProcess(self._target, *arguments, environment=self._environment, output=log)
        worker = LocalWorker(job_id, attempt, slot, log, process)
        self._workers.append(worker)
        return worker


def forked_command(arguments, **places):
    """`secateur-service` with these arguments."""
    return ForkedProcess(_command, arguments, **places)


def run_command(arguments, folder, *, umask=None, **places):
    """The same, to its end: exit code, output and errors."""
    return run_forked(_command if umask is None else partial(_command, umask=umask), arguments, folder, **places)


def run_client(arguments, folder, **places):
    """`secateur` with these arguments, likewise."""
    return run_forked(_client, arguments, folder, **places)


def run_forked(target, arguments, folder, **places):
    """`target(arguments)` to its end in a process: exit code, output and errors, which go through files in `folder`."""
    output, errors = folder / "stdout", folder / "stderr"
    for path in (output, errors):
        path.unlink(missing_ok=True)
    process = ForkedProcess(target, arguments, output=output, errors=errors, **places)
    process.wait()
    return SimpleNamespace(returncode=process.returncode, stdout=output.read_text(), stderr=errors.read_text())


def _be(target, arguments, environment, output, errors):
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), number)
    target(*arguments)


def _client(arguments):
    from secateur.cli import main

    sys.argv = ["secateur", *arguments]
    main()


def _command(arguments, *, umask=None):
    from secateur_service.commands.main import main

    if umask is not None:
        os.umask(umask)
    if "TESTS_PACE" in os.environ:
        pace.arm(Path(os.environ["TESTS_PACE"]))
    sys.argv = ["secateur-service", *arguments]
    main()
