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
    "olmo": {**LLAMA_LIKE, "clip_qkv": 1.0, "tie_word_embeddings": False},
    "olmo3": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 500_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    },
    "smollm3": {
        **LLAMA_LIKE,
        "use_sliding_window": True,
        "sliding_window": 16,
        "no_rope_layers": [1, 0, 1],
        "mlp_bias": True,
    },
    "granite": {
        **LLAMA_LIKE,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "attention_bias": True,
    },
    "ministral3": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "max_position_embeddings": 256,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "apertus": {
        **LLAMA_LIKE,
        "attention_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 12_000_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "gemma": {**LLAMA_LIKE, "attention_bias": True},
    "helium": {**LLAMA_LIKE, "attention_bias": True, "mlp_bias": True},
    "arcee": {**LLAMA_LIKE, "mlp_bias": True, "tie_word_embeddings": True},
    "exaone4": {
        **LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "glm": {**LLAMA_LIKE, "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5}},
    "glm4": {**LLAMA_LIKE, "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5}},
}
