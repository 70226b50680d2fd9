"""Trains the kept weights of a block so that it does what the dense model does there.

Solvers fit one layer at a time. But a block is more than its layers: what one of them has lost another can make up for,
so that all of them together come closer to the dense model's hidden states (EBFT, Guo et al., arXiv 2402.12419; Free
Lunch, arXiv 2510.14444). The block's inputs are those of the output, which earlier blocks have changed already; the
target is what the dense model has after the block, or after those that follow it and were removed. With the hidden
states h_ℓ (T×d) of a language and the dense model's g_ℓ,

    loss = Σ_ℓ w_ℓ · ‖u(h_ℓ) − u(g_ℓ)‖² / ‖u(g_ℓ)‖²

is minimised, where u scales every token to the same length, as the norms do through which later blocks read, and then
every channel by its standard deviation in the dense model. Otherwise a few tokens and channels would decide: the first
token's states may be a thousand times as large as any other's (Sun et al., "Massive Activations in Large Language
Models", arXiv 2402.17762), and in Gemma one channel holds most of all energy, but norms weigh it accordingly.

Adam (Kingma and Ba, arXiv 1412.6980) runs in float32, one block at a time, on the weights of its layers and, if asked,
of its norms. Zeros stay zeros. Steps are relative to the root mean square of a tensor's values, so that one learning
rate serves models of all sizes; they fall linearly to zero.
After an epoch that made things worse, training goes on from the best weights with steps a quarter as large. Some
sequences are held out: after every epoch the weights, rounded as they will be written, are judged by them, and the best
are kept, which may be those from before. So by text that it was not trained on no block ends worse than it began. With
the policy minimax the largest error of a language decides instead of the sum, and after each epoch the weights w move
towards the languages whose errors are larger than others'.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur_service import faults
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES
from secateur_service.pipeline.batches import CalibrationText, own_share
from secateur_service.records.blocks import ReconstructionRecord
from secateur_service.sizing.reconstruction import HELD_OUT_EVERY
from secateur_service.spec import ReconstructionSpec

_BETAS = (0.9, 0.95)
_LEAST_VARIANCE = 1e-6
"""Of a channel, as a share of the mean."""
_AFTER_FAILURE = 0.25
"""What steps are multiplied by after an epoch that made things worse."""
_MIN_TOKENS = 512
"""Of a slice of a step, whose gradient one process computes: products of fewer would be slow."""


@dataclass(frozen=True)
class _Sequence:
    """A sequence of the calibration text: a row of one of its batches."""

    language: str
    batch: int
    row: int


class Reconstructor:
    """Trains blocks.

    Args:
        asked: how.
        model: the model that is written.
        mix: weight of each calibration language.
        text: the calibration text, with two sequences of each language at least, and the ranks that have it.
        tick: called with the share of a block's training that is done.
        minimax: whether the largest error of a language counts, and the mix is only where weights begin.
    """

    def __init__(
        self,
        asked: ReconstructionSpec,
        model: StreamedModel,
        mix: Mapping[str, float],
        text: CalibrationText,
        tick: Callable[[float], None],
        *,
        minimax: bool = False,
    ) -> None:
        self._text, self._ranks = text, text.ranks
        self._minimax = minimax
        self._asked = asked
        self._model = model
        self._tick = tick
        self._mix = {name: weight for name, weight in mix.items() if weight}
        self._held_out: list[_Sequence] = []
        self._trained: list[_Sequence] = []
        for language in self._mix:
            own = [
                _Sequence(language, number, row)
                for number, batch in enumerate(text.all_batches)
                if batch.language == language
                for row in range(len(batch.tokens))
            ]
            first = min(len(own), HELD_OUT_EVERY) - 1
            self._held_out += own[first::HELD_OUT_EVERY]
            del own[first::HELD_OUT_EVERY]
            self._trained += own
        self._counts = Counter(one.language for one in self._trained)
        self._batch = min(asked.batch, len(self._trained))
        parts = 1
        if model.device.type == "cpu":
            length = text.all_batches[0].tokens.shape[1]
            parts = max(1, min(self._batch, self._batch * length // _MIN_TOKENS))
        bounds = [self._batch * number // parts for number in range(parts + 1)]
        self._slices = [slice(*each) for each in itertools.pairwise(bounds)]

    @property
    def counts(self) -> set[int]:
        """Numbers of sequences that are run through a block at once."""
        return {self._batch, *(part.stop - part.start for part in self._slices)}

    def train(
        self, block: nn.Module, place: int, states: Sequence[Tensor], goal: Sequence[Tensor]
    ) -> ReconstructionRecord:
        """Train a block; afterwards its weights are as they will be written, rounded to the checkpoint's type.

        Args:
            block: in memory, as it would be written.
            place: its position in the output.
            states: hidden states before it, of every batch of this rank.
            goal: those of the dense model that it is to come to.
        """
        states, goal = self._everywhere(states), self._everywhere(goal)
        weights = {f"{name}.weight": linear.weight for name, linear in self._model.linears(block, place).items()}
        if self._asked.norms:
            weights |= norm_weights(block)
        block.float()
        try:
            return self._train(self._task(block, place, states, goal, weights))
        finally:
            for weight in weights.values():
                weight.requires_grad = False
                weight.grad = None
            block.to(self._model.dtype)

    def _everywhere(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """Hidden states of every batch of all ranks: any of them may be in a step."""
        width = self._model.checkpoint.tensors[self._model.checkpoint.embedding_name].shape[1]

        def empty(position: int) -> Tensor:
            return torch.empty(*self._text.all_batches[position].tokens.shape, width, dtype=self._model.dtype)

        found = zip(self._ranks.everywhere(states, self._text.owners, empty), self._text.owners, strict=True)
        return [each if owner == self._ranks.rank else self._model.put_aside(each) for each, owner in found]

    def _train(self, task: _Task) -> ReconstructionRecord:
        before = after = self._errors(task)
        if not any(before.values()):
            self._tick(1.0)
            return ReconstructionRecord(0, before, after)
        best, kept, best_epoch = self._loss(before), self._rounded(task), 0
        mix = self._mix
        kept_weights = {name: weight != 0 for name, weight in task.weights.items()}
        rate = self._asked.learning_rate
        optimizer = self._optimizer(task)
        generator = torch.Generator().manual_seed(self._asked.seed + task.place)
        steps, done = self._asked.epochs * (len(self._trained) // self._batch), 0
        for epoch in range(self._asked.epochs):
            order = torch.randperm(len(self._trained), generator=generator).tolist()
            for start in range(0, len(order) - self._batch + 1, self._batch):
                for group in optimizer.param_groups:
                    group["lr"] = group["size"] * rate * (1 - done / steps)
                self._step(task, [self._trained[at] for at in order[start : start + self._batch]], mix)
                for name, weight in task.weights.items():
                    assert weight.grad is not None
                    weight.grad.mul_(kept_weights[name])
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                self._tick(1 / steps)
            exact = {name: weight.clone() for name, weight in task.weights.items()}
            rounded = self._rounded(task)
            _put(task, rounded)
            errors = self._errors(task)
            faults.reached("block.judged")
            if self._loss(errors) < best:
                best, kept, after, best_epoch = self._loss(errors), rounded, errors, epoch + 1
                _put(task, exact)
            else:
                rate *= _AFTER_FAILURE
                _put(task, kept)
                optimizer = self._optimizer(task)
            if self._minimax:
                mix = _towards_worst(mix, errors)
        _put(task, kept)
        return ReconstructionRecord(best_epoch, before, after)

    def _optimizer(self, task: _Task) -> torch.optim.Optimizer:
        """Adam from its beginning; knows the root mean square of each tensor's values as their `size`."""
        groups = []
        for weight in task.weights.values():
            mean_square = float(weight.square().sum()) / max(1, int(weight.count_nonzero()))
            groups.append({"params": [weight.requires_grad_()], "size": math.sqrt(mean_square)})
        return torch.optim.Adam(groups, betas=_BETAS)

    def _step(self, task: _Task, sequences: Sequence[_Sequence], mix: Mapping[str, float]) -> None:
        """Set the gradient of the loss by some of the text: the sum over its slices, added in their order."""
        gradients: dict[str, list[Tensor]] = {name: [] for name in task.weights}
        for number, part in enumerate(self._slices):
            if self._ranks.owner(number, len(self._slices)) != self._ranks.rank:
                continue
            self._add_gradient(task, sequences[part], mix)
            if self._ranks.rank:  # its sums have to wait for those before them
                _take(task, gradients)
        if not self._ranks.rank:
            _take(task, gradients)
        for name, weight in task.weights.items():
            weight.grad = self._ranks.total(gradients[name], functools.partial(torch.zeros_like, weight))

    def _add_gradient(self, task: _Task, sequences: Sequence[_Sequence], mix: Mapping[str, float]) -> None:
        with torch.enable_grad(), _reproducible_attention():
            wrong_BT = self._difference(task, sequences).square().sum(-1)
            share = len(self._trained) / self._batch / wrong_BT.shape[1]
            scale = [mix[one.language] / self._counts[one.language] / task.powers[one.language] for one in sequences]
            (torch.tensor(scale, device=wrong_BT.device)[:, None] * wrong_BT).sum().mul(share).backward()

    def _difference(self, task: _Task, sequences: Sequence[_Sequence]) -> Tensor:
        """u(h) − u(g): B×S×d."""
        model = self._model
        inputs, goal = (
            torch.stack([held[one.batch][one.row] for one in sequences]).to(model.device).float()
            for held in (task.states, task.goal)
        )
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.dtype is not torch.float32):
            reached = model.trace(task.block, task.place, inputs).float()
        return _evened(reached, task.scale) - _evened(goal, task.scale)

    def _errors(self, task: _Task) -> dict[str, float]:
        """‖u(h) − u(g)‖² / ‖u(g)‖² of the sequences that are held out, by language."""
        wrong, tokens = dict.fromkeys(self._mix, 0.0), dict.fromkeys(self._mix, 0)
        found = []
        for start in own_share(range(0, len(self._held_out), self._batch), self._ranks):
            some = self._held_out[start : start + self._batch]
            filled = [*some, *[some[0]] * (self._batch - len(some))]  # every batch has the same shape
            for one, difference in zip(some, self._difference(task, filled), strict=False):
                found.append((one.language, float(difference.square().sum()), len(difference)))
        for language, error, count in self._ranks.collect(found):
            wrong[language] += error
            tokens[language] += count
        return {name: wrong[name] / tokens[name] / task.powers[name] for name in self._mix}

    def _task(
        self,
        block: nn.Module,
        place: int,
        states: Sequence[Tensor],
        goal: Sequence[Tensor],
        weights: Mapping[str, Tensor],
    ) -> _Task:
        """A block to train, with what makes its errors relative."""
        device, width = self._model.device, goal[0].shape[-1]
        sums = torch.zeros(width, dtype=torch.float64, device=device)
        squares = {name: torch.zeros_like(sums) for name in self._mix}
        tokens = dict.fromkeys(self._mix, 0)
        for one in (*self._trained, *self._held_out):
            even = functional.normalize(goal[one.batch][one.row].to(device).float(), dim=-1)
            tokens[one.language] += len(even)
            sums += even.sum(0, dtype=torch.float64)
            squares[one.language] += even.square().sum(0, dtype=torch.float64)
        total = sum(tokens.values())
        variance = torch.stack(list(squares.values())).sum(0) / total - (sums / total).square()
        scale = variance.clamp(min=_LEAST_VARIANCE * float(variance.mean()) or 1.0).rsqrt()
        powers = {name: float((squares[name] * scale.square()).sum()) / tokens[name] or 1.0 for name in self._mix}
        return _Task(block, place, states, goal, scale.float(), powers, weights)

    def _loss(self, errors: Mapping[str, float]) -> float:
        """What decides."""
        return max(errors.values()) if self._minimax else sum(self._mix[name] * error for name, error in errors.items())

    def _rounded(self, task: _Task) -> dict[str, Tensor]:
        """Copies of the weights, rounded to the checkpoint's type."""
        checkpoint = self._model.checkpoint
        return {
            name: weight.to(DTYPES[checkpoint.block_tensor(task.place, name).dtype], copy=True)
            for name, weight in task.weights.items()
        }


