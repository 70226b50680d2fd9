"""A hub's cache is a folder of links: what may be named of it, and what not."""

import pytest

from secateur_service.admission import AccessPolicy, admit
from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus
from secateur_service.errors import InvalidSpecError
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.inline import run_inline
from support.models import save_corpora, save_model, spec_data


def into_cache(cache, name, folder, commit="c" * 40):
    """A folder as huggingface_hub would have downloaded it: its files are links to blobs."""
    repository = cache / name
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = repository / "snapshots" / commit / path.relative_to(folder)
            blob = repository / "blobs" / f"{path.name}-digest"
            for parent in (place.parent, blob.parent):
                parent.mkdir(parents=True, exist_ok=True)
            path.rename(blob)
            up = "../" * (2 + len(path.relative_to(folder).parts) - 1)
            place.symlink_to(f"{up}blobs/{blob.name}")
            assert place.resolve() == blob
    return repository / "snapshots" / commit


@pytest.fixture
def cached(tmp_path):
    """Specification data of a model and corpora in a hub's cache, and the cache."""
    cache = (tmp_path / "hub").resolve()
    model = into_cache(cache, "models--org--garden", save_model(tmp_path / "model"))
    calibration, evaluation = save_corpora(tmp_path)
    (evaluation / "uk").mkdir()
    (evaluation / "uk.txt").rename(evaluation / "uk" / "part-1.txt")
    corpora = (into_cache(cache, f"datasets--org--{folder.name}", folder) for folder in (calibration, evaluation))
    return spec_data(model, *corpora), cache


def admitted(data, *roots):
    sources = open_sources(Settings(file_roots=list(roots)))
    return admit(data, AccessPolicy(sources, destinations=None, on_device=False))


def test_snapshots_of_a_hubs_cache_are_models_and_corpora(cached, tmp_path):
    data, cache = cached
    assert admitted(data, cache).resolved
    roots = [
        cache / name for name in ("models--org--garden", "datasets--org--calibration", "datasets--org--evaluation")
    ]
    assert admitted(data, *roots).resolved
    run_inline(data, tmp_path / "out")
    published = {path.name for path in (tmp_path / "out" / "checkpoint").iterdir()}
    assert {"tokenizer.json", "config.json"} <= published
    assert not any(path.is_symlink() for path in (tmp_path / "out" / "checkpoint").iterdir())


@pytest.mark.parametrize("part", ["models--org--garden", "datasets--org--calibration"])
def test_a_root_that_has_the_links_but_not_what_they_lead_to_is_refused_with_the_one_that_has(cached, part):
    data, cache = cached
    others = [path for path in cache.iterdir() if path.name != part]
    with pytest.raises(InvalidSpecError, match=rf"link out of the folders.*make {cache / part} a root"):
        admitted(data, cache / part / "snapshots", *others)


@pytest.mark.parametrize(
    "target",
    [
        "../../../secret.txt",
        "../../../datasets--org--evaluation/blobs/de.txt-digest",
        "../../blobs/../../secret.txt",
        "../../nowhere/../../secret.txt",
    ],
)
def test_links_out_of_a_repository_are_refused_whatever_they_look_like(cached, target):
    data, cache = cached
    (cache / "secret.txt").write_text("ein Geheimnis\n")
    snapshot = cache / "datasets--org--calibration" / "snapshots" / ("c" * 40)
    (snapshot / "de.txt").unlink()
    (snapshot / "de.txt").symlink_to(target)
    with pytest.raises(CorpusRefusedError):
        FolderCorpus(snapshot).files("de")
    with pytest.raises(InvalidSpecError, match="calibration"):
        admitted(data, cache)


@pytest.mark.parametrize("parent", ["snapshot", "models-org-x/snapshots", "models--x/refs"])
def test_a_folder_that_only_looks_like_a_snapshot_is_a_folder(tmp_path, parent):
    blobs, folder = tmp_path / parent / ".." / "blobs", tmp_path / parent / "commit"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "de.txt").write_text("ein Satz\n")
    (folder / "de.txt").symlink_to("../../blobs/de.txt")
    with pytest.raises(CorpusRefusedError):
        FolderCorpus(folder).files("de")


@pytest.mark.parametrize("roots", [True, False])
def test_links_in_a_circle_are_no_files(roots, tmp_path):
    model, (calibration, evaluation) = save_model(tmp_path / "model"), save_corpora(tmp_path)
    data = spec_data(model, calibration, evaluation)
    access = [tmp_path] if roots else []
    (model / "LICENSE").symlink_to("LICENSE")
    (model / "NOTICE").symlink_to("COPYING")
    (model / "COPYING").symlink_to("NOTICE")
    sources = open_sources(Settings(file_roots=access), everywhere=not roots)
    policy = AccessPolicy(sources, destinations=None, on_device=False)
    assert admit(data, policy).resolved
    (calibration / "de.txt").unlink()
    (calibration / "de.txt").symlink_to("de.txt")
    with pytest.raises(InvalidSpecError, match=r"calibration\.languages\[0\]"):
        admit(data, policy)


def test_a_license_in_a_circle_is_left_out_of_a_result(tmp_path):
    model, corpora = save_model(tmp_path / "model"), save_corpora(tmp_path)
    (model / "LICENSE").symlink_to("LICENSE")
    _, observer = run_inline(spec_data(model, *corpora), tmp_path / "out")
    assert ("warning", "LICENSE is left out: it is not a regular file", {}) in observer.lines
