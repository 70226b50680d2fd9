"""Word frequencies rank the tokens that a text did not show."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from secateur_service.calibration.token_frequencies import count_tokens, token_frequencies
from secateur_service.calibration.word_frequencies import has_words, rare_words, token_shares, words_of
from support.vocabularies import LINES, tokenizer_json

pytestmark = pytest.mark.skipif(not has_words(), reason="needs the package wordfreq")


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_json("byte-level")))


def test_common_words_are_more_frequent_than_rare_ones():
    words = words_of("de")
    assert words["und"] > words["haus"] > words["gartenschere"] > 0
    assert words_of("de-AT") == words
    assert not words_of("rw")


def test_shares_are_those_of_the_words_as_they_stand_in_text(tokenizer):
    size = len(tokenizer)
    shares = token_shares(tokenizer, {"und": 0.75, "der": 0.25}, size)
    assert sum(shares) == pytest.approx(1)
    expected = [0.0] * size
    for word, share in (("und", 0.75), ("der", 0.25)):
        for form, part in ((f" {word}", 0.828), (f" {word.title()}", 0.092), (word, 0.04), (word.title(), 0.04)):
            for token in tokenizer(form, add_special_tokens=False)["input_ids"]:
                expected[token] += share * part
    total = sum(expected)
    assert shares == pytest.approx([share / total for share in expected])


def test_capitals_are_counted_within_sentences():
    documents = ["Das alte Haus, das Haus am See.", "Unter dem Baum steht ein Hund. Er bellt", "ab 12 Uhr"]
    found = rare_words(documents)
    assert found["baum"] == found["hund"] == (0, 1)
    assert found["alte"] == (1, 0)
    assert found["haus"] == (0, 2)
    assert not {"er", "unter", "uhr"} & found.keys()  # they may begin a sentence
    assert not rare_words(["한국어 한국어 문장", "עברית שפה"])  # no capitals
    assert "haus" not in rare_words([*documents, "im Haus"])


def test_the_text_tells_how_often_a_word_has_a_capital(tokenizer):
    size = len(tokenizer)
    words = {word: share for word, share in words_of("de").items() if share > 1e-5}
    rare = rare_words(LINES)
    assert len(rare) > 20
    before, after = (token_shares(tokenizer, words, size, known) for known in ({}, rare))

    def capitals(shares):
        return sum(share for number, share in enumerate(shares) if tokenizer.decode([number]).strip()[:1].isupper())

    always = dict.fromkeys(rare, (0, 1))
    never = dict.fromkeys(rare, (1, 0))
    ends = [capitals(token_shares(tokenizer, words, size, known)) for known in (never, always)]
    assert ends[0] < capitals(before) < ends[1]
    assert ends[0] < capitals(after) < ends[1]
    assert sum(after) == pytest.approx(1)


def test_counted_tokens_keep_their_counts_and_the_words_order_the_others(tokenizer):
    size = len(tokenizer)
    counts = count_tokens(tokenizer, LINES[:3], size)
    texts = [tokenizer.decode([number]) for number in range(size)]
    words = token_shares(tokenizer, {word: share for word, share in words_of("de").items() if share > 1e-5}, size)
    found = token_frequencies(counts, texts, words)
    assert sum(found) == pytest.approx(1)
    seen = [sum(pair) for pair in zip(*counts.halves, strict=True)]
    plain = token_frequencies(counts, texts)
    unseen = [number for number in range(size) if not seen[number] and words[number] > 1e-5]
    assert len(unseen) > 20
    by_words = sorted(unseen, key=lambda number: words[number])
    assert sorted(unseen, key=lambda number: found[number])[-10:] == by_words[-10:]
    for number in range(size):
        if seen[number] > 3:
            assert found[number] == pytest.approx(plain[number], rel=0.5)


def test_words_that_take_fewer_tokens_with_a_capital_have_one_more_often():
    nouns, verbs = ["garten", "haus", "baum", "hund"], ["laufen", "singen", "lesen", "malen"]
    text = " ".join([*(noun.capitalize() for noun in nouns), *verbs])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [f" {text}"] * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained)
    rare = {**dict.fromkeys(nouns[:3], (0, 1)), **dict.fromkeys(verbs[:3], (1, 0))}

    def capital(word):
        """The share of the token that is the word with a capital, or of its first letter."""
        words = {**dict.fromkeys(rare, 1e-9), word: 1.0}
        shares = token_shares(tokenizer, words, len(tokenizer), rare)
        return shares[tokenizer(f" {word.capitalize()}")["input_ids"][0]]

    assert capital("hund") > 2 * capital("malen")
