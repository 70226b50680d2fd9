"""The programs that README and docs/sdk.md show, run as they stand but for the places, with a service and without."""

import os
import re

import pytest
import torch

from support.documentation import ROOT, blocks
from support.models import save_corpora, save_model
from support.service import WITH_WORKERS, Service

PLACES = {"file:///models/my-model": "model", "file:///corpora/calibration": "calibration"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model and text where the pages have theirs; little text for little work, as the model's windows are short."""
    folder = tmp_path_factory.mktemp("files")
    save_model(folder / "model", dtype=torch.bfloat16, num_hidden_layers=1, max_position_embeddings=32)
    save_corpora(folder)
    return folder


def shown(page, places, **others):
    """The program of a page, with the places that there are here."""
    (program,) = [block.text for block in blocks(ROOT / page) if block.language == "python"]
    for shown, name in PLACES.items():
        program = program.replace(shown, (places / name).as_uri())
    for old, new in others.items():
        assert old in program
        program = program.replace(old, new)
    # The pages leave the amounts to the defaults, for which these texts are too short.
    return re.sub(r"sparsity=0\.5", "sparsity=0.5, samples=8, tokens_per_language=512, continuations=0", program)


def test_the_program_of_the_readme_prunes_through_a_service(places, tmp_path, monkeypatch, capsys):
    service = Service(tmp_path, file_root=places, **WITH_WORKERS)
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(shown("README.md", places, **{"localhost:50051": service.endpoint}), "README.md", "exec"), {})
    finally:
        service.close()
    printed = capsys.readouterr().out
    assert re.search(r"^de \d+\.\d+ \d+\.\d+$", printed, re.MULTILINE)
    assert (tmp_path / "out" / "checkpoint" / "config.json").exists()


def test_the_program_without_a_service_prunes(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    exec(compile(shown("docs/sdk.md", places), "sdk.md", "exec"), {})
    assert (tmp_path / "out" / "manifest.json").exists()
