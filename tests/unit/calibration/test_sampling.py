import gzip
import hashlib
import json
import re
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur_service.admission.text import CorpusText, check_text
from secateur_service.calibration import sampling
from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus
from secateur_service.calibration.packing import pack
from secateur_service.calibration.sampling import again_tokenised, draw_samples, for_evaluation
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.spec import CalibrationSpec, EvaluationSpec
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
        tokenizer, calibration=FolderCorpus(calibration), evaluation=FolderCorpus(evaluation), **{**options, **changes}
    )


def digests(samples):
    return [{name: sample.digest() for name, sample in drawn.items()} for drawn in samples]


def place(text, key=b""):
    """Where a document stands in the order of drawing, by the definition of the order."""
    return hashlib.sha256(key + hashlib.sha256(text.encode()).digest()[:16]).digest()


def test_every_language_gets_the_same_tokens_and_windows_of_the_stated_length(tokenizer, tmp_path):
    calibration, evaluation = draw(tokenizer, *save_corpora(tmp_path))
    assert {name: tuple(sample.tokens.shape) for name, sample in calibration.items()} == {
        "de": (5, 128),
        "uk": (5, 128),
    }
    assert {name: tuple(sample.tokens.shape) for name, sample in evaluation.items()} == {"uk": (4, 128), "en": (4, 128)}


