"""Mixtures of experts."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": {
        **LLAMA_LIKE,
        "tie_word_embeddings": False,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
    },
    "qwen3_moe": {
        **LLAMA_LIKE,
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],
    },
}
