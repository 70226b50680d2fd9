"""What is done with every weight of a matrix, in as few passes over memory as the host allows.

On a CPU, torch's own counting, testing for finite values and filling by a mask take ten times as long as reading the
matrix does, which on small models was a fifth of a job (`benchmarks/host.py`). On accelerators they do not matter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite: the extremes of a tensor with a NaN are NaN."""
    return not values.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


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
