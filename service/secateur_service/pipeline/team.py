"""The helpers of a job that several processes run: the job starts them, sends them what to do, and ends them.

The job's own process has rank 0; it alone talks to the job's owner, keeps the ledger and publishes. Helpers do the same
in lockstep with it (`pipeline.helper`). They never outlive it, and one that is lost or hangs ends the attempt: the next
goes on from the finished blocks.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist

from secateur_service.errors import TransientError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.parents import tied
from secateur_service.pipeline.divided import Task
from secateur_service.pipeline.ranks import FOREVER, ProcessRanks
from secateur_service.pruning.ranks import Ranks
from secateur_service.sizing import dividing

HELP_COMMAND = (sys.executable, "-m", "secateur_service", "help-job")
SILENT_SECONDS = 600.0
"""A helper that shows no sign of life for so long, while it is waited for, hangs."""
_REAP_SECONDS = 5.0
_JOIN_SECONDS = 300.0
_TAIL = 500
_FAILED = b"helper failed: "


@dataclass(frozen=True)
class SentModel:
    """What a helper needs to open the dense model.

    Attributes:
        folder: of the model.
        dtype: type in which it computes.
        threads: of every process.
        states_folder: see `StreamedModel`.
        small_batches: see `StreamedModel`.
    """

    folder: Path
    dtype: torch.dtype
    threads: int
    states_folder: Path | None
    small_batches: bool

    @classmethod
    def of(cls, model: StreamedModel) -> Self:
        """What is sent of a model."""
        return cls(
            model.checkpoint.folder, model.dtype, torch.get_num_threads(), model.states_folder, model.small_batches
        )

    def open(self) -> StreamedModel:
        """The model, whose files this process reads by itself."""
        torch.set_num_threads(self.threads)
        model = StreamedModel(open_checkpoint(self.folder), torch.device("cpu"), self.dtype)
        model.states_folder, model.small_batches = self.states_folder, self.small_batches
        return model


def obstacle(model: StreamedModel) -> str | None:
    """Why what is done with a model can be done by one process only; None if it is not so."""
    found = dividing.obstacle(on_device=model.device.type != "cpu")
    reader = model.reader
    if found is None and not (isinstance(reader, TensorReader) and reader.reads_here):
        return "the model is fetched a few shards at a time"
    return found


@dataclass(frozen=True)
class Usage:
    """What a process has used.

    Attributes:
        start_cpu_seconds: processor seconds before the task, which a helper needs to start.
        cpu_seconds: processor seconds in the task.
        bytes_read: bytes read of the model in the task.
    """

    start_cpu_seconds: float
    cpu_seconds: float
    bytes_read: int


def usage(ranks: ProcessRanks) -> Usage:
    """That of this process."""
    return Usage(ranks.began, time.process_time() - ranks.began, ranks.bytes_read)


class Team:
    """This process as the first rank, and its helpers; in a context, at whose end no helper is left.

    Args:
        count: how many processes there are.
        check: called while waiting for others; raises to stop.
        workdir: where they keep what passes between them; by default in the system's folder for such things.
        silent_seconds: how long a helper may show no sign of life while it is waited for.

    Attributes:
        helpers: the others.
        used: what each process has used, after a task.

    Raises:
        TransientError: a helper did not start, was lost, or hangs.
    """

    _ranks: ProcessRanks

    def __init__(
        self,
        count: int,
        check: Callable[[], None],
        workdir: Path | None = None,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self._count = count
        self._check = check
        self._workdir = workdir
        self._silent_seconds = silent_seconds
        self.helpers: list[Helper] = []
        self.used: list[Usage] = []

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=self._workdir))
        try:
            self.helpers = [Helper.start(rank, self._count, self._folder) for rank in range(1, self._count)]
            self._join()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._ranks.share(lambda: None)
                for helper in self.helpers:
                    helper.wait()
        finally:
            self._end()

    @contextlib.contextmanager
    def helping(self, model: StreamedModel, task: Task) -> Iterator[Ranks]:
        """Have the helpers do their part of a task; this process does its own in the context.

        Args:
            model: the dense model, without `obstacle`; in the context all read it together.
            task: what is done.
        """
        plain = model.reader
        assert isinstance(plain, TensorReader)
        self._ranks.share(lambda: (SentModel.of(model), task))
        self._ranks.begin()
        model.reader = self._ranks.reader(plain)
        try:
            yield self._ranks
        finally:
            model.reader = plain
        self.used = self._ranks.collect([usage(self._ranks)])

    def _join(self) -> None:
        """Wait for all helpers, and then connect to them."""
        deadline = time.monotonic() + _JOIN_SECONDS
        while not all(helper.is_up for helper in self.helpers):
            self.look(0.0)
            if time.monotonic() > deadline:
                raise TransientError("the other processes of the job did not start in time", reason="RANK_LOST")
            time.sleep(0.02)
        self._ranks = connect(0, self._count, self._folder, self.look, self._loss)

    def look(self, waited: float) -> None:
        """Check whether the job is to go on and the helpers are well.

        Args:
            waited: seconds that this process has been waiting for the others.
        """
        self._check()
        for helper in self.helpers:
            error = helper.failure()
            if error is not None:
                raise error
            if waited > self._silent_seconds and helper.silent_seconds() > self._silent_seconds:
                message = f"process {helper.name} of the job hangs: no sign of life for {self._silent_seconds:.0f} s"
                raise TransientError(message, reason="RANK_LOST")

    def _loss(self, error: Exception) -> Exception:
        """Why the connection to a helper broke."""
        deadline = time.monotonic() + _REAP_SECONDS
        while time.monotonic() < deadline:
            for helper in self.helpers:
                found = helper.failure()
                if found is not None:
                    return found
            time.sleep(0.02)
        return TransientError(f"the processes of the job lost each other: {error}", reason="RANK_LOST")

    def _end(self) -> None:
        for helper in self.helpers:
            helper.end()
        if dist.is_initialized():
            dist.destroy_process_group()
        shutil.rmtree(self._folder, ignore_errors=True)


class Helper:
    """A child process that helps.

    Attributes:
        name: its rank and their number, for people.
        pid: its id.
    """

    def __init__(self, rank: int, count: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = f"{rank} of {count}"
        self.pid = process.pid
        self._alive = alive_file(folder, rank)
        self._failed: Exception | None = None
        self._process = process
        self._last = b""
        self._relay = threading.Thread(target=self._pass_on, name=f"rank-{rank}", daemon=True)
        self._relay.start()

    @classmethod
    def start(cls, rank: int, count: int, folder: Path) -> Self:
        """Start a helper, which ends with the calling thread. Who stops the job ends its helpers: nobody else does."""
        place = ["--rank", str(rank), "--of", str(count), "--folder", str(folder)]
        command = tied([*HELP_COMMAND, *place], ignoring=(signal.SIGINT, signal.SIGTERM))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return cls(rank, count, folder, process)

    @property
    def is_up(self) -> bool:
        """Whether it has loaded its libraries."""
        return self._alive.exists()

    def silent_seconds(self) -> float:
        """How long ago it showed a sign of life."""
        return time.time() - self._alive.stat().st_mtime

    def failure(self) -> Exception | None:
        """What it raised, or how it ended; None while it runs."""
        status = self._process.poll()
        if not status:
            return None
        self._relay.join(_REAP_SECONDS)
        if self._failed is not None:
            return self._failed
        how = f"exit code {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        last = self._last.decode(errors="replace").strip()[-_TAIL:]
        said = f"; it last said: {last}" if last else ""
        message = f"process {self.name} of the job ended with {how}{said}"
        return TransientError(f"{message}; another attempt goes on from the finished blocks", reason="RANK_LOST")

    def wait(self) -> None:
        """Give it time to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)

    def end(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._relay.join(_REAP_SECONDS)

    def _pass_on(self) -> None:
        """Put what it prints into this process's log."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(_FAILED):
                    self._failed = pickle.loads(base64.b64decode(line.removeprefix(_FAILED)))  # noqa: S301 - our own
                    continue
                self._last = line if line.strip() else self._last
                sys.stderr.write(line.decode(errors="replace"))


def connect(
    rank: int, count: int, folder: Path, look: Callable[[float], None], loss: Callable[[Exception], Exception]
) -> ProcessRanks:
    """Join the group of processes; waits for all of them.

    Args:
        rank: of this process.
        count: of all.
        folder: private to them.
        look: see `ProcessRanks`.
        loss: see `ProcessRanks`.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # they are on one machine, whose name need not be an address
    store = dist.FileStore(str(folder / "store"), count)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=FOREVER)
    reading = dist.new_group(timeout=FOREVER)
    world = dist.group.WORLD
    assert world is not None
    return ProcessRanks(rank, count, world, reading, folder, look, loss)


def alive_file(folder: Path, rank: int) -> Path:
    """The file that a helper touches as long as it is well."""
    return folder / f"alive-{rank}"


def failure_line(error: Exception) -> bytes:
    """What a helper prints to say what it raised: a disk may be full."""
    return b"\n" + _FAILED + base64.b64encode(pickle.dumps(error)) + b"\n"
