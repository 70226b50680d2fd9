"""Frequencies are counted where there is text, and what is not counted is no more or less likely than its letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from secateur_service.calibration.token_frequencies import TokenCounts, count_tokens, token_frequencies
from secateur_service.models.token_graph import TokenGraph
from support.models import TEXT
from support.vocabularies import tokenizer_json


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer_json("byte-level"), encoding="utf-8")
    return PreTrainedTokenizerFast(tokenizer_file=str(path)), TokenGraph.open(path.parent)


def lines_of(language):
    return (TEXT / f"{language}.txt").read_text(encoding="utf-8").splitlines()


def counted(tokenizer, lines):
    return count_tokens(tokenizer[0], lines, len(tokenizer[1].tokens))


def texts_of(graph):
    return [graph.text(number) if number not in graph.added else "" for number in range(len(graph.tokens))]


def test_every_token_of_every_document_is_counted_in_one_of_two_halves(tokenizer):
    lines = lines_of("uk")
    counts = counted(tokenizer, iter(lines))
    encoded = [tokenizer[0](line, add_special_tokens=False)["input_ids"] for line in lines]
    for half in (0, 1):
        tokens = [token for document in encoded[half::2] for token in document]
        assert counts.halves[half] == [tokens.count(number) for number in range(len(tokenizer[1].tokens))]
    assert counts.tokens == sum(map(len, encoded))
    assert counts.num_bytes == sum(len(line.encode()) for line in lines)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_frequencies_are_shares_of_one_and_nothing_is_impossible(pairs):
    texts = ["ab"] * (len(pairs) - 1) + ["\u0436"]
    halves = ([first for first, _ in pairs], [second for _, second in pairs])
    frequencies = token_frequencies(TokenCounts(halves, {"a": 5, "b": 5}, 10), texts)
    assert sum(frequencies) == pytest.approx(1)
    assert min(frequencies) > 0


def test_a_token_that_was_not_counted_is_likelier_where_the_language_has_its_letters(tokenizer):
    counts = counted(tokenizer, lines_of("de"))
    texts = texts_of(tokenizer[1])
    frequencies = token_frequencies(counts, texts)
    unseen = [number for number, pair in enumerate(zip(*counts.halves, strict=True)) if not sum(pair)]
    german = [number for number in unseen if texts[number].strip() and set(texts[number]) <= set(" abdefghiklmnorstuw")]
    cyrillic = [
        frequencies[number] for number in unseen if any("\u0400" <= letter < "\u0500" for letter in texts[number])
    ]
    assert len(german) > 20
    assert len(cyrillic) > 20
    assert min(german) > max(cyrillic)


def test_what_unseen_text_has_that_was_not_counted_is_about_as_much_as_is_expected(tokenizer):
    """Of a tenth of the text, whose tokens are far from all that the language needs."""
    for language in ("de", "uk", "es"):
        lines = lines_of(language)
        counts = counted(tokenizer, lines[::20])
        frequencies = token_frequencies(counts, texts_of(tokenizer[1]))
        unseen = [number for number, pair in enumerate(zip(*counts.halves, strict=True)) if not sum(pair)]
        other = counted(tokenizer, [line for number, line in enumerate(lines) if number % 20])
        found = sum(other.halves[0][number] + other.halves[1][number] for number in unseen) / other.tokens
        expected = sum(frequencies[number] for number in unseen)
        assert 0.5 * found < expected < 2 * found, language
