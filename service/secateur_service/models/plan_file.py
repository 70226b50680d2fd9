"""plan.json: which parts of a model a job kept, as ranges of indices, and what that was expected to cost.

A later job on the same model can keep the same parts (`shrink.plan`). It may come from anywhere, so everything in it is
checked against the model before it is used. Does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur._findings import worded
from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.durable import file_digest
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.depth import ends_well
from secateur_service.models.units import KeptUnits, attending_blocks, has_axis, heads_of, possible_heads, units_of
from secateur_service.pruning.structured.amounts import Amounts
from secateur_service.records.blocks import AXES, Axis, BlockRecord, NarrowedRecord

PLAN_NAME = "plan.json"
_LIMITS = JsonLimits(64 << 20, values=4_000_000)
_Index = Annotated[int, Field(ge=0, lt=2**31)]
_Range = tuple[_Index, _Index]
_Shares = dict[str, float]
_REMEDY = "name the result of a job on this model"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Kept(_Part):
    """What is kept of numbered parts: ranges [first, last], ascending."""

    kept: tuple[_Range, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_order(self) -> Kept:
        ends = [-1] + [last for _, last in self.kept]
        if any(not before < first <= last for before, (first, last) in zip(ends, self.kept, strict=False)):
            raise ValueError("ranges have to ascend without overlapping")
        return self

    @property
    def last(self) -> int:
        """The largest index."""
        return self.kept[-1][1]

    @property
    def indices(self) -> tuple[int, ...]:
        """All indices."""
        return tuple(index for first, last in self.kept for index in range(first, last + 1))


class ModelIdentity(_Part):
    """The model that a plan is for."""

    model_type: str
    blocks: int
    rows: int
    parameters: int
    tokenizer: str = Field(description="SHA-256 of tokenizer.json")

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ModelIdentity:
        """That of a checkpoint."""
        path = checkpoint.tokenizer_folder / "tokenizer.json"
        return cls(
            model_type=checkpoint.model_type,
            blocks=checkpoint.num_blocks,
            rows=checkpoint.tensors[checkpoint.embedding_name].shape[0],
            parameters=checkpoint.parameters,
            tokenizer=file_digest(path) if path.exists() else "",
        )


class VocabularyPlan(Kept):
    """The rows of the vocabulary that are kept."""

    extra_tokens: _Shares = Field(default_factory=dict, description="expected, by kept language")
    counted_bytes: dict[str, int] = Field(default_factory=dict)


class RemovedBlock(_Part):
    """A block that is removed."""

    block: _Index
    growth: _Shares = Field(
        default_factory=dict,
        description="by language, how much larger the loss of calibration text that nothing was fitted to is without "
        "this block and those before it in the list",
    )


class NarrowedPlan(Kept):
    """The heads or channels of a block that are kept."""

    block: _Index
    before: int = Field(ge=1, lt=2**31)
    errors: _Shares = Field(
        default_factory=dict, description="what the projection that reads them loses of its output, by language"
    )

    @classmethod
    def of(cls, index: int, record: NarrowedRecord) -> NarrowedPlan:
        """From what became of a block of the dense model."""
        return cls(block=index, kept=ranges(record.kept), before=record.before, errors=dict(record.errors))


class TriedPlan(_Part):
    """A plan that was tried for a budget, on calibration text that nothing was fitted to."""

    rows: int = Field(ge=1, lt=2**31)
    removed: int = Field(ge=0, lt=2**31, description="blocks")
    heads: int = Field(ge=0, lt=2**31, description="key/value heads that each block keeps")
    channels: int = Field(ge=0, lt=2**31, description="channels that each feed-forward layer keeps")
    parameters: int = Field(ge=1)
    predicted: _Shares = Field(description="growth of bits per byte by language")
    measured: _Shares = Field(description="the same, as it was measured")

    @property
    def amounts(self) -> Amounts:
        """What stays of each axis."""
        return Amounts(self.rows, self.removed, self.heads, self.channels)


class BudgetPlan(_Part):
    """How the amounts were found."""

    parameters: float = Field(description="the share of the model's parameters that the result may have")
    tried: tuple[TriedPlan, ...] = Field(description="in the order of the trials")
    chosen: int = Field(ge=0, description="the number of the chosen one")


class PlanFile(_Part):
    """plan.json."""

    format: Literal[1]
    model: ModelIdentity
    vocabulary: VocabularyPlan | None = None
    removed_blocks: tuple[RemovedBlock, ...] = Field(default=(), description="in the order of their removal")
    budget: BudgetPlan | None = Field(default=None, description="null if the amounts were given")
    attention: tuple[NarrowedPlan, ...] = ()
    feed_forward: tuple[NarrowedPlan, ...] = ()

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes along which blocks are narrowed."""
        return tuple(axis for axis in AXES if getattr(self, axis))

    def narrowed(self, axis: Axis) -> dict[int, tuple[int, ...]]:
        """The units that are kept, by the number of the block in the dense model."""
        entries: tuple[NarrowedPlan, ...] = getattr(self, axis)
        return {entry.block: entry.indices for entry in entries}

    @property
    def units(self) -> KeptUnits:
        """The units that are kept along all axes."""
        return {axis: self.narrowed(axis) for axis in self.axes}

    def counts(self, checkpoint: Checkpoint) -> dict[Axis, int]:
        """How many units each projection keeps of the model that the plan is for."""
        found: dict[Axis, int] = {}
        for axis in self.axes:
            index, kept = next(iter(self.narrowed(axis).items()))
            found[axis] = len(kept) // len(units_of(checkpoint, index, axis))
        return found

    def with_blocks(self, blocks: Sequence[int], records: Sequence[BlockRecord]) -> PlanFile:
        """With what became of the finished blocks.

        Args:
            blocks: the numbers in the dense model of all kept blocks.
            records: theirs.
        """
        found: dict[str, tuple[NarrowedPlan, ...]] = {
            axis: tuple(
                NarrowedPlan.of(blocks[record.index], narrowed)
                for record in records
                if (narrowed := getattr(record, axis)) is not None
            )
            for axis in AXES
        }
        return self.model_copy(update=found)

    def to_bytes(self) -> bytes:
        """The published form."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def read_plan(path: Path, checkpoint: Checkpoint) -> PlanFile:
    """Read a plan and check it against the model that it is to be applied to, except its vocabulary's meaning.

    Raises:
        ModelRefusedError: it is no plan, or one for another model.
    """
    try:
        content = path.read_bytes()
        parse_json(content, _LIMITS)
        plan = PlanFile.model_validate_json(content, strict=True)
    except FileNotFoundError as error:
        raise ModelRefusedError(f"there is no {PLAN_NAME}; name the folder of a job's result that has one") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise ModelRefusedError(f"{PLAN_NAME} is not a plan ({where}: {worded(first)[:200]}); {_REMEDY}") from error
    except (UnreadableJsonError, OSError) as error:
        raise ModelRefusedError(f"{PLAN_NAME} is not a file that can be read as JSON; {_REMEDY}") from error
    ours, theirs = ModelIdentity.of(checkpoint).model_dump(), plan.model.model_dump()
    for name, value in ours.items():
        if value != theirs[name] and not (name == "tokenizer" and plan.vocabulary is None):
            problem = f"the plan is for another model, with {name} {theirs[name]!r} and not {value!r}"
            raise ModelRefusedError(f"{problem}; {_REMEDY}")
    for problem in _misfits(plan, checkpoint):
        raise ModelRefusedError(f"the plan does not fit the model: {problem}; {_REMEDY}")
    return plan


def _misfits(plan: PlanFile, checkpoint: Checkpoint) -> Iterator[str]:
    removed = [entry.block for entry in plan.removed_blocks]
    if len(set(removed)) != len(removed) or len(removed) >= checkpoint.num_blocks:
        yield f"it removes {len(removed)} blocks, {len(set(removed))} different ones, of {checkpoint.num_blocks}"
    if any(block >= checkpoint.num_blocks for block in removed):
        yield f"it removes block {max(removed)}, and there are {checkpoint.num_blocks}"
    if plan.vocabulary is not None and plan.vocabulary.last >= plan.model.rows:
        yield f"it keeps row {plan.vocabulary.last}, and there are {plan.model.rows}"
    kept = [index for index in range(checkpoint.num_blocks) if index not in removed]
    attending = attending_blocks(checkpoint)
    if attending and not {*attending} & {*kept}:
        yield "it removes all blocks with attention"
    if not ends_well(checkpoint, kept):
        yield f"it ends with block {kept[-1]}, and transformers makes another kind of a last block"
    for axis in plan.axes:
        if not has_axis(checkpoint, axis):
            yield f"{axis} of {checkpoint.model_type} models cannot be narrowed"
            return
        entries: tuple[NarrowedPlan, ...] = getattr(plan, axis)
        found = plan.narrowed(axis)
        projections = {index: units for index in kept if (units := units_of(checkpoint, index, axis))}
        if sorted(found) != [*projections] or len(entries) != len(projections):
            yield f"{axis} is not given once for each block that is kept"
            return
        counts = {len(units.among(found[index])) for index, each in projections.items() for units in each}
        if len(counts) != 1 or 0 in counts:
            yield f"{axis} has to be as wide in every block, and in every expert"
        elif axis == "attention" and not counts <= {heads_of(checkpoint).keys, *possible_heads(checkpoint)}:
            yield f"transformers builds no such model with {counts.pop()} key/value heads"
        before = {index: sum(units.count for units in each) for index, each in projections.items()}
        for index, numbers in found.items():
            if numbers[-1] >= before[index]:
                yield f"{axis} of block {index}: {numbers[-1]} is kept, and there are {before[index]}"
        if any(entry.before != before[entry.block] for entry in entries):
            yield f"{axis} had another number of units before"
    if not (plan.axes or removed or plan.vocabulary):
        yield "it removes nothing"


def plan_folder(uri: str) -> str:
    """The folder of a plan that may have been named itself."""
    return uri.removesuffix(f"/{PLAN_NAME}")


def plan_files(names: Collection[str]) -> list[str]:
    """Those of a folder's files that make up a plan."""
    return [name for name in names if name == PLAN_NAME]


def ranges(numbers: Sequence[int]) -> tuple[_Range, ...]:
    """Ascending numbers as ranges [first, last]."""
    found: list[_Range] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)
