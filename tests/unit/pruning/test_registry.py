"""A method that is not ours: rows of the registry and a file of its own, and everything else knows it."""

import json
import sys

import pytest
from safetensors.torch import load_file

from secateur_service.admission import AccessPolicy, admit
from secateur_service.api.server import describe_service
from secateur_service.pruning.methods import METHODS, SCORES, UPDATES, Method, Moments, Recipe, Score, Update
from secateur_service.settings import Settings
from secateur_service.sources import open_sources
from support.inline import run_inline
from support.models import save_corpora, save_model, spec_data

ALGORITHM = '''
def cubes(weight_MN, mean_squares_N, language_mean_squares):
    """Whatever: |W|³ · Σ over the languages, so that the mask is nobody else's."""
    return weight_MN.abs() ** 3 * (mean_squares_N + sum(language_mean_squares.values()))


def halve(weights, pruned, target, *, check):
    return [weight.masked_fill(mask, 0) / 2 for weight, mask in zip(weights, pruned)], ("halved",)
'''


@pytest.fixture
def registered(tmp_path, monkeypatch):
    (tmp_path / "not_ours.py").write_text(ALGORITHM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SCORES, "cubes", Score("not_ours:cubes", ("mean_squares", "language_mean_squares")))
    monkeypatch.setitem(UPDATES, "halved", Update("not_ours:halve"))
    monkeypatch.setitem(METHODS, "cubic", Method("cubes", "halved", "row"))
    yield
    sys.modules.pop("not_ours", None)


def test_a_method_from_outside_is_admitted_estimated_offered_run_and_named(registered, tmp_path):
    model, places = save_model(tmp_path / "model"), save_corpora(tmp_path)
    data = spec_data(model, *places, method="cubic", sparsity=0.5)
    sources = open_sources(Settings(), everywhere=True)
    admission = admit(data, AccessPolicy(sources, destinations=None, on_device=False))
    pruning = admission.resolved.pruning
    assert (pruning.method, pruning.update, pruning.group) == ("cubic", "halved", "row")
    assert pruning.recipe.moments is Moments.DIAGONAL
    assert "cubic" in describe_service(Settings()).methods
    run_inline(data, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    layers = [layer for block in report["blocks"] for layer in block["layers"]]
    assert all("halved" in layer["notes"] for layer in layers)
    dense = load_file(model / "model.safetensors")
    written = {}
    for path in (tmp_path / "out" / "checkpoint").glob("*.safetensors"):
        written |= load_file(path)
    for layer in layers:
        weight = written[layer["name"]]
        assert bool(((weight == dense[layer["name"]] / 2) | (weight == 0)).all())
        assert bool(((weight == 0).sum(1) == weight.shape[1] // 2).all())
    run_inline(spec_data(model, *places, method="wanda", sparsity=0.5), tmp_path / "wanda")
    others = {}
    for path in (tmp_path / "wanda" / "checkpoint").glob("*.safetensors"):
        others |= load_file(path)
    assert any(bool(((others[layer["name"]] == 0) != (written[layer["name"]] == 0)).any()) for layer in layers)


def test_a_score_or_an_update_that_nobody_has_registered_is_an_error_and_never_another_one():
    with pytest.raises(KeyError, match="cubes"):
        Recipe("cubes", "none")
    with pytest.raises(KeyError, match="halved"):
        Recipe("wanda", "halved")
    for score in SCORES:
        for update in UPDATES:
            if (score == "admm") != (update == "admm"):
                with pytest.raises(ValueError, match=f"update {update} does not go with score {score}"):
                    Recipe(score, update)
            else:
                assert Recipe(score, update).parts
