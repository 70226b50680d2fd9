"""The trained model and the corpora that may lie beside a checkout; tests that use them skip where they are absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
TRAINED_MODEL = SHARED / "models" / "polyglot-llama"
CORPORA = SHARED / "corpora"

needs_shared = pytest.mark.skipif(
    not TRAINED_MODEL.is_dir() or not CORPORA.is_dir(), reason="no trained model and corpora beside the checkout"
)
