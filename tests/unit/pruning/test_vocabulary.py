"""Rows are dropped leaf by leaf, the cheapest first, and what is kept can still be made of what is kept."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur_service.pruning.structured.vocabulary import choose_rows


@st.composite
def vocabularies(draw):
    """Parents of some tokens, each of two earlier ones; the first four are single characters."""
    parents = dict.fromkeys(range(4), ())
    for token in range(4, draw(st.integers(4, 40))):
        pieces = st.integers(0, token - 1)
        parents[token] = draw(st.one_of(st.just(()), st.tuples(pieces, pieces)))
    counts = st.lists(st.integers(0, 50), min_size=len(parents), max_size=len(parents))
    frequencies = {}
    for language in ("de", "uk"):
        counted = draw(counts)
        frequencies[language] = [count / max(1, sum(counted)) for count in counted]
    return parents, frequencies, draw(st.sets(st.sampled_from(sorted(parents)), max_size=3))


def pieces_of(token, kept, parents):
    """How many tokens stand in a token's place; one that is not made of others is counted as two where it is gone."""
    if token in kept:
        return 1
    return sum(pieces_of(part, kept, parents) for part in parents[token]) or 2


@given(vocabularies(), st.floats(0.001, 0.9), st.sampled_from([1, 4]))
def test_what_is_kept_is_closed_and_costs_what_is_said_and_no_more_than_is_allowed(vocabulary, budget, multiple):
    parents, frequencies, mandatory = vocabulary
    rows = choose_rows(frequencies, parents, mandatory, extra_tokens=budget, multiple=multiple)
    kept = set(rows.kept)
    assert list(rows.kept) == sorted(kept)
    assert mandatory <= kept
    assert all(piece in kept for token in kept for piece in parents[token])
    assert len(kept) % multiple == 0 or len(kept) == len(parents)
    for language, shares in frequencies.items():
        assert rows.extra_tokens[language] <= budget + 1e-9
        assert rows.extra_tokens[language] == pytest.approx(
            sum(share * (pieces_of(token, kept, parents) - 1) for token, share in enumerate(shares)), abs=1e-9
        )


@settings(max_examples=50)
@given(vocabularies(), st.floats(0.001, 0.9), st.floats(0.1, 10))
def test_a_language_takes_as_much_less_as_its_tokens_are_dearer(vocabulary, budget, weight):
    parents, frequencies, mandatory = vocabulary
    rows = choose_rows(frequencies, parents, mandatory, extra_tokens=budget, multiple=1, weights={"uk": weight})
    assert rows.extra_tokens["de"] <= budget + 1e-9
    assert rows.extra_tokens["uk"] <= budget / weight + 1e-9
    kept = set(rows.kept)
    for language, shares in frequencies.items():
        assert rows.extra_tokens[language] == pytest.approx(
            sum(share * (pieces_of(token, kept, parents) - 1) for token, share in enumerate(shares)), abs=1e-9
        )


@given(vocabularies(), st.integers(1, 40))
def test_no_more_rows_are_kept_than_are_asked_for_unless_they_are_mandatory(vocabulary, asked):
    parents, frequencies, mandatory = vocabulary
    rows = choose_rows(frequencies, parents, mandatory, rows=asked, multiple=1)
    ancestors = set()
    waiting = list(mandatory)
    while waiting:
        token = waiting.pop()
        if token not in ancestors:
            ancestors.add(token)
            waiting.extend(parents[token])
    assert len(rows.kept) == min(len(parents), max(asked, len(ancestors)))


@given(vocabularies())
def test_of_equal_rows_the_cheapest_is_dropped_first_by_the_language_that_it_costs_most(vocabulary):
    parents, frequencies, mandatory = vocabulary
    leaves = [
        token for token in parents if token not in mandatory and not any(token in pieces for pieces in parents.values())
    ]
    rows = choose_rows(frequencies, parents, mandatory, rows=len(parents) - 1, multiple=1)
    (gone,) = set(parents) - set(rows.kept) or {None}
    if gone is None:
        assert not leaves
    else:
        cost = {token: max(shares[token] for shares in frequencies.values()) for token in leaves}
        assert cost[gone] == min(cost.values())


def test_greedy_choice_is_the_best_one_where_no_token_is_made_of_another():
    shares = {"de": [0.4, 0.1, 0.2, 0.3], "uk": [0.1, 0.2, 0.3, 0.4]}
    parents = dict.fromkeys(range(4), ())
    rows = choose_rows(shares, parents, (), rows=2, multiple=1)
    cost = {
        kept: max(max(share for token, share in enumerate(each) if token not in kept) for each in shares.values())
        for kept in itertools.combinations(range(4), 2)
    }
    assert cost[rows.kept] == min(cost.values())


def test_what_a_dropped_token_occurred_is_credited_to_both_its_parts():
    parents = {0: (), 1: (), 2: (0, 1), 3: (2, 2)}
    rows = choose_rows({"de": [0.0, 0.0, 0.1, 0.2]}, parents, {0, 1}, rows=2, multiple=1)
    assert rows.kept == (0, 1)
    assert rows.extra_tokens["de"] == pytest.approx(0.2 + (0.1 + 2 * 0.2))


def test_a_choice_that_is_to_stop_stops():
    class StopError(Exception):
        pass

    def check():
        raise StopError

    parents = dict.fromkeys(range(9000), ())
    with pytest.raises(StopError):
        choose_rows({"de": [0.0] * 9000}, parents, (), rows=1, check=check)


def test_every_language_pays_about_the_same_for_few_rows():
    few, many = [0.02] * 50, [0.004] * 250
    shares = {"de": few + [0.0] * 250, "en": [0.0] * 50 + many}
    rows = choose_rows(shares, dict.fromkeys(range(300), ()), (), rows=200, multiple=1)
    assert len(rows.kept) == 200
    assert rows.extra_tokens["de"] == pytest.approx(rows.extra_tokens["en"], abs=0.02)
    assert max(rows.extra_tokens.values()) < 0.35  # 0.4 if the cheapest tokens went, which are all English


def test_the_same_rows_cost_a_language_less_whose_tokens_are_dearer():
    chance = random.Random(0)
    shares = {name: [chance.paretovariate(1) if chance.random() < 0.5 else 0.0 for _ in range(1000)] for name in "abc"}
    shares = {name: [share / sum(each) for share in each] for name, each in shares.items()}
    parents = dict.fromkeys(range(1000), ())
    alike = choose_rows(shares, parents, (), rows=320, multiple=1).extra_tokens
    assert max(alike.values()) < 1.25 * min(alike.values())
    dearer = choose_rows(shares, parents, (), rows=320, multiple=1, weights={"a": 2, "c": 0.5}).extra_tokens
    assert 2 * dearer["a"] == pytest.approx(dearer["b"], rel=0.25)
    assert 0.5 * dearer["c"] == pytest.approx(dearer["b"], rel=0.25)
