"""The affinity of a language with the mix, and when the mix covers it poorly."""

import math

import pytest
import torch

from secateur_service.pruning.affinity import PARTS, affinities, affinity

CHANNELS = 200


def draw(seed, sizes, *, noise=0.05):
    """Mean squares of the parts of a text, at two inputs, around given sizes of channels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (sizes.log() + noise * torch.randn(PARTS, CHANNELS, generator=generator, dtype=torch.float64)).exp()
        for _ in range(2)
    ]


def sizes(seed):
    """Sizes of the channels of a language."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CHANNELS, generator=generator, dtype=torch.float64).exp()


LANGUAGES = {name: sizes(number) for number, name in enumerate(("de", "en", "uk"))}


def test_it_is_one_for_equal_channels_up_to_a_factor_and_falls_with_their_ratios():
    squares = sizes(0) + 1
    assert affinity(squares, 7 * squares) == pytest.approx(1)
    half = torch.tensor([1.0, 4.0] * 100, dtype=torch.float64)
    assert affinity(half, torch.ones(CHANNELS, dtype=torch.float64)) == pytest.approx(
        math.exp(-math.log(2) / 2), abs=0.01
    )


def test_channels_that_are_dead_count_as_very_small():
    alive = torch.ones(CHANNELS)
    dead = torch.cat([torch.zeros(10), torch.ones(CHANNELS - 10)])
    assert 0 < affinity(dead, alive) < affinity(alive, alive) == pytest.approx(1)
    assert affinity(torch.zeros(CHANNELS), torch.zeros(CHANNELS)) == pytest.approx(1)


def test_other_text_of_a_language_of_the_mix_is_covered_and_another_language_is_not():
    calibration = {"de": draw(1, LANGUAGES["de"])}
    found = affinities(calibration, {"de": draw(2, LANGUAGES["de"]), "uk": draw(3, LANGUAGES["uk"])}, {"de": 1.0}, 8)
    assert found.poorly_covered == ("uk",)
    assert found.languages["de"].estimate == pytest.approx(found.of_mix, abs=0.01)
    low, high = found.languages["uk"].interval
    assert low < found.languages["uk"].estimate < high < found.threshold < found.of_mix


def test_text_like_the_mixs_own_is_hardly_ever_called_poorly_covered():
    mix = {"de": 0.5, "en": 0.3, "uk": 0.2}
    for seed in range(0, 160, 8):
        calibration = {name: draw(seed + at, LANGUAGES[name]) for at, name in enumerate(mix)}
        evaluation = {name: draw(seed + 4 + at, LANGUAGES[name]) for at, name in enumerate(mix)}
        assert affinities(calibration, evaluation, mix, 8).poorly_covered == ()


def test_a_mix_moves_towards_a_language_with_its_weight():
    calibration = {name: draw(at, LANGUAGES[name]) for at, name in enumerate(("de", "uk"))}
    evaluation = {"uk": draw(9, LANGUAGES["uk"])}
    found = [
        affinities(calibration, evaluation, {"de": 1 - weight, "uk": weight}, 8).languages["uk"].estimate
        for weight in (0.05, 0.2, 0.5, 0.9)
    ]
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.1
