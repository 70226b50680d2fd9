"""A sample of a layer's mask, by which two results can be compared without their checkpoints.

The positions depend on nothing but the layer's name and shape, so that those of two jobs on one model are the same.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

POSITIONS = 4096
EXPERT_POSITIONS = 256
"""Of one expert; a mixture has thousands of them."""

_HASH_BYTES = 8


def sampled_positions(name: str, shape: tuple[int, int], count: int) -> Tensor:
    """Positions in a matrix, in rows from the first on: all of a small one, else drawn with SHAKE-256 and with return.

    Args:
        name: The layer's.
        shape: (out, in).
        count: How many to draw.
    """
    size = shape[0] * shape[1]
    if size <= count:
        return torch.arange(size)
    drawn = hashlib.shake_256(f"{name} {shape[0]}x{shape[1]}".encode()).digest(_HASH_BYTES * count)
    numbers = (drawn[start : start + _HASH_BYTES] for start in range(0, len(drawn), _HASH_BYTES))
    return torch.tensor([int.from_bytes(number, "big") % size for number in numbers])


def sample_mask(name: str, weight_MN: Tensor) -> str:
    """Which of the sampled weights are zero, a bit each, the first in the highest bit: as hexadecimal digits.

    Args:
        name: The layer's, as in the checkpoint.
        weight_MN: Its weight.
    """
    rows, columns = weight_MN.shape
    count = EXPERT_POSITIONS if ".experts." in name else POSITIONS
    places = sampled_positions(name, (rows, columns), count).to(weight_MN.device)
    zeros = (weight_MN[places // columns, places % columns] == 0).tolist()
    bits = "".join("1" if zero else "0" for zero in zeros)
    padded = bits.ljust(-(-len(bits) // 4) * 4, "0")
    return f"{int(padded, 2):0{len(padded) // 4}x}"
