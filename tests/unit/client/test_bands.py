"""How much a language lost, in a word, beside the figure."""

import math

import pytest

from secateur._bands import SCALE, band_of, growth_digits

_EDGES = (1.02, 1.1, 1.5, 3.0, 10.0)


@pytest.mark.parametrize(
    ("growth", "band"),
    [
        (0.9, "kept"), (1.0199, "kept"), (1.02, "slight"), (1.1, "noticeable"), (1.5, "heavy"), (2.0, "heavy"),
        (3.0, "severe"), (10.0, "lost"), (1e300, "lost"),
    ],
)  # fmt: skip
def test_a_growth_has_one_band(growth, band):
    assert band_of(growth) == band


def test_the_scale_names_every_band():
    bands = ["kept below ×1.02", "slight below ×1.1", "noticeable below ×1.5", "heavy below ×3", "severe below ×10"]
    assert SCALE.split("; ") == [*bands, "lost from ×10 on"]


@pytest.mark.parametrize("decimals", [2, 3])
@pytest.mark.parametrize("edge", _EDGES)
def test_a_growth_is_printed_within_its_band_however_near_the_next_one_is(edge, decimals):
    near = [edge, math.nextafter(edge, 0), *(edge - 10**-power * part for power in range(2, 12) for part in (1, 4, 6))]
    for growth in near:
        text = growth_digits(growth, decimals)
        assert band_of(float(text)) == band_of(growth), growth
        assert abs(float(text) - growth) <= max(1.0001e-4, 0.5001 * 10**-decimals)


def test_a_growth_has_more_digits_only_where_it_needs_them():
    growths = (1.004, 1.094, 1.0951, 1.0996, 1.099999, 2.0, 9.996, 1446.2, 2.62e7)
    told = ["1.00", "1.09", "1.095", "1.0996", "1.0999", "2.00", "9.996", "1,446", "2.62e7"]
    assert [growth_digits(growth) for growth in growths] == told
    assert growth_digits(1.0996, 3) == "1.0996"
    assert growth_digits(math.inf) == "inf"
