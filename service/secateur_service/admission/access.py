"""What jobs may name on a server, where its results may go, and what its slots have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur_service.admission.destinations import DestinationCheck
from secateur_service.records.needs import Capacity
from secateur_service.sizing.durations import MEASURED_DISK, UNKNOWN, Disk, Hardware
from secateur_service.sizing.slots import Slots
from secateur_service.sources import Sources, open_sources

if TYPE_CHECKING:
    from secateur_service.artifacts.instrumented import RequestCounter
    from secateur_service.settings import Settings


@dataclass(frozen=True)
class AccessPolicy:
    """What jobs may name.

    Attributes:
        sources: where models and corpora may come from.
        destinations: URIs below which results may go, the default first; None allows any.
        on_device: whether jobs run on an accelerator; the estimate depends on it.
        runs_jobs: whether jobs run on this installation. On a replica that serves the API only, nothing is known of
            what the workers have installed; they check it themselves, before anything else.
        slots: what the slots here have; None where there are none, or where the caller looks after it.
        elsewhere: what a slot of each agent beyond these has, or would have if one were asked for.
        hardware: what runs jobs, for an estimate of the time.
        writable: tries whether a destination can be written; None where that is not to be tried.
    """

    sources: Sources
    destinations: Sequence[str] | None
    on_device: bool
    runs_jobs: bool = True
    slots: Slots | None = None
    elsewhere: Sequence[Capacity] = ()
    hardware: Hardware = UNKNOWN
    writable: DestinationCheck | None = None

    @classmethod
    def from_settings(cls, settings: Settings, counter: RequestCounter | None = None) -> AccessPolicy:
        """The policy of a server; requests to object stores are counted."""
        return cls(
            sources=open_sources(settings, counter),
            destinations=tuple(settings.destinations),
            on_device=_has_accelerators(settings),
            runs_jobs=bool(settings.devices),
            slots=Slots.of(settings.data_dir, settings.devices) if settings.devices else None,
            hardware=hardware_of(settings),
            writable=DestinationCheck.from_settings(settings, counter),
        )


def hardware_of(settings: Settings) -> Hardware:
    """What is known of the machines that run a server's jobs; where it has no slots itself, only of their disks."""
    on_cpu = settings.devices and not _has_accelerators(settings)
    threads, processes = (settings.worker_threads, settings.processes_per_worker) if on_cpu else (None, 1)
    return Hardware(threads, processes, disk=disk_of(settings))


def disk_of(settings: Settings) -> Disk:
    """How fast weights are read and written, as far as the settings say."""
    return Disk(
        settings.read_bytes_per_second or MEASURED_DISK.read_bytes,
        settings.write_bytes_per_second or MEASURED_DISK.written_bytes,
    )


def _has_accelerators(settings: Settings) -> bool:
    return any(not device.startswith("cpu") for device in settings.devices)
