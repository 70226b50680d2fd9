"""The same text is the same document whatever holds it, and long texts are cut where the text alone says."""

import codecs
import contextlib
import gzip
import json
import re
import sys
import tracemalloc
import unicodedata

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from structlog.testing import capture_logs
from transformers import AutoTokenizer

from secateur_service.calibration import containers
from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus, Reading
from secateur_service.calibration.documents import AROUND, LONGEST_CHARACTERS, MOST_WITHOUT_TEXT, parts
from secateur_service.calibration.sampling import draw_samples
from secateur_service.calibration.splitting import for_evaluation
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer

# What is in texts and must not end one: other line separators, control characters, marks, halves of a CRLF.
ODD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\ufeff", "\u00a0", "\u3000", "\r", "\t", " ", "\u0301"]
LETTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), min_size=1, max_size=30)
DOCUMENTS = st.lists(st.lists(LETTERS | st.sampled_from(ODD), min_size=1, max_size=6).map("".join), min_size=1)
LONG = st.builds(lambda text, length: text * (length // len(text) + 1), LETTERS, st.integers(1, 4 * LONGEST_CHARACTERS))


def lines(documents, end="\n"):
    return "".join(f"{document}{end}" for document in documents).encode()


def objects(documents, *, ascii_only=True):
    return lines(json.dumps({"url": 1, "text": document}, ensure_ascii=ascii_only) for document in documents)


def table(documents, kind):
    def write(path):
        texts = pa.array(documents, pa.string())
        column = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
        parquet.write_table(pa.table({"url": list(range(len(documents))), "text": column}), path, row_group_size=7)

    return write


TABLES = ["dictionary", pa.string(), pa.large_string(), pa.string_view()]
TABLES += [pa.binary(), pa.large_binary(), pa.binary_view()]


def bytes_of(content):
    return lambda path: path.write_bytes(content)


def stored(documents):
    """Every way to store the same documents: files by name, each with what writes it."""
    plain = lines(documents)
    half = len(documents) // 2
    yield {"de.txt": bytes_of(plain)}
    yield {"de.txt": bytes_of(codecs.BOM_UTF8 + lines(documents, "\r\n") + b"\r\n \n\n\t")}
    yield {"de.txt": bytes_of(plain.rstrip(b"\n"))}
    yield {"de.txt.gz": bytes_of(gzip.compress(plain))}
    yield {"DE.txt.zst": bytes_of(zstandard.compress(codecs.BOM_UTF8 + plain))}
    yield {"de.jsonl": bytes_of(codecs.BOM_UTF8 + objects(documents) + b"\r\n\r\n")}
    yield {"deu.jsonl.gz": bytes_of(gzip.compress(objects(documents, ascii_only=False)))}
    for kind in TABLES:
        yield {"de.parquet": table(documents, kind)}
    yield {
        "de/z.txt": bytes_of(codecs.BOM_UTF8 + lines(documents[:half][::-1])),
        "de/empty.txt": bytes_of(b""),
        "de/a.parquet": table(documents[half:], pa.string()),
        "de/m.jsonl": bytes_of(objects(documents[::3])),  # some are there twice
    }


def store(folder, files):
    for name, write in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return FolderCorpus(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, max_length=4096)
    return AutoTokenizer.from_pretrained(folder)


def draw(tokenizer, corpus, *, sequences=1, check=lambda: None, **changes):
    options = {
        "calibration": corpus,
        "evaluation": corpus,
        "languages": ["de"],
        "evaluation_languages": ["de"],
        "sequences": sequences,
        "evaluation_tokens": 4,
        "sequence_length": 4,
        "seed": 3,
        "check": check,
    }
    return draw_samples(tokenizer, **{**options, **changes})


def outcome(tokenizer, corpus):
    """What is drawn; where that is too little, how much there is."""
    try:
        return [sample["de"].digest() for sample in draw(tokenizer, corpus, sequences=30)]
    except CorpusRefusedError as error:
        return re.findall("de [0-9,]+ of [0-9,]+ tokens", str(error))


@settings(max_examples=25, deadline=None)
@given(documents=st.one_of(DOCUMENTS, st.builds(lambda few, long: [*few, long], DOCUMENTS, LONG)))
def test_every_container_gives_the_same_sample(tokenizer, tmp_path_factory, documents):
    documents += [f"Satz {number}" for number in range(len(documents))]  # of rows, half may be without text
    folder = tmp_path_factory.mktemp("corpora")
    found = [outcome(tokenizer, store(folder / str(number), files)) for number, files in enumerate(stored(documents))]
    assert found == found[:1] * len(found)


@given(documents=DOCUMENTS)
def test_a_document_is_its_line_without_what_stands_around_it(tmp_path_factory, documents):
    corpus = store(tmp_path_factory.mktemp("corpus"), {"de.txt": bytes_of(lines(documents))})
    assert list(corpus.documents("de")) == [text for document in documents if (text := document.strip(AROUND))]


def test_all_white_space_is_stripped():
    space = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]
    assert sorted(AROUND) == sorted([*space, "\ufeff"])


def test_lines_within_a_document_end_alike_in_all_containers(tmp_path):
    for name, write in {"a": bytes_of(objects(["eins\r\nzwei"])), "b": bytes_of(objects(["eins\nzwei"]))}.items():
        store(tmp_path / name, {"de.jsonl": write})
    store(tmp_path / "c", {"de.parquet": table(["eins\r\nzwei\r\n"], pa.string())})
    assert {tuple(FolderCorpus(tmp_path / name).documents("de")) for name in "abc"} == {("eins\nzwei",)}


def test_line_ends_of_a_long_text_are_the_same_whatever_pieces_it_is_read_in(tmp_path):
    text = "".join(f"Zeile {number}{'x' * (number % 7)}\r\n" for number in range(30_000))
    found = [
        list(store(tmp_path / name, {f"de.{name}": write}).documents("de"))
        for name, write in (("jsonl", bytes_of(objects([text]))), ("parquet", table([text], pa.large_binary())))
    ]
    assert found[0] == found[1] == list(parts([text.replace("\r\n", "\n")]))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["de.txt", "de.jsonl", "de.txt.gz"])
