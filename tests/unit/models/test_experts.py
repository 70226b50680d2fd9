"""Experts as linear layers against the fused module of transformers."""

import pytest
import torch

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.experts import Experts, ScaledExperts, replace_experts
from support.models import build_model

NAMES = ("gate_proj", "up_proj", "down_proj")


def unfused(fused):
    """The same experts with the same weights."""
    experts = Experts(fused, NAMES)
    for number in range(fused.num_experts):
        gate, up = fused.gate_up_proj[number].chunk(2)
        for name, weight in zip(NAMES, (gate, up, fused.down_proj[number]), strict=True):
            experts.get_submodule(f"{number}.{name}").weight = torch.nn.Parameter(weight)
    return experts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_they_compute_what_the_fused_module_computes(name, dtype):
    block = build_model(name, dtype=dtype).model.layers[0].mlp
    states = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected = block(states)
        block.experts = unfused(block.experts)
        torch.testing.assert_close(
            block(states), expected, **({} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02})
        )


def test_each_layer_sees_the_tokens_of_its_expert_in_order_also_where_there_are_none():
    experts = unfused(build_model("qwen3_moe").model.layers[0].mlp.experts)
    states = torch.randn(5, 64)
    chosen = torch.tensor([[3, 0], [0, 3], [3, 1], [1, 0], [0, 3]])  # nobody chose expert 2
    seen = []
    for path, layer in experts.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda _, args, path=path: seen.append((path, args[0])))
    experts(states, chosen, torch.rand(5, 2))
    assert [path for path, _ in seen] == [f"{number}.{name}" for number in range(4) for name in NAMES]
    inputs = dict(seen)
    for number in range(4):
        assert torch.equal(inputs[f"{number}.gate_proj"], states[(chosen == number).any(1)])
        assert inputs[f"{number}.up_proj"] is inputs[f"{number}.gate_proj"]
    assert inputs["2.down_proj"].shape == (0, 48)


def test_dense_blocks_among_mixtures_stay_as_they_are():
    blocks = build_model("qwen3_moe").model.layers
    replace_experts(blocks, ARCHITECTURES["qwen3_moe"].mixture)
    assert [isinstance(getattr(block.mlp, "experts", None), Experts) for block in blocks] == [True, False, True]


def test_tokens_that_are_routed_elsewhere_are_left_out_where_every_expert_is_given_all():
    fused = build_model("llama4_text").model.layers[0].feed_forward.experts
    experts = ScaledExperts(fused, NAMES)
    seen = {}
    for number in range(4):
        weights = (*fused.gate_up_proj[number].T.chunk(2), fused.down_proj[number].T)
        for name, weight in zip(NAMES, weights, strict=True):
            layer = experts.get_submodule(f"{number}.{name}")
            layer.weight = torch.nn.Parameter(weight)
            layer.register_forward_pre_hook(lambda _, args, key=(number, name): seen.update({key: args[0]}))
    scaled = torch.randn(4, 5, 64)
    routed = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    scaled[~routed] = 0
    with torch.no_grad():
        torch.testing.assert_close(experts(scaled.flatten(0, 1)), fused(scaled.flatten(0, 1)))
    for number in range(4):
        assert torch.equal(seen[number, "up_proj"], scaled[number][routed[number]])
