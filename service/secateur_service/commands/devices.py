"""`secateur-service devices`: whether the devices of the worker slots are there, and what they are.

The server itself never loads torch, so a device that is missing shows only when the first job fails.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from secateur._terminal import say, write
from secateur._text import columns, size

EXIT_MISSING = 1


@dataclass(frozen=True)
class Device:
    """A device as this machine has it.

    Attributes:
        name: as the setting names it.
        description: the model of GPU or processor, or why it is not there.
        memory_bytes: its memory, free and in use; 0 if unknown.
        free_bytes: the part that is free.
        found: whether it is there.
    """

    name: str
    description: str
    memory_bytes: int = 0
    free_bytes: int = 0
    found: bool = field(kw_only=True)


def print_devices(names: Sequence[str], *, as_json: bool) -> int:
    """Look at each device and print it; returns the exit code.

    Args:
        names: the devices, such as `cpu` or `cuda:0`.
        as_json: one line of JSON.
    """
    found = [look_at(name) for name in dict.fromkeys(names)]
    if as_json:
        write(json.dumps({"devices": [asdict(device) for device in found]}), stream=sys.stdout)
    elif not found:
        write("no devices: this replica serves the API only", stream=sys.stdout)
    else:
        rows = [_row(device) for device in found if device.found]
        if rows:
            write(columns([("DEVICE", "MEMORY", "FREE", "WHAT"), *rows], right=(1, 2)), stream=sys.stdout)
    for device in found:
        if not device.found and not as_json:
            say(f"{device.name} is not here: {device.description}")
    return 0 if all(device.found for device in found) else EXIT_MISSING


def look_at(name: str) -> Device:
    """Look at one device, named as in the setting."""
    import torch

    if name == "cpu":
        page = os.sysconf("SC_PAGE_SIZE")
        memory = (page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES"))
        what = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"
        return Device(name, what, *memory, found=True)
    if name == "mps":
        there = torch.backends.mps.is_available()
        return Device(name, "Apple GPU" if there else "PyTorch sees no Apple GPU", found=there)
    if torch.version.cuda is None:
        return Device(name, f"PyTorch {torch.__version__} is for the CPU only; install the one for CUDA", found=False)
    count, index = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
    if index >= count:
        what = f"PyTorch sees {count} GPUs; is the driver loaded, and does the container or pod ask for a GPU?"
        return Device(name, what, found=False)
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    what = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"
    return Device(name, what, total, free, found=True)


def _row(device: Device) -> tuple[str, str, str, str]:
    memory = (size(device.memory_bytes), size(device.free_bytes)) if device.memory_bytes else ("", "")
    return (device.name, *memory, device.description)
