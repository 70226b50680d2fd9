"""The work of a streaming pass, block by block: what its progress counts."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass

from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.sizing.operations import Work


@dataclass(frozen=True)
class PassWork:
    """The work of a pass.

    Attributes:
        config: what the pass does.
        dense: the work as if the dense model were the only one.
        output: the work as if the output were the only model.
    """

    config: PassConfig
    dense: Work
    output: Work

    def plan(self, meter: Meter, finished: Container[int]) -> None:
        """Announce the work but that of the head; what earlier attempts did, by place, counts as done."""
        for index in range(len(self.dense.blocks)):
            meter.plan("evaluate", (self.dense.evaluating(index) + self.dense.asking(index)) / 2)
            place = self.place(index)
            is_apart = place in finished or not self.runs_beside
            meter.plan("calibrate", self.dense.running(index) if is_apart else 0.0)
            if place is None:
                meter.plan("calibrate", self.carrying(index))
                continue
            calibrating, solving = self.carrying(index), 0.0
            if self.config.targets:
                solving = sum(map(self.output.choosing, self.output.blocks[place]))
                calibrating = self._calibrating(index, place)
            calibrating += self.dense.narrowing(index) + self._looking_beyond(index) + self.output.training(place)
            meter.plan("evaluate", (self.output.evaluating(place) + self.output.asking(place)) / 2)
            meter.plan("calibrate", calibrating)
            meter.plan("solve", solving)
            if place in finished:  # its text only passes through
                meter.skip("calibrate", calibrating - self.carrying(index))
                meter.skip("solve", solving)

    @property
    def runs_beside(self) -> bool:
        """Whether the text's way through a dense block is run beside the one that is pruned, and not before."""
        return bool(self.config.targets) and self.dense.runs_beside

    @property
    def head(self) -> float:
        """The work of the head, for both copies of the evaluation text and of the requests of tasks."""
        return (self.dense.head() + self.output.head()) / 2

    def place(self, index: int) -> int | None:
        """The position in the output of a block of the dense model; None if it was removed."""
        if self.config.output is None:
            return index
        blocks = self.config.output.plan.blocks
        return blocks.index(index) if index in blocks else None

    def removed_after(self, index: int) -> list[int]:
        """The removed blocks between a block and the next that is kept."""
        following = range(index + 1, len(self.dense.blocks))
        return list(itertools.takewhile(lambda at: self.place(at) is None, following))

    def carrying(self, index: int) -> float:
        """The work of running the calibration text through a dense block, or through what the output has of it."""
        if self.config.order == "dense":
            return self.dense.carrying(index)
        place = self.place(index)
        return 0.0 if place is None else self.output.carrying(place)

    def _calibrating(self, index: int, place: int) -> float:
        """The work of sending the calibration text through a block that is pruned, and on to the next."""
        calibrating = self.output.calibrating(place)
        if self.config.output is not None and self.config.order == "dense":
            calibrating += self.carrying(index) - self.output.leaving(place)
        elif self.config.order == "block" or self.config.looks_beyond:
            calibrating += self.carrying(index)
        return calibrating

    def _looking_beyond(self, index: int) -> float:
        """The work of finding out what the dense model has beyond the removed blocks after a block."""
        return sum(map(self.dense.running, self.removed_after(index))) if self.config.looks_beyond else 0.0
