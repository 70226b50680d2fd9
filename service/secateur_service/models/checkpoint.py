"""A checkpoint folder: its configuration, its tensors by name, and whether Secateur can prune it.

Reads only configuration and headers, without torch, so that the API can immediately refuse what cannot be pruned.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur_service.models.architectures import (
    ARCHITECTURES,
    MAX_EXPERTS,
    ROWS,
    WRAPPERS,
    Architecture,
    Groups,
    Part,
    part_of,
)
from secateur_service.models.files import REFUSED
from secateur_service.models.safetensors import DTYPE_BYTES, TensorInfo
from secateur_service.models.support import advice
from secateur_service.models.weights import CONFIG_LIMITS, ModelRefusedError, read_object, read_tensors
from secateur_service.models.wrapping import check_beside, text_settings, text_type, with_text, with_token_ids

__all__ = ["Checkpoint", "ModelRefusedError", "open_checkpoint"]

# The name, in every supported architecture, of the matrix that maps hidden states to the vocabulary.
_HEAD = "lm_head.weight"
_QUANTISED = "the weights are quantised; prune the unquantised model and quantise the result"
_MXFP4 = (
    "the weights are in MXFP4, or named so; save the model in bfloat16 and prune that: "
    "AutoModelForCausalLM.from_pretrained(PATH, quantization_config=Mxfp4Config(dequantize=True), "
    "dtype=torch.bfloat16).save_pretrained(FOLDER, save_original_format=False), and copy the tokenizer's files"
)
# What configurations call the number of blocks, the size of the hidden states, and the longest sequence.
BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embed", "n_embd", "d_model")
_POSITIONS = ("max_position_embeddings", "seq_length", "n_positions")
# Rotary frequencies are computed from the configuration.
_UNREAD = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class Place:
    """Where the checkpoint has a parameter of the model.

    Attributes:
        stored: the tensor.
        part: which part of it the parameter is; None if it is the whole tensor, as it is.
        info: the parameter, with its own name and shape; only a whole tensor can be read by it.
    """

    stored: TensorInfo
    part: Part | None
    info: TensorInfo

    def of(self, stored: Any) -> Any:
        """The parameter as a view of the stored tensor."""
        return stored if self.part is None else self.part.of(stored)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be pruned.

    Attributes:
        config: the content of config.json.
        tensors: all tensors by their name in the checkpoint.
        num_blocks: number of decoder blocks.
        notes: what is unusual about its files, for the job's owner.
        companions: folder with copies of the files that go with it, including the tokenizer; None until they are made.
    """

    folder: Path
    config: dict[str, Any]
    architecture: Architecture
    tensors: dict[str, TensorInfo]
    num_blocks: int
    notes: tuple[str, ...] = ()
    companions: Path | None = None

    @property
    def model_type(self) -> str:
        """The `model_type` of transformers."""
        return str(self.config["model_type"])

    @cached_property
    def text_config(self) -> dict[str, Any]:
        """What config.json says of the text model: all of it, but for one that lies in a multimodal model."""
        wrapper = self.architecture.wrapper
        return text_settings(self.config, wrapper, has_head=self.stores_head) if wrapper else self.config

    @property
    def text_type(self) -> str:
        """The `model_type` of the text model."""
        return str(self.text_config["model_type"])

    def changed(self, config: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """The content of a config.json in which the settings of the text model are changed."""
        wrapper = self.architecture.wrapper
        if wrapper is None:
            return change(dict(config))
        return with_text(config, wrapper, change(text_settings(config, wrapper, has_head=self.stores_head)))

    @property
    def config_with_tokens(self) -> dict[str, Any]:
        """The content of config.json, with the tokens that a multimodal model knows without being told."""
        wrapper = self.architecture.wrapper
        return with_token_ids(self.config, wrapper, self.text_config) if wrapper else self.config

    @cached_property
    def beside(self) -> frozenset[str]:
        """Names of the tensors beside the text model and its head: those of towers and projectors."""
        wrapper = self.architecture.wrapper
        paths = tuple(f"{path}." for path in wrapper.beside) if wrapper else ()
        return frozenset(name for name in self.tensors if self.architecture.model_name(name).startswith(paths))

    @property
    def of_text(self) -> list[TensorInfo]:
        """The tensors that text needs: all but those beside."""
        return [info for name, info in self.tensors.items() if name not in self.beside]

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of its tokenizer."""
        return self.companions or self.folder

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size_bytes for info in self.tensors.values())

    @property
    def parameters(self) -> int:
        """How many numbers are stored, including those that training did not learn; a tied head counts once."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def max_sequence_length(self) -> int | None:
        """The longest sequence that the model was made for; None where its configuration does not say."""
        length = _first_of(self.text_config, _POSITIONS)
        return length if isinstance(length, int) and length > 0 else None

    @property
    def head_name(self) -> str:
        """Name of the tensor that maps hidden states to the vocabulary: the head, or the embedding where tied.

        A checkpoint may store a head although its configuration says that it is tied; both then hold the same values.
        """
        if not self.stores_head and self.is_tied:
            return self.embedding_name
        return self.stored_name(_HEAD)

    @property
    def is_tied(self) -> bool:
        """Whether the configuration says that the head is the embedding."""
        return bool(self.text_config.get("tie_word_embeddings", self.architecture.tied))

    @property
    def stores_head(self) -> bool:
        """Whether the checkpoint stores a separate head."""
        return self.find(_HEAD) is not None

    @property
    def embedding_name(self) -> str:
        """Name of the token embedding."""
        return self.stored_name(f"{self.architecture.embedding}.weight")

    def stored_name(self, module_path: str) -> str:
        """The name of the tensor that has a parameter of the model: see `place_of`.

        Raises:
            ModelRefusedError: the checkpoint has no such tensor.
        """
        return self.place_of(module_path).stored.name

    def place_of(self, module_path: str) -> Place:
        """Where the checkpoint has a parameter of the model.

        Some checkpoints omit the base model's prefix, and some names have changed since they were published.

        Raises:
            ModelRefusedError: the checkpoint has no such tensor.
        """
        place = self.find(module_path)
        if place is None:
            raise ModelRefusedError(f"the checkpoint has no tensor {module_path}; check that it is complete")
        return place

    def find(self, module_path: str) -> Place | None:
        """Where the checkpoint has a parameter of the model; None if it does not have it."""
        if module_path not in self._found:
            self._found[module_path] = self._find(module_path)
        return self._found[module_path]

    def _find(self, module_path: str) -> Place | None:
        inner = _block_of(self.architecture, module_path)
        part = part_of(self.architecture, inner[1]) if inner else None
        if inner is None or part is None:
            info = self._named(module_path)
            return Place(info, None, info) if info else None
        path = module_path.removesuffix(inner[1])
        stored = self._named(path + part.packed.stored)
        shape = part.shape(stored.shape) if stored else None
        if stored is None or shape is None:
            return None
        name = stored.name.removesuffix(part.packed.stored) + inner[1]
        size = math.prod(shape) * DTYPE_BYTES[stored.dtype]
        return Place(stored, part, replace(stored, name=name, shape=shape, size_bytes=size))

    def _named(self, module_path: str) -> TensorInfo | None:
        """The tensor of this name, or of those that checkpoints may have instead."""
        renamed = module_path
        for part, stored in self.architecture.renamed:
            renamed = renamed.replace(part, stored)
        for name in (renamed, module_path):
            short = name.removeprefix(self.architecture.base_prefix) if self.architecture.loads_base else name
            for candidate in (name, short):
                if candidate in self._by_model_name:
                    return self._by_model_name[candidate]
        return None

    @property
    def fixed_depth(self) -> bool:
        """Whether what a block is follows from its number, so that none can be removed."""
        switches = self.architecture.numbered
        return self.architecture.fixed_depth or any(self.config.get(switch) for switch in switches)

    def oriented(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Stored tensors by name, those transposed that are inputs × outputs; done twice, they are as before."""
        return {name: tensor.T if self.is_transposed(name) else tensor for name, tensor in tensors.items()}

    def is_transposed(self, name: str) -> bool:
        """Whether a stored tensor is a matrix of inputs × outputs."""
        inner = _block_of(self.architecture, name)
        alone = (packed for packed in self.architecture.packed if packed.transposed and not packed.of_experts)
        return inner is not None and any(packed.stored == inner[1] for packed in alone)

    def block_path(self, index: int) -> str:
        """Module path of a block."""
        return f"{self.architecture.blocks}.{index}"

    def block_tensors(self, index: int) -> list[TensorInfo]:
        """The tensors of one block in the order of their names."""
        return self._by_block.get(index, [])

    def other_tensors(self) -> list[TensorInfo]:
        """The tensors outside the blocks in the order of their names."""
        return self._by_block.get(None, [])

    def inputs(self, index: int) -> Groups:
        """The pruned linear layers of a block, by name relative to it: each tuple shares one input, in order of inputs.

        Experts come one after the other.

        Raises:
            ModelRefusedError: there are too many experts.
        """
        if index not in self._inputs:
            self._inputs[index] = tuple(self._groups_in(index))
        return self._inputs[index]

    def _groups_in(self, index: int) -> Iterator[tuple[str, ...]]:
        groups = self.architecture.groups_of(self.text_config)
        for is_expert, run in itertools.groupby(groups, lambda group: "*" in group[0]):
            patterns = list(run)
            for expert in range(self._experts_in(index)) if is_expert else (0,):
                for group in patterns:
                    names = (name.replace("*", str(expert)) for name in group)
                    path = self.block_path(index)
                    found = tuple(name for name in names if self.find(f"{path}.{name}.weight") is not None)
                    if found:
                        yield found

    def _experts_in(self, index: int) -> int:
        """How many experts a block has, by the numbers in its tensors' names, or by a tensor that has all of them."""
        packed = {packed.stored for packed in self.architecture.packed if packed.of_experts}
        count = 0
        for info in self.block_tensors(index):
            match = re.search(r"\.experts\.(\d+)\.", info.name)
            if match:
                count = max(count, int(match[1]) + 1)
            elif info.shape and info.name.endswith(tuple(packed)) and packed:
                count = max(count, info.shape[0])
        if count > MAX_EXPERTS:
            raise ModelRefusedError(f"block {index} has {count} experts; at most {MAX_EXPERTS} are supported")
        return count

    @staticmethod
    def expert_of(linear: str) -> int | None:
        """Number of the expert that a linear layer of a block belongs to; None outside mixtures of experts."""
        match = re.search(r"\.experts\.(\d+)\.", linear)
        return int(match[1]) if match else None

    def linear_weight(self, index: int, linear: str) -> TensorInfo:
        """The weight of a pruned linear layer of a block."""
        return self.block_tensor(index, f"{linear}.weight")

    def block_tensor(self, index: int, name: str) -> TensorInfo:
        """A parameter of a block, by its name within it."""
        return self.place_of(f"{self.block_path(index)}.{name}").info

    def linears(self) -> Iterator[tuple[int, str]]:
        """All pruned layers: the number of the block, and the name relative to it."""
        for index in range(self.num_blocks):
            for group in self.inputs(index):
                for linear in group:
                    yield index, linear

    def linear_weights(self) -> Iterator[TensorInfo]:
        """The weights of all pruned layers, block by block."""
        for index, linear in self.linears():
            yield self.linear_weight(index, linear)

    @property
    def weight_dtype(self) -> str:
        """Type in which the pruned layers are stored, by its name in the format."""
        return next(self.linear_weights()).dtype

    def structure_digest(self) -> str:
        """SHA-256 over configuration, headers, file sizes and times: a cheap way to detect a replaced file."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name in sorted(self.tensors):
            info = self.tensors[name]
            digest.update(f"{name}|{info.dtype}|{info.shape}|{info.offset}\n".encode())
        for path in sorted({info.path for info in self.tensors.values()}):
            stat = path.stat()
            digest.update(f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _by_model_name(self) -> dict[str, TensorInfo]:
        """The tensors by their names in the model, as far as their beginning goes."""
        return {self.architecture.model_name(name): info for name, info in self.tensors.items()}

    @cached_property
    def _found(self) -> dict[str, Place | None]:
        """Cache of the parameters looked up so far."""
        return {}

    @cached_property
    def _inputs(self) -> dict[int, Groups]:
        """Cache of the layers of the blocks looked at so far."""
        return {}

    @cached_property
    def _by_block(self) -> dict[int | None, list[TensorInfo]]:
        """The tensors of each block, and under None those outside the blocks, in the order of their names."""
        found: dict[int | None, list[TensorInfo]] = {}
        for name in sorted(self.tensors):
            found.setdefault(position_of(self.architecture, name), []).append(self.tensors[name])
        return found


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
    num_blocks = _first_of(settings, BLOCKS)
    for listed in (settings.get(key) for key in architecture.per_block if num_blocks is None):
        num_blocks = len(listed) if isinstance(listed, (list, str)) else num_blocks
    if type(num_blocks) is not int or num_blocks < 1:
        raise ModelRefusedError("config.json does not say how many blocks the model has (num_hidden_layers)")
    checkpoint = replace(checkpoint, num_blocks=num_blocks)
    _check_names(checkpoint)
    _check_blocks(checkpoint)
    return checkpoint


def _supported_architecture(config: dict[str, Any]) -> Architecture:
    model_type = config.get("model_type")
    wrapper = WRAPPERS.get(model_type) if isinstance(model_type, str) else None
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
        raise ModelRefusedError(f"architecture {model_type!r} is not supported{remedy}; {advice(str(model_type))}")
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
        check_beside(checkpoint.config, architecture, checkpoint.tensors)
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
            raise ModelRefusedError(f"{info.name} has {len(info.shape)} dimensions where a matrix is expected")
        if info.dtype not in ("F32", "F16", "BF16"):
            raise ModelRefusedError(
                f"element type {info.dtype} of {info.name} is not supported for weights that are pruned (F32, F16 and "
                "BF16 are); dequantise the model first"
            )
        claimed.add(place.stored.name)
    for info in checkpoint.tensors.values():
        inner = _block_of(checkpoint.architecture, info.name)
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
            raise ModelRefusedError(
                f"the checkpoint has no tensor {checkpoint.block_path(index)}; check that it is complete"
            )
    width = _first_of(checkpoint.text_config, _HIDDEN)
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


def position_of(architecture: Architecture, name: str) -> int | None:
    """The position of the block that a tensor belongs to, from its name; None outside the blocks."""
    place = _block_of(architecture, name)
    return place[0] if place else None


def moved(architecture: Architecture, name: str, position: int) -> str:
    """The name of a block's tensor in a block at another position."""
    place = _block_of(architecture, name)
    assert place is not None
    return f"{name.removesuffix(f'{place[0]}.{place[1]}')}{position}.{place[1]}"


def _block_of(architecture: Architecture, name: str) -> tuple[int, str] | None:
    """(block, name relative to the block) of a tensor; None outside the blocks."""
    blocks, name = architecture.blocks.removeprefix(architecture.base_prefix), architecture.model_name(name)
    match = re.fullmatch(rf"(?:{re.escape(architecture.base_prefix)})?{re.escape(blocks)}\.(\d{{1,5}})\.(.+)", name)
    return (int(match[1]), match[2]) if match else None


def _first_of(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of these keys that a configuration has; None if it has none."""
    return next((config[key] for key in keys if key in config), None)
