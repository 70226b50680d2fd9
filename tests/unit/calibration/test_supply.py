"""How much text there can be at the most, without a tokenizer: never less than any tokenizer makes of it."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.demand import Demand
from secateur_service.calibration.supply import ReadBudget, most_tokens, supply_of, supply_of_sizes

FORMS = {
    None: None,
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "NFKD": normalizers.NFKD(),
    "prefixed": normalizers.Sequence([normalizers.NFKC(), normalizers.Prepend("▁")]),
}
# The character whose compatibility forms are longest, one that NFC makes longer, and ordinary text.
CHARACTERS = st.one_of(st.sampled_from("ﷺক়ড়क़ﬁ½ a"), st.characters(exclude_categories=["Cs"]))


def worst_tokenizer(normalizer):
    """One with a token for every byte that it sees, which no vocabulary does worse."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: at for at, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


TOKENIZERS = {name: worst_tokenizer(normalizer) for name, normalizer in FORMS.items()}


@given(text=st.text(CHARACTERS, min_size=1, max_size=40))
def test_no_tokenizer_makes_more_tokens_of_a_document(text):
    # The symbol for a space takes three of this tokenizer's tokens, and one of any that has it.
    for name, tokenizer in TOKENIZERS.items():
        extra = 2 if name == "prefixed" else 0
        assert len(tokenizer.encode(text).ids) - extra <= most_tokens(text)


@given(text=st.text(CHARACTERS, min_size=1, max_size=40))
def test_nor_of_a_file_of_which_only_the_size_is_known(text):
    lines = [line for line in text.split("\n") if line]
    size = len("\n".join(lines).encode())
    assert sum(map(most_tokens, lines)) <= supply_of_sizes([("de.txt", size)]).most_tokens


def test_the_size_of_a_table_or_a_compressed_file_says_nothing():
    for name in ("de.parquet", "de.txt.gz", "de.jsonl.zst"):
        assert supply_of_sizes([("other.txt", 9), (name, 9)]).most_tokens is None


def test_a_document_counts_once_and_only_for_its_purpose_and_reading_ends_with_enough(tmp_path):
    lines = [f"Satz {number}" for number in range(50)]
    (tmp_path / "de.txt").write_text("\n".join([*lines, *lines]))
    corpus = FolderCorpus(tmp_path)
    wanted = {line for line in lines if line.endswith("1")}
    supply = supply_of(corpus, "de", wanted.__contains__, 10**6, ReadBudget(10**6))
    assert supply.size_bytes == sum(map(len, wanted))
    assert supply.most_tokens == sum(map(most_tokens, wanted))
    assert supply_of(corpus, "de", lambda _: True, 20, ReadBudget(10**6)).size_bytes == 4 * len("Satz 0")
    unread = supply_of(corpus, "de", wanted.__contains__, 10**6, ReadBudget(100))
    assert unread == supply_of_sizes([("de.txt", (tmp_path / "de.txt").stat().st_size)])


def test_the_form_that_is_longest_is_no_longer_than_the_bound_for_sizes_says():
    longest = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"  # UAX 15, table 10
    form = unicodedata.normalize("NFKC", longest)
    assert len(form.encode()) == 11 * len(longest.encode())
    assert most_tokens(longest) <= supply_of_sizes([("de.txt", len(longest.encode()))]).most_tokens


def test_too_little_text_is_told_in_one_sentence_with_a_value_that_works():
    one = Demand("calibration", languages=1, sequences=128, length=2048)
    assert one.too_little({"de": 12345}, 12345, bound="at most ", split=False) == (
        "there are at most 12,345 tokens of de (German), and 128 samples of 2,048 tokens take 262,144; "
        "set calibration.samples to 6, or give more text"
    )
    both = Demand("evaluation", languages=2, sequences=2, length=64)
    assert both.too_little({"de": 20, "uk": 9}, 9, split=True) == (
        "there are 20 tokens of de (German) and 9 of uk (Ukrainian), and evaluation takes 128 of each language; "
        "give more text, or name another evaluation.corpus"
    )
    many = {f"x-{number}": 1 for number in range(30)}
    assert both.too_little(many, 1, split=False).count(" 1 of ") == 23
    assert " and too few of 6 more, and evaluation" in both.too_little(many, 1, split=False)


@pytest.mark.parametrize("fewest", [0, 5, 16, 63, 64, 700, 4000])
@pytest.mark.parametrize("purpose", ["calibration", "evaluation"])
def test_what_is_proposed_takes_no_more_than_there_is(purpose, fewest):
    demand = Demand(purpose, languages=3, sequences=20, length=64)
    values = {"calibration.samples": 60, "calibration.sequence_length": 64, "evaluation.tokens_per_language": 1280}
    remedy = demand.remedy(fewest)
    assert bool(remedy) == (fewest >= 16)
    shared = re.fullmatch(r"set (\S+) and (\S+) to (\d+)", remedy)
    if shared:
        values |= dict.fromkeys(shared.groups()[:2], int(shared[3]))
    else:
        values |= {field: int(value) for field, value in re.findall(r"(calibration\S+|evaluation\S+) to (\d+)", remedy)}
    length = values["calibration.sequence_length"]
    drawn = values["calibration.samples"] // 3 * length
    if purpose == "evaluation":
        drawn = values["evaluation.tokens_per_language"] // length * length
    assert not remedy or 0 < drawn <= fewest
