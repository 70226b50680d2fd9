"""Forward passes of a block that stop at every distinct input of its pruned layers.

Each pass runs in its own greenlet. When a layer is about to see an input, the pass is suspended and the input is
returned; the caller decides what happens before the layer runs. This needs no re-implementation of any block, and
serves both cases: statistics of a dense block run one pass after another; true-sequential pruning interleaves all
passes, and solves each stage's layers while every pass waits for them.

Greenlets share their thread's state: the caller holds `torch.no_grad` around all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from greenlet import getcurrent, greenlet
from torch import Tensor, nn


class StepwiseForward:
    """A forward pass advanced from one input to the next; closing it abandons the rest."""

    def __init__(self, forward: Callable[[], Tensor], inputs: int) -> None:
        self._inputs = inputs
        self._position = -1
        self._runner = _Runner(forward)

    def advance(self) -> Tensor:
        """Run up to the next input and return it.

        Raises:
            RuntimeError: the block runs its layers in a different order than its architecture lists.
        """
        self._position += 1
        arrived = self._runner.switch()
        if self._runner.dead or arrived[0] != self._position:
            raise RuntimeError(f"the pass did not come to input {self._position} of {self._inputs}; the table is wrong")
        return arrived[1]

    def finish(self) -> Tensor:
        """Run to the end, past the last input, and return the block's output."""
        output = self._runner.switch()
        if not self._runner.dead:
            raise RuntimeError(f"the pass came to input {output[0]} after its last; the table is wrong")
        return output

    def close(self) -> None:
        """Abandon the pass."""
        if self._runner and not self._runner.dead:
            self._runner.throw()


class _Runner(greenlet):
    """Holds each input until its last layer has seen it, because the identity of a freed tensor may be reused."""

    def __init__(self, forward: Callable[[], Tensor]) -> None:
        super().__init__(forward)
        self.held: dict[int, Tensor] = {}


@contextlib.contextmanager
def stepwise_forwards(
    forwards: Iterable[Callable[[], Tensor]], groups: Sequence[Sequence[str]], linears: Mapping[str, nn.Linear]
) -> Iterator[list[StepwiseForward]]:
    """Forward passes of one block, not yet started; those unfinished at the end are abandoned.

    Args:
        forwards: run the block, each on its own batch.
        groups: names of the layers that share each input, in the order in which the block runs them.
        linears: the layers by name.
    """
    passes = [StepwiseForward(forward, len(groups)) for forward in forwards]
    handles = [
        linears[name].register_forward_pre_hook(_stop_or_verify(position, group, name))
        for position, group in enumerate(groups)
        for name in group
    ]
    try:
        yield passes
    finally:
        for one in passes:
            one.close()
        for handle in handles:
            handle.remove()


def _stop_or_verify(position: int, group: Sequence[str], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Stop at the first layer of a group; with parallel branches, the others may come after further stops."""
    first, last = name == group[0], name == group[-1]

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        runner = getcurrent()
        assert isinstance(runner, _Runner)
        assert runner.parent is not None
        if first:
            runner.held[position] = args[0]
            runner.parent.switch((position, args[0]))
        if args[0] is not runner.held.get(position):
            raise RuntimeError(f"layers {', '.join(group)} do not share their input; the table is wrong")
        if last:
            del runner.held[position]

    return hook
