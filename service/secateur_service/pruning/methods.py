"""The registry of methods, without torch: which score, which update, and what each needs and costs.

A score decides which weights to prune, an update what happens to those that are kept; the two are independent. A
method names a pair, and a job may replace its parts: `wanda` with `cg`, `sparsegpt` with its paper's own sweep,
`ria` compared within rows.

To add a method, write a file with its algorithm, and add a row here for each new part: `SCORES`, `UPDATES`, `METHODS`.
Everything else reads these rows: the solver, the specification, the estimate, and the response of `GetServiceInfo`.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from secateur_service.pruning.budget import CG_STEPS, SWEEP_COLUMNS

_HERE = "secateur_service.pruning"

# The cost of the updates, see `sizing.operations`.
_CG_PRODUCTS = CG_STEPS + 2
_ADMM_ITERATIONS = 60  # 35 to 60 were observed, the limit is 300


class Moments(enum.IntEnum):
    """What must be known about a layer's inputs; each level includes those before it."""

    NONE = 0
    # The mean square of every input feature, per language.
    DIAGONAL = 1
    # The second moments of all pairs of features, for the mix.
    FULL = 2
    # The same, per language.
    BY_LANGUAGE = 3


@dataclass(frozen=True)
class Cost:
    """What it costs to solve layers m_i×n that share an input, beyond the layers and their statistics themselves.

    Attributes:
        operations: floating-point operations, as a function of n and all m_i.
        squares: float32 matrices n×n in memory.
        stacks: float32 copies of all layers, Σm_i×n.
        layers: float32 copies of the layer with the most rows.
    """

    operations: Callable[[int, Sequence[int]], float] = lambda width, heights: 0.0  # noqa: ARG005
    squares: int = 0
    stacks: int = 0
    layers: int = 2


READS: Mapping[str, Moments] = {
    "mean_squares": Moments.DIAGONAL,  # of every input feature over the mix: n
    "language_mean_squares": Moments.DIAGONAL,  # the same per language
    "mix": Moments.DIAGONAL,  # the weight of each language, summing to one
    "gram": Moments.FULL,  # second moments of the mix: n×n
}
"""What an algorithm may read about a layer's inputs, and the moments that it is computed from."""


@dataclass(frozen=True)
class Score:
    """Decides which weights to prune.

    Attributes:
        function: what computes it, as `module:name`; imported when the first layer is solved. A ranking is called as
            `f(weight, *reads, **options)` with a matrix m×n, and returns scores m×n; the smallest are pruned. A solver
            is called as `f(weights, *reads, target, check=check, **options)` with the matrices m_i×n of all layers
            that share an input, and returns new matrices, masks of what was pruned, and notes.
        reads: its inputs, keys of `READS`.
        solver: the update whose values it finds together with the mask; None for a ranking.
        is_whole: whether mask and values belong together, so that no other update can follow it.
        options: its own settings in a specification, with their defaults.
        cost: the cost of a solver.
        divides: whether a solver is also given `ranks=ranks`, and returns the rows that this rank has of each layer
            (`pruning.ranks`); otherwise each of several processes solves all rows.
    """

    function: str
    reads: tuple[str, ...] = ()
    solver: str | None = None
    is_whole: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = Cost()
    divides: bool = False


@dataclass(frozen=True)
class Update:
    """Decides what happens to the weights that are kept.

    Attributes:
        function: as for a score; called as `f(weights, pruned, *reads, target, check=check)` with the matrices of all
            layers that share an input and the masks of what is pruned; returns new matrices and notes. None where the
            update exists only as part of a score (`Score.solver`).
        reads: its inputs, keys of `READS`.
        cost: the cost of updating under given masks.
        divides: as for a score; the masks are then those of this rank's rows.
    """

    function: str | None
    reads: tuple[str, ...] = ()
    cost: Cost = Cost()
    divides: bool = False


@dataclass(frozen=True)
class Method:
    """A score, with the default update and the default group within which weights compete.

    Attributes:
        score: one of `SCORES`.
        update: one of `UPDATES`.
        group: one of `GROUPS`.
    """

    score: str
    update: str
    group: str


def _sweep_operations(width: int, heights: Sequence[int]) -> float:
    parameters = float(width) * sum(heights)
    return float(width) ** 3 / 3 + parameters * width + 2.0 * SWEEP_COLUMNS * parameters


def _cg_operations(width: int, heights: Sequence[int]) -> float:
    return _CG_PRODUCTS * 2.0 * width**2 * sum(heights)


def _admm_operations(width: int, heights: Sequence[int]) -> float:
    inverses = len(heights) * _ADMM_ITERATIONS / 3
    return inverses * float(width) ** 3 + (_ADMM_ITERATIONS + 2 * _CG_PRODUCTS) * 2.0 * width**2 * sum(heights)


