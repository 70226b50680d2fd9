"""The device that a job computes on, opened before anything else."""

from __future__ import annotations

import torch

from secateur_service.errors import NoSuchDeviceError


def open_device(name: str) -> torch.device:
    """The device with a name such as `cpu`, `mps`, `cuda` or `cuda:0`.

    Raises:
        NoSuchDeviceError: this machine does not have it, or PyTorch was built without support for it.
    """
    kind, _, number = name.partition(":")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if int(number or 0) >= counts.get(kind, 0):
        found = ", ".join(f"{count} of {kind}" for kind, count in counts.items() if count)
        raise NoSuchDeviceError(f"there is no device {name} on this machine; PyTorch finds {found}")
    return torch.device(name)
