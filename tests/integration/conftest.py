"""Models and text that several files use."""

import pytest

from secateur_service.commands.demo.training import ensure_model
from support.models import save_corpora
from support.vocabularies import save_scene


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Folders of calibration and of evaluation text."""
    return save_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with random weights, and a tokenizer that a vocabulary can be trimmed of."""
    return save_scene(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The demo's model after some of its training: enough for its blocks to matter."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    ensure_model(folder, steps=40)
    return folder