_SWEEP = Cost(_sweep_operations, squares=2, stacks=1)

SCORES: dict[str, Score] = {
    "magnitude": Score(f"{_HERE}.scores:magnitude"),
    "wanda": Score(f"{_HERE}.scores:wanda", ("mean_squares",)),
    "wanda_multilingual": Score(
        f"{_HERE}.scores:wanda_multilingual",
        ("language_mean_squares", "mix"),
        options={"spread": 0.5},  # κ; larger ones did worse (benchmarks/languages.py)
    ),
    "ria": Score(f"{_HERE}.scores:ria", ("mean_squares",)),
    "obs": Score(f"{_HERE}.sparsegpt:sparsegpt", ("gram",), solver="obs", cost=_SWEEP, divides=True),
    "admm": Score(
        f"{_HERE}.alps:alps",
        ("gram",),
        solver="admm",
        is_whole=True,
        cost=Cost(_admm_operations, squares=5, layers=8),
        divides=True,
    ),
}
"""`obs` is SparseGPT's, on weights compensated so far; `admm` finds mask and values together (ALPS)."""

UPDATES: dict[str, Update] = {
    "none": Update(f"{_HERE}.scores:keep", divides=True),
    "cg": Update(f"{_HERE}.conjugate_gradient:refine_all", ("gram",), Cost(_cg_operations, layers=7), divides=True),
    "obs": Update(f"{_HERE}.sparsegpt:sweep_masked", ("gram",), _SWEEP, divides=True),
    "admm": Update(None),
}
"""none: kept weights stay as they are; cg: masked conjugate gradients; obs: SparseGPT's sweep from left to right."""

METHODS: dict[str, Method] = {
    "magnitude": Method("magnitude", "none", "layer"),
    "wanda": Method("wanda", "none", "row"),
    "wanda_multilingual": Method("wanda_multilingual", "none", "row"),
    "ria": Method("ria", "none", "layer"),
    "sparsegpt": Method("obs", "cg", "layer"),
    "alps": Method("admm", "admm", "layer"),
}
"""`sparsegpt` brings `cg`, which was better than its paper's sweep at every target (benchmarks/method_table.py)."""

# Which weights compete to be kept: those of an output row, or those of the whole layer.
GROUPS = ("row", "layer")


@dataclass(frozen=True)
class Recipe:
    """A fully specified combination of score and update.

    Attributes:
        score: one of `SCORES`.
        update: one of `UPDATES`.
        options: the settings of the score.

    Raises:
        KeyError: there is no such score or update.
        ValueError: they cannot be combined.
    """

    score: str
    update: str
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        score, update = SCORES[self.score], UPDATES[self.update]
        if (score.is_whole or update.function is None) and score.solver != self.update:
            raise ValueError(f"update {self.update} does not go with score {self.score}")
        object.__setattr__(self, "options", {**score.options, **self.options})

    @classmethod
    def of(cls, method: str, update: str | None = None, **options: float | None) -> Self:
        """A named method, with the given parts replaced."""
        named = METHODS[method]
        given = {name: value for name, value in options.items() if value is not None}
        return cls(named.score, update or named.update, given)

    @property
    def parts(self) -> tuple[Score | Update, ...]:
        """The rows that do the work: only one where the score also finds the values."""
        score = SCORES[self.score]
        return (score,) if score.solver == self.update else (score, UPDATES[self.update])

    @cached_property
    def moments(self) -> Moments:
        """What it needs to know about a layer's inputs."""
        return max((READS[name] for part in self.parts for name in part.reads), default=Moments.NONE)

    def operations(self, width: int, heights: Sequence[int]) -> float:
        """Floating-point operations to solve layers m_i×n that share an input; a ranking counts as none."""
        return sum(part.cost.operations(width, heights) for part in self.parts)


def load(function: str) -> Callable[..., Any]:
    """Import the function that a row names."""
    module, _, name = function.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded


def options_of(method: str) -> Mapping[str, float]:
    """A method's own settings, with their defaults."""
    return SCORES[METHODS[method].score].options


def goes_together(method: str, update: str) -> bool:
    """Whether a method can be combined with an update."""
    try:
        Recipe.of(method, update)
    except ValueError:
        return False
    return True


def label(method: str, update: str) -> str:
    """The display name of a method with an update: a method goes by its name alone where it is all there is.

    Reports of newer releases may name methods that are not known here.
    """
    if method not in METHODS:
        return method if update == "none" else f"{method} with {update}"
    score = SCORES[METHODS[method].score]
    if score.is_whole or (update == "none" and score.solver is None):
        return method
    return f"{method} mask" if update == "none" else f"{method} with {update}"
