"""Slices and shards, without other processes: what they are does not depend on who has them."""

import pytest
import torch

from secateur_service.pruning.conjugate_gradient import refine
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.ranks import ALONE, SHARDS, Parts, Ranks, Rows, by_slices
from secateur_service.pruning.statistics import TILE_TOKENS, InputStatistics

CPU = torch.device("cpu")


class One(Ranks):
    """One of several ranks, which exchanges nothing."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("height", [1, 127, 128, 300, 1024, 5000])
def test_the_slices_of_all_ranks_are_those_of_one(height, count):
    whole = Rows(height, ALONE, CPU)
    shares = [Rows(height, One(rank, count), CPU) for rank in range(count)]
    assert [part for share in shares for part in share.slices] == whole.slices
    assert [share.stop - share.start for share in shares] == shares[0].sizes
    assert sum(shares[0].sizes) == height
    assert all(part.stop - part.start >= min(128, height) for part in whole.slices)


def test_an_accelerator_has_all_rows_in_one_slice():
    assert Rows(4096, ALONE, torch.device("cuda")).slices == [slice(0, 4096)]


def test_rows_are_solved_to_the_same_bytes_by_whichever_rank_has_them():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(700, 96, generator=generator)
    x = torch.randn(200, 96, generator=generator)
    pruned = torch.rand(700, 96, generator=generator) < 0.5

    def solved(ranks):
        rows = Rows(len(weight), ranks, CPU)
        own = weight[rows.all], pruned[rows.all]
        return by_slices(lambda part, mask: refine(part, mask, x.T @ x), rows, *own)

    assert torch.equal(torch.cat([solved(One(rank, 3)) for rank in range(3)]), solved(ALONE))


def test_shards_are_added_in_their_order_whoever_has_them():
    generator = torch.Generator().manual_seed(0)
    parts = [1e4 ** (number % 3) * torch.randn(50, generator=generator) for number in range(SHARDS)]

    def total(shares):
        arrived = []
        for share in shares:
            held = Parts()
            for shard in share:
                held.add(shard, parts[shard].clone())
            arrived += held.held
        return ALONE.total(arrived, lambda: torch.zeros(50))

    alone = total([range(SHARDS)])
    assert torch.equal(total([range(4), range(4, SHARDS)]), alone)
    assert torch.equal(total([[0, 1], [2, 3], [4, 5], [6, 7]]), alone)
    assert torch.allclose(alone, torch.stack(parts).sum(0), rtol=1e-5)


def test_a_rank_that_has_seen_the_first_shard_holds_one_sum_although_that_had_none():
    parts = Parts()
    parts.begin()
    for shard in (3, 5):
        parts.add(shard, torch.ones(2))
    assert [part.tolist() for part in parts.held] == [[2.0, 2.0]]


@pytest.mark.parametrize("is_expert", [False, True])
def test_statistics_of_shards_do_not_depend_on_how_a_shard_is_divided(is_expert):
    x = torch.randn(3 * TILE_TOKENS, 40, generator=torch.Generator().manual_seed(0))
    middle = TILE_TOKENS + 300

    def gram(pieces):
        statistics = InputStatistics(40, {"de": 1.0}, {"de": len(x)}, CPU, moments=Moments.FULL, is_expert=is_expert)
        for start, stop, shard in pieces:
            statistics.update(x[start:stop], "de", shard)
        statistics.settle(ALONE)
        return statistics.gram, statistics.mean_squares()

    ends = [(0, middle, 0), (middle, len(x), 1)]
    finer = [(0, 100, 0), (100, middle, 0), (middle, middle + 7, 1), (middle + 7, len(x), 1)]
    for once, again in zip(gram(ends), gram(finer), strict=True):
        assert torch.equal(once, again)
    expected = (x.double().T @ x.double() / len(x)).float()
    torch.testing.assert_close(gram(ends)[0], expected, rtol=1e-4, atol=1e-5)


def test_what_one_rank_alone_gets_lies_in_memory_as_what_several_exchange():
    """A triangular factor comes transposed, and what is solved with it is rounded otherwise then."""
    other = torch.randn(6, 4).T
    (each,) = ALONE.everywhere([other], [0], lambda _: other)
    found = ALONE.compute(lambda: other, lambda: other), ALONE.gather(other, [4]), each
    assert all(tensor.is_contiguous() and torch.equal(tensor, other) for tensor in found)
