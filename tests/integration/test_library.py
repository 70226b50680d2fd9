"""Pruning from Python without a service, as docs/sdk.md shows it."""

import secateur
from secateur_service.library import prune
from support.models import save_corpora, save_model


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
