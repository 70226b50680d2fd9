"""Models with anything in their files: admission refuses them, and a job whose model is exchanged later fails alike.

Nothing that lies in a model's folder is a defect of ours: whatever it is, the attempt ends as one that need not be
tried again, and says why.
"""

import copy
import json
import math
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur_service.admission import AccessPolicy, admit
from secateur_service.control.exits import attempt_error
from secateur_service.errors import InvalidSpecError, PermanentError, PreemptedError
from secateur_service.library import run_here
from secateur_service.pipeline.attempt import Machine
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.models import save_corpora, save_model, spec_data

SOURCES = open_sources(Settings(), everywhere=True)
ACCESS = AccessPolicy(SOURCES, destinations=None, on_device=False)
VALUES = [
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**70,
    0.5,
    math.inf,
    "x",
    "",
    "\ud800",
    "</s>",
    [],
    [1],
    ["x"],
    {},
    {"type": "x"},
]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
RAW = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "a": 2}', b'"x"', b"1e999", b"\0" * 64]


class StopsAtTheFirstBlock:
    """Lets a job run until a block is pruned."""

    def stage(self, stage):
        pass

    def progress(self, progress):
        pass

    def log(self, level, message, **fields):
        pass

    def block(self, _record):
        raise PreemptedError("far enough")

    def check(self):
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    save_model(folder / "whole", "llama", num_hidden_layers=1)
    calibration, evaluation = save_corpora(folder, ("de", "uk"))
    shutil.copytree(folder / "whole", folder / "model")
    data = spec_data(folder / "model", calibration, evaluation)
    data["evaluation"] |= {"languages": ["de"], "tokens_per_language": 128}
    return folder, data, admit(data, ACCESS).resolved


def paths_of(value, path=()):
    """Where something could be put into a document: every place of it, but of long lists and objects a few."""
    yield path
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    for key, item in items[:12]:
        yield from paths_of(item, (*path, key))


def changed(document, path, value):
    document = copy.deepcopy(document)
    if not path:
        return value
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


def damage(path, data):
    """Change, empty or take away a file."""
    how = data.draw(st.sampled_from(["value"] * 8 + ["raw", "cut", "gone", "folder"]), label="how")
    if how == "value":
        document = json.loads(path.read_text())
        where = data.draw(st.sampled_from(list(paths_of(document))), label="path")
        value = data.draw(st.sampled_from(VALUES), label="value")
        path.write_text(json.dumps(changed(document, where, value)))
    elif how == "raw":
        path.write_bytes(data.draw(st.sampled_from(RAW), label="content"))
    elif how == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), label="bytes")])
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_lies_in_a_models_folder_is_refused_or_runs(place, tmp_path_factory, data):
    folder, given_spec, resolved = place
    shutil.rmtree(folder / "model")
    shutil.copytree(folder / "whole", folder / "model")
    for name in data.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2, unique=True), label="files"):
        damage(folder / "model" / name, data)
    try:
        admit(given_spec, ACCESS)
        admitted = True
    except InvalidSpecError as refusal:
        refusal.message.encode()
        assert {violation.field for violation in refusal.violations} <= {  # noqa: PT017 - most models are admitted
            "model.uri",
            "calibration.sequence_length",
        }
        admitted = False
    work = tmp_path_factory.mktemp("attempt")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of which class is the question
        run_here(resolved, SOURCES, work / "results", Machine(work, threads=1), StopsAtTheFirstBlock())
    ended = attempt_error(caught.value)
    json.dumps(ended.message, ensure_ascii=False).encode()  # as the store and the protocol carry it
    assert isinstance(ended, (PreemptedError, PermanentError)), ended.metadata
    if admitted:
        assert isinstance(ended, PreemptedError), f"what the worker refuses should be refused when submitted: {ended}"
    shutil.rmtree(work)
