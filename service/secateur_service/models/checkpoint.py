"""A checkpoint that can be pruned: its configuration, its tensors by name, and where it has the model's parameters.

Does not import torch.
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
    MAX_EXPERTS,
    Architecture,
    Groups,
    Part,
    part_of,
)
from secateur_service.models.safetensors import DTYPE_BYTES, TensorInfo
from secateur_service.models.weights import ModelRefusedError
from secateur_service.models.wrapping import text_settings, with_text, with_token_ids

__all__ = ["Checkpoint", "ModelRefusedError"]

# What configurations call the number of blocks, the size of the hidden states, and the longest sequence.
BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")
HIDDEN = ("hidden_size", "n_embed", "n_embd", "d_model")
_POSITIONS = ("max_position_embeddings", "seq_length", "n_positions")


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
        paths = tuple(f"{path}." for path in wrapper.beside_in(self.config)) if wrapper else ()
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
        length = first_of(self.text_config, _POSITIONS)
        return length if isinstance(length, int) and length > 0 else None

    @property
    def head_name(self) -> str:
        """Name of the tensor that maps hidden states to the vocabulary: the head, or the embedding where tied.

        A checkpoint may store a head although its configuration says that it is tied; both then hold the same values.
        """
        if not self.stores_head and self.is_tied:
            return self.embedding_name
        return self.stored_name(f"{self.architecture.head}.weight")

    @property
    def is_tied(self) -> bool:
        """Whether the configuration says that the head is the embedding."""
        return bool(self.text_config.get("tie_word_embeddings", self.architecture.tied))

    @property
    def stores_head(self) -> bool:
        """Whether the checkpoint stores a separate head."""
        return self.find(f"{self.architecture.head}.weight") is not None

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
            raise self.lacking(module_path)
        return place

    def lacking(self, module_path: str) -> ModelRefusedError:
        """A refusal because it has no tensor for a parameter or module of the model."""
        name = self.file_name(module_path)
        return ModelRefusedError(f"the checkpoint has no tensor {name}; check that it is complete")

    def file_name(self, module_path: str) -> str:
        """The name that a parameter or module of the model has in the files, or would have if it were there.

        Experts may lie in one tensor, names may have changed since they were published, or begin otherwise.
        """
        place = self.find(module_path)
        if place is not None:
            return place.stored.name
        name, inner = module_path, block_of(self.architecture, module_path)
        part = part_of(self.architecture, inner[1]) if inner else None
        if inner is not None and part is not None:
            name = module_path.removesuffix(inner[1]) + part.packed.stored
        for own, stored in self.architecture.renamed:
            name = name.replace(own, stored)
        prefix = self.architecture.base_prefix
        if self.architecture.loads_base and not any(own.startswith(prefix) for own in self._by_model_name):
            return name.removeprefix(prefix)
        path = f"{name}."
        fitting = [(stored, own) for stored, own in self.architecture.spellings if path.startswith(own)]
        used = [pair for pair in fitting if any(each.startswith(pair[0]) for each in self.tensors)]
        if not used and not any(each.startswith(prefix) for each in self.tensors):
            used = fitting[-1:]  # where the rest of the model is spelled otherwise, so is this
        for stored, own in used:
            return (stored + path.removeprefix(own)).removesuffix(".")
        return name

    def find(self, module_path: str) -> Place | None:
        """Where the checkpoint has a parameter of the model; None if it does not have it."""
        if module_path not in self._found:
            self._found[module_path] = self._find(module_path)
        return self._found[module_path]

    def _find(self, module_path: str) -> Place | None:
        inner = block_of(self.architecture, module_path)
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
        inner = block_of(self.architecture, name)
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
        match = re.search(r"(?:^|\.)experts\.(\d+)\.", linear)
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
    def made(self) -> dict[str, Any]:
        """Cache of what others make of the configuration (`configuration.text_configuration`)."""
        return {}

    @cached_property
    def _by_block(self) -> dict[int | None, list[TensorInfo]]:
        """The tensors of each block, and under None those outside the blocks, in the order of their names."""
        found: dict[int | None, list[TensorInfo]] = {}
        for name in sorted(self.tensors):
            found.setdefault(position_of(self.architecture, name), []).append(self.tensors[name])
        return found


def position_of(architecture: Architecture, name: str) -> int | None:
    """The position of the block that a tensor belongs to, from its name; None outside the blocks."""
    place = block_of(architecture, name)
    return place[0] if place else None


def moved(architecture: Architecture, name: str, position: int) -> str:
    """The name of a block's tensor in a block at another position."""
    place = block_of(architecture, name)
    assert place is not None
    return f"{name.removesuffix(f'{place[0]}.{place[1]}')}{position}.{place[1]}"


def block_of(architecture: Architecture, name: str) -> tuple[int, str] | None:
    """(block, name relative to the block) of a tensor; None outside the blocks."""
    blocks, name = architecture.blocks.removeprefix(architecture.base_prefix), architecture.model_name(name)
    match = re.fullmatch(rf"(?:{re.escape(architecture.base_prefix)})?{re.escape(blocks)}\.(\d{{1,5}})\.(.+)", name)
    return (int(match[1]), match[2]) if match else None


def first_of(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of these keys that a configuration has; None if it has none."""
    return next((config[key] for key in keys if key in config), None)
