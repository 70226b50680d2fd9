"""What a job writes, in terms of the model it reads: which parts are kept, under which names and in which shapes.

The plain case is the identity: everything is kept. Otherwise whole blocks may be removed, and tensors may lose rows or
columns: rows of the vocabulary, channels of a feed-forward layer, heads. The configuration and the files that go with
the model, including the tokenizer's, are part of the plan, so that the output is a complete model. All code that
writes, packages, resumes, evaluates or reports uses the plan; none of it assumes that both models have equal shapes.

Does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur_service.durable import file_digest
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError, moved, position_of
from secateur_service.models.companions import Companions
from secateur_service.models.safetensors import DTYPE_BYTES, TensorInfo
from secateur_service.models.units import units_of
from secateur_service.records.blocks import AXES, Axis

Kept = Mapping[int, Sequence[int]]
"""Indices to keep, in the order in which they are written, by dimension; other dimensions are kept whole."""


@dataclass(frozen=True)
class OutputPlan:
    """The output model, as parts of the dense one.

    Attributes:
        dense: the model to read.
        config: content of the config.json to write, without what the job adds to it.
        blocks: which blocks are kept, by their position in the dense model, in order.
        kept: what is kept of tensors, by their name in the dense model; tensors that are not named are kept whole.
        files: new contents of files that go with the model, by name; the others are copied.
        narrowed: how many units of an axis each projection keeps; which ones is chosen when the block is in memory.
        follows: whether the feed-forward layers make up for what earlier blocks lost: see `pipeline.narrowing`.
        solved: tensors of the dense model that have other values in the output, by their name: where those are.
        left_out: the companion files that are not published, each with the reason.
    """

    dense: Checkpoint
    config: Mapping[str, Any]
    blocks: tuple[int, ...]
    kept: Mapping[str, Kept] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    narrowed: Mapping[Axis, int] = field(default_factory=dict)
    follows: bool = False
    solved: Mapping[str, TensorInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without the model's class; names and shapes are checked when the model is built.

        Raises:
            ModelRefusedError: the plan does not match the model, or keeps nothing of it.
        """
        count = self.dense.num_blocks
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks) & set(range(count))):
            raise ModelRefusedError(f"the plan keeps blocks {list(self.blocks)} of {count}; name some, in order, once")
        for name, kept in self.kept.items():
            info = self.dense.tensors.get(name)
            if info is None:
                raise ModelRefusedError(f"the plan names {name}, which the model does not have")
            for dimension, indices in kept.items():
                size = info.shape[dimension] if dimension in range(len(info.shape)) else 0
                if not indices or len(set(indices)) != len(indices) or not 0 <= min(indices) <= max(indices) < size:
                    raise ModelRefusedError(
                        f"the plan keeps {len(indices)} indices of dimension {dimension} of {name}, which has shape "
                        f"{list(info.shape)}; they have to lie in it, each once"
                    )

    @classmethod
    def identity(cls, dense: Checkpoint) -> OutputPlan:
        """The plan that keeps everything."""
        return cls(dense, dense.config, tuple(range(dense.num_blocks)))

    @property
    def is_identity(self) -> bool:
        """Whether the output has the parts, the shapes and the tokenizer of the dense model."""
        return not (self.kept or self.files or self.narrowed) and len(self.blocks) == self.dense.num_blocks

    @property
    def keeps_tokens(self) -> bool:
        """Whether a text has the same token ids in both models."""
        return not self.files and not {self.dense.embedding_name, self.dense.head_name} & self.kept.keys()

    @property
    def solved_axes(self) -> tuple[Axis, ...]:
        """The axes whose projections are solved anew in every block, in order."""
        return tuple(axis for axis in AXES if axis in self.narrowed or (axis == "feed_forward" and self.follows))

    def digest(self) -> str:
        """SHA-256 over the plan's contents."""
        plain = {
            "config": self.config,
            "blocks": self.blocks,
            "kept": {name: {str(at): list(rows) for at, rows in kept.items()} for name, kept in self.kept.items()},
            **({"narrowed": {str(axis): count for axis, count in self.narrowed.items()}} if self.narrowed else {}),
            **({"follows": True} if self.follows else {}),
            **({"solved": {path.name: file_digest(path) for path in self._solved_files}} if self.solved else {}),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()},
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @property
    def _solved_files(self) -> list[Path]:
        return sorted({info.path for info in self.solved.values()})

    @cached_property
    def _sizes(self) -> dict[str, dict[int, int]]:
        """Sizes of the dimensions that are narrowed, by dense name and dimension."""
        return {
            name: sizes
            for axis, kept in self.narrowed.items()
            for index in self.blocks
            for units in units_of(self.dense, index, axis)
            for name, sizes in units.sizes(kept)
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """The name in the output of every kept tensor, by its name in the dense model."""
        names = {name: self.name_of(name) for name in self.dense.tensors}
        return {name: new for name, new in names.items() if new is not None}

    def name_of(self, name: str) -> str | None:
        """The name in the output of a tensor, or of a part of one; None if its block is removed.

        Blocks are renumbered.
        """
        architecture = self.dense.architecture
        index = position_of(architecture, name)
        if index is None:
            return name
        place = self._places.get(index)
        return None if place is None else moved(architecture, name, place)

    @cached_property
    def _places(self) -> dict[int, int]:
        """The number in the output of every block that is kept."""
        return {old: new for new, old in enumerate(self.blocks)}

    @cached_property
    def sources(self) -> dict[str, TensorInfo]:
        """The tensor of the dense model that each tensor of the output comes from, by its name in the output."""
        return {name: self.dense.tensors[source] for source, name in self.names.items()}

    def output(self, companions: Path | None = None) -> Checkpoint:
        """The output model, as a checkpoint whose tensors can only be read with a `CutReader`.

        Args:
            companions: folder of the files that go with it; by default the dense model's.
        """
        if self.is_identity:
            return self.dense
        tensors = {name: self._cut(info, name) for name, info in self.sources.items()}
        return replace(
            self.dense,
            config=dict(self.config),
            tensors=tensors,
            num_blocks=len(self.blocks),
            companions=companions or self.dense.companions,
        )

    def rewrite(self, companions: Companions, folder: Path) -> Companions:
        """The files that go with the output: those of the dense model, except the ones that the plan replaces.

        Args:
            companions: the dense model's.
            folder: where to put the output's; existing content is removed.
        """
        if self.is_identity:
            return companions
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(companions.folder, folder)
        for name, content in {**self.files, "config.json": json.dumps(self.config).encode()}.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for name in self.left_out:
            (folder / name).unlink(missing_ok=True)
        names = tuple(sorted({*companions.names, *self.files} - self.left_out.keys()))
        return replace(companions, folder=folder, names=names)

    def _cut(self, info: TensorInfo, name: str) -> TensorInfo:
        kept, narrowed = self.kept.get(info.name, {}), self._sizes.get(info.name, {})
        shape = tuple(len(kept[at]) if at in kept else narrowed.get(at, size) for at, size in enumerate(info.shape))
        size_bytes = DTYPE_BYTES[info.dtype]
        for size in shape:
            size_bytes *= size
        return replace(info, name=name, shape=shape, size_bytes=size_bytes)
