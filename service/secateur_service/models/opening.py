"""Opens a checkpoint folder and verifies that it can be pruned, or says why not.

Reads only configuration and headers, without torch, so that the API can immediately refuse what cannot be pruned.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur_service.models.architectures import ARCHITECTURES, MAX_BLOCKS, ROWS, WRAPPERS, Architecture
from secateur_service.models.checkpoint import (
    BLOCKS,
    HIDDEN,
    Checkpoint,
    ModelRefusedError,
    block_of,
    first_of,
    position_of,
)
from secateur_service.models.files import REFUSED
from secateur_service.models.support import advice, obstacles
from secateur_service.models.weights import CONFIG_LIMITS, read_object, read_tensors
from secateur_service.models.wrapping import check_beside, text_type

_LONGEST_TYPE = 100
_QUANTISED = "the weights are quantised; prune the unquantised model and quantise the result"
_MXFP4 = (
    "the weights are in MXFP4, or named so; save the model in bfloat16 and prune that: "
    "AutoModelForCausalLM.from_pretrained(PATH, quantization_config=Mxfp4Config(dequantize=True), "
    "dtype=torch.bfloat16).save_pretrained(FOLDER, save_original_format=False), and copy the tokenizer's files"
)
# Rotary frequencies are computed from the configuration.
_UNREAD = ("rotary_emb.inv_freq",)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder and verify that it can be pruned.

    Raises:
        ModelRefusedError: no safetensors, an unsupported architecture, custom code, quantised weights, or tensors that
            do not match the configuration.
    """
    config = read_object(folder / "config.json", CONFIG_LIMITS)
    for name, reason in REFUSED.items():
        if (folder / name).exists():
            raise ModelRefusedError(f"{name} is there: {reason}")
    architecture = _supported_architecture(config)
    tensors, notes = read_tensors(folder)
    for name in [name for name in tensors if _is_unread(architecture, name)]:
        del tensors[name]  # no loader reads it, so it is not published either
    left_out = [name for name in tensors if _is_left_out(architecture, config, name)]
    if left_out:
        notes = [*notes, f"{len(left_out)} tensors that transformers does not read are left out, such as {left_out[0]}"]
    for name in left_out:
        del tensors[name]
    checkpoint = Checkpoint(folder, config, architecture, tensors, 0, tuple(notes))
    settings = checkpoint.text_config
    num_blocks = first_of(settings, BLOCKS)
    for listed in (settings.get(key) for key in architecture.per_block if num_blocks is None):
        num_blocks = len(listed) if isinstance(listed, (list, str)) else num_blocks
    if type(num_blocks) is not int or num_blocks < 1:
        raise ModelRefusedError("config.json does not say how many blocks the model has (num_hidden_layers)")
    if num_blocks > MAX_BLOCKS:
        raise ModelRefusedError(f"config.json: num_hidden_layers is {num_blocks}; expected at most {MAX_BLOCKS}")
    checkpoint = replace(checkpoint, num_blocks=num_blocks)
    _check_names(checkpoint)
    _check_blocks(checkpoint)
    return checkpoint


def _supported_architecture(config: dict[str, Any]) -> Architecture:
    model_type = config.get("model_type")
    if not model_type:
        raise ModelRefusedError("config.json has no model_type; it is the type of the model, e.g. llama")
    if not isinstance(model_type, str) or not model_type.isprintable() or len(model_type) > _LONGEST_TYPE:
        raise ModelRefusedError(f"config.json: model_type is {str(model_type)[:80]!r}; expected the type of the model")
    wrapper = WRAPPERS.get(model_type)
    row = text_type(config, wrapper) if wrapper else model_type
    architecture = ROWS.get(row) if isinstance(row, str) and (wrapper or row in ARCHITECTURES) else None
    if architecture is None:
        inner = config.get("text_config")
        text = str(inner.get("model_type")) if isinstance(inner, dict) else ""
        remedy = ""
        if text in ARCHITECTURES:
            remedy = (
                f"; save its text model by itself, as {text} ('Multimodal models' in docs/specification.md says how)"
            )
        why = _why(obstacles(config))
        raise ModelRefusedError(f"architecture {model_type!r} is not supported{why}{remedy}; {advice(model_type)}")
    if architecture.excepted and (found := obstacles(config)):
        raise ModelRefusedError(f"this {model_type} model is not supported{_why(found)}; others of its type are")
    if wrapper:
        architecture = wrapper.around(architecture)
    # Models that transformers has since adopted still name their own code; the class of the same name replaces it.
    code = config.get("auto_map")
    published = architecture.published or architecture.class_name
    adopted = isinstance(code, dict) and str(code.get("AutoModelForCausalLM")).endswith(f".{published}")
    if code and not adopted:
        raise ModelRefusedError("the model brings code of its own (auto_map), which is never run; use a plain model")
    inner = config.get("text_config") if wrapper else None
    quantised = config.get("quantization_config")
    if isinstance(inner, dict):
        quantised = quantised or inner.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ModelRefusedError(_MXFP4 if method == "mxfp4" else _QUANTISED)
    classes = config.get("architectures") or [architecture.class_name]
    base = [architecture.base_class] if architecture.loads_base else None
    if classes not in ([architecture.class_name], [published], base):
        besides = f", and {architecture.base_class} where its head is the embedding" * architecture.loads_base
        raise ModelRefusedError(
            f"the model is a {classes}; of {model_type} only {architecture.class_name} can be pruned{besides}"
        )
    return architecture


