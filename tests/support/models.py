"""Tiny models of every supported architecture with random weights, and text to run them on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from support.configurations import CONFIGS
from support.configurations.sizes import VOCABULARY

__all__ = ["CONFIGS", "TEXT", "VOCABULARY"]

TEXT = Path(__file__).parents[2] / "service" / "secateur_service" / "commands" / "demo" / "text"


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
        stored = model.state_dict()
        for name, buffer in model.named_buffers():
            if name in stored:  # those of routers, which stay in float32 as in published models
                buffer.add_(torch.randn_like(buffer) * 0.1)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return model


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
