"""Models of transformers, built without memory or loaded whole."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.configuration import read_configuration
from secateur_service.models.experts import replace_experts


def build_without_memory(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model on the meta device, with the best attention that its class supports.

    Raises:
        ModelRefusedError: transformers cannot build it.
    """
    config = read_configuration(checkpoint.config, checkpoint.model_type)
    config.use_cache = config.output_hidden_states = config.output_attentions = False
    config.return_dict = True
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except Exception as error:
        raise ModelRefusedError(f"transformers cannot build a model from config.json: {error!r}") from error
    if checkpoint.architecture.experts:
        replace_experts(model.get_submodule(checkpoint.architecture.blocks), checkpoint.architecture.experts)
    return model.requires_grad_(requires_grad=False)


def load_whole(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The whole model in memory, for what cannot be done a block at a time: generating text.

    Raises:
        ModelRefusedError: transformers cannot load it.
    """
    try:
        config = read_configuration(checkpoint.config, checkpoint.model_type)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=config,
            generation_config=_generation(checkpoint, config),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelRefusedError(f"transformers cannot load the model: {error!r}") from error
    model, found = loaded
    if found["missing_keys"]:
        raise ModelRefusedError(f"the checkpoint has no tensor {min(found['missing_keys'])}; check that it is complete")
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _generation(checkpoint: Checkpoint, config: Any) -> GenerationConfig:
    """The model's generation settings, from the files taken with it; an unreadable one was left out."""
    if checkpoint.companions is not None and (checkpoint.companions / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(checkpoint.companions)
    return GenerationConfig.from_model_config(config)
