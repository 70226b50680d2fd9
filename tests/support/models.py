"""Tiny models of every supported architecture with random weights, and text to run them on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer

TEXT = Path(__file__).parents[2] / "service" / "secateur_service" / "commands" / "demo" / "text"
VOCABULARY = 260

_LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}

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

# By architecture and, after a blank, variant. What makes each different is turned on: soft-caps, sliding windows,
# rotary scaling, biases, norms, parallel blocks, tied and projected heads, dense blocks among mixtures of experts.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **_LLAMA_LIKE,
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
    "mistral": {**_LLAMA_LIKE, "sliding_window": 16, "tie_word_embeddings": False},
    "qwen2": {
        **_LLAMA_LIKE,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {**_LLAMA_LIKE, "tie_word_embeddings": True},
    "gemma2": {
        **_LLAMA_LIKE,
        "sliding_window": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        **_LLAMA_LIKE,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 16,
    },
    "cohere": {**_LLAMA_LIKE, "use_qk_norm": True, "logit_scale": 0.25},
    "cohere2": {
        **_LLAMA_LIKE,
        "logit_scale": 0.25,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": {
        **_LLAMA_LIKE,
        "tie_word_embeddings": False,
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [1.0 + step / 4 for step in range(8)],
        },
    },
    "olmo2": {**_LLAMA_LIKE, "tie_word_embeddings": False},
    "mixtral": {
        **_LLAMA_LIKE,
        "tie_word_embeddings": False,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
    },
    "qwen3_moe": {
        **_LLAMA_LIKE,
        "tie_word_embeddings": False,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],
    },
    "gpt_neox": {**_LLAMA_LIKE, "tie_word_embeddings": False},
    "gpt_neox sequential": {**_LLAMA_LIKE, "tie_word_embeddings": True, "use_parallel_residual": False},
    "opt": {**_LLAMA_LIKE, "ffn_dim": 96},
    "opt projected": {**_LLAMA_LIKE, "ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
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


def config_of(name: str) -> dict[str, Any]:
    """The settings of one of `CONFIGS`, to be changed by whoever wants to: transformers does."""
    return copy.deepcopy(CONFIGS[name])


def build_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model in memory; its weights are large enough for the blocks to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name.partition(" ")[0], **{**config_of(name), **copy.deepcopy(changes)})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


def save_model(folder: Path, name: str = "llama", **options: Any) -> Path:
    """A random model and a byte-level tokenizer, as a folder."""
    save_kwargs = {"max_shard_size": options.pop("max_shard_size")} if "max_shard_size" in options else {}
    build_model(name, **options).save_pretrained(folder, **save_kwargs)
    save_byte_tokenizer(folder, max_length=256)
    return folder


def save_corpora(folder: Path, languages: tuple[str, ...] = ("de", "en", "es", "uk")) -> tuple[Path, Path]:
    """The project's own text, divided into a calibration and an evaluation folder."""
    calibration, evaluation = folder / "calibration", folder / "evaluation"
    for target in (calibration, evaluation):
        target.mkdir(parents=True, exist_ok=True)
    for language in languages:
        lines = (TEXT / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        (calibration / f"{language}.txt").write_text("\n".join(lines[::2]) + "\n", encoding="utf-8")
        (evaluation / f"{language}.txt").write_text("\n".join(lines[1::2]) + "\n", encoding="utf-8")
    return calibration, evaluation


def spec_data(model: Path, calibration: Path, evaluation: Path, **pruning: Any) -> dict[str, Any]:
    """A specification for a tiny model, as the API receives it."""
    return {
        "model": {"uri": model.as_uri()},
        "calibration": {
            "corpus": calibration.as_uri(),
            "languages": [{"language": "de", "weight": 0.6}, {"language": "uk", "weight": 0.4}],
            "samples": 6,
            "sequence_length": 64,
        },
        "pruning": pruning or {"method": "wanda", "sparsity": 0.5},
        "evaluation": {
            "corpus": evaluation.as_uri(),
            "languages": ["de", "uk", "en"],
            "tokens_per_language": 512,
            "continuations": 0,
        },
    }
