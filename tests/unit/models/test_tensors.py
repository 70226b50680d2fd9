"""What counts as finite, bit by bit, and tensors that are checked while they are written."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.models.tensors import count_non_finite, host_memory, output_tensor
from secateur_service.pruning.elementwise import is_finite

TYPES = {torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float32: np.uint32, torch.float64: np.uint64}
# Exponents and mantissas at their ends are where a comparison of bits goes wrong.
EDGES = (0, 1, 0x7BFF, 0x7C00, 0x7C01, 0x7F7F, 0x7F80, 0x7F81, 0x7FFF)


def of_bits(dtype, bits):
    return torch.from_numpy(np.array(bits, TYPES[dtype]).view(np.uint8)).view(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_values_are_finite_exactly_if_torch_says_so(dtype, data):
    width = 8 * dtype.itemsize
    edges = [edge << width - 16 for edge in EDGES]
    edges += [edge | 1 << width - 1 for edge in edges]
    values = of_bits(dtype, data.draw(st.lists(st.sampled_from(edges) | st.integers(0, (1 << width) - 1), max_size=8)))
    expected = int((~values.isfinite()).sum())
    assert count_non_finite(values) == expected
    assert is_finite(values) == (not expected)
    strided = torch.stack([values, torch.full_like(values, torch.nan)], 1)[:, 0]
    assert is_finite(strided) == (not expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_precision_number_alone_is_told_right(dtype):
    values = of_bits(dtype, range(1 << 16))
    assert [is_finite(value) for value in values.split(1)] == values.isfinite().tolist()


def test_a_value_far_into_a_tensor_is_found_and_whole_numbers_are_always_finite():
    values = torch.zeros(3 << 20, dtype=torch.bfloat16)
    values[-1] = -torch.inf
    assert not is_finite(values)
    assert count_non_finite(values) == 1
    assert is_finite(torch.full((4,), 0x7F80, dtype=torch.int16))


def test_a_tensor_is_given_in_pieces_once_it_has_arrived_and_refused_before_a_bad_piece():
    seen = []
    values = torch.arange(3 << 20, dtype=torch.float32)
    output = output_tensor("w", values, lambda: seen.append("arrived"))
    assert seen == []
    content = b"".join(output.chunks)
    assert (content, seen) == (values.numpy().tobytes(), ["arrived"])
    values[-2:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^w holds 2 values that are not finite, of 3145728"):
        list(output_tensor("w", values).chunks)


@pytest.mark.parametrize("size", [0, 1, 33 << 20])
def test_memory_of_any_size_can_be_written_to_its_ends(size):
    memory = host_memory(size)
    assert memory.shape == (size,)
    assert bool((memory.fill_(7) == 7).all())
