"""Gathers the statistics of a block's inputs by running its own forward pass with hooks.

The pass stops before the block's last matrix product, whose output nobody needs yet: a pass of statistics costs a
forward pass less that product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur_service.pruning.statistics import InputStatistics


class _InputSeenError(Exception):
    """Ends a forward pass of which all inputs have been seen; never leaves this module."""


class StatisticsCollector:
    """Statistics of the distinct inputs of one block, in the order in which the block meets them.

    Args:
        groups: names of the linear layers that share each input; the last group is the last to run.
        linears: the layers by name.
        weights: mixing weight of each language.
        tokens: tokens that each language will contribute.
        with_gram: whether the full second moments are needed.
    """

    def __init__(
        self,
        groups: tuple[tuple[str, ...], ...],
        linears: Mapping[str, nn.Linear],
        weights: Mapping[str, float],
        tokens: Mapping[str, int],
        *,
        with_gram: bool,
    ) -> None:
        self._groups = groups
        self._linears = linears
        self._language = ""
        # The input of each group, held while a batch runs: the identity of a freed tensor may be used again.
        self._seen: dict[int, Tensor] = {}
        self.statistics = [
            InputStatistics(
                linears[group[0]].in_features,
                weights,
                tokens,
                linears[group[0]].weight.device,
                with_gram=with_gram,
            )
            for group in groups
        ]

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Hook the block's layers for as long as the context lasts."""
        handles = []
        for position, group in enumerate(self._groups):
            for name in group:
                hook = self._hook(position, leader=name == group[0], last=position == len(self._groups) - 1)
                handles.append(self._linears[name].register_forward_pre_hook(hook))
        try:
            yield
        finally:
            self._seen.clear()
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def run(self, forward: Callable[[], Any], language: str) -> None:
        """Run a block's forward pass on a batch of one language and add up its inputs.

        Raises:
            RuntimeError: layers that the architecture lists together do not share their input.
        """
        self._language = language
        self._seen.clear()
        with contextlib.suppress(_InputSeenError):
            forward()

    def _hook(self, position: int, *, leader: bool, last: bool) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if leader:
                self._seen[position] = args[0]
                self.statistics[position].update(args[0], self._language)
                if last:
                    raise _InputSeenError
            elif args[0] is not self._seen.get(position):
                raise RuntimeError(f"layers {self._groups[position]} do not share their input; the table is wrong")

        return hook
