"""Pruning from Python without a service, as docs/sdk.md shows it."""

import json

import torch

import secateur
from secateur_service.library import prune
from secateur_service.pipeline import team
from support.models import save_corpora, save_model
from support.worker_forks import helper_stand_in


def test_a_specification_of_the_sdk_is_pruned_in_one_call_short_forms_and_all(tmp_path):
    model, (calibration, _) = save_model(tmp_path / "model"), save_corpora(tmp_path)
    options = {"samples": 4, "sequence_length": 64, "tokens_per_language": 128, "continuations": 0}
    spec = secateur.prune_spec(
        model.as_uri(),
        corpus=calibration.as_uri(),
        languages=["de"],
        sparsity=0.5,
        overrides={"*.0.*": "dense"},
        **options,
    )
    outcome = prune(spec, tmp_path / "out", threads=1)
    assert [entry.language for entry in outcome.result.languages] == ["de"]
    assert (tmp_path / "out" / "manifest.json").exists()


def test_threads_that_nobody_named_are_divided_among_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(team, "HELP_COMMAND", helper_stand_in())
    model, (calibration, _) = save_model(tmp_path / "model", num_hidden_layers=1), save_corpora(tmp_path)
    options = {"samples": 4, "sequence_length": 64, "tokens_per_language": 128, "continuations": 0}
    spec = secateur.prune_spec(model.as_uri(), corpus=calibration.as_uri(), languages=["de"], sparsity=0.5, **options)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        prune(spec, tmp_path / "out", device="cpu", processes=2)
    finally:
        torch.set_num_threads(threads)
    fingerprint = json.loads((tmp_path / "out" / "provenance.json").read_bytes())["fingerprint"]
    assert fingerprint["threads"] == 2