def _why(found: list[str]) -> str:
    return f", because blocks run one at a time, on hidden states alone ({'; '.join(found)})" if found else ""


def _check_names(checkpoint: Checkpoint) -> None:
    """Check that no tensor is present under two names, and that there is a head."""
    architecture = checkpoint.architecture
    seen: dict[str, str] = {}
    for name in checkpoint.tensors:
        path = architecture.model_name(name).removeprefix(architecture.base_prefix)
        for part, stored in architecture.renamed:
            path = path.replace(stored, part)
        if path in seen:
            raise ModelRefusedError(f"{seen[path]} and {name} are the same tensor of the model; keep one of them")
        seen[path] = name
    if architecture.wrapper:
        check_beside(checkpoint.config, architecture, checkpoint.tensors, checkpoint.lacking)
    is_base = checkpoint.config.get("architectures") == [architecture.base_class]
    biased = architecture.biases_head(checkpoint.text_config)
    if is_base and not checkpoint.stores_head and (biased or not checkpoint.is_tied):
        missing = "whose bias is needed" if biased else "and tie_word_embeddings is not true"
        raise ModelRefusedError(
            f"the model is a {architecture.base_class}, which has no head, {missing}; save the "
            f"{architecture.class_name} that it belongs to"
        )


def _is_unread(architecture: Architecture, name: str) -> bool:
    return name.endswith((*_UNREAD, *(f".{unread}" for unread in architecture.unread)))


def _is_left_out(architecture: Architecture, config: dict[str, Any], name: str) -> bool:
    """Whether a tensor has another purpose, such as predicting tokens after the next one."""
    if name.startswith(architecture.left_out):
        return True
    blocks, ahead = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    position = position_of(architecture, name) if architecture.predicts_ahead else None
    return position is not None and type(blocks) is type(ahead) is int and blocks <= position < blocks + ahead


def _check_blocks(checkpoint: Checkpoint) -> None:
    """Check that every matrix of a block is pruned or excluded by name, and that no block is missing."""
    claimed = set()
    for index, linear in checkpoint.linears():
        place = checkpoint.place_of(f"{checkpoint.block_path(index)}.{linear}.weight")
        info = place.info
        if len(info.shape) != 2:
            raise ModelRefusedError(
                f"{place.stored.name} has {len(place.stored.shape)} dimensions where a matrix is expected"
            )
        if info.dtype not in ("F32", "F16", "BF16"):
            raise ModelRefusedError(
                f"element type {info.dtype} of {place.stored.name} is not supported for weights that are pruned (F32, "
                "F16 and BF16 are); dequantise the model first"
            )
        claimed.add(place.stored.name)
    for info in checkpoint.tensors.values():
        inner = block_of(checkpoint.architecture, info.name)
        if inner is None:
            continue
        index, name = inner
        if index >= checkpoint.num_blocks:
            raise ModelRefusedError(f"{info.name} belongs to a block that config.json does not know")
        if name.endswith(("experts.gate_up_proj_blocks", "experts.down_proj_blocks")):
            raise ModelRefusedError(_MXFP4)
        if len(info.shape) >= 2 and info.name not in claimed and name not in checkpoint.architecture.excluded:
            raise ModelRefusedError(f"{info.name} is a matrix that {checkpoint.model_type} models do not have")
    for index in range(checkpoint.num_blocks):
        if not checkpoint.inputs(index):
            raise checkpoint.lacking(checkpoint.block_path(index))
    width = first_of(checkpoint.text_config, HIDDEN)
    first = next(checkpoint.linear_weights())
    if width is not None and first.shape[1] != width:
        raise ModelRefusedError(
            f"{first.name} has shape {list(first.shape)}, and config.json says hidden_size {width}; they do not belong "
            "together"
        )
    embedding, head = (checkpoint.tensors[name] for name in (checkpoint.embedding_name, checkpoint.head_name))
    vocabulary = checkpoint.text_config.get("vocab_size")
    for info in (embedding, head):
        if len(info.shape) != 2 or info.shape[0] != vocabulary:
            raise ModelRefusedError(
                f"{info.name} has shape {list(info.shape)}, and config.json says vocab_size {vocabulary}; they do not "
                "belong together"
            )
