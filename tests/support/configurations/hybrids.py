"""Families that mix attention with layers that carry a state."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE

_SHARED = {key: value for key, value in LLAMA_LIKE.items() if key != "head_dim"}
_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_DELTA = {
    "tie_word_embeddings": False,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "layer_types": _MIXED,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
    "tie_word_embeddings": False,
}
_GRANITE = {
    **_SHARED,
    **_MAMBA,
    "layer_types": _MIXED,
    "shared_intermediate_size": 80,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}

_NEMOTRON = {
    **{key: value for key, value in LLAMA_LIKE.items() if key != "num_hidden_layers"},
    "mamba_num_heads": 4,
    "mamba_head_dim": 24,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 40,
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": {**LLAMA_LIKE, "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 32},
    "lfm2 biased": {
        **LLAMA_LIKE,
        "full_attn_idxs": [0, 2],
        "conv_bias": True,
        "block_auto_adjust_ff_dim": False,
        "tie_word_embeddings": False,
    },
    "qwen3_5_text": {**LLAMA_LIKE, **_DELTA},
    "granitemoehybrid": {**_GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid dense": {
        **_GRANITE,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "attention_bias": True,
        "mamba_proj_bias": True,
        "mamba_conv_bias": False,
        "tie_word_embeddings": True,
    },
    "falcon_h1": {
        **LLAMA_LIKE,
        **_MAMBA,
        "mamba_d_ssm": 96,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
        "embedding_multiplier": 3.0,
        "lm_head_multiplier": 0.5,
        "key_multiplier": 0.7,
        "attention_in_multiplier": 0.9,
        "attention_out_multiplier": 0.8,
        "ssm_in_multiplier": 1.2,
        "ssm_out_multiplier": 0.6,
        "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
        "mlp_multipliers": [0.7, 0.8],
    },
    "falcon_h1 biased": {
        **LLAMA_LIKE,
        **_MAMBA,
        "mamba_d_ssm": None,
        "projectors_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "mamba_proj_bias": True,
        "tie_word_embeddings": True,
    },
    "nemotron_h": {
        **_NEMOTRON,
        "layers_block_type": ["linear_attention", "full_attention", "moe"],
        "use_bias": True,
        "use_conv_bias": False,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 1.5,
    },
    "nemotron_h narrow": {
        **_NEMOTRON,
        "layers_block_type": ["mlp", "full_attention", "moe"],
        "moe_latent_size": 32,
        "mlp_bias": True,
    },
    "qwen3_next": {
        **LLAMA_LIKE,
        **_DELTA,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [1],
    },
}