def test_documents_come_in_the_order_of_their_hashes(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    _, drawn = draw(tokenizer, calibration, evaluation)
    lines = sorted((evaluation / "en.txt").read_text().splitlines(), key=place)
    expected = pack(tokenizer, lines, 4 * 128 + 8, lambda: None).windows(4, 128)
    assert torch.equal(drawn["en"].tokens, expected.tokens)
    assert torch.equal(drawn["en"].is_text, expected.is_text)
    # A byte-level token is one byte, and what is around the text is none.
    assert torch.equal(drawn["en"].token_bytes, drawn["en"].is_text.long())


@pytest.mark.parametrize(
    ("characters", "lines", "windows"),
    [
        (20, 2000, 8),  # short: enough documents in a quarter of the tokens
        (100, 2000, 16),  # enough documents in half of them
        (900, 200, 32),  # long: never enough
        (400, 60, 23),  # and no more text
    ],
)
def test_evaluation_ends_with_enough_documents_or_where_the_text_does(tokenizer, tmp_path, characters, lines, windows):
    calibration, evaluation = save_corpora(tmp_path)
    text = "".join(f"{number:08d}{'x' * (characters - 9)}\n" for number in range(lines))
    (evaluation / "uk.txt").write_text(text)
    options = {"evaluation_languages": ["uk"], "evaluation_tokens": 32 * 1024, "sequence_length": 1024, "sequences": 1}
    enough = {"least_evaluation_tokens": 8 * 1024, "enough_documents": 160}
    sample = draw(tokenizer, calibration, evaluation, **options, **enough)[1]["uk"]
    touched = sample.document_of.amax(1) + 1
    assert len(sample.tokens) == windows
    assert sample.documents in (int(touched[-1]), int(touched[-1]) + 1)  # one more may begin behind the last window
    assert windows == 8 or len(touched) == 1 or int(touched[-2]) < 160
    if lines == 2000:
        whole = draw(tokenizer, calibration, evaluation, **options)[1]["uk"]
        assert torch.equal(sample.tokens, whole.tokens[:windows])


def test_less_evaluation_text_than_is_needed_with_enough_documents_is_refused(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    (evaluation / "uk.txt").write_text("".join(f"{number:08d}\n" for number in range(700)))
    options = {"evaluation_languages": ["uk"], "evaluation_tokens": 32 * 1024, "sequence_length": 1024, "sequences": 1}
    with pytest.raises(
        CorpusRefusedError, match=r"evaluation takes 8,192; set evaluation\.tokens_per_language to 5120"
    ):
        draw(tokenizer, calibration, evaluation, **options, least_evaluation_tokens=8 * 1024, enough_documents=160)


def test_the_same_seed_draws_the_same_text_and_another_seed_other_text(tokenizer, tmp_path):
    folders = save_corpora(tmp_path)
    first, again, other = (draw(tokenizer, *folders, seed=seed)[0]["de"].digest() for seed in (0, 0, 1))
    assert first == again != other


def test_neither_the_order_nor_the_names_nor_the_division_nor_the_kind_of_the_files_matters(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    expected = [
        {name: sample.digest() for name, sample in drawn.items()} for drawn in draw(tokenizer, calibration, evaluation)
    ]
    for folder in (calibration, evaluation):
        for path in list(folder.iterdir()):
            lines = path.read_text().splitlines()
            (folder / path.stem).mkdir()
            with gzip.open(folder / path.stem / "second.txt.gz", "wt") as file:
                file.write("\n".join(lines[:50][::-1]))
            rest = [json.dumps({"text": line, "url": "x"}) for line in lines[50:]]
            (folder / path.stem / "first.jsonl").write_text("\n".join(rest + rest[:3]))  # a few documents twice
            path.unlink()
    found = [
        {name: sample.digest() for name, sample in drawn.items()} for drawn in draw(tokenizer, calibration, evaluation)
    ]
    assert found == expected


def test_the_text_that_is_kept_does_not_grow_with_the_corpus(tokenizer, tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    few = {"languages": ["de"], "sequences": 2}
    peaks = []
    for count in (3_000, 30_000):
        (calibration / "de.txt").write_text(
            "".join(f"Satz Nummer {number} " + "ü" * 200 + "\n" for number in range(count))
        )
        tracemalloc.start()
        sample = draw(tokenizer, calibration, evaluation, **few)[0]["de"]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sample.num_tokens == 2 * 128
    assert peaks[1] < peaks[0] + 200_000


def test_tokens_of_many_bytes_have_the_corpus_read_again_and_not_be_called_too_small(tokenizer, tmp_path, monkeypatch):
    calibration, evaluation = save_corpora(tmp_path)
    expected = draw(tokenizer, calibration, evaluation)[0]["uk"].digest()
    monkeypatch.setattr(sampling, "_BYTES_PER_TOKEN", 0)
    assert draw(tokenizer, calibration, evaluation)[0]["uk"].digest() == expected


def test_seven_languages_with_documents_of_very_unequal_lengths_get_the_same_tokens(tokenizer, tmp_path):
    lengths = {"ar": 3, "de": 20_000, "en": 80, "fr": 1, "rw": 700, "uk": 40, "zh": 5000}
    for language, length in lengths.items():
        documents = (f"{number} " + "ю" * length for number in range(max(40, 60_000 // (length + 8))))
        (tmp_path / f"{language}.txt").write_text("\n".join(documents))
    drawn, held_out = draw(tokenizer, tmp_path, tmp_path, languages=list(lengths), evaluation_languages=list(lengths))
    assert {sample.num_tokens for sample in drawn.values()} == {5 * 128}
    assert {sample.num_tokens for sample in held_out.values()} == {4 * 128}


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
    with pytest.raises(
        CorpusRefusedError, match=r"there are 13 tokens of de \(German\), and 5 samples of 128 tokens .* take 640"
    ):
        draw(tokenizer, calibration, evaluation)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "has text in: en \\(English\\), es \\(Spanish\\), uk"),
        (b"", "is empty"),
        (b"gut\n\xff\xfe\n", "line 2: not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tokenizer, tmp_path, content, complaint):
    calibration, evaluation = save_corpora(tmp_path)
    (calibration / "de.txt").unlink()
    if content is not None:
        (calibration / "de.txt").write_bytes(content)
    with pytest.raises(CorpusRefusedError, match=complaint):
        draw(tokenizer, calibration, evaluation)


def test_tokens_that_the_vocabulary_does_not_have_are_counted(tmp_path):
    calibration, evaluation = save_corpora(tmp_path)
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ", 3)}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **letters}
    plain = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    drawn = draw(tokenizer, calibration, evaluation)[0]
    for sample in drawn.values():
        assert sample.unknown_tokens == int((sample.tokens == 0).sum())
    shares = {name: sample.unknown_tokens / sample.text_tokens for name, sample in drawn.items()}
    assert 0 < shares["de"] < 0.3 < shares["uk"]


@pytest.mark.parametrize("pads", [True, False])
def test_text_again_in_the_same_tokens_is_the_same_sample(tokenizer, tmp_path, pads):
    for sample in draw(tokenizer, *save_corpora(tmp_path))[0].values():
        again = again_tokenised(sample, tokenizer, pads=pads, check=lambda: None)
        assert again.digest() == sample.digest()
        assert torch.equal(again.is_text, sample.is_text)
        assert torch.equal(again.token_bytes, sample.token_bytes)
        assert again.passages.spans == sample.passages.spans


def test_text_that_takes_fewer_tokens_fills_fewer_sequences_or_none(tokenizer, tmp_path):
    words = Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True))
    coarser = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    (tmp_path / "de.txt").write_text("\n".join(f"{number} bacada" for number in range(2000)))
    sample = draw(tokenizer, tmp_path, tmp_path, languages=["de"], evaluation_languages=["de"])[0]["de"]
    again = again_tokenised(sample, coarser, pads=False, check=lambda: None)
    assert 0 < len(again.tokens) < len(sample.tokens)
    assert again.tokens.shape[1] == sample.tokens.shape[1]
    short = replace(sample, passages=replace(sample.passages, documents=sample.passages.documents[:1]))
    with pytest.raises(CorpusRefusedError, match="too little text for a sequence of 128 tokens"):
        again_tokenised(short, coarser, pads=False, check=lambda: None)


def followed(told, values):
    """The values after doing what a refusal proposes for every field."""
    for shared in re.finditer(r"set (\S+) and (\S+) to (\d+)", told):
        values = {**values, shared[1]: int(shared[3]), shared[2]: int(shared[3])}
    return {**values, **{field: int(value) for field, value in re.findall(r"([a-z_]+\.[a-z_]+) to (\d+)", told)}}


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(80, 4000), min_size=2, max_size=3),
    held_out=st.lists(st.integers(80, 4000), min_size=2, max_size=2),
    samples=st.integers(3, 40),
    least=st.sampled_from([1, 4]),
    length=st.sampled_from([20, 64, 300, 5000]),
    windows=st.integers(1, 20),
)
def test_what_is_proposed_where_there_is_too_little_text_works_at_admission_and_in_the_worker(
    tokenizer, sizes, held_out, samples, least, length, windows
):
    languages, scored = ["de", "uk", "en"][: len(sizes)], ["uk", "fr"]
    values = {
        "calibration.samples": max(samples, least * len(languages)),
        "calibration.sequence_length": length,
        "evaluation.tokens_per_language": windows * length,
    }
    with tempfile.TemporaryDirectory() as folder:
        corpora = {}
        for part, names, amounts in (("calibration", languages, sizes), ("evaluation", scored, held_out)):
            place = Path(folder, part)
            place.mkdir()
            for name, size in zip(names, amounts, strict=True):
                lines = [f"{part} {name} {at:03d}" for at in range(size // 16 + 1)]
                (place / f"{name}.txt").write_text("\n".join(lines))
            files = {name: [(f"{name}.txt", (place / f"{name}.txt").stat().st_size)] for name in names}
            corpora[part] = CorpusText(str(place), place, files)

        def drawn(values):
            each = values["calibration.samples"] // len(languages)
            return draw(
                tokenizer,
                corpora["calibration"].folder,
                corpora["evaluation"].folder,
                languages=languages,
                evaluation_languages=scored,
                sequences=each,
                evaluation_tokens=values["evaluation.tokens_per_language"],
                sequence_length=values["calibration.sequence_length"],
                least_sequences=least,
            )

        def refused(values):
            calibration = CalibrationSpec(
                languages=[{"language": name} for name in languages], samples=values["calibration.samples"]
            )
            evaluation = EvaluationSpec(
                corpus="file:///evaluation",
                languages=scored,
                tokens_per_language=values["evaluation.tokens_per_language"],
            )
            found, _ = check_text(calibration, evaluation, values["calibration.sequence_length"], corpora, least)
            return ". ".join(map(str, found))

        def lacking(values):
            try:
                drawn(values)
            except CorpusRefusedError as error:
                return str(error)
            return ""

        for told in (refused(values), lacking(values)):
            if "set " not in told:
                continue
            proposal = followed(told, values)
            assert not refused(proposal)
            # What only the worker can know of the other purpose, it tells alone.
            also = lacking(proposal)
            assert not any(f"{field}: there are" in also and f"{field}: there are" in told for field in values)
            if "set " in also:
                proposal = followed(also, proposal)
            if not also or "set " in also:
                calibration, evaluation = drawn(proposal)
                assert (calibration.keys(), evaluation.keys()) == (set(languages), set(scored))
                assert proposal["calibration.samples"] // len(languages) >= least
        assert not refused(values) or lacking(values)
