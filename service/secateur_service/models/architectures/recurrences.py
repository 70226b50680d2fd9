"""What layers that carry a state compute and hold for each token, besides their linear layers, from the configuration.

All run by chunks of tokens, so that most of the work is products of matrices; it grows with the text, not with its
square. Operations are counted as torch does: two for a multiplication and an addition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_CHUNK = 64  # tokens, of the gated delta rule in transformers and in the kernels of flash-linear-attention


def state_space_scan(heads: str, chunk: str, state: str) -> Callable[[Any], int]:
    """Numbers that a state-space layer holds for each token: decays and products within chunks, inputs and outputs."""
    return lambda config: getattr(config, heads) * (2 * getattr(config, chunk) + 15 * getattr(config, state))


def delta_scan(config: Any) -> int:
    """Numbers that the gated delta rule holds for each token: queries, keys and values in several forms."""
    return 10 * config.linear_num_value_heads * (config.linear_key_head_dim + config.linear_value_head_dim)


def _state_space(heads: int, n: int, states: int, groups: int, chunk: int, kernel: int) -> float:
    """Operations of a state-space layer of inner size n for each token, by chunks: arXiv:2405.21060, section 6.

    Within a chunk of C tokens, each head multiplies C×C matrices by its states and by its values; it writes the state
    that chunks hand on, and reads it: listing 1 there. To this comes the convolution.
    """
    return 2.0 * chunk * (heads * states + n) + 4.0 * n * states + 2.0 * kernel * (n + 2 * groups * states)


def mamba_recurrence(config: Any, n: int) -> float:
    """The same of the names that most configurations have."""
    sizes = (config.mamba_d_state, config.mamba_n_groups, config.mamba_chunk_size, config.mamba_d_conv)
    return _state_space(config.mamba_n_heads, n, *sizes)


def nemotron_recurrence(config: Any) -> float:
    """The same of Nemotron-H's names."""
    sizes = (config.ssm_state_size, config.n_groups, config.chunk_size, config.conv_kernel)
    return _state_space(config.mamba_num_heads, config.mamba_num_heads * config.mamba_head_dim, *sizes)


def delta_recurrence(config: Any) -> float:
    """Operations of the gated delta rule for each token, by chunks: arXiv:2412.06464, section 3.3.

    For each head, with keys of width k and values of v: three products of the state, k·v; within a chunk of C tokens
    keys by keys and queries by keys, k wide, and their weights by values, v wide; and a triangular system, half as much
    for each of its k + v right sides. To this comes the convolution.
    """
    h, k, v = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
    channels = 2 * config.linear_num_key_heads * k + h * v
    within = _CHUNK * (5.0 * k + 3.0 * v)
    return h * (6.0 * k * v + within) + 2.0 * config.linear_conv_kernel_dim * channels


def short_recurrence(config: Any) -> float:
    """Operations of a short convolution for each token, with the gates before and after it."""
    return (2.0 * config.conv_L_cache + 2.0) * config.hidden_size
