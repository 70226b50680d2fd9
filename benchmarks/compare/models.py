"""Random Llamas for measurements: real shapes, untrained; the same weights for the same shape."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 8192


def write_random_llama(folder: Path, *, layers: int, hidden: int = 512, intermediate: int = 1408) -> None:
    """Write a float32 Llama with weights initialised by transformers."""
    torch.manual_seed(0)
    head_size = min(64, hidden)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head_size,
        num_key_value_heads=hidden // head_size,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def random_tokens(sequences: int, length: int, seed: int) -> Tensor:
    """Token ids N×S."""
    return torch.randint(0, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))
