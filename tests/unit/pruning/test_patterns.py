import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from secateur_service.pruning.patterns import NofM, Unstructured, prune_rows, select_smallest, target_count

# Few distinct values, so that ties are the rule.
tied_scores = npst.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0])
)


@given(scores=tied_scores, share=st.floats(0, 1))
def test_the_count_is_met_exactly_and_equals_a_stable_sort_also_where_scores_tie(scores, share):
    tensor = torch.from_numpy(scores)
    count = int(share * tensor.shape[1])
    expected = torch.zeros_like(tensor, dtype=torch.bool)
    order = np.argsort(scores, axis=1, kind="stable")[:, :count]
    expected.scatter_(1, torch.from_numpy(order.copy()), True)
    assert torch.equal(select_smallest(tensor, count), expected)


@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 9),
    kept=st.integers(1, 7),
    extra=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_every_group_of_a_pattern_keeps_exactly_n_and_they_are_the_largest(rows, groups, kept, extra, seed):
    size = kept + extra
    scores = torch.rand(rows, groups * size, generator=torch.Generator().manual_seed(seed))
    pruned = prune_rows(scores, NofM(kept, size)).reshape(-1, size)
    assert bool((pruned.sum(1) == extra).all())
    grouped = scores.reshape(-1, size)
    largest_pruned = grouped.masked_fill(~pruned, -1).amax(1)
    smallest_kept = grouped.masked_fill(pruned, 2).amin(1)
    assert bool((largest_pruned <= smallest_kept).all())


@pytest.mark.parametrize(
    ("size", "sparsity", "count"), [(100, 0.29, 29), (10, 0.3, 3), (7, 0.5, 3), (1000, 0.999, 999), (3, 0.1, 0)]
)
def test_counts_round_down_the_decimal_number_that_was_written(size, sparsity, count):
    assert target_count(size, sparsity) == count


def test_unstructured_pruning_competes_within_each_row():
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    expected = torch.tensor([[True, True, False, False], [False, False, True, True]])
    assert torch.equal(prune_rows(scores, Unstructured(0.5)), expected)
