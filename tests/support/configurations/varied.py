"""Families whose blocks differ in sizes."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE

_GEMMA4 = {
    **LLAMA_LIKE,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "global_head_dim": 32,
    "attention_bias": True,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "final_logit_softcapping": 3.0,
    "use_bidirectional_attention": "vision",
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        **_GEMMA4,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 48,
    },
    "gemma4_text dense": {
        **_GEMMA4,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": False,
        "tie_word_embeddings": False,
    },
    "gemma4_unified_text": _GEMMA4,
}
