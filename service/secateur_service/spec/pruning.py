"""The part `pruning` of a specification: how, and how much."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from secateur_service.pruning.methods import (
    GROUPS,
    METHODS,
    UPDATES,
    Moments,
    Recipe,
    goes_together,
    options_of,
)
from secateur_service.spec import suggestions
from secateur_service.spec.base import Broken, Part

ORDERS = ("block", "true_sequential", "dense")
ALLOCATIONS = ("uniform", "owl", "multilingual")
# According to the table of benchmarks/method_table.py: near the best at every target, at a fraction of its cost.
DEFAULT_METHOD = "sparsegpt"
DEFAULT_ORDER: Literal["block", "true_sequential", "dense"] = "true_sequential"
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"method": "sparsegpt", "update": "cg", "asymmetric": False},
    "balanced": {"method": "sparsegpt", "update": "cg"},
    "best": {"method": "alps", "update": "admm"},
}
"""Points on the curve of quality against time that benchmarks/pareto.py draws, by the fields that they fill in."""
TRAINED_PRESETS = ("best",)
"""Of these, those that also train blocks."""
DEFAULT_SPAN = 0.08
DEFAULT_OUTLIER = 5.0

_SHARE = "a share strictly between 0 and 1, e.g. 0.5"
_PATTERN = "N:M with 0 < N < M, e.g. 2:4: N weights kept of every M consecutive inputs"


def _method(name: str) -> str:
    """Check that the method is registered by now."""
    if name not in METHODS:
        raise PydanticCustomError("value", "is not a method", {"meant": suggestions.of(name, METHODS)})
    return name


def _update(name: str) -> str:
    """Check that the update is registered by now."""
    if name not in UPDATES:
        raise PydanticCustomError("value", "is not an update", {"meant": suggestions.of(name, UPDATES)})
    return name


def _keeps_and_prunes(pattern: str) -> str:
    match = re.fullmatch(r"([0-9]+):([0-9]+)", pattern)
    if not match or not 0 < int(match[1]) < int(match[2]):
        problem = "is not a pattern that keeps some weights and prunes some"
        raise PydanticCustomError("value", problem, {"meant": suggestions.of_pattern(pattern)})
    return pattern


Sparsity = Annotated[float, Field(gt=0, lt=1)]
Pattern = Annotated[str, Field(max_length=16), AfterValidator(_keeps_and_prunes)]


class AllocationSpec(Part):
    """How sparse each block becomes; together the blocks have the requested sparsity."""

    policy: Literal["uniform", "owl", "multilingual"] = Field(
        default="uniform", description="one of " + ", ".join(ALLOCATIONS)
    )
    span: float | None = Field(
        default=None, gt=0, lt=0.5, description="half the range of the blocks' sparsities, between 0 and 0.5, e.g. 0.08"
    )
    outlier: float | None = Field(
        default=None, gt=0, le=1e6, description="a multiple of a block's mean score, above which a score is an outlier"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that no number is given that would be ignored."""
        if self.span is not None and self.policy == "uniform":
            yield Broken("span", "a uniform allocation has none", "leave it out, or choose another policy")
        if self.outlier is not None and self.policy == "uniform":
            yield Broken("outlier", "a uniform allocation counts none", "leave it out, or choose another policy")


class LayerOverride(Part):
    """What to do with layers of matching names, instead of the job's default."""

    layers: str = Field(
        min_length=1,
        max_length=256,
        description="a name of weights as in the checkpoint, with * and ?, e.g. model.layers.0.* or *.down_proj.weight",
    )
    sparsity: Sparsity | None = Field(default=None, description=_SHARE)
    pattern: Pattern | None = Field(default=None, description=_PATTERN)
    dense: Literal[True] | None = Field(default=None, description="true, or nothing")

    def broken_rules(self) -> Iterator[Broken]:
        """Check that exactly one choice is made for the layers."""
        if sum(choice is not None for choice in (self.sparsity, self.pattern, self.dense)) != 1:
            yield Broken("sparsity", "exactly one of sparsity, pattern and dense is needed", "e.g. dense: true")

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """(N, M) of the pattern, None without one."""
        return _kept_of_group(self.pattern)


