"""How a layer is divided among the processes of a job: each has a rank.

Rows of a layer are independent of each other but for what is chosen over all of them. They are divided into slices that
do not depend on how many ranks there are, and every product is of one slice: so its bytes are the same whoever computes
it. Sums over the calibration text are divided likewise, into shards that are added in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SHARDS = 8
"""Parts of the calibration text whose sums are added one after the other, and so the most ranks that have one each."""
MAX_SLICES = 8
_MIN_ROWS = 128  # of a slice; products of fewer would be slow
DIVISION = 4
"""Raised where a sum is divided or rounded in another way, as its bytes are others then."""


class Ranks:
    """All ranks, as one of them sees them; this is a single one, which has nobody to exchange anything with.

    What is called here, every rank calls in the same order. Tensors that have been exchanged are contiguous, also where
    there is nobody to exchange them with: products of others are rounded differently.

    Attributes:
        rank: the number of this one.
        count: how many there are.
    """

    rank = 0
    count = 1

    def owner(self, number: int, of: int) -> int:
        """The rank that has an item of `of`: those of a rank are consecutive."""
        return number * self.count // of

    def collect(self, values: Sequence[Any]) -> list[Any]:
        """The values of all ranks, in their order."""
        return list(values)

    def share(self, make: Callable[[], Any]) -> Any:
        """What the first rank makes."""
        return make()

    def compute(self, make: Callable[[], Tensor], empty: Callable[[], Tensor]) -> Tensor:
        """The tensor that the first rank computes; `empty` makes the others' room for it."""
        del empty
        return make().contiguous()

    def gather(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """The rows of all ranks, in their order.

        Args:
            own: those of this one.
            sizes: how many rows each has.
        """
        del sizes
        return own.contiguous()

    def select(self, own: Tensor, sizes: Sequence[int], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """The own rows of the booleans that `choose` returns for the rows of all ranks."""
        del sizes
        return choose(own)

    def total(self, parts: Sequence[Tensor], zeros: Callable[[], Tensor]) -> Tensor:
        """The sum of the tensors of all ranks, added in their order; the first is overwritten.

        Args:
            parts: those of this one; may be none.
            zeros: makes the sum of none.
        """
        if not parts:
            return zeros()
        first, *others = parts
        for part in others:
            first.add_(part)
        return first

    def everywhere(
        self, own: Sequence[Tensor], owners: Sequence[int], empty: Callable[[int], Tensor]
    ) -> Iterator[Tensor]:
        """The tensors of all ranks, one after the other.

        Args:
            own: those of this one, in order.
            owners: the rank that has each of all.
            empty: makes room for one, given by its position among all.
        """
        del owners, empty
        return (each.contiguous() for each in own)

    def writes(self, number: int) -> bool:
        """Whether it is this one's turn at writing."""
        return number % self.count == self.rank

    def write(self, number: int, write: Callable[[], Any]) -> Any:
        """What the rank whose turn it is has written; returns once it is. May be called from another thread."""
        del number
        return write()

    def reader(self, reader: Any) -> Any:
        """A reader of tensors that all ranks read together, for which each reads a part."""
        return reader


ALONE = Ranks()


class Rows:
    """The rows of a matrix, divided into slices, of which a rank has some.

    Args:
        count: of the matrix.
        ranks: who has them.
        device: an accelerator has all rows in one slice, for its products have to be large.

    Attributes:
        sizes: how many rows each rank has.
        start: the first row of this one.
        stop: that after its last.
        slices: of its rows, as positions in the matrix.
        own: the same as positions among its own.
    """

    def __init__(self, count: int, ranks: Ranks, device: torch.device) -> None:
        parts = max(1, min(MAX_SLICES, count // _MIN_ROWS)) if device.type == "cpu" else 1
        bounds = [count * number // parts for number in range(parts + 1)]
        owners = [ranks.owner(number, parts) for number in range(parts)]
        self.slices = [
            slice(bounds[number], bounds[number + 1]) for number in range(parts) if owners[number] == ranks.rank
        ]
        self.sizes = [0] * ranks.count
        for number, owner in enumerate(owners):
            self.sizes[owner] += bounds[number + 1] - bounds[number]
        self.start = sum(self.sizes[: ranks.rank])
        self.stop = self.start + self.sizes[ranks.rank]
        self.own = [slice(part.start - self.start, part.stop - self.start) for part in self.slices]

    @property
    def all(self) -> slice:
        """All rows of this rank, as positions in the matrix."""
        return slice(self.start, self.stop)


def by_slices(work: Callable[..., Tensor], rows: Rows, *own: Tensor) -> Tensor:
    """What `work` makes of each slice of a rank's rows: as many rows, of any width.

    Args:
        work: called with a slice of each of the matrices.
        rows: the rank's.
        own: matrices of these rows.
    """
    if len(rows.own) <= 1:
        return work(*own)
    found: Tensor | None = None
    for part in rows.own:
        made = work(*(each[part] for each in own))
        if found is None:
            found = made.new_empty(len(own[0]), *made.shape[1:])
        found[part] = made
    assert found is not None
    return found


def sums_of_slices(energies: Callable[[slice], Sequence[float]], rows: Rows, ranks: Ranks) -> list[float]:
    """The sums over all slices of a matrix, added in their order.

    Args:
        energies: the terms of a slice, given by its positions among the rank's own.
        rows: the rank's.
        ranks: all.
    """
    terms = ranks.collect([tuple(energies(part)) for part in rows.own])
    return [sum(each) for each in zip(*terms, strict=True)]


class Parts:
    """Partial sums: one for each shard of the text that a rank has.

    Only one that continues the first shard's is added at once, as the others have to wait for those before them.
    """

    def __init__(self) -> None:
        self.held: list[Tensor] = []
        self._begins = False

    def add(self, shard: int, part: Tensor) -> None:
        """Add the sum of a shard, which is overwritten; in ascending order."""
        if self._begins and self.held:
            self.held[0].add_(part)
            return
        self._begins = self._begins or shard == 0
        self.held.append(part)

    def begin(self) -> None:
        """Say that the first shard was seen, though it has no sum."""
        self._begins = True

    def total(self, ranks: Ranks, zeros: Callable[[], Tensor]) -> Tensor:
        """The sum of all shards of all ranks; `zeros` makes that of none."""
        self.held, self._begins = [ranks.total(self.held, zeros)], True
        return self.held[0]
