"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur._text import digits, grouped, size, span


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [
        (1.1, 2, "1.10"),
        (1.4464, 3, "1.446"),
        (9.9996, 3, "10.00"),
        (144.64, 2, "144.6"),
        (1234.5, 2, "1,234"),
        (9999.6, 2, "1.00e4"),
        (26203485.7, 2, "2.62e7"),
        (-26203485.7, 3, "-2.62e7"),
        (float("inf"), 2, "inf"),
    ],
)
def test_a_number_has_at_most_four_digits(value, decimals, shown):
    assert digits(value, decimals) == shown


def test_a_difference_has_its_sign():
    assert digits(0.25, 3, sign="+") == "+0.250"
    assert digits(3e5, sign="+") == "+3.00e5"


@pytest.mark.parametrize("value", [-0.0004, -1e-9, -0.0])
def test_nothing_is_not_negative(value):
    assert digits(value, 3) == "0.000"
    assert digits(value, 3, sign="+") == "+0.000"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (252, "4 min 12 s"), (7500, "2 h 5 min"), (100_000, "27 h 46 min")],
)
def test_a_time_span_is_told_in_the_units_that_matter(seconds, shown):
    assert span(seconds) == shown


def test_names_with_one_reason_are_told_together():
    reasons = {"A": "old", "B": "new", "C": "old", "D": "old", "E": "old"}
    assert grouped(reasons) == [("A, C and 2 others", "old"), ("B", "new")]
    assert grouped(dict.fromkeys("ABC", "old")) == [("A, B and C", "old")]
    assert grouped({}) == []


@given(st.floats(-1e12, 1e12), st.integers(0, 3))
def test_what_is_shown_is_short_and_as_near_as_four_digits_or_the_decimals_allow(value, decimals):
    shown = digits(value, decimals)
    assert len(shown.lstrip("-")) <= len("1.00e12")
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.0051, abs=0.51 * 10**-decimals)


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (41_234, "41.2 kB"), (999_940, "999.9 kB"), (999_960, "1.0 MB"),
        (13_048_320, "13.0 MB"), (2.5e9, "2.5 GB"), (999.96e9, "1.0 TB"), (3.2e15, "3200.0 TB"),
    ],
)  # fmt: skip
def test_bytes_are_told_in_the_unit_that_shows_them(size_bytes, told):
    assert size(size_bytes) == told
