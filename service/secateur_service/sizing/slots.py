"""What a machine's slots have: memory, device memory, disk. Torch is not imported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from secateur_service.records.needs import Capacity
from secateur_service.records.result import Available
from secateur_service.sizing.accelerators import of_device
from secateur_service.sizing.preflight import host_memory_bytes


@dataclass(frozen=True)
class Slots:
    """The slots of one machine.

    Attributes:
        host_bytes: memory, which they share.
        device_bytes: memory of the largest of their accelerators; None for slots on a CPU, 0 if it is unknown.
        folder: where jobs work; may not exist yet.
    """

    host_bytes: int
    device_bytes: int | None
    folder: Path

    @classmethod
    def of(cls, folder: Path, devices: Sequence[str]) -> Self:
        """Those of this machine, for devices named as torch does."""
        accelerated = [of_device(device, os.environ).memory_bytes for device in devices if device != "cpu"]
        if not accelerated:
            return cls(host_memory_bytes(), None, folder)
        return cls(host_memory_bytes(), max(accelerated), folder)

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
