"""A sample of a layer's mask, by which two results can be compared without their checkpoints.

The positions depend on nothing but the layer's name and shape, so that those of two jobs on one model are the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
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
    return torch.from_numpy((np.frombuffer(drawn, dtype=">u8") % size).astype(np.int64))


def sample_mask(name: str, weight_MN: Tensor) -> str:
    """Which of the sampled weights are zero, a bit each, the first in the highest bit: as hexadecimal digits.

    Args:
        name: The layer's, as in the checkpoint.
        weight_MN: Its weight.
    """
    rows, columns = weight_MN.shape
    count = EXPERT_POSITIONS if ".experts." in name else POSITIONS
    places = sampled_positions(name, (rows, columns), count).to(weight_MN.device)
    zeros = (weight_MN[places // columns, places % columns] == 0).cpu().numpy()
    return np.packbits(zeros).tobytes().hex()[: -(-len(zeros) // 4)]
