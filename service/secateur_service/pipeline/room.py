"""How a job fits on its machine: what it saves where memory is short, and models opened accordingly."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch

from secateur_service.errors import ResourceError
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES, Reader
from secateur_service.pipeline.observer import JobObserver
from secateur_service.records.result import Estimate, Shortage
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.sizing.preflight import available_here, find_room
from secateur_service.spec import PruneSpec


class Room:
    """The memory of a job.

    Args:
        spec: the resolved specification.
        device: where the job computes.
        workdir: private to the job; states that do not fit in memory wait here.
        observer: receives the log and may stop the job.
        shortages: memory that was insufficient in an earlier attempt.

    Attributes:
        shortages: kinds of memory that the job saves.
        continues: whether there is room for the whole model, which continuing texts takes, if it is asked for.
    """

    def __init__(
        self,
        spec: PruneSpec,
        device: torch.device,
        workdir: Path,
        observer: JobObserver,
        shortages: Collection[Shortage],
    ) -> None:
        self.shortages = frozenset(shortages)
        self.continues = bool(spec.evaluation.continuations)
        self._spec = spec
        self._device = device
        self._workdir = workdir
        self._observer = observer

    def find(self, checkpoint: Checkpoint, asked: tuple[int, int] | None = None) -> None:
        """Switch to modes that need less memory, where memory is short, and continue no texts where it is too short.

        Args:
            checkpoint: the model.
            asked: see `estimate`.

        Raises:
            ResourceError: the job does not fit at all.
        """
        there = available_here(self._workdir, self._device_bytes())
        find = partial(find_room, there=there, on_device=self._device.type == "cuda")
        without, whole = (partial(self._estimate, checkpoint, asked, continues=it) for it in (False, True))
        room = find(without, shortages=self.shortages)
        if room:
            how = "memory is short: hidden states wait elsewhere between two blocks, which takes longer"
            self._observer.log("warning", how, short_of=sorted(room))
        self.shortages = room
        if not self.continues:
            return
        try:
            self.continues = find(whole, shortages=room) == room
        except ResourceError:
            self.continues = False
        if not self.continues:
            problem = "evaluation.continuations: the whole model does not fit in memory, so no texts are continued"
            self._observer.log("warning", problem)

    def estimate(self, checkpoint: Checkpoint, asked: tuple[int, int] | None = None) -> Estimate:
        """The expected cost of the job as it is run.

        Args:
            checkpoint: the model.
            asked: tokens of the requests of tasks, and those of them that are scored, once they are known.
        """
        return self._estimate(checkpoint, asked, self.shortages, continues=self.continues)

    def open(self, checkpoint: Checkpoint, reader: Reader) -> StreamedModel:
        """A model whose states wait where there is room for them."""
        model = StreamedModel(checkpoint, self._device, self.dtype(checkpoint), reader)
        model.check = self._observer.check
        if Shortage.DEVICE in self.shortages:
            model.small_batches = True
            model.states_device = torch.device("cpu")
        if Shortage.HOST in self.shortages:
            model.states_folder = self._workdir
        return model

    def dtype(self, checkpoint: Checkpoint) -> torch.dtype:
        """float32 on a CPU, whose half-precision products are slow and rounded; the stored type on an accelerator."""
        return torch.float32 if self._device.type == "cpu" else DTYPES[checkpoint.weight_dtype]

    def _estimate(
        self,
        checkpoint: Checkpoint,
        asked: tuple[int, int] | None,
        shortages: Collection[Shortage],
        *,
        continues: bool,
    ) -> Estimate:
        spec = self._spec
        if not continues:
            evaluation = spec.evaluation.model_copy(update={"continuations": 0})
            spec = spec.model_copy(update={"evaluation": evaluation})
        on_device = self._device.type != "cpu"
        return estimate_cost(checkpoint, spec, on_device=on_device, shortages=shortages, asked=asked)

    def _device_bytes(self) -> int | None:
        return torch.cuda.mem_get_info(self._device)[1] if self._device.type == "cuda" else None
