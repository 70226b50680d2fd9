"""Hidden states in files, for jobs where they do not fit in memory.

A mapped file is memory that the kernel can write out and reclaim whenever others need it. The files have no name, so
they disappear with the states, however the process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def in_file(states: Tensor, folder: Path) -> Tensor:
    """A copy of a tensor on any device and of any shape in a mapped file in `folder`.

    Raises:
        OSError: the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, states.nbytes)  # a hole that cannot be filled later kills the process
        memory = mmap.mmap(file.fileno(), states.nbytes)
    return torch.frombuffer(memory, dtype=states.dtype).view(states.shape).copy_(states)
