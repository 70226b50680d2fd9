"""Files of every kind, and what is wrong with them."""

import gzip
import json

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus, corpus_files

DOCUMENTS = ["Der erste Satz.", "Другий рядок.", "第三行"]
PLAIN = "\n".join(["", *DOCUMENTS, "  ", ""]).encode()
OBJECTS = "\n".join(json.dumps({"text": text, "url": "x"}) for text in [*DOCUMENTS, " "]).encode()


def as_parquet(path, values, name="text"):
    parquet.write_table(pa.table({name: values, "url": [f"{number}" for number in range(len(values))]}), path)


WRITERS = {
    "de.txt": lambda path: path.write_bytes(PLAIN),
    "de.txt.gz": lambda path: path.write_bytes(gzip.compress(PLAIN)),
    "de.txt.zst": lambda path: path.write_bytes(zstandard.compress(PLAIN[:30]) + zstandard.compress(PLAIN[30:])),
    "de.jsonl": lambda path: path.write_bytes(OBJECTS),
    "de.jsonl.gz": lambda path: path.write_bytes(gzip.compress(OBJECTS)),
    "de.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(OBJECTS)),
    "de.parquet": lambda path: as_parquet(path, [*DOCUMENTS, None, ""]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("folder", ["", "de"])
def test_files_of_every_kind_hold_documents(tmp_path, name, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    WRITERS[name](tmp_path / folder / name)
    corpus = FolderCorpus(tmp_path)
    assert corpus.languages() == ["de"]
    assert list(corpus.documents("de")) == DOCUMENTS


def test_a_folder_of_files_is_one_language_and_deeper_or_hidden_files_are_none(tmp_path):
    for name in ("zh-Hant/b.txt", "zh-Hant/a.jsonl", "zh-Hant/.hidden.txt", "zh-Hant/deep/c.txt", ".de.txt", "en.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "object"}' if name.endswith("jsonl") else "line")
    corpus = FolderCorpus(tmp_path)
    assert corpus.languages() == ["zh-Hant"]
    assert list(corpus.documents("zh-Hant")) == ["object", "line"]
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(corpus_files(names)) == ["zh-Hant/a.jsonl", "zh-Hant/b.txt"]
    assert corpus_files(names, ["de"]) == []


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_text_may_have_another_name(tmp_path, kind):
    if kind == "jsonl":
        (tmp_path / "de.jsonl").write_text('{"content": "hier", "text": 7}')
    else:
        as_parquet(tmp_path / "de.parquet", ["hier"], "content")
    assert list(FolderCorpus(tmp_path, text_field="content").documents("de")) == ["hier"]
    with pytest.raises(CorpusRefusedError, match=r"there is text in content(, url)?; set text_field"):
        list(FolderCorpus(tmp_path).documents("de"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("de.txt", b"gut\n\xff\xfe\n", "de.txt, line 2: not UTF-8"),
        ("de.jsonl", b'{"text": "gut"}\n{"text": ', "de.jsonl, line 2: not JSON"),
        ("de.jsonl", b"[1]", "line 1: not a JSON object but a list"),
        ("de.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("de.jsonl", b'{"text": null}', "line 1: 'text' is null; none of 1 rows has text in 'text'"),
        ("de.txt.gz", b"not compressed", "cannot be read"),
        ("de.txt.gz", gzip.compress(PLAIN, mtime=0)[:-12], "cannot be read"),
        ("de.txt.zst", b"not compressed", "cannot be read"),
        ("de.txt.zst", zstandard.compress(PLAIN)[:-6], "in the middle of a frame"),
        ("de.parquet", b"PAR1 this is not a table PAR1", "cannot be read"),
        ("de.parquet", b"", "is empty"),
        ("de.txt", b"", "is empty"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line_and_the_reason(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusRefusedError, match=complaint):
        list(FolderCorpus(tmp_path).documents("de"))


def test_a_link_out_of_the_folder_is_no_text(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "corpus" / "uk").mkdir(parents=True)
    for name in ("de.txt", "uk/a.txt"):
        (tmp_path / "corpus" / name).symlink_to(tmp_path / "secret")
    for language in ("de", "uk"):
        with pytest.raises(CorpusRefusedError, match="a link that leaves its folder"):
            list(FolderCorpus(tmp_path / "corpus").documents(language))
