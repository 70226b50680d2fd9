"""Dense families in Llama's form."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **LLAMA_LIKE,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {**LLAMA_LIKE, "sliding_window": 16, "tie_word_embeddings": False},
    "qwen2": {
        **LLAMA_LIKE,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {**LLAMA_LIKE, "tie_word_embeddings": True},
    "gemma2": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
    },
    "cohere": {**LLAMA_LIKE, "use_qk_norm": True, "logit_scale": 0.25},
    "cohere2": {
        **LLAMA_LIKE,
        "logit_scale": 0.25,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": {
        **LLAMA_LIKE,
        "tie_word_embeddings": False,
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [1.0 + step / 4 for step in range(8)],
        },
    },
    "olmo2": {**LLAMA_LIKE, "tie_word_embeddings": False},
}
