"""The device that a job computes on, opened before anything else."""

from __future__ import annotations

import time

import torch

from secateur_service.errors import NoSuchDeviceError

_ROWS, _WIDTH = 256, 1024
# What a job reaches of the rate of a product alone.
_SHARE_REACHED = 0.5


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


def try_rate(device: torch.device) -> float:
    """Floating-point operations per second to be expected of a device, by a product that takes milliseconds.

    On a CPU, per second of processor time.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    left, right = (torch.full(shape, 0.5, device=device) for shape in ((_ROWS, _WIDTH), (_WIDTH, _WIDTH)))
    seconds = 0.0
    for _ in range(2):  # the first is slower
        began = clock()
        float((left @ right)[0, 0])  # waits for the device
        seconds = clock() - began
    return _SHARE_REACHED * 2.0 * _ROWS * _WIDTH**2 / max(seconds, 1e-6)
