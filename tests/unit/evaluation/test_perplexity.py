"""Losses over the tokens of text alone, whatever stands around them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.perplexity import sum_losses

SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 8))


@given(shape=SHAPES, seed=st.integers(0, 1000), batch=st.integers(1, 3))
def test_only_tokens_of_text_behind_another_token_are_scored(shape, seed, batch):
    draw = torch.Generator().manual_seed(seed)
    losses = torch.rand((shape[0], shape[1] - 1), generator=draw, dtype=torch.float64)
    sizes = torch.randint(0, 4, shape, generator=draw)
    is_text = torch.rand(shape, generator=draw) < 0.6
    nats = tokens = size = 0
    for row in range(shape[0]):
        for at in range(1, shape[1]):
            if is_text[row, at]:
                nats, tokens, size = nats + float(losses[row, at - 1]), tokens + 1, size + int(sizes[row, at])
    found = sum_losses(list(losses.split(batch)), sizes, is_text)
    assert (found.tokens, found.bytes) == (tokens, size)
    assert found.nats == pytest.approx(nats)


def test_what_is_not_scored_does_not_enter_whatever_it_costs():
    is_text = torch.tensor([[False, True, False, True]])
    cheap, dear = (sum_losses([torch.tensor([[1.0, x, 2.0]])], torch.ones(1, 4).long(), is_text) for x in (0.0, 90.0))
    assert cheap == dear
    assert (cheap.nats, cheap.tokens, cheap.bytes) == (3.0, 2, 2)


def test_a_scored_loss_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError):
        sum_losses([torch.tensor([[math.nan]])], torch.ones(1, 2).long(), torch.ones(1, 2).bool())
