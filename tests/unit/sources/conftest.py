import os

import pytest

from secateur_service.sources import Cache, Sources
from secateur_service.sources.hub import Hub
from support.hub import hub_server


@pytest.fixture
def hub():
    """A hub with a small model: a configuration and two large files."""
    with hub_server() as hub:
        yield hub


@pytest.fixture
def model(tmp_path):
    """A folder like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b'{"model_type": "llama"}')
    (folder / "model-1.safetensors").write_bytes(os.urandom(300_000))
    (folder / "model-2.safetensors").write_bytes(os.urandom(100_000))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle" * 1000)
    return folder


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.release()


@pytest.fixture
def open_sources(hub, cache, tmp_path):
    """Sources with the hub, as somebody with that token."""

    def make(token=None, **options):
        found = Hub(hub.endpoint, token, memory=tmp_path / "hub", **options)
        return Sources(None, None, _no_bucket, lambda _reference: found, cache)

    return make


def _no_bucket(uri):
    raise AssertionError(f"{uri} was asked for")