class PruningSpec(Part):
    """How much is pruned, and by which rule. Exactly one of `sparsity` and `pattern` is given."""

    preset: Literal["fast", "balanced", "best"] | None = Field(
        default=None, description=f"one of {', '.join(PRESETS)}; best also trains blocks"
    )
    method: Annotated[str, AfterValidator(_method)] | None = Field(
        default=None, description="one of " + ", ".join(METHODS)
    )
    update: Annotated[str, AfterValidator(_update)] | None = Field(
        default=None, description=f"one of {', '.join(UPDATES)}; the method's own where it is not given"
    )
    sparsity: Sparsity | None = Field(default=None, description=_SHARE)
    pattern: Pattern | None = Field(default=None, description=_PATTERN)
    order: Literal["block", "true_sequential", "dense"] = Field(
        default=DEFAULT_ORDER, description="one of " + ", ".join(ORDERS)
    )
    group: Literal["row", "layer"] | None = Field(
        default=None, description=f"one of {', '.join(GROUPS)}; the method's own where it is not given"
    )
    spread: float | None = Field(
        default=None, ge=0, le=1e6, description="a number that is not negative; 0 makes it wanda"
    )
    asymmetric: bool | None = Field(
        default=None, description="true or false: whether layers have the dense model's output as their target"
    )
    allocation: AllocationSpec = Field(default=AllocationSpec(), description="policy, span and outlier")
    overrides: tuple[LayerOverride, ...] = Field(
        default=(),
        max_length=256,
        description="names of layers, each with sparsity, pattern or dense; the last one wins",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Give what a preset stands for, unless a field is given itself."""
        if not isinstance(data, Mapping):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        filled = dict(PRESETS.get(str(given.get("preset")), {}))
        return {**data, **filled, **given}

    def broken_rules(self) -> Iterator[Broken]:
        """Check that there is one target, and that the parts are compatible."""
        if self.sparsity is not None and self.pattern is not None:
            yield Broken("sparsity", "sparsity and pattern are both given", "leave one of them out")
        elif self.sparsity is None and self.pattern is None:
            remedy = "e.g. sparsity 0.5, or pattern 2:4; a model that only becomes smaller takes shrink, and no pruning"
            yield Broken("sparsity", "neither sparsity nor pattern is given", remedy)
        is_one = goes_together(self.effective_method, self.effective_update)
        preset = PRESETS.get(self.preset or "", {})
        if self.preset and (self.method, self.update) != (preset["method"], preset["update"]):
            problem = f"{self.preset} is {preset['method']} with update {preset['update']}"
            yield Broken("preset", problem, "leave the preset out, or method and update")
        elif not is_one:
            yield Broken(
                "update",
                f"{self.update} does not go with {self.effective_method}",
                f"it takes {', '.join(name for name in UPDATES if goes_together(self.effective_method, name))}",
            )
        if self.pattern is not None and self.group is not None:
            yield Broken("group", f"{self.pattern} compares within its groups of inputs", "leave it out")
        if self.pattern is not None and self.allocation.policy != "uniform":
            yield Broken(
                "allocation.policy", f"{self.pattern} prunes every layer alike", "give a sparsity, or leave it out"
            )
        if self.spread is not None and "spread" not in options_of(self.effective_method):
            others = ", ".join(name for name in METHODS if "spread" in options_of(name))
            yield Broken("spread", f"{self.effective_method} has none", f"leave it out, or use method {others}")
        if self.asymmetric and self.order == "dense":
            problem = "in order dense no layer sees what earlier ones have lost"
            yield Broken("asymmetric", problem, "choose another order, or leave it out")
        if self.asymmetric and is_one and not self._solves:
            problem = f"{self.effective_method} with update {self.effective_update} solves for no values"
            yield Broken("asymmetric", problem, "choose update cg, or leave it out")

    @property
    def effective_method(self) -> str:
        """The method that runs."""
        return self.method or DEFAULT_METHOD

    @property
    def effective_update(self) -> str:
        """The update that runs: that of the method unless another is given."""
        return self.update or METHODS[self.effective_method].update

    @property
    def effective_group(self) -> str:
        """Which weights compete if the pruning is unstructured."""
        return self.group or METHODS[self.effective_method].group

    @property
    def recipe(self) -> Recipe:
        """Score and update."""
        return Recipe.of(self.effective_method, self.effective_update, spread=self.spread)

    @property
    def _solves(self) -> bool:
        """Whether kept weights get new values from second moments."""
        return self.effective_update != "none" and self.recipe.moments >= Moments.FULL

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """(N, M) of the pattern, None if the pruning is unstructured."""
        return _kept_of_group(self.pattern)

    @property
    def target_sparsity(self) -> float:
        """The share of weights to prune, however it was specified."""
        if self.sparsity is not None:
            return self.sparsity
        assert self.kept_of_group is not None
        kept, group = self.kept_of_group
        return 1 - kept / group

    def override_of(self, weight: str) -> LayerOverride | None:
        """The last override whose `layers` match a weight's name; None if the job's own target applies."""
        matching = (entry for entry in reversed(self.overrides) if fnmatch.fnmatchcase(weight, entry.layers))
        return next(matching, None)

    def resolved(self, *, trained: bool = False) -> Self:
        """A copy with all defaults filled in.

        Args:
            trained: whether blocks are trained afterwards.
        """
        default = self._solves and self.order != "dense" and not trained
        allocation = self.allocation
        if allocation.policy != "uniform":
            numbers = {"span": allocation.span or DEFAULT_SPAN, "outlier": allocation.outlier or DEFAULT_OUTLIER}
            allocation = allocation.model_copy(update=numbers)
        return self.model_copy(
            update={
                "method": self.effective_method,
                "update": self.effective_update,
                "group": self.effective_group if self.pattern is None else None,
                "spread": self.recipe.options.get("spread"),
                "asymmetric": default if self.asymmetric is None else self.asymmetric,
                "allocation": allocation,
            }
        )


def _kept_of_group(pattern: str | None) -> tuple[int, int] | None:
    if pattern is None:
        return None
    kept, group = pattern.split(":")
    return int(kept), int(group)
