"""How many of a layer's inputs are sampled to judge it, and summed at once; without torch, for estimates.

A layer is judged by the products of the sample with it, or by the sample's second moments, whichever is less work.
"""

from __future__ import annotations

from collections.abc import Sequence

# Inputs per language that a layer's signal-to-noise ratio is computed from, where its second moments are not kept.
SAMPLE_TOKENS = 2048
# The same for all experts of a block together, where all of them are open at once, and the minimum for one expert.
_EXPERTS_SAMPLE_TOKENS = 16 * SAMPLE_TOKENS
_EXPERT_SAMPLE_TOKENS = 256

# Conjugate gradient steps; columns that SparseGPT's sweep handles at once; rounds of the search for a minimax mix.
CG_STEPS = 10
SWEEP_COLUMNS = 128
MINIMAX_ROUNDS = 4

# Tokens per product of second moments: enough to run at full speed despite reading and writing n×n sums.
TILE_TOKENS = 1024
DEVICE_TILE_TOKENS = 16384
# Tiles of tokens in one batch.
BATCH_TILES = {"cpu": 1, "cuda": 16}
# Smaller for an expert: its tile waits for more tokens, as do those of all other experts and languages.
EXPERT_TILE_TOKENS = 256
# Fewer tokens say too little about an expert: only the norms of its weights count then.
MIN_EXPERT_TOKENS = 32

_GRAM_PRODUCTS = 9 / 8


def sample_tokens(open_experts: int) -> int:
    """Number of inputs sampled per language.

    Args:
        open_experts: experts whose inputs are sampled at once; 0 for other layers, or for experts one at a time.
    """
    if not open_experts:
        return SAMPLE_TOKENS
    return min(SAMPLE_TOKENS, max(_EXPERT_SAMPLE_TOKENS, _EXPERTS_SAMPLE_TOKENS // open_experts))


def judges_by_moments(width: int, heights: Sequence[int], tokens: int) -> bool:
    """Whether a sample's second moments are less work than its products with layers m_i×n."""
    return snr_operations(width, heights, None) + _GRAM_PRODUCTS * tokens * width**2 < _by_products(
        width, heights, tokens
    )


def snr_operations(width: int, heights: Sequence[int], tokens: int | None) -> float:
    """Floating-point operations of the signal-to-noise ratios of layers m_i×n that share an input, in one language.

    Args:
        width: n.
        heights: m of each layer.
        tokens: size of the sample; None where second moments already exist.
    """
    by_moments = 4.0 * width**2 * sum(heights)
    if tokens is None:
        return by_moments
    return min(by_moments + _GRAM_PRODUCTS * tokens * width**2, _by_products(width, heights, tokens))


def _by_products(width: int, heights: Sequence[int], tokens: int) -> float:
    return 4.0 * tokens * width * sum(heights)
