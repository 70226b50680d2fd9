"""Tiny models of every supported architecture with random weights, and text to run them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from secateur_service.demo.tokenizer import save_byte_tokenizer

TEXT = Path(__file__).parents[2] / "service" / "secateur_service" / "demo" / "text"
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

# What makes each architecture different is turned on: soft-caps, sliding windows, biases, norms, tied heads.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA_LIKE, "tie_word_embeddings": False},
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
    "cohere": {**_LLAMA_LIKE, "use_qk_norm": True, "logit_scale": 0.25},
    "bloom": {
        "hidden_size": 64,
        "n_layer": 3,
        "n_head": 4,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}


def build_model(model_type: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model in memory; its weights are large enough for the blocks to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


def save_model(folder: Path, model_type: str = "llama", **options: Any) -> Path:
    """A random model and a byte-level tokenizer, as a folder."""
    save_kwargs = {"max_shard_size": options.pop("max_shard_size")} if "max_shard_size" in options else {}
    build_model(model_type, **options).save_pretrained(folder, **save_kwargs)
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
        "evaluation": {"corpus": evaluation.as_uri(), "languages": ["de", "uk", "en"], "tokens_per_language": 512},
    }
