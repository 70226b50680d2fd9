"""The accelerators of this machine, and which of them a process sees, as `nvidia-smi` says; torch is not imported."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ASK_SECONDS = 20.0
_ASK = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Accelerator:
    """One accelerator.

    Attributes:
        name: the same for every process of the machine: its UUID; what CUDA_VISIBLE_DEVICES calls it if nothing tells.
        memory_bytes: 0 if it is unknown, as for a part of a GPU (MIG).
    """

    name: str
    memory_bytes: int = 0


def visible(environment: Mapping[str, str]) -> tuple[Accelerator, ...]:
    """Those that a process with this environment sees, in the order in which torch counts them.

    Only accelerators that the driver knows: what CUDA_VISIBLE_DEVICES names besides is left out, with all after it.
    """
    present = _present()
    found = []
    for entry in _entries(environment, tuple(present)):
        known = _known(entry)
        if known is None:
            break
        found.append(known)
    return tuple(found)


def of_device(device: str, environment: Mapping[str, str]) -> Accelerator:
    """What torch calls `cuda:1`, or another device, in a process with this environment, whether it is known or not."""
    if not device.startswith("cuda"):
        return Accelerator(device)
    index = int(device.partition(":")[2] or 0)
    entries = _entries(environment, tuple(_present()))
    entry = entries[index] if index < len(entries) else f"{index}"
    return _known(entry) or Accelerator(f"cuda-{entry}")


def _entries(environment: Mapping[str, str], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES lists."""
    listed = environment.get(VISIBLE)
    return otherwise if listed is None else tuple(entry.strip() for entry in listed.split(",") if entry.strip())


def _known(entry: str) -> Accelerator | None:
    """The accelerator that is meant by a number or by the beginning of a UUID."""
    present = _present()
    if entry.startswith("MIG-"):
        return Accelerator(entry) if present else None
    if entry in present:
        return present[entry]
    meant = [known for known in present.values() if entry.startswith("GPU-") and known.name.startswith(entry)]
    return meant[0] if len(meant) == 1 else None


@functools.cache
def _present() -> dict[str, Accelerator]:
    """Those of this machine, or container, by number."""
    try:
        ended = subprocess.run(_ASK, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in ended.stdout.splitlines()]
    return {
        row[0]: Accelerator(row[1], int(row[2]) << 20 if row[2].isdigit() else 0)
        for row in rows
        if len(row) == 3 and row[0].isdigit()
    }
