"""Families in the form of GPT-2 and after it."""

from typing import Any

from support.configurations.sizes import LLAMA_LIKE, SHARED, VOCABULARY

_FALCON = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_hidden_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

_GPT2 = {
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT2, "n_inner": 96},
    "gpt2 untied": {**_GPT2, "tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True},
    "gpt_neox": {**LLAMA_LIKE, "tie_word_embeddings": False},
    "gpt_neox sequential": {**LLAMA_LIKE, "tie_word_embeddings": True, "use_parallel_residual": False},
    "opt": {**LLAMA_LIKE, "ffn_dim": 96},
    "opt projected": {**LLAMA_LIKE, "ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "xglm": {
        "d_model": 64,
        "ffn_dim": 96,
        "num_layers": 3,
        "attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
    "phi": {**SHARED, "partial_rotary_factor": 0.5},
    "phi normed": {**SHARED, "qk_layernorm": True, "tie_word_embeddings": True},
    "stablelm": {**SHARED, "use_qkv_bias": True, "partial_rotary_factor": 0.25},
    "stablelm parallel": {**SHARED, "use_parallel_residual": True, "qk_layernorm": True},
    "starcoder2": {**LLAMA_LIKE, "sliding_window": 16},
    "nemotron": {**LLAMA_LIKE, "partial_rotary_factor": 0.5},
    "jais2": LLAMA_LIKE,
    "falcon": _FALCON,
    "falcon two norms": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon one norm": {
        **_FALCON,
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False,
    },
    "falcon alibi": {**_FALCON, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    "bloom": {
        "hidden_size": 64,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}
