"""Configurations of tiny models, by architecture and, after a blank, variant; in files as the architectures are.

What makes each different is turned on: soft-caps, sliding windows, rotary scaling, biases, norms, parallel blocks, tied
and projected heads, dense blocks among mixtures of experts.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from support.configurations import dense, hybrids, later, mixtures, varied, wide

CONFIGS: dict[str, dict[str, Any]] = {
    **dense.CONFIGS,
    **later.CONFIGS,
    **wide.CONFIGS,
    **mixtures.CONFIGS,
    **varied.CONFIGS,
    **hybrids.CONFIGS,
}

FAST = frozenset(
    [
        *("llama", "gemma3_text", "cohere", "apertus", "gpt2", "falcon two norms", "bloom", "mixtral", "qwen3_moe"),
        *("gpt_oss", "deepseek_v3", "llama4_text", "lfm2", "qwen3_5_text", "nemotron_h", "gemma4_text"),
    ]
)
"""One or two of each structure; all tests go over these, and those marked `every_row` over the others."""


def marked(names: Iterable[str]) -> list[Any]:
    """Parameters of a test that goes over architectures; those that are not in `FAST` are marked."""
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.every_row) for name in names]
