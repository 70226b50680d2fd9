"""How sparse blocks and layers become."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.pruning.allocation import SIGNALS, block_sparsities, layer_sparsities, multilingual, owl
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.patterns import target_count
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.spec import ALLOCATIONS

NUMBERS = st.lists(st.floats(0, 1), min_size=1, max_size=6)
SPARSITIES = st.integers(1, 99).map(lambda percent: percent / 100)
SPANS = st.floats(0.01, 0.49)
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 60))


@st.composite
def models(draw):
    """Signals, and of as many blocks the inputs with their layers."""
    signals = draw(NUMBERS)
    blocks = []
    for block in range(len(signals)):
        inputs = draw(
            st.lists(
                st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 60)),
                min_size=1,
                max_size=3,
            )
        )
        blocks.append(
            [
                {f"{block}.{number}.{layer}": (rows, columns) for layer, rows in enumerate(heights)}
                for number, (heights, columns) in enumerate(inputs)
            ]
        )
    return signals, blocks


def layers_of(blocks):
    return {name: shape for block in blocks for layers in block for name, shape in layers.items()}


def pruned_of(shape, sparsity, group):
    rows, columns = shape
    return rows * target_count(columns, sparsity) if group == "row" else target_count(rows * columns, sparsity)


@given(NUMBERS, st.data(), SPARSITIES, SPANS)
def test_blocks_meet_the_budget_without_exceeding_it_and_stay_within_their_bounds(signals, data, sparsity, span):
    sizes = data.draw(st.lists(st.integers(1, 10**9), min_size=len(signals), max_size=len(signals)))
    shares = block_sparsities(signals, sizes, sparsity, span)
    pruned = sum(size * Fraction(share) for size, share in zip(sizes, shares, strict=True))
    goal = sum(sizes) * Fraction(repr(sparsity))
    assert goal * (1 - Fraction(1, 10**12)) <= pruned <= goal
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) - min(shares) <= 2 * span + 1e-12


@given(NUMBERS, SPARSITIES, SPANS)
def test_a_block_with_a_larger_signal_is_never_sparser_and_equal_signals_are_treated_alike(signals, sparsity, span):
    shares = block_sparsities(signals, [1000] * len(signals), sparsity, span)
    for first, one in zip(signals, shares, strict=True):
        for second, other in zip(signals, shares, strict=True):
            if first > second:
                assert one <= other
            if first == second:
                assert one == other


def test_sparsities_are_linear_in_the_signal_over_twice_the_span_around_the_goal():
    assert block_sparsities([0.0, 1.0, 4.0], [1, 1, 1], 0.7, 0.08) == pytest.approx(
        [0.7 + 0.16 * 5 / 12, 0.7 + 0.16 / 6, 0.7 - 0.16 * 7 / 12]
    )


def test_a_block_that_would_lose_more_than_everything_loses_everything_and_the_others_make_up_for_it():
    shares = block_sparsities([0.0, 1.0], [100, 100], 0.95, 0.2)
    assert shares == pytest.approx([1.0, 0.9])


@given(models(), SPARSITIES, SPANS)
def test_where_weights_compete_in_a_layer_the_count_of_the_whole_model_is_exact(model, sparsity, span):
    layers = layers_of(model[1])
    shares = layer_sparsities(*model, sparsity, span, "layer")
    assert shares.keys() == layers.keys()
    pruned = sum(pruned_of(layers[name], share, "layer") for name, share in shares.items())
    assert pruned == target_count(sum(map(math.prod, layers.values())), sparsity)


@given(models(), SPARSITIES, SPANS)
def test_where_weights_compete_in_a_row_less_is_missing_than_a_layer_has_rows(model, sparsity, span):
    layers = layers_of(model[1])
    shares = layer_sparsities(*model, sparsity, span, "row")
    goal = target_count(sum(map(math.prod, layers.values())), sparsity)
    missing = goal - sum(pruned_of(layers[name], share, "row") for name, share in shares.items())
    assert 0 <= missing < max(rows for rows, _ in layers.values())


@given(models(), SPARSITIES, SPANS, st.sampled_from(["row", "layer"]))
def test_layers_of_one_input_have_one_sparsity_but_for_one_input_of_the_model(model, sparsity, span, group):
    shares = layer_sparsities(*model, sparsity, span, group)
    divided = [layers for block in model[1] for layers in block if len({shares[name] for name in layers}) > 1]
    assert len(divided) <= 1


@given(models(), SPARSITIES, SPANS, st.sampled_from(["row", "layer"]))
def test_an_input_is_no_further_from_its_block_than_one_weight_of_all_that_compete(model, sparsity, span, group):
    signals, blocks = model
    shares = layer_sparsities(signals, blocks, sparsity, span, group)
    sizes = [sum(math.prod(shape) for layers in block for shape in layers.values()) for block in blocks]
    for of_block, block in zip(block_sparsities(signals, sizes, sparsity, span), blocks, strict=True):
        for layers in block:
            pruned = sum(pruned_of(shape, shares[name], group) for name, shape in layers.items())
            size = sum(map(math.prod, layers.values()))
            heights = [rows for rows, _ in layers.values()]
            step = sum(heights) // (1 if group == "row" else math.gcd(*heights))
            assert abs(pruned - size * Fraction(of_block)) < step


def test_layers_that_share_an_input_are_rounded_together():
    # 7 of 10 weights of each row; queries of 4 rows, keys of 2.
    block = [{"q": (4, 10), "k": (2, 10)}, {"o": (4, 4)}]
    assert layer_sparsities([0.0], [block], 0.7, 0.1, "row") == {"q": 0.7, "k": 0.7, "o": 0.5}
    # ⌊0.7 · 76⌋ = 53: 42 of the first input, 11 of 16 of the other.
    assert layer_sparsities([0.0], [block], 0.7, 0.1, "layer") == {"q": 0.7, "k": 0.7, "o": 11 / 16}


def layer(weight, weights, **squares):
    """A layer, and statistics of inputs with the given mean squares in every language."""
    tokens, device = dict.fromkeys(weights, 1), torch.device("cpu")
    statistics = InputStatistics(weight.shape[1], weights, tokens, device, moments=Moments.DIAGONAL)
    for language, values in squares.items():
        statistics.update(torch.tensor([values]).sqrt(), language)
    return weight, statistics


def test_outliers_are_counted_over_the_whole_block_against_its_own_mean():
    # Scores 1, 1, 1, 13 and 2, 2: their mean is 10/3.
    one = layer(torch.tensor([[1.0, 1.0], [1.0, -13.0]]), {"de": 1.0}, de=[1.0, 1.0])
    other = layer(torch.tensor([[1.0, 1.0]]), {"de": 1.0}, de=[4.0, 4.0])
    for signal in (owl, multilingual):
        assert signal([one, other], 3) == 1 / 6
        assert signal([one, other], 4) == 0
        assert signal([one, other], 0.5) == 3 / 6


def test_the_language_with_the_most_outliers_speaks_for_the_block():
    # Scores in de: 1 six times and 10; in uk: 1 four times, 10 three times; in zh, which weighs nothing, mostly 10.
    weight = torch.ones(1, 7)
    squares = {"de": [1.0] * 6 + [100.0], "uk": [1.0] * 4 + [100.0] * 3, "zh": [1.0] + [100.0] * 6}
    layers = [layer(weight, {"de": 0.9, "uk": 0.1, "zh": 0.0}, **squares)]
    assert multilingual(layers, 1) == 3 / 7
    # The mix: (0.9·1 + 0.1·1)^½ four times, (0.9·1 + 0.1·100)^½ twice, 10 once; the mean is 3.0.
    assert owl(layers, 1) == 3 / 7
    assert owl(layers, 2) == 1 / 7


@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=4), st.floats(0.5, 4))
def test_for_one_language_multilingual_is_owl(squares, outlier):
    weight = torch.arange(1, 13, dtype=torch.float32).view(3, 4)
    layers = [layer(weight, {"de": 1.0}, de=squares)]
    assert multilingual(layers, outlier) == owl(layers, outlier)


def test_every_policy_of_a_specification_has_its_signal():
    assert {"uniform", *SIGNALS} == set(ALLOCATIONS)
