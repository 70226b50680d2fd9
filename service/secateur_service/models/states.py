"""Hidden states in files, for jobs whose memory does not hold them.

A mapped file is memory that the kernel may write out and take back whenever others need it. The files have no name:
they are gone when the states are, however the process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor


def in_file(states: Tensor, folder: Path) -> Tensor:
    """A copy of a tensor of any device and shape in a mapped file below `folder`.

    Raises:
        OSError: the disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, states.nbytes)  # a hole that cannot be filled later kills the process
        memory = mmap.mmap(file.fileno(), states.nbytes)
    return torch.frombuffer(memory, dtype=states.dtype).view(states.shape).copy_(states)