def test_other_encodings_are_refused_with_the_remedy(tmp_path, encoding, name):
    content = '{"text": "Ein Satz."}\n'.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(CorpusRefusedError, match=r"de\..* is UTF-16 or UTF-32; convert it to UTF-8"):
        list(FolderCorpus(tmp_path).documents("de"))


# Long texts


@settings(max_examples=300)
@given(
    text=st.lists(LETTERS | st.sampled_from([*ODD, "\n", "\n\n", ". ", "。", " " * 50]), max_size=40).map("".join),
    most=st.integers(2, 40),
    size=st.integers(1, 60),
    trailing=st.sampled_from(["", " " * 300, "\n"]),
)
def test_where_a_text_is_cut_depends_on_the_text_alone_and_nothing_is_lost(text, most, size, trailing):
    whole = list(parts([text], most))
    given_in_pieces = text + trailing
    pieces = [given_in_pieces[at : at + size] for at in range(0, len(given_in_pieces), size)]
    assert list(parts(pieces, most)) == whole
    assert all(0 < len(part) <= most and part == part.strip(AROUND) for part in whole)
    kept = str.maketrans("", "", AROUND)
    assert "".join(whole).translate(kept) == text.translate(kept)
    if len(text.strip(AROUND)) <= most:
        assert whole == [text.strip(AROUND)] * bool(text.strip(AROUND))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Erster Satz. Noch\n\neiner. Und mehr", ["Erster Satz. Noch", "einer. Und mehr"]),
        ("Erster Satz. Noch\neiner. Und mehr", ["Erster Satz. Noch", "einer. Und mehr"]),
        ("Erster Satz. Noch einer und mehr", ["Erster Satz.", "Noch einer und mehr"]),
        (
            "第一句话在这里，它很长。第二句话在这里，它也很长",
            ["第一句话在这里，它很长。", "第二句话在这里，它也很长"],
        ),
        ("viele Worte ohne einen Punkt am Ende", ["viele Worte ohne", "einen Punkt am Ende"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("x" * 18 + "e\u0301" * 4, ["x" * 18 + "e\u0301", "e\u0301" * 3]),
        ("x" * 19 + "e\u0301" * 4, ["x" * 19, "e\u0301" * 4]),
        ("x" * 18 + "👩\u200d👩\u200d👧" + "y", ["x" * 18, "👩\u200d👩\u200d👧y"]),
    ],
)
def test_a_text_is_cut_at_the_best_place_and_never_inside_a_character(text, expected):
    assert list(parts([text], 20)) == expected
    assert not any(unicodedata.combining(part[0]) for part in parts([text], 20))