@dataclass(frozen=True)
class _Task:
    """A block to train.

    Attributes:
        block: in memory.
        place: its position in the output.
        states: hidden states before it.
        goal: those of the dense model after it.
        scale: of each channel: d.
        powers: ‖u(g)‖² of a token of the latter, by language.
        weights: what is trained, by its name within the block.
    """

    block: nn.Module
    place: int
    states: Sequence[Tensor]
    goal: Sequence[Tensor]
    scale: Tensor
    powers: Mapping[str, float]
    weights: Mapping[str, Tensor]


def norm_weights(block: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of a block's norms, by their names within it."""
    return {
        f"{name}.{part}": parameter
        for name, module in block.named_modules()
        if not isinstance(module, nn.Linear)
        for part, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 1
    }


def _evened(states: Tensor, scale: Tensor) -> Tensor:
    """Hidden states …×d with tokens of the same length and channels scaled: u."""
    return functional.normalize(states, dim=-1) * scale


def _towards_worst(mix: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """The weights with those of languages whose errors are larger raised."""
    raised = {name: weight * errors[name] for name, weight in mix.items()}
    total = sum(raised.values())
    return {name: weight / total for name, weight in raised.items()} if total else dict(mix)


def _reproducible_attention() -> contextlib.AbstractContextManager[None]:
    """Attention whose gradients are the same every time, which the fast kernels of accelerators do not promise."""
    return sdpa_kernel(SDPBackend.MATH) if torch.cuda.is_available() else contextlib.nullcontext()


def _take(task: _Task, gradients: Mapping[str, list[Tensor]]) -> None:
    """Put the gradients of the weights to those before them."""
    for name, weight in task.weights.items():
        if weight.grad is not None:
            gradients[name].append(weight.grad)
            weight.grad = None


@torch.no_grad()
def _put(task: _Task, values: Mapping[str, Tensor]) -> None:
    for name, weight in task.weights.items():
        weight.copy_(values[name])
