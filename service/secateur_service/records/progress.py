"""What a running job is doing, and how far along it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Stage(enum.StrEnum):
    """What a running job is currently doing; the values are the names of the protocol's stages."""

    FETCHING = "FETCHING"
    SAMPLING = "SAMPLING"
    PRUNING = "PRUNING"
    PACKAGING = "PACKAGING"
    PUBLISHING = "PUBLISHING"


@dataclass(frozen=True)
class Progress:
    """How far along a job is: blocks, and the share of the whole job from 0 to 1."""

    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float | None = None
