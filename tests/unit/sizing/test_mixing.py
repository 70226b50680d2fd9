"""What blocks compute along the text, against torch's own count of the modules that do it."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from secateur_service.models.opening import open_checkpoint
from secateur_service.sizing.operations import Mixing, mixing_of
from support.models import save_model

CHUNK, WIDTH = 64, 64
# Where the layer with a state is, and in which blocks there is one.
PLACES = {
    "qwen3_next": "linear_attn",
    "qwen3_5_text": "linear_attn",
    "falcon_h1": "mamba",
    "granitemoehybrid": "mamba",
    "nemotron_h": "mixer",
    "lfm2": "conv",
}


@torch.no_grad()
def counted(layer, length):
    """Operations besides those of the linear layers, of one sequence, and the convolution in it."""
    inputs = torch.randn(1, length, WIDTH)
    with FlopCounterMode(display=False) as counter:
        layer(inputs)
    linear = sum(2 * length * module.weight.numel() for module in layer.modules() if isinstance(module, nn.Linear))
    convolution = next(module for module in layer.modules() if isinstance(module, nn.Conv1d))
    # It is computed beyond the end, and cut off.
    beyond = 2 * (convolution.kernel_size[0] - 1) * convolution.weight.numel()
    return counter.get_total_flops() - linear - beyond


def unseen(layer, config, length):
    """What the counter counts otherwise: it does not see triangular systems and products of two vectors."""
    if hasattr(layer, "conv_dim") and hasattr(layer, "head_k_dim"):
        return length * CHUNK * layer.num_v_heads * (layer.head_k_dim + layer.head_v_dim)
    if hasattr(layer, "ssm_state_size"):  # transformers hands states on by a product of all chunks with all
        chunks = length // layer.chunk_size + 1
        return -2 * chunks**2 * layer.num_heads * layer.head_dim * layer.ssm_state_size
    return 2 * length * config.hidden_size


@pytest.mark.parametrize("name", PLACES)
def test_a_layer_that_carries_a_state_takes_what_torch_counts_for_each_token_however_long_the_text_is(name, tmp_path):
    folder = save_model(tmp_path / "model", name)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = mixing_of(open_checkpoint(folder))
    assert any(mixing.recurrence for mixing in found)
    for block, mixing in zip(model.model.layers, found, strict=True):
        layer = getattr(block, PLACES[name], None) or nn.Identity()
        if not any(isinstance(module, nn.Conv1d) for module in layer.modules()):
            assert mixing.recurrence == 0
        for length in (2 * CHUNK, 8 * CHUNK) if mixing.recurrence else ():
            assert counted(layer, length) + unseen(layer, model.config, length) == mixing.recurrence * length
        attends = any(path.endswith("q_proj") for path, _ in block.named_modules())
        assert mixing.attention == (WIDTH if attends else 0)
        assert mixing.operations(10, 128) == 10 * (2 * 128 * mixing.attention + mixing.recurrence)


def test_a_dense_model_attends_in_every_block(tmp_path):
    assert mixing_of(open_checkpoint(save_model(tmp_path / "model", "llama"))) == [Mixing(WIDTH)] * 3
