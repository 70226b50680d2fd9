"""Products that need no more precision than their inputs have, or than iterations need that correct themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


def in_tf32(left: Tensor, right: Tensor) -> Tensor:
    """A product in TF32 where the device has it, and elsewhere in float32.

    Its inputs have ten bits of mantissa, more than those of bfloat16, and are summed in float32. What iterations end
    with is hardly worse, and on an H200 they take less than half the time (`benchmarks/rounding.py`, `benchmarks/gpu`).
    """
    with _tf32():
        return left @ right


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
