"""The true huggingface_hub against a hub that answers as the real one (support/hub.py)."""

import pytest

from secateur_service.errors import TransientError
from secateur_service.models.files import checkpoint_files
from secateur_service.sources import ReferenceRefusedError, cache
from secateur_service.sources import hub as hub_module

NAME = "org/tiny"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits between tries are for the real hub."""
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(hub_module, "RETRIES", 1)
    monkeypatch.setattr(hub_module, "WAIT_SECONDS", 0.01)


def contents(folder, names=None):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    return {name: files[name] for name in names} if names else files


WANTED = ["config.json", "model-1.safetensors", "model-2.safetensors"]


def test_a_repository_is_pinned_to_a_commit_and_only_what_is_needed_is_fetched(hub, model, open_sources):
    repository = hub.add(f"models/{NAME}", model)
    source = open_sources().open(f"hf://{NAME}@main")
    assert (source.revision, source.uri) == (repository.commit, f"hf://{NAME}")
    assert source.pinned_uri == f"hf://{NAME}@{repository.commit}"
    folder = source.fetch(checkpoint_files)
    assert contents(folder) == contents(model, WANTED)
    assert not any("pytorch_model" in line for line in hub.requests)


def test_what_was_fetched_is_not_fetched_again(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    first = open_sources().open(f"hf://{NAME}").fetch(checkpoint_files)
    sent = hub.sent
    assert open_sources().open(f"hf://{NAME}").fetch(checkpoint_files) == first
    assert hub.sent == sent


def test_another_commit_is_another_folder(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    first = open_sources().open(f"hf://{NAME}")
    (model / "config.json").write_bytes(b"{}")
    hub.add(f"models/{NAME}", model)
    second = open_sources().open(f"hf://{NAME}")
    assert first.revision != second.revision
    folders = [source.fetch(checkpoint_files) for source in (second,)]
    assert (folders[0] / "config.json").read_bytes() == b"{}"


def test_a_download_that_breaks_off_is_gone_on_with(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    hub.break_off_after = [100_000, 150_000]
    progress = []
    folder = (
        open_sources().open(f"hf://{NAME}").fetch(checkpoint_files, on_progress=lambda *pair: progress.append(pair))
    )
    assert contents(folder) == contents(model, WANTED)
    total = sum(len(content) for content in contents(model, WANTED).values())
    assert hub.sent == total, "something was sent twice"
    assert progress[0] == (0, total)
    assert progress[-1] == (total, total)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_what_a_killed_process_had_fetched_is_gone_on_with(hub, model, open_sources):
    class KilledError(Exception):
        pass

    def stop(done, total):
        if done > 200_000:
            raise KilledError

    hub.add(f"models/{NAME}", model)
    hub.break_off_after = [250_000]
    with pytest.raises(KilledError):
        open_sources().open(f"hf://{NAME}").fetch(checkpoint_files, on_progress=stop)
    sent = hub.sent
    assert contents(open_sources().open(f"hf://{NAME}").fetch(checkpoint_files)) == contents(model, WANTED)
    total = sum(len(content) for content in contents(model, WANTED).values())
    assert sent > 200_000
    assert hub.sent < total + 100_000, "more was sent again than what was on its way"


def test_a_server_that_ignores_ranges_costs_time_and_no_byte(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    hub.ignores_ranges = True
    hub.break_off_after = [100_000]
    assert contents(open_sources().open(f"hf://{NAME}").fetch(checkpoint_files)) == contents(model, WANTED)


def test_a_file_that_is_not_what_the_hub_announced_is_no_result(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    hub.damages = True
    with pytest.raises(TransientError) as caught:
        open_sources().open(f"hf://{NAME}").fetch(checkpoint_files)
    assert caught.value.reason == "SOURCE_DAMAGED"
    hub.damages = False
    folder = open_sources().open(f"hf://{NAME}").fetch(lambda names: [n for n in names if n.endswith(".safetensors")])
    assert contents(folder, WANTED[1:]) == contents(model, WANTED[1:])


@pytest.mark.parametrize(
    ("uri", "options", "complaint"),
    [
        (f"hf://{NAME}", {"gated": True}, "is gated; accept its terms"),
        (f"hf://{NAME}", {"private": True}, "or it is private"),
        ("hf://org/absent", {}, "there is no"),
        (f"hf://{NAME}@absent", {}, "has no revision absent"),
        ("hf://datasets/org/tiny", {}, "there is no"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason_and_the_remedy(
    hub, model, open_sources, uri, options, complaint
):
    hub.add(f"models/{NAME}", model, **options)
    with pytest.raises(ReferenceRefusedError, match=complaint):
        open_sources().open(uri).fetch(checkpoint_files)


@pytest.mark.parametrize("options", [{"gated": True}, {"private": True}])
def test_the_token_opens_what_is_gated_or_private(hub, model, open_sources, options):
    hub.add(f"models/{NAME}", model, **options)
    folder = open_sources(hub.token).open(f"hf://{NAME}").fetch(checkpoint_files)
    assert contents(folder) == contents(model, WANTED)


@pytest.mark.parametrize(("statuses", "reason"), [([429] * 9, "HUB_THROTTLED"), ([503] * 9, "HUB_UNAVAILABLE")])
def test_a_hub_that_wants_to_be_asked_later_is_asked_later(hub, model, open_sources, monkeypatch, statuses, reason):
    hub.add(f"models/{NAME}", model)
    source = open_sources().open(f"hf://{NAME}")
    hub.statuses = [statuses[0]]
    source.fetch(lambda _: ["config.json"])
    monkeypatch.setattr(cache, "TRIES", 0)
    hub.statuses = statuses
    with pytest.raises(TransientError) as caught:
        source.fetch(checkpoint_files)
    assert caught.value.reason == reason
    hub.statuses = []
    assert contents(source.fetch(checkpoint_files)) == contents(model, WANTED)


def test_offline_only_what_was_fetched_before_can_be_had(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    with pytest.raises(ReferenceRefusedError, match="SECATEUR_HUB_OFFLINE"):
        open_sources(offline=True).open(f"hf://{NAME}")
    source = open_sources().open(f"hf://{NAME}")
    with pytest.raises(ReferenceRefusedError, match="not all of it was fetched before"):
        open_sources(offline=True).open(f"hf://{NAME}").fetch(checkpoint_files)
    folder = source.fetch(checkpoint_files)
    asked = len(hub.requests)
    for uri in (f"hf://{NAME}", source.pinned_uri):
        assert open_sources(offline=True).open(uri).fetch(checkpoint_files) == folder
    assert len(hub.requests) == asked


def test_a_commit_that_is_known_needs_no_hub(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    source = open_sources().open(f"hf://{NAME}")
    folder = source.fetch(checkpoint_files)
    hub.repositories.clear()
    assert open_sources().open(source.pinned_uri).fetch(checkpoint_files) == folder
    with pytest.raises(ReferenceRefusedError):
        open_sources().open(f"hf://{NAME}")  # a branch may have moved


def test_a_hub_that_is_not_there_is_a_transient_error(tmp_path):
    hub = hub_module.Hub("http://127.0.0.1:9", None, memory=tmp_path)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9") as caught:
        hub.open(hub_module.HubReference("model", NAME, None))
    assert caught.value.reason == "HUB_UNREACHABLE"


def test_errors_do_not_show_the_token(hub, model, open_sources):
    hub.add(f"models/{NAME}", model)
    with pytest.raises(ReferenceRefusedError) as caught:
        open_sources("hf_" + "s" * 34).open("hf://org/absent")
    assert "hf_" + "s" * 34 not in str(caught.value)


def test_an_outline_shows_names_sizes_small_files_and_headers_for_a_few_bytes(hub, model, open_sources):
    header = b'{"__metadata__":{}}     '
    weights = len(header).to_bytes(8, "little") + header + bytes(5_000_000)
    (model / "model-1.safetensors").write_bytes(weights)
    hub.add(f"models/{NAME}", model)
    with open_sources().open(f"hf://{NAME}").outline(checkpoint_files) as folder:
        assert (folder / "config.json").read_bytes() == (model / "config.json").read_bytes()
        assert (folder / "model-1.safetensors").stat().st_size == len(weights)
        assert (folder / "model-1.safetensors").read_bytes()[: 8 + len(header)] == weights[: 8 + len(header)]
        assert (folder / "model-1.safetensors").stat().st_blocks * 512 < 100_000
    assert hub.sent < 300_000
    assert not folder.exists()
