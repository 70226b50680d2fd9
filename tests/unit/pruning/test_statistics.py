"""Second moments of inputs, against their definition in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.methods import Moments
from secateur_service.pruning.statistics import TILE_TOKENS, InputStatistics

CPU = torch.device("cpu")
FULL_OR_BY_LANGUAGE = pytest.mark.parametrize("moments", [Moments.FULL, Moments.BY_LANGUAGE])


def inputs_of(tokens, width, seed):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(width, generator=generator) * 3 + 0.1
    return (torch.randn(tokens, width, generator=generator) + 0.3) * scale


def statistics_of(streams, weights, moments, cuts=()):
    """`streams`: language → T×n, handed over in the pieces between the `cuts`."""
    width = next(iter(streams.values())).shape[1]
    statistics = InputStatistics(width, weights, {name: len(x) for name, x in streams.items()}, CPU, moments=moments)
    for name, x in streams.items():
        edges = [0, *sorted(min(cut, len(x)) for cut in cuts), len(x)]
        for start, stop in itertools.pairwise(edges):
            statistics.update(x[start:stop], name)
    return statistics


def exact_gram(x):
    return x.double().T @ x.double() / len(x)


@FULL_OR_BY_LANGUAGE
@pytest.mark.parametrize("width", [1, 10, 128, 300])
def test_the_gram_matrix_is_the_weighted_mean_over_languages_and_symmetric(moments, width):
    streams = {"de": inputs_of(200, width, 0), "uk": inputs_of(100, width, 1)}
    weights = {"de": 0.25, "uk": 0.75}
    statistics = statistics_of(streams, weights, moments)
    expected = sum(share * exact_gram(streams[name]) for name, share in weights.items())
    assert torch.equal(statistics.gram, statistics.gram.T)
    torch.testing.assert_close(statistics.gram.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moments", [Moments.DIAGONAL, Moments.FULL, Moments.BY_LANGUAGE])
def test_mean_squares_are_those_of_each_language_and_of_the_mix(moments):
    streams = {"de": inputs_of(200, 12, 0), "uk": inputs_of(100, 12, 1)}
    weights = {"de": 0.0, "uk": 1.0}
    statistics = statistics_of(streams, weights, moments)
    each = statistics.language_mean_squares()
    for name, x in streams.items():
        torch.testing.assert_close(each[name], x.double().square().mean(0), rtol=1e-6, atol=0)
    assert torch.equal(statistics.mean_squares(), each["uk"])


# The divisions fall inside, at and across the borders of tiles, and between the tokens of a sequence.
@settings(max_examples=25, deadline=None)
@given(
    tokens=st.sampled_from([1, 7, TILE_TOKENS - 1, TILE_TOKENS, TILE_TOKENS + 1, 3 * TILE_TOKENS + 100]),
    cuts=st.lists(st.integers(0, 3 * TILE_TOKENS + 100), max_size=5),
    width=st.sampled_from([3, 130]),
    moments=st.sampled_from([Moments.DIAGONAL, Moments.FULL, Moments.BY_LANGUAGE]),
)
def test_sums_do_not_depend_on_how_the_tokens_are_divided(tokens, cuts, width, moments):
    streams = {"de": inputs_of(tokens, width, 4), "uk": inputs_of(50, width, 5)}
    weights = {"de": 0.5, "uk": 0.5}
    whole = statistics_of(streams, weights, moments)
    parts = statistics_of(streams, weights, moments, cuts)
    assert torch.equal(parts.mean_squares(), whole.mean_squares())
    assert parts.seen == whole.seen == {"de": tokens, "uk": 50}
    if moments is not Moments.DIAGONAL:
        assert torch.equal(parts.gram, whole.gram)


@pytest.mark.parametrize("length", [1, 100, TILE_TOKENS - 1, TILE_TOKENS, TILE_TOKENS + 1, 2 * TILE_TOKENS + 900])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_do_not_depend_on_how_many_sequences_share_a_batch(length, size):
    sequences = inputs_of(6 * length, 5, 4).reshape(6, length, 5)
    whole = InputStatistics(5, {"de": 1.0}, {"de": 6 * length}, CPU, moments=Moments.FULL)
    whole.update(sequences, "de")
    parts = InputStatistics(5, {"de": 1.0}, {"de": 6 * length}, CPU, moments=Moments.FULL)
    for batch in sequences.split(size):
        parts.update(batch, "de")
    assert torch.equal(parts.mean_squares(), whole.mean_squares())
    assert torch.equal(parts.gram, whole.gram)


def test_batches_of_languages_may_alternate():
    streams = {"de": inputs_of(300, 5, 0), "uk": inputs_of(300, 5, 1)}
    weights = {"de": 0.5, "uk": 0.5}
    one_by_one = statistics_of(streams, weights, Moments.FULL)
    mixed = InputStatistics(5, weights, {"de": 300, "uk": 300}, CPU, moments=Moments.FULL)
    for start in range(0, 300, 100):
        for name, x in streams.items():
            mixed.update(x[start : start + 100], name)
    assert torch.equal(mixed.gram, one_by_one.gram)


@FULL_OR_BY_LANGUAGE
def test_an_expert_that_sees_part_of_the_tokens_or_none_weighs_by_its_share(moments):
    seen = inputs_of(30, 6, 0)
    statistics = InputStatistics(6, {"de": 0.5, "uk": 0.5}, {"de": 120, "uk": 100}, CPU, moments=moments)
    statistics.update(seen[:0], "de")
    for token in seen:
        statistics.update(token[None], "de")
    assert statistics.seen == {"de": 30, "uk": 0}
    assert statistics.is_finite()
    torch.testing.assert_close(statistics.gram.double(), 0.5 * exact_gram(seen) * 30 / 120, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.language_mean_squares()["uk"], torch.zeros(6, dtype=torch.float64))


@FULL_OR_BY_LANGUAGE
def test_what_was_read_before_the_last_token_came_is_completed_by_the_tokens_after(moments):
    x = inputs_of(90, 6, 0)
    statistics = InputStatistics(6, {"de": 1.0}, {"de": 90}, CPU, moments=moments)
    for part in x.split(30):
        statistics.update(part, "de")
        assert statistics.gram is not None
    torch.testing.assert_close(statistics.gram.double(), exact_gram(x), rtol=1e-5, atol=1e-5)


def test_a_batch_may_be_overwritten_once_it_was_added():
    x = inputs_of(100, 4, 0)
    statistics = InputStatistics(4, {"de": 1.0}, {"de": 200}, CPU, moments=Moments.FULL)
    batch = x.clone()
    statistics.update(batch, "de")
    batch.zero_()
    statistics.update(batch, "de")
    torch.testing.assert_close(statistics.gram.double(), exact_gram(x) / 2, rtol=1e-5, atol=1e-5)


def test_other_weights_give_what_they_would_have_given_from_the_start():
    streams = {"de": inputs_of(200, 10, 0), "uk": inputs_of(100, 10, 1)}
    later = {"de": 0.9, "uk": 0.1}
    statistics = statistics_of(streams, {"de": 0.5, "uk": 0.5}, Moments.BY_LANGUAGE)
    assert statistics.gram is not None
    statistics.reweight(later)
    expected = statistics_of(streams, later, Moments.BY_LANGUAGE)
    assert torch.equal(statistics.gram, expected.gram)
    assert torch.equal(statistics.mean_squares(), expected.mean_squares())
    torch.testing.assert_close(statistics.language_gram("uk").double(), exact_gram(streams["uk"]), rtol=1e-5, atol=1e-5)


def test_a_mix_of_full_moments_cannot_be_reweighted():
    statistics = statistics_of({"de": inputs_of(20, 3, 0)}, {"de": 1.0}, Moments.FULL)
    with pytest.raises(ValueError, match="by language"):
        statistics.reweight({"de": 1.0})
    with pytest.raises(ValueError, match="languages"):
        statistics.reweight({"uk": 1.0})


def test_diagonal_moments_can_be_reweighted():
    streams = {"de": inputs_of(20, 3, 0), "uk": inputs_of(20, 3, 1)}
    statistics = statistics_of(streams, {"de": 0.5, "uk": 0.5}, Moments.DIAGONAL)
    assert statistics.gram is None
    statistics.reweight({"de": 1.0, "uk": 0.0})
    assert torch.equal(statistics.mean_squares(), statistics.language_mean_squares()["de"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_input_that_is_not_finite_is_noticed(bad):
    x = inputs_of(20, 3, 0)
    x[11, 1] = bad
    assert not statistics_of({"de": x}, {"de": 1.0}, Moments.DIAGONAL).is_finite()


def test_inputs_of_16_bits_are_summed_in_32():
    x = inputs_of(4096, 40, 3).bfloat16()
    statistics = statistics_of({"de": x}, {"de": 1.0}, Moments.FULL)
    torch.testing.assert_close(statistics.gram.double(), exact_gram(x), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(statistics.mean_squares(), x.double().square().mean(0), rtol=1e-6, atol=0)


def test_for_one_language_all_ways_of_summing_are_the_same():
    streams = {"de": inputs_of(3000, 140, 0)}
    of_mix, by_language = (statistics_of(streams, {"de": 1.0}, m) for m in (Moments.FULL, Moments.BY_LANGUAGE))
    assert torch.equal(of_mix.gram, by_language.gram)
    assert torch.equal(by_language.gram, by_language.language_gram("de"))
    torch.testing.assert_close(of_mix.gram.diagonal().double(), of_mix.mean_squares(), rtol=1e-5, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [3, 4, 20])
def test_a_gpu_sums_as_the_cpu_does_whatever_the_size_of_a_batch(dtype, size):
    sequences = inputs_of(20 * 2048, 300, 0).reshape(20, 2048, 300).to(dtype)
    expected = InputStatistics(300, {"de": 1.0}, {"de": 20 * 2048}, CPU, moments=Moments.FULL)
    expected.update(sequences, "de")
    got = []
    for batch_size in (20, size):
        statistics = InputStatistics(300, {"de": 1.0}, {"de": 20 * 2048}, torch.device("cuda"), moments=Moments.FULL)
        for batch in sequences.cuda().split(batch_size):
            statistics.update(batch, "de")
        got.append(statistics)
    torch.testing.assert_close(got[0].gram.cpu(), expected.gram, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got[0].mean_squares().cpu(), expected.mean_squares(), rtol=1e-4, atol=0)
    assert torch.equal(got[0].gram, got[1].gram)
    assert torch.equal(got[0].mean_squares(), got[1].mean_squares())
