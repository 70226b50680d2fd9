"""What a running job does, and how far it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Stage(enum.StrEnum):
    """What a running job does at the moment; the values are the names of the protocol's stages."""

    FETCHING = "FETCHING"
    SAMPLING = "SAMPLING"
    PRUNING = "PRUNING"
    PACKAGING = "PACKAGING"
    PUBLISHING = "PUBLISHING"


@dataclass(frozen=True)
class Progress:
    """How far a job is: blocks, and the share of the whole job from 0 to 1."""

    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float | None = None
