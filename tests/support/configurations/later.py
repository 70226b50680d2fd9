"""Dense families of 2025 in Llama's form."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE, SHARED

CONFIGS: dict[str, dict[str, Any]] = {
    "seed_oss": {**LLAMA_LIKE, "attention_bias": True, "attention_out_bias": False},
    "ernie4_5": {**LLAMA_LIKE, "use_bias": True},
    "hunyuan_v1_dense": {
        **LLAMA_LIKE,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 1.0, "alpha": 1000.0},
    },
    "internlm3": {
        **LLAMA_LIKE,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 50_000_000.0, "factor": 6.0},
    },
    "cwm": {
        **LLAMA_LIKE,
        "mlp_bias": True,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "ministral": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    },
    "vaultgemma": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "nanochat": {**SHARED, "final_logit_softcapping": 3.0, "attention_bias": True},
}
