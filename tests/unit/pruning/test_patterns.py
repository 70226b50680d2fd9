import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from secateur_service.pruning.patterns import NofM, Unstructured, prune, select_smallest, target_count

# Few distinct values, so that ties are the rule.
tied_scores = npst.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0])
)
any_scores = npst.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 40)),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def smallest_by_stable_sort(scores, count):
    expected = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(expected, np.argsort(scores, axis=1, kind="stable")[:, :count], values=True, axis=1)
    return expected


@given(scores=tied_scores | any_scores, share=st.floats(0, 1), transposed=st.booleans())
def test_the_count_is_met_exactly_and_equals_a_stable_sort_also_where_scores_tie(scores, share, transposed):
    tensor = torch.from_numpy(scores)
    if transposed:  # the same values, other strides
        tensor = tensor.T.contiguous().T
    count = int(share * tensor.shape[1])
    expected = smallest_by_stable_sort(scores, count)
    for waits in (True, False):  # as on a CPU, and as on an accelerator
        assert np.array_equal(select_smallest(tensor, count, waits=waits).numpy(), expected)


@pytest.mark.parametrize("shape", [(1, 5_000_000), (4000, 1300), (3, 2_000_000), (1_300_000, 4)])
def test_large_matrices_are_selected_from_exactly_with_ties_and_without(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs()
    for values in (scores, scores.bfloat16().float(), torch.zeros(shape)):
        count = shape[1] // 2
        selected = select_smallest(values, count)
        assert bool((selected.sum(1) == count).all())
        largest = torch.where(selected, values, -1).amax(1, keepdim=True)
        assert bool((values.masked_fill(selected, torch.inf).amin(1, keepdim=True) >= largest).all())
        # Of those that tie with the largest selected, a selected one never follows one that is not.
        tied = values == largest
        assert bool(((tied & ~selected).cummax(1).values & tied & selected).sum() == 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(1, 5_000_000), (4000, 1300), (1_300_000, 4), (40_000, 32)])
def test_a_gpu_selects_as_the_cpu_does(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs()
    for values in (scores, scores.bfloat16().float(), torch.zeros(shape)):
        for count in (1, shape[1] // 2, shape[1] - 1):
            assert torch.equal(select_smallest(values.cuda(), count).cpu(), select_smallest(values, count))


@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 9),
    kept=st.integers(1, 7),
    extra=st.integers(1, 7),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_group_of_a_pattern_keeps_exactly_n_and_they_are_the_largest(rows, groups, kept, extra, tied, seed):
    size = kept + extra
    scores = torch.rand(rows, groups * size, generator=torch.Generator().manual_seed(seed))
    if tied:
        scores = (scores * 3).floor()
    pruned = prune(scores, NofM(kept, size)).reshape(-1, size)
    assert bool((pruned.sum(1) == extra).all())
    grouped = scores.reshape(-1, size)
    largest_pruned = grouped.masked_fill(~pruned, -1).amax(1)
    smallest_kept = grouped.masked_fill(pruned, 9).amin(1)
    assert bool((largest_pruned <= smallest_kept).all())


@pytest.mark.parametrize(
    ("size", "sparsity", "count"), [(100, 0.29, 29), (10, 0.3, 3), (7, 0.5, 3), (1000, 0.999, 999), (3, 0.1, 0)]
)
def test_counts_round_down_the_decimal_number_that_was_written(size, sparsity, count):
    assert target_count(size, sparsity) == count


def test_unstructured_pruning_competes_within_each_row_or_within_the_layer():
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    by_row = torch.tensor([[True, True, False, False], [False, False, True, True]])
    by_layer = torch.tensor([[True, True, True, True], [False, False, False, False]])
    assert torch.equal(prune(scores, Unstructured(0.5)), by_row)
    assert torch.equal(prune(scores, Unstructured(0.5, "layer")), by_layer)


@settings(deadline=None)
@given(
    scores=tied_scores,
    sparsity=st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.7, 1.0]),
    group=st.sampled_from(["row", "layer"]),
)
def test_the_share_is_met_exactly_in_every_row_or_in_the_layer(scores, sparsity, group):
    pruned = prune(torch.from_numpy(scores), Unstructured(sparsity, group))
    if group == "row":
        assert bool((pruned.sum(1) == target_count(scores.shape[1], sparsity)).all())
    else:
        assert int(pruned.sum()) == target_count(scores.size, sparsity)


@pytest.mark.parametrize("shape", [(1, 4096), (100, 64), (100, 8)], ids=["a layer", "rows", "groups"])
def test_an_accelerator_selects_without_waiting_for_the_host(shape):
    # A device without values: whatever would have to be known on the host raises.
    assert select_smallest(torch.empty(shape, device="meta"), shape[1] // 2).shape == shape
