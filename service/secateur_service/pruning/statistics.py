"""Second moments of a layer's inputs, kept per language.

Second moments are additive, so each language keeps its own sums and the mix is applied when a layer is solved:
a_j² = Σ_ℓ w_ℓ · diag(X_ℓᵀX_ℓ)_j / T_ℓ and H = Σ_ℓ w_ℓ · X_ℓᵀX_ℓ / T_ℓ. Where only the mix of the full matrices is
needed, they are weighted and summed as they arrive.

The tokens of a language are one stream, summed in a fixed order in tiles of a fixed number of tokens, however the
stream is divided into batches and sequences: tokens that do not fill a tile wait for the next batch. So the sums do
not depend on the batch size. The exception is experts of a mixture: they may receive a batch's tokens in an order that
depends on what else is in the batch, so their sums are the same only for the same division into batches.

Text may be divided into shards, each of which is summed by itself; `settle` adds these in their order. So the sums do
not depend on how many ranks the shards are divided among either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur_service.pruning.budget import DEVICE_TILE_TOKENS, EXPERT_TILE_TOKENS, TILE_TOKENS
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.ranks import ALONE, Parts, Ranks

# Columns per panel of the lower triangle: (1 + 1/_PANELS) / 2 of a full product's operations.
_PANELS = 8
_MIN_PANEL = 128


class InputStatistics:
    """Statistics of one layer input of n features.

    Args:
        width: n.
        mix: weight of each language, summing to one.
        tokens: number of tokens T_ℓ of each language. An expert of a mixture sees fewer; its sums are still divided by
            T_ℓ, so that a language counts by how much of it reaches the expert.
        device: where the sums are kept.
        moments: which moments are needed.
        is_expert: whether the input is an expert's. Its tiles are smaller, because many are open at once.

    Attributes:
        seen: number of tokens seen so far, per language.
    """

    def __init__(
        self,
        width: int,
        mix: Mapping[str, float],
        tokens: Mapping[str, int],
        device: torch.device,
        *,
        moments: Moments,
        is_expert: bool = False,
    ) -> None:
        self.mix = dict(mix)
        self.tokens = dict(tokens)
        self.seen = dict.fromkeys(self.mix, 0)
        self._tile_tokens = TILE_TOKENS if device.type == "cpu" else DEVICE_TILE_TOKENS
        self._is_expert = is_expert
        # The sums of all experts may take too much of a device's memory to double.
        self._distinguishes = device.type == "cpu" or not is_expert
        if is_expert:
            self._tile_tokens = EXPERT_TILE_TOKENS
        self._open_tiles: dict[str, tuple[Tensor, int]] = {}  # the open tile, and how many tokens are in it
        self._shard: int | None = None
        self._square_sums = {name: _SquareSum(width, device) for name in self.mix}
        self._mixed = _Gram(width, device) if moments is Moments.FULL else None
        self._by_language = {name: _Gram(width, device) for name in self.mix} if moments is Moments.BY_LANGUAGE else {}

    @torch.no_grad()
    def update(self, inputs: Tensor, language: str, shard: int = 0) -> None:
        """Add inputs of one language, B×S×n of sequences or T×n of tokens; T may be 0.

        Args:
            inputs: the inputs.
            language: theirs.
            shard: that they are summed up in; in ascending order. On an accelerator those of an expert are not
                distinguished.
        """
        if shard != self._shard and self._distinguishes:
            if self._shard is not None:
                self._end_shard()
            self._shard = shard
        x_TN = inputs.reshape(-1, inputs.shape[-1])
        self.seen[language] += len(x_TN)
        size = self._tile_tokens
        if language in self._open_tiles:
            tile, filled = self._open_tiles.pop(language)
            taken = min(size - filled, len(x_TN))
            tile[filled : filled + taken] = x_TN[:taken]
            x_TN = x_TN[taken:]
            self._open_tiles[language] = tile, filled + taken
            if filled + taken == size:
                self._close(language)
        whole = len(x_TN) - len(x_TN) % size
        for tile in x_TN[:whole].split(size) if whole else ():
            self._add(tile, language)
        rest = x_TN[whole:]
        if self.seen[language] >= self.tokens[language]:  # no more will come
            self._close(language)
            self._add(rest, language)
        elif len(rest):
            tile = rest.new_empty(size, rest.shape[1])
            tile[: len(rest)] = rest
            self._open_tiles[language] = tile, len(rest)

    def settle(self, ranks: Ranks) -> None:
        """Add up the shards of all ranks; nothing can be added after it."""
        self._end_shard()
        for each in self._sums:
            each.settle(ranks)
        if ranks.count > 1:
            seen = ranks.collect([self.seen]) if self._is_expert else [self.tokens]
            self.seen = {name: sum(each[name] for each in seen) for name in self.seen}

    def _end_shard(self) -> None:
        self._close_all()
        for each in self._sums:
            each.end_shard(self._shard or 0)

    @property
    def _sums(self) -> list[_Sum]:
        return [*self._square_sums.values(), *([self._mixed] if self._mixed else []), *self._by_language.values()]

    def mean_squares(self) -> Tensor:
        """Σ_ℓ w_ℓ · diag(G_ℓ) / T_ℓ: n, float64."""
        means = self.language_mean_squares()
        return torch.stack([means[name] * weight for name, weight in self.mix.items()]).sum(0)

    def language_mean_squares(self) -> dict[str, Tensor]:
        """diag(G_ℓ) / T_ℓ per language: n, float64."""
        self._close_all()
        return {name: sums.total / self.tokens[name] for name, sums in self._square_sums.items()}

    @property
    def gram(self) -> Tensor | None:
        """H = Σ_ℓ w_ℓ · G_ℓ / T_ℓ: n×n, float32; None where it was not requested. Do not modify it."""
        self._close_all()
        if self._mixed is not None:
            return self._mixed.matrix()
        if not self._by_language:
            return None
        mix_NN = torch.zeros_like(next(iter(self._by_language.values())).matrix())
        for name, weight in self.mix.items():
            mix_NN.add_(self._by_language[name].matrix(), alpha=weight)
        return mix_NN

    def language_gram(self, language: str) -> Tensor:
        """G_ℓ / T_ℓ: n×n, float32. Do not modify it.

        Raises:
            KeyError: no such language, or the moments were not requested by language.
        """
        self._close_all()
        return self._by_language[language].matrix()

    def gram_of(self, language: str) -> Tensor | None:
        """G_ℓ up to a factor: n×n, float32; None where neither it nor a mix of only ℓ is kept. Do not modify it."""
        if self._by_language:
            return self.language_gram(language)
        return self.gram if len(self.mix) == 1 else None

    def reweight(self, mix: Mapping[str, float]) -> None:
        """Replace the mix without seeing any input again.

        Raises:
            ValueError: the languages differ, or full moments were already summed into one mix.
        """
        if mix.keys() != self.mix.keys():
            raise ValueError(f"a mix of {sorted(mix)} where the languages are {sorted(self.mix)}")
        if self._mixed is not None:
            raise ValueError("the moments of the languages were summed into one mix; ask for them by language")
        self.mix = dict(mix)

    def is_finite(self) -> bool:
        """Whether no input was NaN or infinite."""
        return all(bool(torch.isfinite(means).all()) for means in self.language_mean_squares().values())

    def _close_all(self) -> None:
        for language in list(self._open_tiles):
            self._close(language)

    def _close(self, language: str) -> None:
        """Add the open tile as it is, if there is one."""
        tile, filled = self._open_tiles.pop(language, (None, 0))
        if tile is not None:
            self._add(tile[:filled], language)

    def _add(self, tile_TN: Tensor, language: str) -> None:
        if not len(tile_TN):
            return
        if tile_TN.is_cuda:
            # One kernel that reads the tile once; on a CPU this is slower.
            norms_N = torch.linalg.vector_norm(tile_TN, dim=0, dtype=torch.float32)
            self._square_sums[language].of_shard.add_(norms_N.double().square())
        else:
            tile_TN = tile_TN.float()
            self._square_sums[language].of_shard.add_(tile_TN.square().sum(0))
        if self._by_language:
            self._by_language[language].add(tile_TN, 1 / self.tokens[language])
        elif self._mixed is not None and self.mix[language] > 0:
            self._mixed.add(tile_TN, self.mix[language] / self.tokens[language])


class _Sum:
    """A sum over shards: of one that is open, and of those before it.

    Args:
        zeros: makes a sum of nothing.
    """

    def __init__(self, zeros: Callable[[], Tensor]) -> None:
        self._zeros = zeros
        self._parts = Parts()
        self._open: Tensor | None = None
        self._total: Tensor | None = None

    @property
    def of_shard(self) -> Tensor:
        """The sum of the open shard, to be added to."""
        if self._open is None:
            self._open, self._total = self._zeros(), None
        return self._open

    def end_shard(self, shard: int) -> None:
        """Put the sum of the open shard to those before it."""
        if self._open is not None:
            self._parts.add(shard, self._open)
            self._open = None
        elif shard == 0:
            self._parts.begin()

    def settle(self, ranks: Ranks) -> None:
        """Add up the shards of all ranks."""
        self._total = self._parts.total(ranks, self._zeros)

    @property
    def total(self) -> Tensor:
        """The sum of all shards. Do not modify it."""
        if self._total is None:
            self.end_shard(0)
            self.settle(ALONE)
        assert self._total is not None
        return self._total


class _SquareSum(_Sum):
    """A sum of squares, n, float64."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__(lambda: torch.zeros(width, dtype=torch.float64, device=device))


