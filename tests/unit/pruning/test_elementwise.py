"""The short ways say what torch's own say, of any number and any type."""

import pytest
import torch

from secateur_service.pruning.elementwise import is_finite, nonzeros, zero_where

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ODD = (0.0, -0.0, 1.0, -1.0, 1e-40, float("inf"), -float("inf"), float("nan"))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("value", ODD)
def test_one_value_that_is_not_finite_is_found_among_many_wherever_it_stands(dtype, value):
    for place in (0, 17, 39):
        values = torch.randn(40, generator=torch.Generator().manual_seed(0)).to(dtype)
        values[place] = value
        assert is_finite(values) == bool(torch.isfinite(values).all())
        assert nonzeros(values) == int(values.count_nonzero())
        assert nonzeros(values > 0) == int((values > 0).sum())
    assert is_finite(values[:0])
    assert nonzeros(values[:0]) == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_marked_weights_are_zero_and_the_others_keep_every_bit(dtype):
    weight = torch.tensor(ODD * 2, dtype=dtype).reshape(4, 4).T
    marked = torch.arange(16).reshape(4, 4) % 3 == 0
    expected = weight.masked_fill(marked, 0)
    found = zero_where(weight, marked)
    assert found is weight
    assert found.contiguous().view(torch.uint8).equal(expected.contiguous().view(torch.uint8))
