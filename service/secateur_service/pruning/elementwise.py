"""What is done with every weight of a matrix, in as few passes over memory as the host allows.

On a CPU, torch's own counting, testing for finite values and filling by a mask take ten times as long as reading the
matrix does, which on small models was a fifth of a job (`benchmarks/host.py`). On accelerators they do not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

# For each type: the integers of its size, with and without sign, and the bits of infinity.
_BITS: dict[torch.dtype, tuple[torch.dtype, type[np.unsignedinteger[Any]], int]] = {
    torch.bfloat16: (torch.int16, np.uint16, 0x7F80),
    torch.float16: (torch.int16, np.uint16, 0x7C00),
    torch.float32: (torch.int32, np.uint32, 0x7F80_0000),
    torch.float64: (torch.int64, np.uint64, 0x7FF0_0000_0000_0000),
}
_PIECE_BYTES = 1 << 20  # stays in a processor's own cache


def is_finite(values: Tensor) -> bool:
    """Whether no value of a tensor is infinite or NaN; takes neither memory nor, on the host, a second thread.

    Floating-point numbers of one sign are ordered as their bits are, with infinity and then every NaN at the end. The
    largest signed integer is thus that of the positive values, and the largest unsigned one that of the negative ones.
    """
    if not values.is_floating_point() or not values.numel():
        return True
    if values.device.type != "cpu" or not values.is_contiguous():
        lowest, highest = values.aminmax()  # NaN if one is
        return bool(lowest.isfinite() & highest.isfinite())
    signed, unsigned, infinity = _BITS[values.dtype]
    bits = values.view(signed).reshape(-1).numpy()
    count = _PIECE_BYTES // bits.itemsize
    negative = infinity + (1 << 8 * bits.itemsize - 1)
    pieces = (bits[start : start + count] for start in range(0, len(bits), count))
    return all(int(piece.max()) < infinity and int(piece.view(unsigned).max()) < negative for piece in pieces)


def nonzeros(values: Tensor) -> int:
    """How many values, or booleans, are not zero."""
    if values.device.type != "cpu":
        return int(values.count_nonzero())
    return int(np.count_nonzero((values if values.dtype == torch.bool else values != 0).numpy()))


def zero_where(weight: Tensor, pruned: Tensor) -> Tensor:
    """Set the weights to zero, in place, that a mask of the same shape marks; returns them."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return weight.masked_fill_(pruned, 0)
    weight.view(torch.int32).bitwise_and_(pruned.to(torch.int32).sub_(1))  # all bits where a weight is kept
    return weight
