"""Dense families of 2025 in Llama's form."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE

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
}
