"""Where a parameter of the model is within a tensor of the checkpoint.

Most tensors are one parameter. Some hold the projections of all experts, and some, from the days of TensorFlow, are
transposed; see `Packed`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Packed


@dataclass(frozen=True)
class Part:
    """A part of a stored tensor.

    Attributes:
        packed: the tensor.
        expert: the number of the expert; None if it is not of experts.
        position: which of the parameters it is that lie in one matrix.
    """

    packed: Packed
    expert: int | None
    position: int

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...] | None:
        """Its shape, out × in, from the stored tensor's; None if that has no such part."""
        if self.expert is not None:
            if not stored or self.expert >= stored[0]:
                return None
            stored = stored[1:]
        rows, *columns = reversed(stored) if self.packed.transposed and len(stored) > 1 else stored
        count = len(self.packed.holds)
        return None if rows % count else (rows // count, *columns)

    def of(self, stored: Any) -> Any:
        """It as a view of the stored tensor."""
        tensor = stored if self.expert is None else stored[self.expert]
        if self.packed.transposed and tensor.dim() > 1:
            tensor = tensor.T
        count = len(self.packed.holds)
        if self.packed.interleaved:
            return tensor[self.position :: count]
        rows = tensor.shape[0] // count
        return tensor[self.position * rows : (self.position + 1) * rows]


def part_of(architecture: Architecture, name: str) -> Part | None:
    """The part that a parameter is, by its name relative to the block; None if it is a whole tensor."""
    for packed in architecture.packed:
        for position, held in enumerate(packed.holds):
            match = _pattern(held).fullmatch(name)
            if match:
                return Part(packed, int(match[1]) if packed.of_experts else None, position)
    return None


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """What matches a parameter's name, in which `*` stands for the number of an expert."""
    return re.compile(re.escape(name).replace(r"\*", r"(\d{1,4})"))
