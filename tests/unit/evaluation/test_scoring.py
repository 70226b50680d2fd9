"""Losses over the tokens of text alone, whatever stands around them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.scoring import Scored

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
    found = Scored(sizes, is_text).losses(losses.split(batch))
    assert (found.tokens, found.bytes) == (tokens, size)
    assert found.nats == pytest.approx(nats)


def test_what_is_not_scored_does_not_enter_whatever_it_costs():
    is_text = torch.tensor([[False, True, False, True]])
    scored = Scored(torch.ones(1, 4).long(), is_text)
    cheap, dear = (scored.losses([torch.tensor([[1.0, x, 2.0]])]) for x in (0.0, 90.0))
    assert cheap == dear
    assert (cheap.nats, cheap.tokens, cheap.bytes) == (3.0, 2, 2)


def test_a_scored_loss_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError):
        Scored(torch.ones(1, 2).long(), torch.ones(1, 2).bool()).losses([torch.tensor([[math.nan]])])


def test_documents_are_kept_apart_wherever_windows_cut_them():
    document_of = torch.tensor([[-1, 0, 0, 1], [-1, 1, 1, 2]])
    is_text = document_of >= 0
    is_text[1, 2] = False  # a separator
    sizes = torch.tensor([[0, 1, 2, 3], [0, 4, 5, 6]])
    losses = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    scored = Scored(sizes, is_text, document_of)
    found = scored.losses(losses.split(1))
    assert found.documents.tolist() == [[3.0, 2.0, 3.0], [7.0, 2.0, 7.0], [6.0, 1.0, 6.0]]
    assert (found.nats, found.tokens, found.bytes) == tuple(found.documents.sum(0).tolist())
    likeness = scored.likeness([losses / 10], [losses > 2])
    assert likeness.documents.tolist() == [pytest.approx([0.3, 0]), pytest.approx([0.7, 2]), pytest.approx([0.6, 1])]
    assert (likeness.agreed, likeness.tokens) == (3, 5)


def test_predictions_that_have_no_divergence_are_not_compared():
    scored = Scored(torch.ones(1, 3).long(), torch.ones(1, 3).bool())
    assert scored.likeness([torch.tensor([[0.1, math.nan]])], [torch.ones(1, 2).bool()]) is None
    assert scored.likeness([torch.tensor([[0.1, 0.2]])], [torch.ones(1, 2).bool()]).agreed == 2


def test_without_documents_every_window_is_one():
    ones = torch.ones(3, 4)
    found = Scored(ones.long(), ones.bool()).losses([torch.arange(9.0).view(3, 3)])
    assert found.documents.tolist() == [[3, 3, 3], [12, 3, 3], [21, 3, 3]]


def test_text_without_a_scored_token_has_no_documents():
    found = Scored(torch.ones(1, 3).long(), torch.zeros(1, 3).bool()).losses([torch.ones(1, 2)])
    assert (found.nats, found.tokens, len(found.documents)) == (0, 0, 0)
