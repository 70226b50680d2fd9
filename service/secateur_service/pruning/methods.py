"""The methods: named points on the grid of scores and updates, without torch.

A score says which weights go, an update what happens to those that stay; the two are chosen independently. A method
names a pair, and a job may replace its parts: `wanda` with `cg`, `sparsegpt` with `cg` instead of its own sweep,
`ria` compared within rows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self


class Moments(enum.IntEnum):
    """What must be known of a layer's inputs; each includes those before it."""

    NONE = 0
    # The mean square of every input feature, per language.
    DIAGONAL = 1
    # The second moments of all pairs of features, for the mix.
    FULL = 2
    # The same for every language.
    BY_LANGUAGE = 3


@dataclass(frozen=True)
class Method:
    """A score, the update that goes with it, and the weights that compete with each other, by default.

    Attributes:
        score: `magnitude`, `wanda`, `wanda_multilingual`, `ria`, `obs` or `admm`.
        update: one of `UPDATES`.
        group: one of `GROUPS`.
    """

    score: str
    update: str
    group: str


METHODS = {
    "magnitude": Method("magnitude", "none", "layer"),
    "wanda": Method("wanda", "none", "row"),
    "wanda_multilingual": Method("wanda_multilingual", "none", "row"),
    "ria": Method("ria", "none", "layer"),
    "sparsegpt": Method("obs", "obs", "layer"),
    "alps": Method("admm", "admm", "layer"),
}

# none: kept weights stay as they are; cg: masked conjugate gradients; obs: SparseGPT's sweep from left to right;
# admm: ALPS, which finds mask and values together.
UPDATES = ("none", "cg", "obs", "admm")

# Which weights compete for being kept: those of an output row, or those of the whole layer.
GROUPS = ("row", "layer")

# κ; larger ones did worse (benchmarks/languages.py).
DEFAULT_SPREAD = 0.5


@dataclass(frozen=True)
class Recipe:
    """A point on the grid, nothing left open.

    Attributes:
        score: `magnitude`, `wanda`, `wanda_multilingual`, `ria`, `obs` or `admm`.
        update: one of `UPDATES`.
        spread: κ, how much `wanda_multilingual` adds for features that languages use differently.
    """

    score: str
    update: str
    spread: float = DEFAULT_SPREAD

    @classmethod
    def of(cls, method: str, update: str | None = None, spread: float | None = None) -> Self:
        """A named method, with the parts that are given replaced."""
        named = METHODS[method]
        return cls(named.score, update or named.update, DEFAULT_SPREAD if spread is None else spread)

    @property
    def moments(self) -> Moments:
        """What it needs to know of a layer's inputs."""
        if self.update != "none" or self.score in ("obs", "admm"):
            return Moments.FULL
        return Moments.NONE if self.score == "magnitude" else Moments.DIAGONAL


def goes_together(method: str, update: str) -> bool:
    """Whether a method takes an update: all do but ADMM, which chooses the mask itself."""
    return (METHODS[method].score == "admm") == (update == "admm")


def label(method: str, update: str) -> str:
    """How people call a method with an update: by its name, with the update where it is not the method's own."""
    if update == METHODS[method].update:
        return method
    return f"{method} mask" if update == "none" else f"{method} mask + {update}"
