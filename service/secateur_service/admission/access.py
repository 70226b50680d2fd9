"""What jobs may name on a server, where its results may go, and what its slots have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur_service.admission.destinations import DestinationCheck
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
        threads: those of a job on the CPU where there are no slots, for the estimate; None where nobody knows.
        writable: tries whether a destination can be written; None where that is not to be tried.
    """

    sources: Sources
    destinations: Sequence[str] | None
    on_device: bool
    runs_jobs: bool = True
    slots: Slots | None = None
    threads: int | None = None
    writable: DestinationCheck | None = None

    @classmethod
    def from_settings(cls, settings: Settings, counter: RequestCounter | None = None) -> AccessPolicy:
        """The policy of a server; requests to object stores are counted."""
        return cls(
            sources=open_sources(settings, counter),
            destinations=tuple(settings.destinations),
            on_device=any(not device.startswith("cpu") for device in settings.devices),
            runs_jobs=bool(settings.devices),
            slots=Slots.of(settings.data_dir, settings.devices, settings.worker_threads) if settings.devices else None,
            writable=DestinationCheck.from_settings(settings, counter),
        )
