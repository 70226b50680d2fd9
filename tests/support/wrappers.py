"""Tiny multimodal models of every supported kind with random weights, and an image for them to see."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from support.configurations.wrappers import CONFIGS, IMAGE

# How many places of a text the image takes.
_PLACES = dict.fromkeys(("aya_vision", "gemma4", "gemma4_unified", "llama4", "qwen2_5_vl", "qwen3_5", "qwen3_vl"), 1)
_PLACES |= dict.fromkeys(("gemma3", "llava", "mistral3"), 4)


def build_wrapper(kind: str, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A random model in memory; its weights are large enough for the blocks to matter.

    Args:
        kind: one of `CONFIGS`.
        text: changed settings of its text model.
        changes: changed settings of its own.
    """
    torch.manual_seed(0)
    settings = {**copy.deepcopy(CONFIGS[kind]), **changes}
    settings["text_config"] |= text or {}
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def load_wrapper(folder: Path) -> Any:
    """The model as transformers reads it, which fits its configuration exactly."""
    model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(found[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All stored tensors by name."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@torch.no_grad()
def see(model: Any, kind: str, image: int = IMAGE) -> Tensor:
    """Logits 1×S×V of a text with an image in it, whose places the token `image` takes."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, 6, *[image] * _PLACES[kind], 7, 8, 9]])
    if "qwen" in kind:
        patches = torch.randn(4, 3 * 2 * 14 * 14, generator=generator)
        grid, kinds = torch.tensor([[1, 2, 2]]), (ids == image).int()
        return model(input_ids=ids, pixel_values=patches, image_grid_thw=grid, mm_token_type_ids=kinds).logits
    if "gemma4" in kind:
        patches = torch.randn(1, 1 if "unified" in kind else 4, 3 * 14 * 14, generator=generator)
        places = torch.tensor([[[x, y] for y in range(2) for x in range(2)]])[:, : patches.shape[1]]
        kinds = (ids == image).int()
        return model(input_ids=ids, pixel_values=patches, image_position_ids=places, mm_token_type_ids=kinds).logits
    size = CONFIGS[kind]["vision_config"]["image_size"]
    pixels = torch.randn(1, 3, size, size, generator=generator)
    sizes = {"image_sizes": torch.tensor([[size, size]])} if kind == "mistral3" else {}
    return model(input_ids=ids, pixel_values=pixels, **sizes).logits