def test_short_documents_are_left_alone(tmp_path):
    documents = ["Satz. " * (LONGEST_CHARACTERS // 6) + "Ende", "x" * LONGEST_CHARACTERS]
    reading = Reading()
    corpus = store(tmp_path, {"de.txt": bytes_of(lines(documents))})
    assert list(corpus.documents("de", reading=reading)) == documents
    assert reading.cut == 0


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_file_in_one_line_serves_both_purposes(tokenizer, tmp_path, kind):
    text = " ".join(f"Satz Nummer {number} steht hier." for number in range(40_000))
    writers = {
        "txt": bytes_of(text.encode()),
        "jsonl": bytes_of(objects([text])),
        "parquet": table([text], pa.string()),
    }
    drawn, held_out = draw(tokenizer, store(tmp_path, {f"de.{kind}": writers[kind]}), sequences=50)
    assert (drawn["de"].cut_texts, held_out["de"].cut_texts) == (1, 1)
    assert not drawn["de"].document_hashes & held_out["de"].document_hashes
    documents = list(FolderCorpus(tmp_path).documents("de"))
    assert 0.1 < sum(map(for_evaluation, documents)) / len(documents) < 0.3


def test_a_line_of_any_length_takes_the_same_memory_and_is_not_tokenised_whole(tokenizer, tmp_path):
    tokenised = 0

    class Counting:
        def __call__(self, batch, **options):
            nonlocal tokenised
            tokenised += sum(map(len, batch))
            return tokenizer(batch, **options)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    peaks = []
    for count in (30_000, 200_000):  # 1 and 7 MB
        with gzip.open(tmp_path / "de.txt.gz", "wb", compresslevel=1) as file:
            for number in range(0, count, 1000):
                sentences = (f"Satz Nummer {at} steht hier nun. " for at in range(number, number + 1000))
                file.write("".join(sentences).encode())
        tracemalloc.start()
        draw(Counting(), FolderCorpus(tmp_path), sequences=100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_000_000
    assert tokenised < 20 * LONGEST_CHARACTERS


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("txt", b"x" * (40 << 20)),
        ("txt", b" " * (40 << 20)),
        ("txt", b"\n" * (1 << 20)),
        ("txt", b"Ein Satz\n" * 50_000),
        ("jsonl", b"\n" * (1 << 20)),
        ("jsonl", b'{"text": ""}\n' * 50_000),
        ("jsonl", b'{"text": "' + b"x" * (40 << 20) + b'"}'),
    ],
    ids=lambda content: str(content[:12]),
)
def test_reading_can_be_stopped_within_a_few_mebibytes_whatever_is_read(tmp_path, kind, content):
    class StoppedError(Exception):
        pass

    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 30:
            raise StoppedError

    (tmp_path / f"de.{kind}").write_bytes(content)
    with pytest.raises(StoppedError):
        list(FolderCorpus(tmp_path).documents("de", reading=Reading(check)))


def test_too_little_text_is_said_in_short_and_the_log_says_where_it_went(tokenizer, tmp_path):
    documents = [f"Satz {number}" for number in range(40)]
    held_out = list(filter(for_evaluation, documents))
    (tmp_path / "de.txt").write_text("\n".join([*documents, *documents]))
    corpus = FolderCorpus(tmp_path)
    tokens, shared = sum(len(document) for document in documents), 2 * len(held_out)
    with capture_logs() as logged, pytest.raises(CorpusRefusedError) as refused:
        draw(tokenizer, corpus, sequences=1000)
    assert re.fullmatch(
        r"calibration.samples: there are [0-9,]+ tokens of de \(German\), and 1,000 samples of 4 tokens take 4,000; "
        "set calibration.samples to [0-9]+, give more text, or name another evaluation.corpus",
        str(refused.value),
    )
    assert (
        f"documents in all: 80, different ones for calibration: {40 - len(held_out)}, for evaluation (a hash of each "
        f"decides): {shared} with repetitions" in str(logged)
    )
    with capture_logs() as logged, pytest.raises(CorpusRefusedError) as refused:
        draw(tokenizer, corpus, evaluation_tokens=2 * tokens)
    assert re.search(
        r"^evaluation.tokens_per_language: there are [0-9,]+ tokens of de \(German\), and evaluation takes [0-9,]+; "
        "set evaluation.tokens_per_language to [0-9]+, give more text, or name another evaluation.corpus$",
        str(refused.value),
    )
    assert f"for calibration (a hash of each decides): {80 - shared} with repetitions" in str(logged)
    alone = FolderCorpus(tmp_path / "alone")
    alone.folder.mkdir()
    (alone.folder / "de.txt").write_text(documents[0])
    with capture_logs() as logged, pytest.raises(CorpusRefusedError):
        draw(tokenizer, corpus, sequences=1000, evaluation=alone)
    assert "left out because evaluation took them: 2 with repetitions" in str(logged)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_read_as_a_whole_has_a_limit_and_the_remedy_is_named(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(containers, "MAX_VALUE_BYTES", 1 << 16)
    for documents in (["x" * (1 << 17)], ["kurz"] * 100 + ["x" * (1 << 17)]):
        write = bytes_of(objects(documents)) if kind == "jsonl" else table(documents, pa.string())
        corpus = store(tmp_path, {f"de.{kind}": write})
        with pytest.raises(CorpusRefusedError, match=r"^de\..*: more than 0 MiB; put one document into a row"):
            list(corpus.documents("de"))
    assert len(list(store(tmp_path / "b", {"de.txt": bytes_of(lines(documents))}).documents("de"))) == 108


# Rows without text

WITHOUT_TEXT = [
    (None, "'text' is null"),
    ("", "the text is empty"),
    (" \u2028\ufeff", "the text is empty"),
]
WRONG = [(7, "'text' is a number"), (True, "'text' is true or false"), ({"a": "b"}, "'text' is an object")]
WRONG += [([{"role": "user", "content": "x"}], "set chat_template"), ([], "the list is empty")]
WRONG += [(..., "there is no 'text'")]


def odd_rows(path, texts):
    if path.suffix == ".jsonl":
        rows = [{"other": "Ein Titel"} if text is ... else {"text": text, "other": "Ein Titel"} for text in texts]
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.table({"text": pa.array(texts), "other": ["Ein Titel"] * len(texts)}), path)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [("jsonl", *case) for case in WITHOUT_TEXT + WRONG] + [("parquet", *case) for case in WITHOUT_TEXT],
)
@given(good=st.integers(0, 30), bad=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_rows_without_text_are_skipped_and_counted_up_to_a_share_and_refused_beyond(
    tmp_path_factory, kind, value, found, good, bad
):
    folder = tmp_path_factory.mktemp("corpus")
    odd_rows(folder / f"de.{kind}", [f"Satz {number}" for number in range(good)] + [value] * bad)
    reading, documents = Reading(), []
    try:
        documents += FolderCorpus(folder).documents("de", reading=reading)
    except CorpusRefusedError as error:
        assert bad > MOST_WITHOUT_TEXT * (good + bad)
        message = str(error)
        assert re.match(rf"de\.{kind}, (line|row) {good + 1}: ", message)
        assert found in message
        assert "'text'" in message
        assert "there is text in other; set text_field" in message
        assert (f"none of {bad} rows" in message) == (good == 0)
    else:
        assert bad <= MOST_WITHOUT_TEXT * (good + bad)
        assert len(documents) == good
    assert (reading.rows, reading.without_text) == (good + bad, bad)


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array([1, 2]), r"de\.parquet, row 1: 'text' is int64; none of 2 rows .* text in other; set text_field"),
        (pa.array([{"a": "b"}] * 2), r"de\.parquet: 'text' holds struct<a: string>, which is not text; .* other"),
        (
            pa.array([{"a": "b"}] * 2, pa.map_(pa.string(), pa.string())),
            r"'text' holds map<string, string .*not text",
        ),
        (pa.array([None, None]), r"row 1: 'text' is null; none of 2 rows"),
        (pa.array([["a"], ["b"]]), r"row 1: .*set chat_template"),
        (pa.array([b"gut", b"\xff"]), r"row 2: not UTF-8"),
        (pa.array([b"gut", b"\xff"]).view(pa.string()), r"row 2: not UTF-8"),
    ],
    ids=str,
)
def test_columns_that_hold_no_text_are_named(tmp_path, column, found):
    parquet.write_table(pa.table({"text": column, "other": ["Ein", "Titel"]}), tmp_path / "de.parquet")
    with pytest.raises(CorpusRefusedError, match=found):
        list(FolderCorpus(tmp_path).documents("de"))


def test_where_no_field_holds_text_none_is_named(tmp_path):
    (tmp_path / "de.jsonl").write_text('{"text": null, "id": 7}\n{"id": 7}\n')
    with pytest.raises(CorpusRefusedError) as refused:
        list(FolderCorpus(tmp_path).documents("de"))
    message = "de.jsonl, line 1: 'text' is null; none of 2 rows has text in 'text'; put text there"
    assert str(refused.value) == message


@pytest.mark.parametrize("damage", range(0, 2000, 97))
def test_a_damaged_table_is_refused_or_read_and_nothing_else(tmp_path, damage):
    path = tmp_path / "de.parquet"
    table([f"Satz {number}" for number in range(100)], pa.string())(path)
    content = bytearray(path.read_bytes())
    content[damage % len(content)] ^= 0x55
    path.write_bytes(content)
    with contextlib.suppress(CorpusRefusedError):
        assert len(list(FolderCorpus(tmp_path).documents("de"))) <= 100
