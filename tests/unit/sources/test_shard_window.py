"""A model of which a few shards at a time are here, fetched from the test hub by the true library."""

import hashlib
import json
import os
import threading
import time

import pytest
import torch

from secateur_service.errors import ResourceError, TransientError
from secateur_service.models.files import checkpoint_files
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.tensors import TensorReader
from secateur_service.sources import Cache, cache
from secateur_service.sources import hub as hub_module
from support.forking import run_command
from support.models import save_corpora, save_model, spec_data

NAME = "org/sharded"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(hub_module, "RETRIES", 1)
    monkeypatch.setattr(hub_module, "WAIT_SECONDS", 0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return save_model(folder, "llama", dtype=torch.bfloat16, hidden_size=256, max_shard_size="200KB")


def shards(folder):
    return {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}


@pytest.fixture
def open_window(hub, model, open_sources, tmp_path):
    hub.add(f"models/{NAME}", model)

    def open_it(limit_bytes, **options):
        source = open_sources().open(f"hf://{NAME}")
        source.cache._limit_bytes = limit_bytes
        return source.window(checkpoint_files, tmp_path / "place", **options)

    return open_it


def test_every_tensor_is_read_as_it_is_while_no_more_than_allowed_lies_here(open_window, model, hub, tmp_path):
    sizes = shards(model)
    assert len(sizes) > 4
    limit = max(sizes.values()) + min(sizes.values())
    window = open_window(limit)
    whole, streamed = open_checkpoint(model), open_checkpoint(window.folder)
    assert streamed.tensors.keys() == whole.tensors.keys()
    assert sum(path.stat().st_blocks * 512 for path in window.folder.iterdir()) < 200_000, "the outlines are files"
    direct, reader = TensorReader(), TensorReader(window.open)
    most = 0
    for name in sorted(whole.tensors):
        assert torch.equal(reader.read(streamed.tensors[name]), direct.read(whole.tensors[name]))
        most = max(most, sum(shards(tmp_path / "place" / "shards").values()))
    assert 0 < most <= limit
    assert reader.model_digest({}, []) == direct.model_digest({}, [])


def test_an_open_shard_stays_readable_when_it_makes_room_and_readers_do_not_disturb_each_other(open_window, model):
    window = open_window(max(shards(model).values()))
    first, second, *_ = sorted(shards(model))
    with window.open(window.folder / first) as held:
        with window.open(window.folder / second) as other:
            assert hashlib.sha256(other.read()).digest() == hashlib.sha256((model / second).read_bytes()).digest()
        assert not (window.folder.parent / "shards" / first).exists()
        assert held.read() == (model / first).read_bytes()
    results = []

    def read(name):
        for _ in range(3):
            with window.open(window.folder / name) as file:
                results.append(file.read() == (model / name).read_bytes())

    threads = [threading.Thread(target=read, args=(name,)) for name in sorted(shards(model))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 3 * len(threads)


def test_what_an_earlier_attempt_left_is_used_and_a_shard_that_broke_off_is_gone_on_with(open_window, model, hub):
    limit = sum(shards(model).values())
    first, second, *_ = sorted(shards(model))
    window = open_window(limit)
    hub.break_off_after = [100_000]
    with window.open(window.folder / first) as file:
        assert file.read() == (model / first).read_bytes()
    assert not hub.break_off_after
    again = open_window(limit)
    before = hub.sent
    with again.open(again.folder / first) as file:
        assert file.read() == (model / first).read_bytes()
    assert hub.sent == before, "it was fetched again"
    hub.damages = True
    with pytest.raises(TransientError) as caught:
        again.open(again.folder / second)
    assert caught.value.reason == "SOURCE_DAMAGED"


def test_a_version_is_the_same_to_the_fingerprint_wherever_and_however_it_was_fetched(
    open_window, open_sources, tmp_path
):
    """Finished blocks are gone on with on another machine, whose files were fetched at another time."""
    window = open_window(10**9)
    seen = {open_checkpoint(window.folder).structure_digest()}
    for place in ("here", "there"):
        source = open_sources().open(f"hf://{NAME}")
        folder = Cache(tmp_path / place).fetch(source.remote, checkpoint_files(source.remote.files))
        seen.add(open_checkpoint(folder).structure_digest())
        time.sleep(0.02)
    assert len(seen) == 1


def test_how_much_of_a_shard_is_there_is_told_while_it_comes(open_window, model):
    told = []
    window = open_window(10**9, on_progress=lambda *progress: told.append(progress))
    name, size_bytes = next(iter(shards(model).items()))
    window.open(window.folder / name).close()
    assert told == sorted(told)
    assert told[-1] == (size_bytes, size_bytes)
    window.open(window.folder / name).close()
    assert told[-1:] == told[told.index((size_bytes, size_bytes)) :], "what is there is not fetched again"


def test_a_disk_on_which_not_even_a_shard_fits_is_refused(open_window, model):
    with pytest.raises(ResourceError, match="not even model-") as caught:
        open_window(max(shards(model).values()) - 1)
    assert caught.value.reason == "DISK_TOO_SMALL"


def test_a_job_whose_model_does_not_fit_gives_the_same_bytes(hub, model, tmp_path):
    hub.add(f"models/{NAME}", model)
    data = spec_data(model, *save_corpora(tmp_path))
    manifests = {}
    for place, uri, limit in (("whole", model.as_uri(), 0), ("window", f"hf://{NAME}", 700_000)):
        spec = tmp_path / f"{place}.yaml"
        spec.write_text(json.dumps({**data, "model": {"uri": uri}}))
        environment = {
            **os.environ,
            "SECATEUR_HUB_ENDPOINT": hub.endpoint,
            "SECATEUR_CACHE_DIR": str(tmp_path / "cache"),
            "SECATEUR_CACHE_BYTES": str(limit),
        }
        arguments = ["run", str(spec), "--output", str(tmp_path / place), "--threads", "1", "--json"]
        result = run_command(arguments, tmp_path, environment=environment)
        assert result.returncode == 0, result.stderr
        manifests[place] = json.loads((tmp_path / place / "manifest.json").read_text())
        assert ("a few shards at a time" in result.stderr) == (place == "window")
        assert (result.stderr.count("fetching a shard") >= 6) == (place == "window")
    files = [
        {
            entry["path"]: entry["sha256"]
            for entry in manifest["files"]
            if entry["path"].endswith((".safetensors", ".json"))
        }
        for manifest in manifests.values()
    ]
    different = {path for path in files[0] if files[0][path] != files[1].get(path)}
    assert different == {"provenance.json", "report/report.json"}  # they name the model
    assert len(files[0]) > 5
