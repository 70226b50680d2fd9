"""The true `datasets` against a hub that answers as the real one, in a process of its own.

The library takes the hub's address from its environment when it is loaded, so that it knows one for a process's life.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.presets import presets
from secateur_service.settings import Settings
from support import processes
from support.hub import hub_server

READ = """
import itertools, json, sys
from secateur_service.calibration.presets import presets
from secateur_service.calibration.hub_corpus import HubCorpus

for line in sys.stdin:
    endpoint, token, commit, language, seeds = json.loads(line)
    read = []
    corpus = HubCorpus(presets()["mc4"], commit, endpoint, token or None, on_read=read.append)
    try:
        answer = [list(itertools.islice(corpus.documents(language, seed), 100)) for seed in seeds]
        ends = [place for place, size_bytes in enumerate(read) if size_bytes == 0 and read[place - 1]]
        assert len(ends) == len(seeds) and ends[-1] == len(read) - 1, read
        assert sorted(read[: ends[0]]) == read[: ends[0]], read
        assert max(read) >= max(len("".join(documents).encode()) for documents in answer), read
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def only_hub():
    with hub_server() as hub:
        yield hub


@pytest.fixture
def hub(only_hub):
    only_hub.requests.clear()
    return only_hub


@pytest.fixture(scope="module")
def reader(only_hub, tmp_path_factory):
    """Loading `datasets` takes seconds."""
    settings = Settings(hub_endpoint=only_hub.endpoint, cache_dir=tmp_path_factory.mktemp("cache"))
    environment = {**os.environ, **settings.library_environment()}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with processes.start([sys.executable, "-c", READ], env=environment, **streams) as reader:
        yield reader
        reader.stdin.close()


@pytest.fixture
def read(hub, reader):
    def ask(commit, language, *seeds, token="", endpoint=None):
        reader.stdin.write(json.dumps([endpoint or hub.endpoint, token, commit, language, seeds]) + "\n")
        reader.stdin.flush()
        return json.loads(reader.stdout.readline())

    return ask


def test_the_seed_chooses_the_order_of_the_files_and_an_interruption_changes_nothing(hub, read):
    texts = [f"document {number}" for number in range(30)]
    commit = hub.add_mc4({"de": [*texts, "", "  "], "uk": ["інше"]}).commit
    first, again, other = read(commit, "de-AT", 0, 0, 1)
    assert first == again
    assert sorted(first) == sorted(other) == sorted(texts), "every document once, and none without text"
    hub.break_off_after = [50]
    [broken] = read(commit, "de-AT", 0)
    assert not hub.break_off_after
    assert broken == first


def test_the_documents_are_those_of_the_same_text_in_a_folder(hub, read, tmp_path):
    long = " ".join(f"Satz Nummer {number}." for number in range(3000))
    texts = ["\ufeff Ein Satz.\r\n", "mit\u2028Trennern", "eins\r\nzwei", long, "", None, " \t "]
    commit = hub.add_mc4({"de": texts}).commit
    [found] = read(commit, "de", 0)
    (tmp_path / "de.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert sorted(found) == sorted(FolderCorpus(tmp_path).documents("de"))
    assert len(found) > 5


def test_a_data_set_without_text_is_refused_and_does_not_say_that_it_cannot_be_reached(hub, read):
    name, message = read(hub.add_mc4({"de": ["ein Satz", *[""] * 9]}).commit, "de", 0)
    assert name == "CorpusRefusedError"
    assert re.match(r"allenai/c4 \(de\), row [0-9]+: the text is empty; 9 of 10 rows have no text in 'text'", message)


def test_only_the_files_of_the_language_are_read(hub, read):
    commit = hub.add_mc4({"de": [f"Satz {number}" for number in range(600)], "uk": ["інше"]}).commit
    [found] = read(commit, "de", 0)
    assert len(found) == 100
    assert any("/c4-de." in line for line in hub.requests)
    assert not any("/c4-uk" in line or "validation" in line for line in hub.requests)


def test_what_cannot_be_read_says_why(hub, read):
    repository = hub.add_mc4({"de": ["Satz"]})
    name, message = read("0" * 40, "de", 0)
    assert (name, "cannot be read" in message) == ("CorpusRefusedError", True)
    repository.gated = True
    name, message = read(repository.commit, "de", 0)
    assert (name, "token" in message or "gated" in message) == ("CorpusRefusedError", True)
    assert read(repository.commit, "de", 0, token=hub.token) == [["Satz"]]
    name, message = read(repository.commit, "fr", 0, token=hub.token)
    assert (name, "fr" in message) == ("CorpusRefusedError", True)
    name, message = read(repository.commit, "rw", 0)
    assert (name, "mc4 has no rw" in message) == ("CorpusRefusedError", True)


def test_a_library_that_was_loaded_for_another_hub_is_not_used(hub, read):
    commit = hub.add_mc4({"de": ["Satz"]}).commit
    name, message = read(commit, "de", 0, endpoint="https://elsewhere.example")
    assert (name, "HF_ENDPOINT=https://elsewhere.example" in message) == ("RuntimeError", True)


def test_the_splits_of_all_presets_have_text_in_the_same_field():
    assert {(preset.split, preset.text_field) for preset in presets().values()} == {("train", "text")}
