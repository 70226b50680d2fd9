"""What a machine's slots have: memory, device memory, disk. Torch is not imported; `nvidia-smi` knows devices."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from secateur_service.records.needs import Capacity
from secateur_service.records.result import Available
from secateur_service.sizing.preflight import host_memory_bytes

_ASK_SECONDS = 20.0
_ASK = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Slots:
    """The slots of one machine.

    Attributes:
        host_bytes: memory, which they share.
        device_bytes: memory of the largest accelerator; None for slots on a CPU, 0 if it is unknown.
        folder: where jobs work; may not exist yet.
        threads: CPU threads of each; None for slots on accelerators.
    """

    host_bytes: int
    device_bytes: int | None
    folder: Path
    threads: int | None = None

    @classmethod
    def of(cls, folder: Path, devices: Sequence[str], threads: int) -> Self:
        """Those of this machine, for devices named as torch does."""
        if all(device.startswith("cpu") for device in devices):
            return cls(host_memory_bytes(), None, folder, threads)
        return cls(host_memory_bytes(), device_memory_bytes(), folder)

    def empty(self) -> Available:
        """What a job could have at the most, if nothing else were on the machine."""
        return Available(self.host_bytes, self.device_bytes or None, _disk(self.folder).total)

    def capacity(self) -> Capacity:
        """What one of them has when jobs are matched with it: as much as `empty`, so that all that is let in fits."""
        there = self.empty()
        devices = int(self.device_bytes is not None)
        return Capacity(devices, there.device_bytes or 0, there.host_bytes, there.disk_bytes)

    def now(self) -> Available:
        """What a job that started now could have."""
        return Available(self.host_bytes, self.device_bytes or None, free_bytes(self.folder))


def free_bytes(folder: Path) -> int:
    """Free space of a disk, for a folder that may not exist yet."""
    return _disk(folder).free


def _disk(folder: Path) -> shutil._ntuple_diskusage:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))


@functools.cache
def device_memory_bytes() -> int:
    """Memory of the largest accelerator of this machine; 0 if nothing tells."""
    try:
        ended = subprocess.run(_ASK, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    sizes = [int(line) for line in ended.stdout.split() if line.isdigit()]
    return max(sizes, default=0) << 20
