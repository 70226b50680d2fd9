import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import Corpus, CorpusRefusedError
from secateur_service.calibration.sampling import draw_samples, for_evaluation, token_sizes
from secateur_service.demo.tokenizer import BOS_ID, EOS_ID, save_byte_tokenizer
from support.models import save_corpora


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=4096)
    return AutoTokenizer.from_pretrained(folder)


def draw(tokenizer, calibration, evaluation, **changes):
    options = {
        "languages": ["de", "uk"],
        "evaluation_languages": ["uk", "en"],
        "sequences": 5,
        "evaluation_tokens": 600,
        "sequence_length": 128,
        "seed": 0,
        "check": lambda: None,
    }
    return draw_samples(
        tokenizer, calibration=Corpus(calibration), evaluation=Corpus(evaluation), **{**options, **changes}
    )


def test_every_language_gets_the_same_tokens_and_windows_of_the_stated_length(tokenizer, tmp_path):
    calibration, evaluation = draw(tokenizer, *save_corpora(tmp_path))
    assert {name: tuple(sample.tokens.shape) for name, sample in calibration.items()} == {
        "de": (5, 128),
        "uk": (5, 128),
    }
    assert {name: tuple(sample.tokens.shape) for name, sample in evaluation.items()} == {"uk": (4, 128), "en": (4, 128)}


def test_documents_are_packed_with_their_beginnings_and_ends(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    _, drawn = draw(tokenizer, calibration, evaluation)
    lines = (evaluation / "en.txt").read_text().splitlines()
    expected = []
    for line in lines:
        expected += [BOS_ID, *tokenizer(line, add_special_tokens=False)["input_ids"], EOS_ID]
    assert drawn["en"].tokens.flatten().tolist() == expected[: 4 * 128]
    # A byte-level token is one byte, and the two special tokens are none.
    sizes = drawn["en"].token_bytes.flatten()
    special = (drawn["en"].tokens.flatten() == BOS_ID) | (drawn["en"].tokens.flatten() == EOS_ID)
    assert torch.equal(sizes, (~special).long())


def test_the_same_seed_draws_the_same_text_and_another_seed_other_text(tokenizer, tmp_path):
    folders = save_corpora(tmp_path)
    first, again, other = (draw(tokenizer, *folders, seed=seed)[0]["de"].digest() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("shared", [True, False])
def test_no_document_serves_calibration_and_evaluation(tokenizer, tmp_path, shared):
    calibration, evaluation = save_corpora(tmp_path)
    if not shared:  # another folder, with the same text in it
        (calibration / "uk.txt").write_text((evaluation / "uk.txt").read_text() + (calibration / "uk.txt").read_text())
    drawn, held_out = draw(tokenizer, calibration, calibration if shared else evaluation, sequences=60)
    assert held_out["uk"].document_hashes
    assert not drawn["uk"].document_hashes & held_out["uk"].document_hashes


def test_about_a_fifth_of_a_shared_corpus_is_held_out():
    share = sum(for_evaluation(f"document {number}") for number in range(5000)) / 5000
    assert 0.17 < share < 0.23


def test_too_little_text_says_how_much_there_is(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    (calibration / "de.txt").write_text("Nur ein Satz.\n")
    with pytest.raises(CorpusRefusedError, match=r"language de has 15 tokens where 640 are needed"):
        draw(tokenizer, calibration, evaluation)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "has text in: en, es, uk"), (b"", "is empty"), (b"gut\n\xff\xfe\n", "line 2: not UTF-8")],
)
def test_a_file_that_cannot_be_used_is_named(tokenizer, tmp_path, content, complaint):
    calibration, evaluation = save_corpora(tmp_path)
    (calibration / "de.txt").unlink()
    if content is not None:
        (calibration / "de.txt").write_bytes(content)
    with pytest.raises(CorpusRefusedError, match=complaint):
        draw(tokenizer, calibration, evaluation)


@given(text=st.text(min_size=1, max_size=40), data=st.data())
def test_the_bytes_of_tokens_add_up_to_the_bytes_of_the_text(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    offsets = list(itertools.pairwise(bounds))
    # A byte-level vocabulary splits a character: several tokens then report the same characters.
    doubled = [pair for pair in offsets for _ in range(data.draw(st.integers(1, 3)))]
    sizes = token_sizes(text, doubled)
    assert sum(sizes) == len(text.encode())
    assert min(sizes) >= 0
