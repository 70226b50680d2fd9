"""Models of transformers, built without memory or loaded whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig
from transformers.pytorch_utils import Conv1D

from secateur_service.models.architectures import ROWS, Part
from secateur_service.models.belonging import check_towers
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.configuration import whole_configuration
from secateur_service.models.experts import replace_experts
from secateur_service.models.refusals import refused_by_model

_MOST_SAID = 500


def build_without_memory(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model on the meta device, with the best attention that its class supports.

    A multimodal one has no towers: its own forward pass runs, with text alone.

    Raises:
        ModelRefusedError: transformers cannot build it, or the checkpoint's towers are not those of the configuration.
    """
    config = whole_configuration(checkpoint)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        part.use_cache = part.output_hidden_states = part.output_attentions = False
        part.return_dict = True
    try:
        with torch.device("meta"):
            model = _class_of(checkpoint).from_config(config, dtype=dtype).eval()
    except Exception as error:
        raise refused_by_model(checkpoint.config, error) from error
    check_towers(checkpoint, _take_towers(checkpoint, model))
    kept = model._keep_in_fp32_modules_strict or ()
    for name, tensor in stored_tensors(model):  # routers, which choose by small differences
        if any(part in name for part in kept):
            tensor.data = tensor.data.float()
    if checkpoint.architecture.mixture:
        replace_experts(model.get_submodule(checkpoint.architecture.blocks), checkpoint.architecture.mixture)
    if any(not packed.of_experts for packed in checkpoint.architecture.packed):
        replace_transposed(model)
    for module in model.modules():  # some classes fix a narrow type, which loaders widen
        for name, tensor in stored_tensors(module, recurse=False):
            if tensor.is_floating_point() and tensor.dtype.itemsize < dtype.itemsize:
                wide = tensor.to(dtype)
                setattr(module, name, nn.Parameter(wide) if isinstance(tensor, nn.Parameter) else wide)
    return model.requires_grad_(requires_grad=False)


def _class_of(checkpoint: Checkpoint) -> Any:
    return AutoModelForImageTextToText if checkpoint.architecture.wrapper else AutoModelForCausalLM


def _take_towers(checkpoint: Checkpoint, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Take out of a model what lies beside its text model; returns the shapes of its parameters by name."""
    shapes = {}
    wrapper = checkpoint.architecture.wrapper
    for path in wrapper.beside_in(checkpoint.config) if wrapper else ():
        tensors = stored_tensors(model.get_submodule(path))
        shapes.update({f"{path}.{name}": tuple(tensor.shape) for name, tensor in tensors})
        model.set_submodule(path, nn.Identity())
    return shapes


def replace_transposed(model: nn.Module) -> None:
    """Replace the layers of GPT-2's kind, whose matrices are transposed, by linear layers that compute the same."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs, device=module.weight.device, dtype=module.weight.dtype)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, linear)


def stored_tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint stores of a module, by name: its parameters, and the buffers that are not computed anew."""
    yield from module.named_parameters(recurse=recurse)
    for path, part in module.named_modules() if recurse else (("", module),):
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def restore_buffers(model: Any, module: nn.Module) -> None:
    """Fill a module's buffers that no checkpoint stores, such as rotary frequencies, as the model initialises them."""
    if module._non_persistent_buffers_set:
        text = getattr(model.base_model, "language_model", model)  # whichever class the module is of
        text._init_weights(module)
        if ROWS[text.config.model_type].outer_buffers:
            text._init_weights(text.base_model)


@torch.no_grad()
def assemble(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, pieces: Iterable[tuple[str, int, Tensor]]
) -> Any:
    """The whole model in memory, out of tensors that may be anywhere; none is in memory a second time.

    Args:
        checkpoint: the model; only its shapes and its configuration are read here.
        device: where it computes.
        dtype: type of the weights while computing.
        pieces: rows of all its tensors: the name in the checkpoint, the first row's number, and the rows.

    Raises:
        ModelRefusedError: transformers cannot build it, or a tensor is missing.
    """
    model = build_without_memory(checkpoint, dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty_like(buffer, device=device)
        restore_buffers(model, module)  # its weights, which are on the meta device, stay as they are
    head = model.get_output_embeddings()
    tied = checkpoint.head_name == checkpoint.embedding_name
    for module in model.modules():
        for name, empty in module.named_parameters(recurse=False):
            if not (tied and module is head and name == "weight"):
                setattr(module, name, nn.Parameter(torch.empty_like(empty, device=device), requires_grad=False))
    if tied:
        head.weight = model.get_input_embeddings().weight
    held: dict[str, list[tuple[Part | None, Tensor]]] = {}
    left: dict[str, int] = {}
    for path, tensor in stored_tensors(model):
        place = checkpoint.place_of(path)
        held.setdefault(place.stored.name, []).append((place.part, tensor))
        left[place.stored.name] = place.stored.rows
    for name, first, rows in pieces:
        for part, tensor in held[name]:
            _fill(tensor, part, first, rows)
        left[name] -= len(rows)
    missing = [name for name, count in left.items() if count]
    if missing:
        raise ModelRefusedError(f"{min(missing)} was not read as a whole; check that the checkpoint is complete")
    model.generation_config = _generation(checkpoint, model.config)
    return model


def _fill(tensor: Tensor, part: Part | None, first: int, rows: Tensor) -> None:
    """Copy those of the rows [first, …) of a stored tensor that a parameter has."""
    if part is None:
        (tensor if tensor.dim() else tensor[None])[first : first + len(rows)].copy_(rows)
    elif part.expert is None:
        tensor.T[first : first + len(rows)].copy_(rows)
    elif first <= part.expert < first + len(rows):
        tensor.copy_(replace(part, expert=part.expert - first).of(rows))


def load_whole(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The whole model in memory, for what cannot be done a block at a time: generating text.

    Raises:
        ModelRefusedError: transformers cannot load it.
        MemoryError, torch.OutOfMemoryError: it does not fit into memory.
    """
    config = whole_configuration(checkpoint)
    try:
        loaded: Any = _class_of(checkpoint).from_pretrained(
            checkpoint.folder,
            config=config,
            generation_config=_generation(checkpoint, config),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST_SAID]
        raise ModelRefusedError(
            f"transformers {transformers.__version__} cannot load the model as a whole ({said}); check that the "
            "checkpoint is complete"
        ) from error
    model, found = loaded
    if found["missing_keys"]:
        raise checkpoint.lacking(min(found["missing_keys"]))
    _take_towers(checkpoint, model)
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _generation(checkpoint: Checkpoint, config: Any) -> GenerationConfig:
    """The model's generation settings, from the files taken with it; an unreadable one was left out."""
    if checkpoint.companions is not None and (checkpoint.companions / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(checkpoint.companions)
    return GenerationConfig.from_model_config(config)
