"""What the processes of a job do together: a pass, and the searches before it. What is sent of it to the helpers.

Each is called with the same arguments in every process, in lockstep, and every process gets the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

from secateur_service.calibration.sampling import TextSample
from secateur_service.models.cutting import CutReader
from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.models.units import KeptUnits
from secateur_service.pipeline.depth_search import DepthSearch
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import Output, PassConfig, Samples
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pipeline.survey import Survey
from secateur_service.pruning.ranks import Ranks
from secateur_service.records.blocks import Axis, BlockRecord


class Task(Protocol):
    """Something that helpers do their part of; can be pickled."""

    def help(self, model: StreamedModel, ranks: Ranks, observer: JobObserver) -> None:
        """Do a helper's part.

        Args:
            model: the dense model, which all read together.
            ranks: all processes.
            observer: of the helper.
        """


@dataclass(frozen=True)
class PassTask:
    """A streaming pass.

    Attributes:
        config: what to do, without what only the first rank has.
        shards: folder of the finished blocks.
        output: the output model, where its shape differs from the dense model's.
    """

    config: PassConfig
    shards: Path
    output: SentOutput | None

    @classmethod
    def of(cls, config: PassConfig) -> Self:
        """A pass that the first rank runs with this config."""
        sent = replace(config, shards=None, requests=(), shared=None, output=None)  # type: ignore[arg-type]
        return cls(sent, config.shards.folder, SentOutput.of(config.output) if config.output else None)

    def help(self, model: StreamedModel, ranks: Ranks, observer: JobObserver) -> None:
        """See `Task`."""
        output = self.output.open(model) if self.output else None
        with contextlib.closing(Shards(self.shards)) as shards, read_together(output, model):
            config = replace(self.config, shards=shards, output=output)
            run_pass(model, config, _NoLedger(), observer, Stopwatch(), ranks=ranks)


@dataclass(frozen=True)
class SentOutput:
    """An `Output` without the models.

    Attributes:
        plan: the fields of its plan but for the dense model.
        companions: folder of the files that go with it.
        calibration: see `Output`.
        evaluation: see `Output`.
        units: see `Output`.
    """

    plan: Mapping[str, Any]
    companions: Path | None
    calibration: Samples
    evaluation: Samples
    units: KeptUnits

    @classmethod
    def of(cls, output: Output) -> Self:
        """What is sent of an output."""
        plan = {each.name: getattr(output.plan, each.name) for each in fields(OutputPlan) if each.name != "dense"}
        companions = output.model.checkpoint.companions
        return cls(plan, companions, output.calibration, output.evaluation, output.units)

    def open(self, dense: StreamedModel) -> Output:
        """The output, whose models read the dense model's files by themselves."""
        plan = OutputPlan(dense.checkpoint, **self.plan)
        reader = CutReader(plan, TensorReader())
        model = StreamedModel(plan.output(self.companions), dense.device, dense.dtype, reader)
        model.states_folder, model.small_batches = dense.states_folder, dense.small_batches
        return Output(plan, model, reader, self.calibration, self.evaluation, self.units)


@contextlib.contextmanager
def read_together(output: Output | None, dense: StreamedModel) -> Iterator[None]:
    """Have all ranks read the tensors of the output together, as they do those of the dense model."""
    if output is None:
        yield
        return
    alone = output.model.reader
    output.model.reader = CutReader(output.plan, dense.reader)
    try:
        yield
    finally:
        output.model.reader = alone


@dataclass(frozen=True)
class DepthTask:
    """A search for blocks that can go, or, where they are known, for what makes up for them.

    Attributes:
        mix: see `DepthSearch`.
        languages: see `DepthSearch`.
        calibration: see `DepthSearch`.
        count: see `DepthSearch.remove`.
        order: see `DepthSearch.remove`.
    """

    mix: Mapping[str, float]
    languages: Sequence[str]
    calibration: Mapping[str, TextSample]
    count: int
    order: Sequence[int] = ()

    def search(self, model: StreamedModel, meter: Meter, ranks: Ranks) -> DepthSearch:
        """The search in this process."""
        return DepthSearch(model, self.mix, self.languages, self.calibration, meter, ranks)

    def help(self, model: StreamedModel, ranks: Ranks, observer: JobObserver) -> None:
        """See `Task`."""
        self.search(model, Meter(observer), ranks).remove(self.count, self.order)


@dataclass(frozen=True)
class SurveyTask:
    """A survey of what projections lose.

    Attributes:
        mix: see `Survey`.
        text: see `Survey`.
        languages: see `Survey`.
        axes: see `Survey.run`.
    """

    mix: Mapping[str, float]
    text: Mapping[str, TextSample]
    languages: Sequence[str]
    axes: Sequence[Axis]

    def survey(self, model: StreamedModel, meter: Meter, ranks: Ranks) -> Survey:
        """The survey in this process."""
        return Survey(model, self.mix, self.text, self.languages, meter, ranks)

    def help(self, model: StreamedModel, ranks: Ranks, observer: JobObserver) -> None:
        """See `Task`."""
        self.survey(model, Meter(observer), ranks).run(self.axes)


class _NoLedger:
    """The first rank has the ledger."""

    def entries(self) -> list[BlockRecord]:
        """None."""
        return []

    def record(self, record: BlockRecord) -> None:
        """Nothing."""
