"""The methods: named points on the grid of scores and updates, without torch.

A score says which weights go, an update what happens to those that stay; the two are chosen independently. A method
names a pair, and a job may replace the update: `wanda` with `cg`, `sparsegpt` with `cg` instead of its own sweep.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Moments(enum.Enum):
    """What must be known of a layer's inputs."""

    NONE = enum.auto()
    DIAGONAL = enum.auto()
    FULL = enum.auto()


@dataclass(frozen=True)
class Method:
    """A score (`magnitude`, `wanda`, `ria`, `obs`, `admm`) and the update that goes with it by default."""

    score: str
    update: str


METHODS = {
    "magnitude": Method("magnitude", "none"),
    "wanda": Method("wanda", "none"),
    "ria": Method("ria", "none"),
    "sparsegpt": Method("obs", "obs"),
    "alps": Method("admm", "admm"),
}

# none: kept weights stay as they are; cg: masked conjugate gradients; obs: SparseGPT's sweep from left to right;
# admm: ALPS, which finds mask and values together.
UPDATES = ("none", "cg", "obs", "admm")


def goes_together(method: str, update: str) -> bool:
    """Whether a method takes an update: all do but ADMM, which chooses the mask itself."""
    return (METHODS[method].score == "admm") == (update == "admm")


def recipe(method: str, update: str) -> str:
    """How people call a method with an update: by its name, with the update where it is not the method's own."""
    if update == METHODS[method].update:
        return method
    return f"{method} mask" if update == "none" else f"{method} mask + {update}"


def needed_moments(method: str, update: str) -> Moments:
    """What a method with an update needs to know of a layer's inputs."""
    if update != "none" or METHODS[method].score in ("obs", "admm"):
        return Moments.FULL
    return Moments.NONE if METHODS[method].score == "magnitude" else Moments.DIAGONAL
