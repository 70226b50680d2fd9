"""The sample of a mask: the same positions for the same layer, and the truth about them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.pruning.mask_sample import EXPERT_POSITIONS, POSITIONS, sample_mask, sampled_positions

NAME = "model.layers.3.mlp.up_proj.weight"


def bits_of(digits):
    return [bit == "1" for digit in digits for bit in f"{int(digit, 16):04b}"]


@given(st.integers(1, 200), st.integers(1, 50).map(lambda n: 4 * n), st.floats(0, 1), st.integers(0, 9))
def test_every_bit_is_the_truth_about_its_weight(rows, columns, share, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(rows, columns, generator=generator) + 0.1
    weight[torch.rand(rows, columns, generator=generator) < share] = 0
    places = sampled_positions(NAME, (rows, columns), POSITIONS)
    assert len(places) == min(POSITIONS, rows * columns)
    assert int(places.max()) < rows * columns
    assert bits_of(sample_mask(NAME, weight)) == (weight.flatten()[places] == 0).tolist()


def test_positions_depend_on_name_and_shape_alone_and_are_spread():
    places = sampled_positions(NAME, (300, 500), POSITIONS)
    assert places.equal(sampled_positions(NAME, (300, 500), POSITIONS))
    assert not places.equal(sampled_positions(NAME.replace("3", "4"), (300, 500), POSITIONS))
    assert not places.equal(sampled_positions(NAME, (500, 300), POSITIONS))
    quarters = torch.bincount(places * 4 // 150_000, minlength=4)
    assert quarters.min() > 900
    assert places[:4].tolist() == [87468, 25388, 144383, 102354], "results of other releases have these positions"


def test_a_transposed_weight_in_another_type_has_the_same_bits():
    weight = torch.rand(64, 128).masked_fill(torch.rand(64, 128) < 0.5, 0)
    stored = weight.T.contiguous().T.to(torch.bfloat16)
    assert sample_mask(NAME, stored) == sample_mask(NAME, weight)


def test_an_expert_has_fewer_positions():
    weight = torch.rand(64, 128)
    assert len(sample_mask("model.layers.0.mlp.experts.7.up_proj.weight", weight)) == EXPERT_POSITIONS // 4
    assert len(sample_mask(NAME, weight)) == POSITIONS // 4
