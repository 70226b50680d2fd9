import math

import langcodes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.calibration.mixing import MC4_TOKENS, known_share, mixing_weights

LANGUAGES = st.sampled_from(["ar", "de", "en", "fr", "rw", "uk", "zh"])
SHARES = st.dictionaries(LANGUAGES, st.floats(1e-6, 1e9), min_size=1)
TEMPERATURES = st.floats(1, 1e6)


@given(SHARES, TEMPERATURES)
def test_weights_sum_to_one_and_keep_the_order_of_the_shares(shares, temperature):
    weights = mixing_weights(shares, temperature)
    assert math.isclose(math.fsum(weights.values()), 1, rel_tol=1e-11)
    assert list(weights) == list(shares)
    by_share = sorted(shares, key=lambda name: shares[name])
    values = [weights[name] for name in by_share]
    assert values == sorted(values)


@given(SHARES)
def test_temperature_one_is_proportional_and_a_large_one_makes_all_languages_equal(shares):
    total = sum(shares.values())
    assert mixing_weights(shares) == pytest.approx({name: share / total for name, share in shares.items()}, rel=1e-9)
    assert mixing_weights(shares, 1e9) == pytest.approx(dict.fromkeys(shares, 1 / len(shares)), rel=1e-6)


@given(SHARES, TEMPERATURES)
def test_a_higher_temperature_is_never_further_from_equal(shares, temperature):
    cool, warm = mixing_weights(shares, temperature), mixing_weights(shares, 2 * temperature)
    assert max(warm.values()) <= max(cool.values()) + 1e-12
    assert min(warm.values()) >= min(cool.values()) - 1e-12


@given(SHARES, TEMPERATURES)
def test_weights_that_sum_to_one_stay_as_they_are_to_the_last_bit(shares, temperature):
    weights = mixing_weights(shares, temperature)
    assert mixing_weights(weights) == weights


def test_a_language_without_a_share_weighs_nothing_at_any_temperature():
    assert mixing_weights({"de": 3, "uk": 0}, 1e6) == {"de": 1, "uk": 0}


def test_mt5_exponent_of_0_3_gives_english_and_ukrainian_the_ratio_that_it_should():
    weights = mixing_weights({"en": MC4_TOKENS["en"], "uk": MC4_TOKENS["uk"]}, 1 / 0.3)
    assert weights["en"] / weights["uk"] == pytest.approx((2733 / 41) ** 0.3)


@pytest.mark.parametrize(
    ("tag", "same_as"), [("pt-BR", "pt"), ("zh-Hant", "zh"), ("cmn", "zh"), ("iw", "he"), ("DE", "de"), ("arb", "ar")]
)
def test_a_variant_has_the_share_of_its_language(tag, same_as):
    assert known_share(tag) == MC4_TOKENS[same_as]


def test_romanised_text_has_a_share_of_its_own_and_a_language_outside_mc4_has_none():
    assert known_share("ru-Latn") == 0.9
    assert known_share("rw") is None


def test_every_language_of_the_table_is_one_that_bcp_47_knows_under_this_name():
    for tag in MC4_TOKENS:
        assert langcodes.tag_is_valid(tag)
        assert langcodes.standardize_tag(tag) == tag
