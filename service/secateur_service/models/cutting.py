"""Reads the output model's tensors out of the dense model's files, following a plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from secateur_service.models.plan import Kept, OutputPlan
from secateur_service.models.safetensors import OutputTensor, TensorInfo
from secateur_service.models.tensors import Reader, TensorReader, memory_of

_COPY_BYTES = 16 << 20


class CutReader:
    """Reads tensors of an output as described by `OutputPlan.output`.

    Args:
        plan: which parts are kept.
        reader: reads the dense model.
    """

    def __init__(self, plan: OutputPlan, reader: Reader) -> None:
        self._plan = plan
        self._dense = reader
        self._solved = TensorReader()

    def read(self, info: TensorInfo) -> Tensor:
        """Read one tensor, with only the parts that are kept."""
        source = self._plan.sources[info.name]
        tensor = self.solved({source.name}).get(source.name)
        return _select(self._dense.read(source) if tensor is None else tensor, self._plan.kept.get(source.name, {}))

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Read rows [start, stop) of a tensor of the output."""
        return self.gather_rows(info, list(range(start, stop)))

    def gather_rows(self, info: TensorInfo, rows: list[int]) -> Tensor:
        """Read the given rows of a tensor of the output, in that order."""
        source = self._plan.sources[info.name]
        kept = dict(self._plan.kept.get(source.name, {}))
        of_dense = kept.pop(0, None)
        return _select(self._dense.gather_rows(source, [of_dense[row] for row in rows] if of_dense else rows), kept)

    def copy(self, info: TensorInfo) -> OutputTensor:
        """The tensor for writing, a few rows at a time."""
        source = self._plan.sources[info.name]
        if source.name in self._plan.kept:
            return OutputTensor(info.name, info.dtype, info.shape, self._pieces(info))
        return OutputTensor(info.name, info.dtype, info.shape, self._dense.copy(source).chunks)

    def solved(self, names: Collection[str]) -> dict[str, Tensor]:
        """Those of the dense model's tensors of which the output has other values."""
        return {name: self._solved.read(info) for name, info in self._plan.solved.items() if name in names}

    def cut_block(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut the tensors of a block that have already been read.

        Args:
            tensors: the dense model's, by their names there.

        Returns:
            The output's tensors, by their names there; copies where parts are removed.
        """
        plan = self._plan
        return {plan.names[name]: _select(tensor, plan.kept.get(name, {})) for name, tensor in tensors.items()}

    def _pieces(self, info: TensorInfo) -> Iterator[memoryview]:
        count = max(1, _COPY_BYTES * info.shape[0] // max(1, info.size_bytes))
        for start in range(0, info.shape[0], count):
            rows = self.read_rows(info, start, min(start + count, info.shape[0])).contiguous()
            yield memory_of(rows)


def _select(tensor: Tensor, kept: Kept) -> Tensor:
    for dimension, indices in kept.items():
        tensor = tensor.index_select(dimension, torch.as_tensor(indices))
    return tensor