class _Gram(_Sum):
    """A sum of αXᵀX, n×n, float32: symmetric, so only its lower triangle is summed, by panels of columns."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__(lambda: torch.zeros(width, width, dtype=torch.float32, device=device))
        step = max(_MIN_PANEL, -(-width // _PANELS))
        self._panels = [slice(start, min(start + step, width)) for start in range(0, width, step)]
        self._whole: Tensor | None = None

    def add(self, x_TN: Tensor, factor: float) -> None:
        """Add factor·XᵀX; 16-bit inputs are multiplied as they are and summed in float32, which only GPUs can do."""
        self._whole = None
        for panel in self._panels:
            below_KP = self.of_shard[panel.start :, panel]
            left_KT, right_TP = x_TN[:, panel.start :].T, x_TN[:, panel]
            if x_TN.dtype != torch.float32:
                below_KP.add_(torch.mm(left_KT, right_TP, out_dtype=torch.float32), alpha=factor)
            else:
                below_KP.addmm_(left_KT, right_TP, alpha=factor)

    def matrix(self) -> Tensor:
        """The sum, with its upper triangle copied from the lower one."""
        total_NN = self.total
        if self._whole is not total_NN:
            for panel in self._panels:
                corner = total_NN[panel, panel]
                corner.copy_(corner.tril() + corner.tril(-1).T)
                total_NN[panel, panel.stop :] = total_NN[panel.stop :, panel].T
            self._whole = total_NN
        return total_NN
