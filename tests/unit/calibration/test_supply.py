"""How much text there can be at the most, without a tokenizer: never less than any tokenizer makes of it."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.demand import Demand, Lack, too_little
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
    assert too_little([Lack(one, {"de": 12345}, 12345, bound="at most ")])["calibration.samples"] == (
        "there are at most 12,345 tokens of de (German), and 128 samples of 2,048 tokens take 262,144; "
        "set calibration.samples to 6 (the text certainly suffices), or give more text"
    )
    both = Demand("evaluation", languages=2, sequences=2, length=64)
    told = too_little([Lack(both, {"de": 20, "uk": 9}, 9, split=True)])["evaluation.tokens_per_language"]
    assert told == (
        "there are 20 tokens of de (German) and 9 of uk (Ukrainian), and evaluation takes 128 of each language; "
        "give more text, or name another evaluation.corpus"
    )
    (many,) = too_little([Lack(both, {f"x-{number}": 1 for number in range(30)}, 1)]).values()
    assert many.count(" 1 of ") == 23
    assert " and too few of 6 more, and evaluation" in many


def test_both_purposes_are_told_the_same_length():
    fitted = Demand("calibration", languages=2, sequences=1, length=5000)
    scored = Demand("evaluation", languages=2, sequences=2, length=5000)
    told = too_little([Lack(scored, {"de": 2000}, 2000), Lack(fitted, {"de": 4601}, 4601)])
    first = "; give more text, or set calibration.sequence_length to 1000"
    assert told[scored.field].endswith(f"{first} and evaluation.tokens_per_language to 2000")
    assert told[fitted.field].endswith(first)


def test_no_fewer_sequences_are_proposed_than_a_step_needs():
    demand = Demand("calibration", languages=2, sequences=64, length=512, least=8)
    assert demand.remedy(4096, demand.longest(4096)) == "set calibration.samples to 16"
    assert demand.remedy(4095, demand.longest(4095)) == "set calibration.sequence_length to 63"
    assert demand.remedy(512, demand.longest(512)) == (
        "set calibration.sequence_length to 64 and calibration.samples to 16"
    )
    assert demand.longest(100) == 0
