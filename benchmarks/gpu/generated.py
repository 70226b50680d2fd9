"""Llamas of any size whose tensors are generated when they are read, so that they need neither memory nor disk.

Pruned blocks are discarded for the same reason. Everything else is the engine's.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from secateur_service.commands.demo.tokenizer import BOS_ID, EOS_ID
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import OutputTensor, TensorInfo
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES, TensorReader

_STANDARD_DEVIATION = 0.02
_POSITIONS = 131072


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes.

    Attributes:
        hidden: hidden size d.
        intermediate: width of the feed-forward part, f.
        key_value: width of the keys, and of the values, k.
        blocks: number of decoder blocks.
        vocabulary: number of tokens.
        head: width of a head.
        tied: whether the embedding is the head too.
    """

    hidden: int
    intermediate: int
    key_value: int
    blocks: int
    vocabulary: int = 128256
    head: int = 128
    tied: bool = False

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(rows, inputs) of a block's layers, with the rows of layers that share an input added up."""
        d, k, f = self.hidden, self.key_value, self.intermediate
        return ((d + 2 * k, d), (d, d), (2 * f, d), (d, f))


SHAPES = {
    "tiny": Shape(hidden=256, intermediate=704, key_value=128, blocks=4, vocabulary=1000),
    "llama-3.2-1b": Shape(hidden=2048, intermediate=8192, key_value=512, blocks=16, head=64, tied=True),
    "llama-3-8b": Shape(hidden=4096, intermediate=14336, key_value=1024, blocks=32),
    "70b": Shape(hidden=8192, intermediate=28672, key_value=1024, blocks=80),
    "405b": Shape(hidden=16384, intermediate=53248, key_value=1024, blocks=126),
}


class GeneratedTensors(TensorReader):
    """Generates every tensor from its name: weights are normal, norms are ones."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def read(self, info: TensorInfo) -> Tensor:
        """Generate a tensor."""
        return self._draw(info, info.shape)

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Generate the same number of rows."""
        return self._draw(info, (stop - start, *info.shape[1:]))

    def gather_rows(self, info: TensorInfo, rows: list[int]) -> Tensor:
        """Generate the same number of rows."""
        return self._draw(info, (len(rows), *info.shape[1:]))

    def _draw(self, info: TensorInfo, shape: tuple[int, ...]) -> Tensor:
        dtype = DTYPES[info.dtype]
        if len(shape) == 1:
            return torch.ones(shape, dtype=dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(info.name.encode()))
        drawn = torch.randn(shape, generator=generator, dtype=dtype, device=self._device)
        return drawn.mul_(_STANDARD_DEVIATION)


class GeneratedModel(StreamedModel):
    """A model that is generated while it is streamed, and whose pruned blocks are discarded."""

    def _load_outer(self) -> None:
        self.reader = GeneratedTensors(self.device)
        super()._load_outer()

    def output_tensors(self, block: nn.Module, index: int) -> list[OutputTensor]:  # noqa: ARG002
        """Return nothing: pruned blocks are discarded."""
        return []


def generated_model(shape: Shape, blocks: int, device: torch.device, dtype: torch.dtype) -> GeneratedModel:
    """A Llama of the given shape, with `blocks` blocks."""
    config = _config(replace(shape, blocks=blocks))
    with torch.device("meta"):
        parameters = dict(LlamaForCausalLM(config).named_parameters())
    tensors = {name: _info(name, tuple(parameter.shape)) for name, parameter in parameters.items()}
    checkpoint = Checkpoint(Path("generated"), config.to_dict(), ARCHITECTURES["llama"], tensors, blocks)
    return GeneratedModel(checkpoint, device, dtype)


def random_llama(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama of the given shape in memory, with random weights."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(_config(shape), dtype=dtype).to(device).eval()


def _config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.hidden // shape.head,
        num_key_value_heads=shape.key_value // shape.head,
        head_dim=shape.head,
        vocab_size=shape.vocabulary,
        max_position_embeddings=_POSITIONS,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=shape.tied,
    )


def _info(name: str, shape: Sequence[int]) -> TensorInfo:
    size = 2 * torch.Size(shape).numel()
    return TensorInfo(name, "BF16", tuple(shape), Path("generated"), 0, size)
