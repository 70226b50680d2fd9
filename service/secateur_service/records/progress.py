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
    """How far along a job is.

    Attributes:
        blocks_done: finished blocks.
        blocks_total: blocks of the result; 0 until that is known.
        fraction: share of the whole job, from 0 to 1.
        eta_seconds: the time left; None while unknown.
        bytes_done: bytes that are here of what is being fetched; 0 if nothing is.
        bytes_total: its size; 0 where that is unknown as well.
    """

    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
